"""Docker's volume plugin protocol: path and body in, status and body out (spec 09 §14.2).

Pure but for the plugin it is given. Bodies are decoded as Go's decoder does: the first JSON value of the body, field
names without regard to case, unknown fields and what follows ignored, missing ones empty. Docker's documentation:
https://docs.docker.com/engine/extend/plugins_volume/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from services.volumes import decoding
from services.volumes.errors import BadRequest, PluginError
from services.volumes.plugin import Plugin
from services.volumes.state import escape

CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
PLAIN_TYPE = "text/plain; charset=utf-8"
_MANIFEST = b'{"Implements": ["VolumeDriver"]}\n'

Answer = tuple[int, str, bytes]  # status, content type, body


def answer(plugin: Plugin, path: str, body: bytes) -> Answer:
    """Answer one request; any method is as good as another."""
    if path == "/Plugin.Activate":
        return 200, CONTENT_TYPE, _MANIFEST
    handler = _HANDLERS.get(path)
    if handler is None:
        return 404, PLAIN_TYPE, b"404 page not found\n"
    try:
        return 200, CONTENT_TYPE, _encode(handler(plugin, body))
    except BadRequest as error:
        return 400, PLAIN_TYPE, f"{error}\n".encode()
    except PluginError as error:
        return 500, CONTENT_TYPE, _encode({"Err": str(error)})


def _encode(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return escape(text).encode("utf-8", "surrogateescape") + b"\n"


class Fields:
    """The fields of a request's body. Raises BadRequest."""

    def __init__(self, body: bytes) -> None:
        text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
        if not text:
            raise BadRequest("EOF")
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
                raise BadRequest("unexpected EOF") from error
            raise BadRequest(f"invalid character {text[error.pos]!r}: {error.msg}") from error
        found = decoding.mapping(value, _refusal("a request"))
        self._values = {key.lower(): item for key, item in found.items()}

    def text(self, name: str) -> str:
        """A string field."""
        return decoding.text(self._values.get(name.lower()), _refusal(f"field {name} of type string"))

    def map(self, name: str) -> dict[str, str]:
        """A field that maps strings to strings."""
        found = decoding.mapping(self._values.get(name.lower()), _refusal(f"field {name} of type map[string]string"))
        return {key: decoding.text(item, _refusal(f"field {name}.{key} of type string")) for key, item in found.items()}


def _refusal(into: str) -> decoding.Fault:
    return lambda value: BadRequest(f"json: cannot unmarshal {_go_type(value)} into {into}")


def _go_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, dict) else "number"


def _create(plugin: Plugin, body: bytes) -> object:
    fields = Fields(body)
    plugin.create(fields.text("Name"), fields.map("Opts"))
    return {}


def _get(plugin: Plugin, body: bytes) -> object:
    volume = plugin.get(Fields(body).text("Name"))
    shown = {"Name": volume.name, "Mountpoint": volume.path, "CreatedAt": volume.created_at}
    return {"Volume": {name: value for name, value in shown.items() if value or name == "Name"}}


def _list(plugin: Plugin, body: bytes) -> object:
    return {"Volumes": [{"Name": name} for name in plugin.names()]}


def _remove(plugin: Plugin, body: bytes) -> object:
    plugin.remove(Fields(body).text("Name"))
    return {}


def _path(plugin: Plugin, body: bytes) -> object:
    path = plugin.get(Fields(body).text("Name")).path
    return {"Mountpoint": path} if path else {}


def _mount(plugin: Plugin, body: bytes) -> object:
    fields = Fields(body)
    path = plugin.mount(fields.text("Name"), fields.text("ID"))
    return {"Mountpoint": path} if path else {}


def _unmount(plugin: Plugin, body: bytes) -> object:
    fields = Fields(body)
    plugin.unmount(fields.text("Name"), fields.text("ID"))
    return {}


def _capabilities(plugin: Plugin, body: bytes) -> object:
    return None  # Docker then takes the scope for local


_HANDLERS: dict[str, Callable[[Plugin, bytes], object]] = {
    "/VolumeDriver.Create": _create,
    "/VolumeDriver.Get": _get,
    "/VolumeDriver.List": _list,
    "/VolumeDriver.Remove": _remove,
    "/VolumeDriver.Path": _path,
    "/VolumeDriver.Mount": _mount,
    "/VolumeDriver.Unmount": _unmount,
    "/VolumeDriver.Capabilities": _capabilities,
}
