"""First boot, warm pools and credentials from instance metadata, with a metadata service in a dictionary."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest

from common import keys
from common.bus import Change
from common.errors import Temporary, Terminal
from common.memory import MemoryBus
from common.metadata import Metadata, MetadataError
from common.model.status import TaskStatus
from common.model.task import Task
from services.acs import lifecycle, refresher
from services.acs.identity import Place
from services.acs.refresher import RoleRefresher
from services.acs.roles import RoleCredentials
from services.acs.tags import read_tags, sure_tags


class Answers(Metadata):
    """Values by path; a list is answered one by one, a number is an HTTP status."""

    def __init__(self, **values: Any) -> None:
        super().__init__({})
        self.values: dict[str, Any] = values
        self.asked: list[str] = []

    def get(self, path: str, unanswered: int = 5) -> str:
        self.asked.append(path)
        value = self.values.get(path, 404)
        if isinstance(value, list):
            value = value.pop(0)
        if isinstance(value, int):
            raise MetadataError(f"HTTP status {value}", value)
        return str(value)

    def insist(self, path: str) -> str:
        return self.meta(path)


STATE = "meta-data/autoscaling/target-lifecycle-state"


def test_registration_waits_until_the_instance_is_in_service():
    """One question per minute; passing errors do not matter."""
    waits: list[float] = []
    states = Answers(**{STATE: [404, "Warmed:Stopped", 503, "Warmed:Stopped", "InService"]})
    lifecycle.wait_for_service(states, lambda seconds: waits.append(seconds) is None)
    assert waits == [60.0] * 4


def test_a_warm_pool_that_never_answers_ends_the_service():
    """After two hours without any state, or at once for an error that does not pass."""
    with pytest.raises(Terminal):
        lifecycle.wait_for_service(Answers(**{STATE: 400}), lambda seconds: True)
    never = Answers(**{STATE: 404})
    with pytest.raises(Terminal):
        lifecycle.wait_for_service(never, lambda seconds: True)
    assert len(never.asked) == 120
    with pytest.raises(Temporary):
        lifecycle.wait_for_service(Answers(**{STATE: 404}), lambda seconds: False)


@pytest.mark.parametrize(
    ("result", "user_data", "ends"),
    [
        ('{"v1":{"datasource":"DataSourceNone"}}', "#!/bin/sh", True),
        ('{"v1":{"datasource":"DataSourceNone"}}', 404, False),
        ('{"v1":{"datasource":"DataSourceEc2Local"}}', "#!/bin/sh", False),
        ("not json", "#!/bin/sh", False),
        (None, "#!/bin/sh", False),
    ],
)
def test_a_first_boot_without_its_user_data_ends_the_service(tmp_path, result, user_data, ends):
    """The instance would join the wrong cluster; nothing else does."""
    path = tmp_path / "result.json"
    if result is not None:
        path.write_text(result)
    metadata = Answers(**{"user-data": user_data})
    if ends:
        with pytest.raises(Terminal, match="user data was not applied"):
            lifecycle.check_first_boot(metadata, str(path))
    else:
        lifecycle.check_first_boot(metadata, str(path))


class Calls:
    """UpdateContainerInstancesState that fails once."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def call(self, operation: str, body: Any) -> dict[str, Any]:
        self.bodies.append(body)
        if len(self.bodies) == 1:
            raise Temporary("not now")
        return {}


def test_draining_is_tried_until_it_succeeds_and_then_never_again():
    """The poller ends."""
    notice = {"meta-data/spot/instance-action": ["not json", 404, *['{"action":"stop"}'] * 2]}
    api = Calls()
    lifecycle.watch_spot(Answers(**notice), api, "c", lambda: "arn", lambda seconds: True)  # type: ignore[arg-type]
    assert api.bodies == [{"cluster": "c", "containerInstances": ["arn"], "status": "DRAINING"}] * 2


def test_tags_of_aws_are_not_passed_on():
    """By key or by value, in any case."""
    item = "<item><resourceId>i</resourceId><key>{}</key><value>{}</value></item>"
    items = "".join(item.format(k, v) for k, v in (("AWS:x", "1"), ("k", "aws:y"), ("a", "ec2"), ("empty", "")))
    text = f'<DescribeTagsResponse xmlns="http://x/"><tagSet>{items}</tagSet></DescribeTagsResponse>'
    assert read_tags(200, text.encode()) == {"a": "ec2", "empty": ""}
    denied = (
        b"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>"
    )
    with pytest.raises(Temporary, match="ec2:DescribeTags"):
        read_tags(403, denied)
    with pytest.raises(Temporary, match="not XML"):
        read_tags(502, b"oops")


def test_credentials_below_metadata_replace_those_of_running_tasks(monkeypatch):
    """A namespace is read again only when it changed, or was not read completely."""
    monkeypatch.setattr(refresher, "READ_PAUSE_SECONDS", 0)
    bus = MemoryBus()
    roles = RoleCredentials(bus.volatile)  # type: ignore[arg-type]
    task = Task(arn="arn:task/c/t1", revision=1, known=TaskStatus.RUNNING, credentials_id="c-1")
    gone = Task(arn="arn:task/c/t2", revision=1, known=TaskStatus.STOPPED, credentials_id="c-2")
    base = "meta-data/iam-ecs-a"
    keys_of = {"t1-TaskApplication": {"RoleARN": "r"}, "t2-TaskApplication": {}, "bad": {}, "t1-TaskExecution": {}}
    info = {"LastUpdated": "2026-01-01T00:00:00Z", "TaskCredentials": keys_of}
    metadata = Answers(**{
        "meta-data": "ami-id\niam-ecs-a/\niam/\n",
        f"{base}/info": json.dumps(info),
        f"{base}/security-credentials/t1-TaskApplication": '{"AccessKeyId":"A","Token":"T","Expiration":"E"}',
    })  # fmt: skip
    job = RoleRefresher(metadata, bus.durable, roles)  # type: ignore[arg-type]
    job.refresh()
    assert metadata.asked == []  # no task runs
    for document in (task, gone):
        bus.durable.commit(Change().save(keys.TASK, document.arn, document))
    job.refresh()
    held = roles.get("c-1")
    assert held is not None
    assert (held.access_key_id, held.session_token, held.expiration, held.role_arn) == ("A", "T", "E", "r")
    assert roles.get("c-2") is None
    asked = len(metadata.asked)
    job.refresh()
    assert len(metadata.asked) == asked + 3  # the bad key left it incomplete
    del keys_of["bad"]
    metadata.values[f"{base}/info"] = json.dumps(info)
    job.refresh()
    job.refresh()
    assert len(metadata.asked) == asked + 3 + 3 + 2
    with gevent.Timeout(2):
        job.run(lambda seconds: False)


@pytest.mark.parametrize("updated", [None, "", "soon", "2026-01-01", 5])
def test_a_namespace_without_the_time_of_its_change_is_left_alone(monkeypatch, caplog, updated):
    """Nothing below it is believed, an error says so, and the next namespace is read."""
    monkeypatch.setattr(refresher, "READ_PAUSE_SECONDS", 0)
    bus = MemoryBus()
    task = Task(arn="arn:task/c/t1", revision=1, known=TaskStatus.RUNNING, credentials_id="c-1")
    bus.durable.commit(Change().save(keys.TASK, task.arn, task))
    metadata = Answers(**{
        "meta-data": "iam-ecs-a/\niam-ecs-b/\n",
        "meta-data/iam-ecs-a/info": json.dumps({"LastUpdated": updated, "TaskCredentials": {"t1-TaskApplication": {}}}),
        "meta-data/iam-ecs-b/info": '{"LastUpdated":"2026-01-01T00:00:00.5Z"}',
    })  # fmt: skip
    RoleRefresher(metadata, bus.durable, RoleCredentials(bus.volatile)).refresh()  # type: ignore[arg-type]
    assert metadata.asked == ["meta-data", "meta-data/iam-ecs-a/info", "meta-data/iam-ecs-b/info"]
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "iam-ecs-a" in caplog.text


def test_the_tags_of_an_instance_whose_id_comes_late_are_asked_for_all_the_same():
    """Instance metadata that answered nobody at the start must not keep the instance from ever registering."""
    asked: list[str] = []
    reasons: list[str] = []

    def ask(instance_id: str) -> dict[str, str]:
        asked.append(instance_id)
        return {"k": "v"}

    late = Answers(**{"meta-data/instance-id": [0, 503, "i-1"]})
    found = sure_tags(ask, late, Place(), reasons.append, lambda _: True)
    assert found == (Place(instance_id="i-1"), {"k": "v"}) and asked == ["i-1"]
    assert len(reasons) == 2 and all("tags of the instance are not known" in reason for reason in reasons)
    never = Answers(**{"meta-data/instance-id": 0})
    assert sure_tags(ask, never, Place(), reasons.append, lambda _: False) is None
