"""Task definition files: what `aws ecs register-task-definition --cli-input-json` takes, or what describe answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.loaders
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from services.local.tool.settings import Problem

Json = dict[str, Any]
BAD_FILE = 2


def load_definition(path: Path) -> Json:
    """The RegisterTaskDefinition request in a file. Raises Problem (status 2) saying where the file is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Problem(f"{path}: cannot be read: {reason}.", BAD_FILE) from None
    try:
        document = json.loads(text)
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        shown = text.splitlines()[line - 1].rstrip() if text.splitlines()[line - 1 :] else ""
        message = getattr(error, "msg", str(error))
        raise Problem(f"{path}:{line}:{column}: not valid JSON: {message}\n    {shown}", BAD_FILE) from None
    if not isinstance(document, dict):
        raise Problem(f"{path}: a task definition is a JSON object, not a {type(document).__name__}.", BAD_FILE)
    return _request(path, document)


def _request(path: Path, document: Json) -> Json:
    tags = document.get("tags")
    if isinstance(document.get("taskDefinition"), dict):
        document = document["taskDefinition"]
    model = ServiceModel(botocore.loaders.Loader().load_service_model("ecs", "service-2"), "ecs")
    accepted = model.operation_model("RegisterTaskDefinition").input_shape
    if accepted is None:
        raise Problem("The installed botocore has no RegisterTaskDefinition; install a current one.")
    answered = model.shape_for("TaskDefinition").members  # type: ignore[attr-defined]
    if "containerDefinitions" not in document:
        raise Problem(f"{path}: no 'containerDefinitions': this is not a task definition.", BAD_FILE)
    read_only = set(answered) - set(accepted.members)
    request = {k: v for k, v in document.items() if k not in read_only and v is not None}
    if tags and "tags" not in request:
        request["tags"] = tags
    report = ParamValidator().validate(request, accepted)
    if report.has_errors():
        raise Problem(f"{path}: {report.generate_report()}", BAD_FILE)
    return request


def host_ports(request: Json) -> list[tuple[int, str]]:
    """(port, protocol) pairs that the definition asks for on the host."""
    host_mode = request.get("networkMode") in ("host", "awsvpc")
    found = []
    for container in request.get("containerDefinitions") or []:
        for mapping in container.get("portMappings") or []:
            port = mapping.get("hostPort") or (mapping.get("containerPort") if host_mode else 0)
            if port:
                found.append((port, mapping.get("protocol") or "tcp"))
    return found
