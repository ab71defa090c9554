"""A tiny AWS on a loopback port: SSM, Secrets Manager, S3 and ECR tokens, with botocore on the line.

`calls` holds every request in order: operation, access key and region of its signature, and its arguments. `refuse`
makes an operation fail with a code; `hold` lets it wait before it answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse

import gevent
import pytest
from gevent.pywsgi import WSGIServer

CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/")
SERVICES = ("SSM", "SECRETS_MANAGER", "S3", "ECR")


@dataclass
class Call:
    """One request."""

    operation: str
    access_key: str
    region: str
    arguments: dict[str, Any]


@dataclass
class FakeAws:
    """What the services hold, and what they were asked."""

    parameters: dict[str, str] = field(default_factory=dict)
    answered_names: dict[str, str] = field(default_factory=dict)  # asked name -> Name in the answer
    secure: set[str] = field(default_factory=set)  # the parameters that are SecureStrings
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)  # SecretId -> members of the answer
    tokens: list[dict[str, Any]] | None = field(default_factory=list)  # ECR; None: an answer without the list
    buckets: dict[str, str] = field(default_factory=dict)  # bucket -> region
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # operation -> status, code, message
    hold: dict[str, float] = field(default_factory=dict)  # operation -> seconds
    calls: list[Call] = field(default_factory=list)

    def start(self) -> None:
        """Listen on a free port."""
        self._server = WSGIServer(("127.0.0.1", 0), self._serve, log=None)
        self._server.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.stop(timeout=1)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send an agent here."""
        return {f"AWS_ENDPOINT_URL_{name}": f"http://127.0.0.1:{self._server.server_port}" for name in SERVICES}

    @contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
        """Serve, with the environment saying so."""
        self.start()
        try:
            for name, value in self.environment.items():
                monkeypatch.setenv(name, value)
            yield self
        finally:
            self.stop()

    def asked(self, operation: str) -> list[Call]:
        """The calls of one operation."""
        return [call for call in self.calls if call.operation == operation]

    # -- the line ----------------------------------------------------------------------------

    def _serve(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        signed = CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        key, region = (signed[1], signed[2]) if signed else ("", "")
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target:
            operation, arguments = target.rpartition(".")[2], json.loads(body)
        else:
            bucket, _, name = environ["PATH_INFO"].lstrip("/").partition("/")
            operation = "HeadBucket" if environ["REQUEST_METHOD"] == "HEAD" else "GetObject"
            arguments = {"Bucket": bucket, "Key": name} if name else {"Bucket": bucket}
        self.calls.append(Call(operation, key, region, arguments))
        gevent.sleep(self.hold.get(operation, 0.0))
        status, headers, content = self._answer(operation, arguments)
        start(f"{status} .", [("Content-Length", str(len(content))), *headers])
        return [content]

    def _answer(self, operation: str, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        if operation in self.refuse:
            return self._refusal(operation, *self.refuse[operation])
        handlers: dict[str, Callable[[dict[str, Any]], tuple[int, list[tuple[str, str]], bytes]]] = {
            "GetParameters": self._parameters,
            "GetSecretValue": self._secret,
            "HeadBucket": self._bucket,
            "GetObject": self._object,
            "GetAuthorizationToken": self._token,
        }
        return handlers[operation](arguments)

    def _parameters(self, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        names = arguments["Names"]
        found = [
            {
                "Name": self.answered_names.get(n, n),
                "Type": "SecureString" if n in self.secure else "String",
                "Value": self.parameters[n],
            }
            for n in names
            if n in self.parameters
        ]
        missing = [n for n in names if n not in self.parameters]
        return 200, [], json.dumps({"Parameters": found, "InvalidParameters": missing}).encode()

    def _secret(self, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        found = self.secrets.get(arguments["SecretId"])
        if found is None:
            message = "Secrets Manager can't find the specified secret."
            return self._refusal("GetSecretValue", 400, "ResourceNotFoundException", message)
        return 200, [], json.dumps({"ARN": arguments["SecretId"], **found}).encode()

    def _token(self, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        return 200, [], json.dumps({} if self.tokens is None else {"authorizationData": self.tokens}).encode()

    def _bucket(self, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        region = self.buckets.get(arguments["Bucket"])
        return (404, [], b"") if region is None else (200, [("x-amz-bucket-region", region)], b"")

    def _object(self, arguments: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        content = self.objects.get((arguments["Bucket"], arguments["Key"]))
        if content is None:
            return self._refusal("GetObject", 404, "NoSuchKey", "The specified key does not exist.")
        return 200, [], content

    def _refusal(
        self, operation: str, status: int, code: str, message: str
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        if operation == "HeadBucket":
            return status, [("x-amz-bucket-region", message)] if message else [], b""
        if operation == "GetObject":
            return status, [], f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        return status, [("x-amzn-RequestId", "r-1")], json.dumps({"__type": code, "message": message}).encode()
