"""A control plane in its own process, and a fake agent that registers and speaks ACS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
import websocket
from botocore.config import Config

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
# The server alone: what `services.local` runs inside the tree, without Redis and supervisor.
PROGRAM = """
from gevent import monkey
monkey.patch_all()
import gevent, gevent.event, logging, os, signal, sys
logging.basicConfig(level=os.environ.get("LOCAL_LOG", "ERROR"))
from pathlib import Path
from services.local import acs
from services.local.listener import listen
from services.local.secrets import SecretsFile
from services.local.server import Server
acs.GRACE_SECONDS = 3.0  # instead of ten
secrets = os.environ.get("LOCAL_SECRETS")
server = Server(
    Path(sys.argv[1]), listen(int(sys.argv[2])), "us-east-1",
    secrets_file=SecretsFile(Path(secrets) if secrets else None),
)
server.start()
print(server.port, flush=True)
stop = gevent.event.Event()
gevent.signal_handler(signal.SIGTERM, stop.set)
stop.wait()
server.stop()
"""
CAPABILITIES = [
    "com.amazonaws.ecs.capability.docker-remote-api.1.18",
    "com.amazonaws.ecs.capability.task-iam-role",
    "com.amazonaws.ecs.capability.logging-driver.json-file",
    "ecs.capability.container-health-check",
    "ecs.capability.container-ordering",
    "ecs.capability.task-cpu-mem-limit",
]


def eventually(check: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """The first true answer of `check`; fails naming `what` when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := check():
            return answer
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s: {what}")


class Plane:
    """The control plane's process; it can be killed and started again on the same port and directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, 0
        self.environment: dict[str, str] = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "PYTHONPATH": str(ROOT),
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.directory), str(self.port)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        """End it as a supervisor does."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """A boto3 client of it."""
        return boto3.client("ecs", endpoint_url=self.url, config=Config(retries={"max_attempts": 0}), **KEYS)


class FakeAgent:
    """Registers, keeps an ACS session, records what comes, acknowledges payloads unless told not to."""

    def __init__(self, plane: Plane, cpu: int = 2048, memory: int = 4096, acks: bool = True) -> None:
        self.plane, self.acks, self.client = plane, acks, plane.client()
        self.received: list[Json] = []
        self.closes: list[tuple[int | None, str | None]] = []
        self.arn: str = self._register(cpu, memory)["containerInstance"]["containerInstanceArn"]
        self._socket: websocket.WebSocketApp | None = None

    def _register(self, cpu: int, memory: int) -> Json:
        answer: Json = self.client.register_container_instance(
            cluster="default",
            attributes=[{"name": n} for n in CAPABILITIES],
            totalResources=[
                {"name": "CPU", "type": "INTEGER", "integerValue": cpu},
                {"name": "MEMORY", "type": "INTEGER", "integerValue": memory},
                {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["22"]},
                {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
            ],
        )
        return answer

    def connect(self, send_credentials: bool = True) -> FakeAgent:
        """Open the ACS session and wait until the control plane knows of it."""
        endpoint = self.client.discover_poll_endpoint(cluster="default", containerInstance=self.arn)["endpoint"]
        query = urlencode(
            {
                "agentVersion": "1.0",
                "clusterArn": "default",
                "containerInstanceArn": self.arn,
                "protocolVersion": 2,
                "sendCredentials": str(send_credentials).lower(),
                "seqNum": 1,
            }
        )
        self._socket = websocket.WebSocketApp(
            f"{endpoint.replace('http', 'ws')}ws?{query}", on_message=self._on_message, on_close=self._on_close
        )
        threading.Thread(target=self._socket.run_forever, daemon=True).start()
        eventually(lambda: self.view()["agentConnected"], "the agent is connected")
        return self

    def _on_message(self, ws: websocket.WebSocketApp, text: str) -> None:
        frame = json.loads(text)
        self.received.append(frame)
        if frame["type"] == "PayloadMessage" and self.acks:
            self.ack(frame["message"])

    def _on_close(self, ws: websocket.WebSocketApp, code: int | None, reason: str | None) -> None:
        self.closes.append((code, reason))

    def send(self, type_: str, message: Json) -> None:
        """A frame to the control plane."""
        assert self._socket is not None
        self._socket.send(json.dumps({"type": type_, "message": message}))

    def ack(self, message: Json) -> None:
        """Acknowledge a payload."""
        self.send(
            "AckRequest",
            {
                "cluster": message["clusterArn"],
                "containerInstance": message["containerInstanceArn"],
                "messageId": message["messageId"],
            },
        )

    def disconnect(self) -> None:
        """Close the ACS session and wait until the control plane has noticed."""
        assert self._socket is not None
        self._socket.close()
        eventually(lambda: not self.view()["agentConnected"], "the agent is disconnected")

    def view(self) -> Json:
        """The instance as clients see it."""
        instance: Json = self.client.describe_container_instances(containerInstances=[self.arn])["containerInstances"][
            0
        ]
        return instance

    def messages(self, type_: str) -> list[Json]:
        """The messages of a type received so far."""
        return [f["message"] for f in list(self.received) if f["type"] == type_]

    def payload(self, task_arn: str, desired: str = "RUNNING") -> Json:
        """The task of the first payload about `task_arn` with this desired status, awaited."""

        def look() -> Json | None:
            found = [
                t
                for m in self.messages("PayloadMessage")
                for t in m["tasks"]
                if t["arn"] == task_arn and t["desiredStatus"] == desired
            ]
            return found[0] if found else None

        task: Json = eventually(look, f"a payload with {task_arn} {desired}")
        return task

    def report(self, task_arn: str, status: str, *containers: Json, **more: Any) -> None:
        """SubmitTaskStateChange."""
        self.client.submit_task_state_change(
            cluster="default", task=task_arn, status=status, containers=list(containers), **more
        )


def definition(**more: Any) -> Json:
    """A small valid RegisterTaskDefinition request."""
    return {
        "family": "web",
        "containerDefinitions": [{"name": "web", "image": "busybox", "cpu": 100, "memory": 64, "command": ["true"]}],
        **more,
    }
