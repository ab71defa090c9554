"""Image references: name, tag and digest, and the forms in which Docker wants them.

A reference is kept as the customer wrote it; these functions give its parts. Facts: the reference grammar of the
distribution project (github.com/distribution/reference) and spec 03 §6.3, §6.4.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"

_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?"
_NAME = re.compile(rf"(?:(?:{_DOMAIN}|\[[a-fA-F0-9:]+\](?::[0-9]+)?)/)?{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)


class InvalidReference(ValueError):
    """Not an image reference, or not a digest; the text is the cause on the wire."""


class Parts(NamedTuple):
    """`name[:tag][@digest]`; parts that are absent are empty."""

    name: str
    tag: str
    digest: str


def split(image: str) -> Parts:
    """The parts of a reference, as written. Text after the last ":" is a tag unless it contains "/"."""
    rest, _, digest = image.partition("@")
    head, colon, tail = rest.rpartition(":")
    if colon and tail and "/" not in tail:
        return Parts(head, tail, digest)
    return Parts(rest, "", digest)


def domain(image: str) -> str:
    """The registry's host: the first path element if it contains "." or ":" or is "localhost", else docker.io."""
    first, slash, _ = split(image).name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return DEFAULT_DOMAIN


def normalised(image: str) -> str:
    """The full repository name: `busybox` is `docker.io/library/busybox`. Raises InvalidReference."""
    name = split(image).name
    host = domain(image)
    path = name[len(host) + 1 :] if name.startswith(f"{host}/") else name
    host = DEFAULT_DOMAIN if host == LEGACY_DOMAIN else host
    if host == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    full = f"{host}/{path}"
    if path != path.lower():
        raise InvalidReference("invalid reference format: repository name must be lowercase")
    if not _NAME.fullmatch(full):
        raise InvalidReference("invalid reference format")
    return full


def familiar(image: str) -> str:
    """The short repository name that Docker's own API calls use: without docker.io and library."""
    name = normalised(image)
    if name.startswith(f"{DEFAULT_DOMAIN}/"):
        name = name[len(DEFAULT_DOMAIN) + 1 :]
        name = name.removeprefix(OFFICIAL) if name.count("/") == 1 else name
    return name


def check_digest(digest: str) -> None:
    """Raises InvalidReference with the cause as the digest library words it."""
    algorithm, colon, value = digest.partition(":")
    if not colon or not algorithm or not value or not _DIGEST.fullmatch(digest):
        known = colon and algorithm in _LENGTHS and value
        raise InvalidReference("invalid checksum digest length" if known else "invalid checksum digest format")
    if algorithm not in _LENGTHS:
        raise InvalidReference("unsupported digest algorithm")
    if len(value) != _LENGTHS[algorithm]:
        raise InvalidReference("invalid checksum digest length")
    if value != value.lower():
        raise InvalidReference("invalid checksum digest format")


def canonical(image: str, digest: str) -> str:
    """`<name without tag>@<digest>`, the name in its familiar form. Raises InvalidReference."""
    check_digest(digest)
    return f"{familiar(image)}@{digest}"


def with_tag(image: str) -> str:
    """The image as written, with ":latest" when it has neither tag nor digest."""
    parts = split(image)
    return image if parts.tag or parts.digest else f"{image}:latest"


def pull_target(image: str) -> tuple[str, str]:
    """`fromImage` and `tag` of POST /images/create. Raises InvalidReference."""
    parts = split(image)
    name = familiar(image)
    if parts.digest:
        check_digest(parts.digest)
        return name, parts.digest
    tag = parts.tag or "latest"
    if not _TAG.fullmatch(tag):
        raise InvalidReference("invalid reference format")
    return name, tag


def matching_digest(image: str, repo_digests: list[str]) -> str:
    """The digest of the first RepoDigest of `image`'s own repository, or ""."""
    name = normalised(image)
    for entry in repo_digests:
        try:
            if normalised(entry) == name:
                return split(entry).digest
        except InvalidReference:
            continue
    return ""


def loose_digest(image: str, repo_digests: list[str]) -> str:
    """What is remembered after a pull without a resolved digest: of the first entry with the same beginning.

    The beginning is the image's text before its first ":", as spec 08 §2.3 has it.
    """
    prefix = image.partition(":")[0]
    return next((entry.partition("@")[2] for entry in repo_digests if entry.startswith(prefix)), "")
