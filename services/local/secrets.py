"""Secrets and parameters from a file of the developer's: the calls of SSM and Secrets Manager that the agent makes.

ECS_LOCAL_SECRETS_FILE names a JSON object from name or ARN to text. It is read at each call, since the developer edits
it, and no value stays here. Versions of a secret are entries of their own, `name:VERSION` beside `name`. What the file
does not have gets the error of the service; what is wrong with the file is told with its place, never with a value.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.local.core.errors import ApiError

Json = dict[str, Any]
PREFIXES = ("AmazonSSM", "secretsmanager")  # of X-Amz-Target
MOST_BYTES = 4 << 20
MOST_NAMES = 10  # API reference, GetParameters
CURRENT = "AWSCURRENT"
_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}$")  # Secrets Manager puts one behind each name in an ARN


class SecretsFile:
    """Answers from one file. `path` is None when there is none: then every call is refused."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def values(self) -> dict[str, str]:
        """The file's entries. Raises ApiError saying where the file is wrong."""
        if self._path is None:
            raise ApiError("UnknownOperationException", "No ECS_LOCAL_SECRETS_FILE is set: there are no secrets here.")
        try:
            text = _text(self._path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _unusable(f"{self._path}: cannot be read: {reason}.") from None
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise _unusable(f"{self._path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}.") from None
        if not isinstance(document, dict):
            raise _unusable(f"{self._path}: a JSON object of name and value is needed, not a {_kind(document)}.")
        for name, value in document.items():
            if not isinstance(value, (str, dict)):
                line = text[: max(0, text.find(json.dumps(name)))].count("\n") + 1
                raise _unusable(
                    f"{self._path}:{line}: the value of {name!r} is a {_kind(value)}; give a text or an object."
                )
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in document.items()}

    def call(self, target: str, body: object) -> Json:
        """One call by its X-Amz-Target. Raises ApiError."""
        operation = OPERATIONS.get(target)
        if operation is None:
            raise ApiError("UnknownOperationException", f"{target} is not offered; there are: {', '.join(OPERATIONS)}.")
        if not isinstance(body, dict):
            raise ApiError("ValidationException", "The request body must be a JSON object.")
        return operation(self.values(), body)


def _text(path: Path) -> str:
    """The content of a regular file. Raises OSError, or ValueError for anything else."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a FIFO must not hold us
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        if found.st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
        try:
            return file.read(MOST_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8 text") from None


def _unusable(text: str) -> ApiError:
    return ApiError("InvalidSecretsFile", f"{text} ECS_LOCAL_SECRETS_FILE names it.")


def _kind(value: object) -> str:
    kinds = {list: "list", bool: "boolean", int: "number", float: "number", str: "text", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _parameter(name_or_arn: str) -> str:
    """What the ARN `…:parameter/a/b` and the name `/a/b` have in common."""
    return name_or_arn.rpartition(":parameter/")[2].lstrip("/")


def get_parameters(values: Mapping[str, str], body: Json) -> Json:
    """GetParameters: what is there under the name that was asked for, the rest as InvalidParameters."""
    names = body.get("Names")
    if not isinstance(names, list) or not 1 <= len(names) <= MOST_NAMES or not all(isinstance(n, str) for n in names):
        raise ApiError("ValidationException", f"Names must be a list of 1 to {MOST_NAMES} names.")
    known = {_parameter(name): value for name, value in values.items()}
    found = [
        {"Name": name, "Type": "SecureString", "Value": known[_parameter(name)], "Version": 1, "DataType": "text"}
        for name in dict.fromkeys(names)
        if _parameter(name) in known
    ]
    return {"Parameters": found, "InvalidParameters": [n for n in dict.fromkeys(names) if _parameter(n) not in known]}


def _names(name_or_arn: str) -> tuple[list[str], str]:
    """(names, version) of an entry or of what is asked for; an ARN stands for its name without the suffix too."""
    name, _, version = name_or_arn.rpartition(":secret:")[2].partition(":")
    bare = _SUFFIX.sub("", name)
    return [name, bare] if name_or_arn.startswith("arn:") and bare != name else [name], version


def get_secret_value(values: Mapping[str, str], body: Json) -> Json:
    """GetSecretValue: by name, or by ARN with or without the suffix of the service; a version by its own entry."""
    asked, id_, stage = (str(body.get(member) or "") for member in ("SecretId", "VersionId", "VersionStage"))
    version = id_ or (stage if stage != CURRENT else "")
    entries: dict[str, dict[str, str]] = {}  # name -> version -> value
    for key, value in values.items():
        names, of = _names(key)
        for name in names:
            entries.setdefault(name, {}).setdefault(of, value)
    asked_names = _names(asked)[0]
    versions = next((entries[name] for name in asked_names if name in entries), None)
    if versions is None:
        raise _not_there("the specified secret.")
    if version not in versions:
        raise _not_there(
            f"the specified secret value for {'VersionId' if id_ else 'staging label'}: {version or CURRENT}"
        )
    return {
        "ARN": asked,
        "Name": asked_names[-1],
        "VersionId": version or CURRENT,
        "SecretString": versions[version],
        "VersionStages": [stage or CURRENT],
    }


def _not_there(what: str) -> ApiError:
    return ApiError("ResourceNotFoundException", f"Secrets Manager can't find {what}")


OPERATIONS = {"AmazonSSM.GetParameters": get_parameters, "secretsmanager.GetSecretValue": get_secret_value}
