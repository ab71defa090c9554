"""Registry credentials for one request to Docker (ECS agent behaviour, spec 03 §6.4).

Three sources: ECR (its own module), a Secrets Manager secret (a resource kind), and the agent's own configuration,
which is what this module reads. Nothing here is logged: the values are secrets.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from typing import Any

from services.engine.docker import reference

log = logging.getLogger(__name__)

HUB = "index.docker.io/v1/"
HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")

MEMBERS = ("username", "password", "auth", "email", "serveraddress", "identitytoken", "registrytoken")

Auth = dict[str, str]


def header(auth: Mapping[str, str]) -> dict[str, str]:
    """The X-Registry-Auth header; it is always sent, anonymous requests carry an empty object."""
    text = json.dumps(dict(auth))
    return {"X-Registry-Auth": base64.urlsafe_b64encode(text.encode()).decode()}


class StaticAuths:
    """The credentials of ECS_ENGINE_AUTH_DATA, by registry."""

    def __init__(self, type_: str, data: str) -> None:
        self._auths: dict[str, Auth] = {}
        if not type_ or not data:
            return
        if type_ not in ("docker", "dockercfg"):
            log.warning("ECS_ENGINE_AUTH_TYPE is %r; use docker or dockercfg. Pulling without credentials", type_)
            return
        try:
            decoded = json.loads(data)
        except ValueError:
            decoded = ""
        if not _well_formed(decoded):
            log.warning("ECS_ENGINE_AUTH_DATA is not an object of objects of texts; pulling without credentials")
            return
        for registry, entry in (decoded or {}).items():
            auth = _docker(entry) if type_ == "docker" else _dockercfg(registry, entry)
            if auth is not None:
                self._auths[_without_scheme(registry)] = auth

    def for_image(self, image: str) -> Auth:
        """The credentials for an image: the longest key that is a prefix of it, on its host; {} is anonymous."""
        repository = reference.split(image).name
        host = reference.domain(image)
        if host in HUB_NAMES:
            return self._auths.get(HUB, {})
        best, found = (host, True) if host in self._auths else ("", False)
        for key in self._auths:
            if key.partition("/")[0] != host:
                continue
            if not found or (len(key) > len(best) and repository.startswith(key)):
                best, found = key, True
        return self._auths.get(best, {}) if found else {}


def _well_formed(data: Any) -> bool:
    """One member of a wrong type makes all of it unreadable, as it does for the reference; null stands for nothing."""
    entries = data.values() if isinstance(data, dict) else (data,)
    return all(
        entry is None or (isinstance(entry, dict) and all(isinstance(entry.get(m), str | None) for m in MEMBERS))
        for entry in entries
    )


def _docker(entry: Mapping[str, Any] | None) -> Auth:
    return {name: value for name, value in (entry or {}).items() if isinstance(value, str)}


def _dockercfg(registry: str, entry: Mapping[str, Any] | None) -> Auth | None:
    text = (entry or {}).get("auth")
    try:
        user, colon, password = base64.b64decode(str(text or ""), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user = colon = password = ""
    if not colon:
        log.warning("the entry for %s of ECS_ENGINE_AUTH_DATA has no usable `auth`; it is skipped", registry)
        return None
    return {"username": user, "password": password.rstrip("\0"), "serveraddress": registry}


def _without_scheme(registry: str) -> str:
    for scheme in ("http://", "https://"):
        registry = registry.removeprefix(scheme)
    return registry
