"""Task protection: order of the checks and translation of what ECS says (spec 06 §16)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.endpoint import gojson
from services.endpoint.aws import Ecs, EcsError, Keys, NoAnswer
from services.endpoint.protection import decode

E = "11111111-2222-4333-8444-555555555555"
ARN = "arn:aws:ecs:us-west-2:111122223333:task/c/0a1b"
PATH = f"/api/{E}/task-protection/v1/state"
DECODE = b'{"error":{"Code":"InvalidParameterException","Message":"UpdateTaskProtection: failed to decode request"}}'


@pytest.fixture
def protected(world, task, credentials):
    """A task with a role whose credentials are there."""
    world.view.set_task(task(credentials_id="x"))
    world.view.set_credentials("x", credentials())
    return world


@pytest.fixture
def ecs(monkeypatch):
    """What ECS was asked, and what it answers."""

    class Fake:
        calls: list[tuple[Any, ...]] = []
        answer: Callable[[], Any] = staticmethod(lambda: {})

        def __call__(self, _self, operation, body, region, deadline_seconds, keys=None, agent_suffix=""):
            self.calls.append((operation, body, region, keys))
            return self.answer()

    fake = Fake()
    fake.calls = []
    monkeypatch.setattr(Ecs, "call", lambda *args, **more: fake(*args, **more))
    return fake


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"junk",
        b"[]",
        b'"x"',
        b"5",
        b'{"ProtectionEnabled":"x"}',
        b'{"ProtectionEnabled":1}',
        b'{"ProtectionEnabled":true,"X":1}',
        b'{"ProtectionEnabled":true,"ExpiresInMinutes":5.0}',
        b'{"ProtectionEnabled":true,"ExpiresInMinutes":5e0}',
        b'{"ProtectionEnabled":true,"ExpiresInMinutes":"5"}',
        b'{"ProtectionEnabled":true,"ExpiresInMinutes":true}',
        b'{"ProtectionEnabled":tru',
        b'{"ProtectionEnabled":NaN}',
        b'{"ExpiresInMinutes":9223372036854775808}',
        b"[" * 5000,
    ],
)
def test_a_body_that_does_not_decode_is_refused_before_the_look_up(world, body):
    """Case 55: 400 even for an unknown id."""
    answer = world.get("/api/nope/task-protection/v1/state", method="PUT", body=body)
    assert (answer.status, answer.body) == (400, DECODE)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"protectionenabled":true}', (True, None)),
        (b'{"PROTECTIONENABLED":false,"expiresINminutes":-1} junk', (False, -1)),
        (b'{"ProtectionEnabled":true,"ProtectionEnabled":null}', (None, None)),
        (b"null", (None, None)),
        (b"{}", (None, None)),
        (b'{"ProtectionEnabled":true,"ExpiresInMinutes":null}', (True, None)),
    ],
)
def test_bodies_are_read_like_the_reference_reads_them(body, expected):
    """Case 54: keys without regard to case, the last one counts, text after the value is ignored."""
    assert decode(body) == expected


@given(st.binary(max_size=40))
def test_decoding_raises_nothing_but_its_own_errors(data):
    """Whatever a container sends."""
    try:
        decode(data)
    except (gojson.NotJson, gojson.WrongType):
        pass  # these become a 400


def test_the_checks_come_in_order(world, task, ecs):
    """Cases 56, 57, 89 and 90: unknown id, missing field, missing credentials."""
    body = b"{}"
    assert world.get(PATH, method="PUT", body=body).body == (
        b'{"error":{"Code":"ResourceNotFoundException","Message":"Failed to find a task for the request"}}'
    )
    world.view.set_task(task(credentials_id="x"))
    answer = world.get(PATH, method="PUT", body=body)
    assert (answer.status, answer.json["error"]) == (
        400,
        {
            "Arn": ARN,
            "Code": "InvalidParameterException",
            "Message": "Invalid request: does not contain 'ProtectionEnabled' field",
        },
    )
    answer = world.get(PATH)
    assert (answer.status, answer.json["error"]) == (
        403,
        {
            "Arn": ARN,
            "Code": "AccessDeniedException",
            "Message": "Invalid Request: no task IAM role credentials available for task",
        },
    )
    assert not ecs.calls


def test_ecs_is_asked_with_the_credentials_of_the_task_role(protected, ecs):
    """Case 88: the numbers go to ECS unchecked, cut to 32 bits."""
    ecs.answer = lambda: {
        "protectedTasks": [
            {"taskArn": ARN, "protectionEnabled": True, "expirationDate": datetime(2026, 6, 1, 12, 0, 0, 250_000, UTC)}
        ]
    }
    for minutes, sent in (("-1", -1), ("4294967297", 1), ("60", 60)):
        body = f'{{"ProtectionEnabled":true,"ExpiresInMinutes":{minutes}}}'.encode()
        answer = protected.get(PATH, method="PUT", body=body)
        assert answer.body.decode() == (
            '{"protection":{"ExpirationDate":"2026-06-01T12:00:00.25Z","ProtectionEnabled":true,'
            f'"TaskArn":"{ARN}"}}}}'
        )
        operation, asked, region, keys = ecs.calls[-1]
        assert (operation, region) == ("update_task_protection", "us-west-2")
        assert asked == {"cluster": "c", "tasks": [ARN], "protectionEnabled": True, "expiresInMinutes": sent}
        assert keys == Keys("AKID", "SECRET", "to<ken")


def test_get_asks_without_looking_at_its_body(protected, ecs):
    """Case 60: nulls are sent."""
    ecs.answer = lambda: {"protectedTasks": [{"taskArn": ARN, "protectionEnabled": False}], "failures": []}
    answer = protected.get(PATH, body=b"junk")
    assert answer.body.decode() == (
        f'{{"protection":{{"ExpirationDate":null,"ProtectionEnabled":false,"TaskArn":"{ARN}"}}}}'
    )
    assert ecs.calls[0][0] == "get_task_protection" and ecs.calls[0][1] == {"cluster": "c", "tasks": [ARN]}


def raising(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (
            lambda: {"failures": [{"arn": ARN, "reason": "DEPLOYMENT_BLOCKED"}]},
            200,
            {"failure": {"Arn": ARN, "Detail": None, "Reason": "DEPLOYMENT_BLOCKED"}},
        ),
        (
            lambda: {"failures": [{}, {}]},
            500,
            {"error": {"Arn": ARN, "Code": "ServerException", "Message": "Unexpected error occurred"}},
        ),
        (lambda: {}, 500, {"error": {"Arn": ARN, "Code": "ServerException", "Message": "Unexpected error occurred"}}),
        (
            raising(EcsError("AccessDeniedException", "denied", 400, "")),
            400,
            {"requestID": "", "error": {"Arn": ARN, "Code": "AccessDeniedException", "Message": "denied"}},
        ),
        (
            raising(NoAnswer("slow")),
            504,
            {"error": {"Arn": ARN, "Code": "RequestCanceled", "Message": "Timed out calling ECS Task Protection API"}},
        ),
        (raising(RuntimeError("boom")), 500, {"error": {"Arn": ARN, "Code": "ServerException", "Message": "boom"}}),
    ],
)
def test_what_ecs_says_becomes_what_the_container_hears(protected, ecs, answer, status, body):
    """Cases 58, 59 and 87; and the reference's crash with an empty answer is a 500 here (W5)."""
    ecs.answer = answer
    got = protected.get(PATH)
    assert (got.status, got.json) == (status, body)


def test_tags_that_fail_cost_the_tags_and_not_the_answer(world, task, ecs):
    """Case 53: v4 tells the error, v3 does not; the instance is asked first."""
    world.view.set_task(task())

    def answer() -> Any:
        if len(ecs.calls) % 2:
            return {"tags": [{"key": "b", "value": "2"}, {"key": "a", "value": "<"}]}
        raise EcsError("AccessDeniedException", "no", 400, "rid")

    ecs.answer = answer
    v4 = world.get(f"/v4/{E}/taskWithTags")
    assert v4.status == 200 and v4.json["ContainerInstanceTags"] == {"a": "<", "b": "2"}
    assert "TaskTags" not in v4.json
    assert v4.json["Errors"] == [
        {
            "ErrorField": "TaskTags",
            "ResourceARN": ARN,
            "ErrorMessage": (
                f"GetResourceTags failed for {ARN} after 1 attempts: operation error ECS: ListTagsForResource, "
                "https response "
                "error StatusCode: 400, RequestID: rid, AccessDeniedException: no"
            ),
        }
    ]
    assert [c[1]["resourceArn"].split(":")[5].split("/")[0] for c in ecs.calls] == ["container-instance", "task"]
    keys = list(v4.json)
    assert keys.index("ContainerInstanceTags") < keys.index("Errors") < keys.index("Containers")
    v3 = world.get(f"/v3/{E}/taskWithTags")
    assert v3.json["ContainerInstanceTags"] and "Errors" not in v3.json


def test_an_error_that_the_operation_does_not_declare_is_told_as_the_sdk_tells_it(world, task, ecs):
    """`api error` stands before its code."""
    world.view.set_task(task())

    def answer() -> Any:
        raise EcsError("UnrecognizedClientException", "no", 400, "rid")

    ecs.answer = answer
    first, second = world.get(f"/v4/{E}/taskWithTags").json["Errors"]
    assert [first["ErrorField"], second["ErrorField"]] == ["ContainerInstanceTags", "TaskTags"]
    assert first["ErrorMessage"].endswith(", RequestID: rid, api error UnrecognizedClientException: no")


def test_empty_tags_leave_the_fields_out(world, task, ecs):
    """An empty list omits the field."""
    world.view.set_task(task())
    ecs.answer = lambda: {"tags": []}
    assert not {"TaskTags", "ContainerInstanceTags", "Errors"} & set(world.get(f"/v4/{E}/taskWithTags").json)
