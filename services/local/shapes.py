"""Inputs checked and outputs shaped by the ECS service model that botocore ships: no schema is written by hand.

Unknown members of a request are dropped, not refused: the caller's SDK or agent may be newer than our botocore. Unknown
members of an answer are dropped too, so records may carry more than clients are shown.
"""

from __future__ import annotations

import datetime
from typing import Any

import botocore.loaders
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape
from botocore.validate import ParamValidator

from services.local.core.errors import ApiError, client, invalid

Json = dict[str, Any]
_CLIENT_ERRORS = frozenset({"RegisterTaskDefinition", "RegisterContainerInstance"})  # they answer ClientException


class ServiceShapes:
    """The operations of the ECS API: their names, a request checker and a response shaper."""

    def __init__(self) -> None:
        document = botocore.loaders.Loader().load_service_model("ecs", "service-2")
        self.model = ServiceModel(document, "ecs")
        self.target_prefix: str = self.model.metadata["targetPrefix"]
        self.operations = frozenset(self.model.operation_names)
        self._validator = ParamValidator()

    def operation(self, name: str) -> OperationModel:
        """The model of one operation. Raises UnknownOperationException for a name outside the API."""
        if name not in self.operations:
            raise ApiError("UnknownOperationException", f"The ECS API has no operation {name or '(none given)'!r}.")
        return self.model.operation_model(name)

    def request(self, name: str, body: object) -> Json:
        """`body` without unknown and null members, checked. ClientException or InvalidParameterException otherwise."""
        operation = self.operation(name)
        error = client if name in _CLIENT_ERRORS else invalid
        if not isinstance(body, dict):
            raise error("The request body must be a JSON object.")
        shape = operation.input_shape
        if shape is None:
            return {}
        cleaned: Json = _known(shape, body)
        report = self._validator.validate(cleaned, shape)
        if report.has_errors():
            raise error(report.generate_report())
        faults = list(_enum_faults(shape, cleaned, ""))
        if faults:
            plural = "s" if len(faults) > 1 else ""
            raise error(f"{len(faults)} validation error{plural} detected: {'; '.join(faults)}")
        return cleaned

    def response(self, name: str, answer: Json) -> Json:
        """`answer` reduced to the members of the operation's output, times as Unix seconds."""
        shape = self.operation(name).output_shape
        return _shaped(shape, answer) if shape is not None else {}


def _known(shape: Shape, value: Any) -> Any:
    """The value without members that the shape does not have and without nulls, lists and maps included."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        return {k: _known(shape.members[k], v) for k, v in value.items() if k in shape.members and v is not None}
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_known(shape.member, v) for v in value if v is not None]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {k: _known(shape.value, v) for k, v in value.items() if v is not None}
    return value


def _enum_faults(shape: Shape, value: Any, path: str) -> Any:
    """Sentences about values outside an enumeration; botocore's validator leaves these to the service."""
    if isinstance(shape, StructureShape):
        for key, member in value.items():
            yield from _enum_faults(shape.members[key], member, f"{path}.{key}" if path else key)
    elif isinstance(shape, ListShape):
        for number, member in enumerate(value, 1):
            yield from _enum_faults(shape.member, member, f"{path}.{number}.member")
    elif isinstance(shape, MapShape):
        for key, member in value.items():
            yield from _enum_faults(shape.value, member, f"{path}.{key}")
    elif (allowed := getattr(shape, "enum", None)) and value not in allowed:
        yield (
            f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(allowed)}]"
        )


def _shaped(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {k: _shaped(shape.members[k], v) for k, v in value.items() if k in shape.members and v is not None}
    if isinstance(shape, ListShape):
        return [_shaped(shape.member, v) for v in value]
    if isinstance(shape, MapShape):
        return {str(k): _shaped(shape.value, v) for k, v in value.items()}
    if shape.type_name == "timestamp":
        return round(value.timestamp() if isinstance(value, datetime.datetime) else float(value), 3)
    if shape.type_name in ("integer", "long"):
        return int(value)
    if shape.type_name in ("double", "float"):
        return float(value)
    return bool(value) if shape.type_name == "boolean" else str(value)
