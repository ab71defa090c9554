"""A gRPC service out of tables, made with grpcio and protobuf, on a unix socket.

For programs of their own, which alone import grpcio: it does not go with gevent. `Program` starts and asks such a
program. It lives in a directory: each call is a line of JSON in `calls`, and `behaviour`, read at each call, holds a
JSON object: {"Stage": {"seconds": 3, "status": "INTERNAL", "message": "no"}} lets a method take its time and fail.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, NoReturn

TEXT, NUMBER, ENUM, MESSAGE, SWITCH = 9, 3, 14, 11, 8  # FieldDescriptorProto.Type

Field = tuple[int, int, bool, str]  # number, type, repeated, name of the message or enum
Messages = Mapping[str, Mapping[str, Field]]


def text(number: int, repeated: bool = False) -> Field:
    """A string."""
    return number, TEXT, repeated, ""


def integer(number: int) -> Field:
    """An int64."""
    return number, NUMBER, False, ""


def switch(number: int) -> Field:
    """A bool."""
    return number, SWITCH, False, ""


def enum(number: int, of: str) -> Field:
    """A value of an enumeration."""
    return number, ENUM, False, of


def message(number: int, of: str, repeated: bool = False) -> Field:
    """Another message."""
    return number, MESSAGE, repeated, of


def message_types(package: str, messages: Messages, enums: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The classes of the messages, made from descriptors."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, values in enums.items():
        added_enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            added_enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        added = file.message_type.add(name=name)
        for field, (number, type_, repeated, of) in fields.items():
            member = added.field.add(name=field, number=number, type=type_, label=3 if repeated else 1)
            if of:
                member.type_name = f".{package}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{n}")) for n in messages}


class Directory:
    """Where the program tells its calls and is told how to behave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def behaviour(self) -> dict[str, Any]:
        """What the test asks for now."""
        path = self.path / "behaviour"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def tell(self, method: str, request: Any, context: Any) -> None:
        """Write a call down."""
        from google.protobuf import json_format

        told = json_format.MessageToDict(request, preserving_proto_field_name=True)
        line = {"method": method, "request": told, "left": context.time_remaining(), "at": time.time()}
        with self._lock, open(self.path / "calls", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def obey(self, method: str, context: Any) -> None:
        """Take the time, and fail, as asked for."""
        wanted = self.behaviour().get(method, {})
        time.sleep(wanted.get("seconds", 0.0))
        if wanted.get("status"):
            refuse(context, wanted["status"], wanted.get("message", "as asked for"))


def refuse(context: Any, status: str, why: str) -> NoReturn:
    """End a call with a status, by its name."""
    import grpc

    context.abort(grpc.StatusCode[status], why)
    raise AssertionError("abort raises")


Handler = Callable[[Any, Any], Any]


def serve(
    socket: Path, service: str, types: Mapping[str, Any], methods: Mapping[str, tuple[Handler, str, str]]
) -> None:
    """Serve until killed: method -> (handler of request and context, type of the request, type of the answer)."""
    import grpc

    table = {
        name: grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=types[request].FromString,
            response_serializer=types[answer].SerializeToString,
        )
        for name, (handler, request, answer) in methods.items()
    }
    socket.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, table),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


class Program:
    """A program that serves in a directory of its own, seen from the test."""

    script: Path
    socket_name: str

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, directory / self.socket_name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens: its socket is there a moment earlier."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, str(self.script), str(self.directory)])
        end = time.monotonic() + 15
        while not self._listens():
            assert self._process.poll() is None and time.monotonic() < end, f"{self.script.name} did not start"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def behave(self, **behaviour: Any) -> None:
        """From the next call on."""
        scratch = self.directory / "behaviour.new"
        scratch.write_text(json.dumps(behaviour))
        scratch.rename(self.directory / "behaviour")

    def calls(self, method: str = "") -> list[dict[str, Any]]:
        """The calls so far, in order."""
        path = self.directory / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if method in ("", line["method"])]
