"""Task roles that are assumed: whose keys a task gets, when they are renewed, and what a refusal does."""

from __future__ import annotations

import datetime
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from botocore.exceptions import ClientError

from common.clock import VirtualClock
from services.local.acs import Hub, Session
from services.local.api import call
from services.local.api.plane import Plane
from services.local.core.names import Names
from services.local.credentials import Keys, RoleCredentials, RoleRefused, assume_role
from services.local.shapes import ServiceShapes
from services.local.state import State
from services.local.store import Store

Json = dict[str, Any]
MINE = Keys("MINE", "S", "T")
ROLE = "arn:aws:iam::123456789012:role/web"
DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized to assume"}}, "AssumeRole")


def test_only_the_role_of_the_task_is_assumed_and_once_for_all_tasks() -> None:
    """An execution role trusts ECS and not the developer."""
    clock = VirtualClock()
    assume = Mock(return_value=Keys("ROLE", "S", "T", clock.now() + 3600))
    roles = RoleCredentials(clock, lambda: MINE, assume)
    assert roles.for_role(ROLE, "e")["accessKeyId"] == "MINE"
    given = [roles.for_role(ROLE, id_, of_task=True) for id_ in ("1", "2")]
    assert {g["accessKeyId"] for g in given} == {"ROLE"}
    assume.assert_called_once_with(MINE, ROLE)


def test_assumed_credentials_are_renewed_a_quarter_of_an_hour_before_they_end() -> None:
    """They live for an hour, the caller's own for longer."""
    clock = VirtualClock()
    assume = Mock(side_effect=lambda keys, role: Keys("ROLE", "S", "T", clock.now() + 3600))
    roles = RoleCredentials(clock, lambda: MINE, assume)
    roles.for_role(ROLE, "1", of_task=True)
    first = roles.generation
    clock.advance(3600 - 15 * 60 - 1)
    assert not roles.due()
    clock.advance(2)
    assert roles.due()
    roles.refresh()
    roles.for_role(ROLE, "1", of_task=True)
    assert roles.generation > first and assume.call_count == 2 and not roles.due()


@pytest.mark.parametrize(
    ("keys", "failure", "words"),
    [
        (MINE, DENIED, "(AccessDenied) when calling the AssumeRole operation: not authorized to assume)"),
        (MINE, gevent.Timeout(10), "(no answer within 10 s)"),
        (None, None, "(no AWS credentials of yours were found to assume it with)"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_role_and_what_aws_said(keys: Keys | None, failure: BaseException, words: str) -> None:
    """The next tasks share the answer for some seconds, then STS is asked again."""
    clock, assume = VirtualClock(), Mock(side_effect=failure)
    roles = RoleCredentials(clock, lambda: keys, assume)
    for _ in range(3):
        with pytest.raises(RoleRefused) as caught:
            roles.for_role(ROLE, "1", of_task=True)
        assert f"ECS was unable to assume the role '{ROLE}'" in str(caught.value) and words in str(caught.value)
    clock.advance(11)
    with pytest.raises(RoleRefused):
        roles.for_role(ROLE, "1", of_task=True)
    assert assume.call_count == (2 if keys else 0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Plane, Session, Mock, Mock]]:
    """A plane with one instance and a definition with a role, its session, its socket, and what stands for STS."""
    clock, assume = VirtualClock(), Mock(return_value=Keys("ROLE", "S", "T", 9e9))
    state = State(Store(tmp_path / "local.db"), Names("us-east-1"), clock)
    roles = RoleCredentials(clock, lambda: MINE, assume)
    plane = Plane(state, ServiceShapes(), Hub(state, roles), "http://127.0.0.1:1")
    call(plane, "CreateCluster", {})
    names = ("com.amazonaws.ecs.capability.docker-remote-api.1.18", "com.amazonaws.ecs.capability.task-iam-role")
    resources = [{"name": n, "type": "INTEGER", "integerValue": 1024} for n in ("CPU", "MEMORY")]
    registered = call(plane, "RegisterContainerInstance", {
        "cluster": "default", "attributes": [{"name": n} for n in names], "totalResources": resources})  # fmt: skip
    call(plane, "RegisterTaskDefinition", {
        "family": "web", "taskRoleArn": ROLE, "executionRoleArn": "arn:aws:iam::123456789012:role/x",
        "containerDefinitions": [{"name": "web", "image": "i", "memory": 64}]})  # fmt: skip
    socket, arn = Mock(), registered["containerInstance"]["containerInstanceArn"]
    plane.hub.reachable = lambda arn: True  # type: ignore[method-assign]
    yield plane, Session(socket, arn, state, roles, deque()), socket, assume
    state.store.close()


def test_a_task_whose_role_cannot_be_assumed_never_runs(place: tuple[Plane, Session, Mock, Mock]) -> None:
    """The agent hears only that it is stopped; the client reads why. Another task is not held up."""
    plane, session, socket, assume = place
    assume.side_effect = DENIED
    (task,) = call(plane, "RunTask", {"taskDefinition": "web"})["tasks"]
    session._send_due()
    session._send_due()
    payloads = [c.args[1]["tasks"][0] for c in socket.send.call_args_list if c.args[0] == "PayloadMessage"]
    assert [p["desiredStatus"] for p in payloads] == ["STOPPED"] and "roleCredentials" not in payloads[0]
    call(plane, "SubmitTaskStateChange", {"cluster": "default", "task": task["taskArn"], "status": "STOPPED"})
    (ended,) = call(plane, "DescribeTasks", {"tasks": [task["taskArn"]]})["tasks"]
    assert ended["lastStatus"] == "STOPPED" and ended["stopCode"] == "TaskFailedToStart"
    assert f"unable to assume the role '{ROLE}'" in ended["stoppedReason"]
    assert "AccessDenied" in ended["stoppedReason"]


def test_a_task_keeps_what_it_has_when_its_role_cannot_be_assumed_again(
    place: tuple[Plane, Session, Mock, Mock],
) -> None:
    """A running task is not stopped; the renewal is tried again in a minute."""
    plane, session, socket, assume = place
    call(plane, "RunTask", {"taskDefinition": "web"})
    session._send_due()
    payload = socket.send.call_args_list[0].args[1]
    assert payload["tasks"][0]["roleCredentials"]["accessKeyId"] == "ROLE"
    assert payload["tasks"][0]["executionRoleCredentials"]["accessKeyId"] == "MINE"
    session._handle("AckRequest", {"messageId": payload["messageId"]})
    assume.side_effect = DENIED
    plane.state.clock.advance(6 * 3600)  # type: ignore[attr-defined]
    session._send_due()
    sent = [c.args[1]["roleType"] for c in socket.send.call_args_list if c.args[0] == "IAMRoleCredentialsMessage"]
    assert sent == ["TaskExecution"]
    assert [t.view["desiredStatus"] for t in plane.state.tasks.values()] == ["RUNNING"]
    assume.side_effect = None
    plane.state.clock.advance(61)  # type: ignore[attr-defined]
    session._send_due()
    sent = [c.args[1]["roleType"] for c in socket.send.call_args_list if c.args[0] == "IAMRoleCredentialsMessage"]
    assert "TaskApplication" in sent


class Sts(BaseHTTPRequestHandler):
    """Answers AssumeRole the way STS does."""

    seen: list[str] = []

    def do_POST(self) -> None:
        """One call."""
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])).decode() + self.headers["Authorization"])
        ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            f"<AccessKeyId>AK</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken>"
            f"<Expiration>{ends}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_the_role_is_assumed_with_the_callers_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through botocore, to the endpoint that the caller's environment names."""
    server = HTTPServer(("127.0.0.1", 0), Sts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    try:
        keys = assume_role(MINE, ROLE, "eu-west-1")
    finally:
        server.shutdown()
        server.server_close()
    assert (keys.access_key, keys.secret_key, keys.token) == ("AK", "SK", "ST") and keys.expires is not None
    assert "role%2Fweb" in Sts.seen[0] and "Credential=MINE/" in Sts.seen[0] and "eu-west-1" in Sts.seen[0]
