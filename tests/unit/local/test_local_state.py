"""What the control plane remembers, for how long, and how it checks and shapes calls."""

from __future__ import annotations

import datetime
import sqlite3
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from botocore.exceptions import ClientError, ProfileNotFound

from common.clock import VirtualClock
from common.errors import Permanent
from services.local import api
from services.local.acs import Hub, Session
from services.local.api.plane import Plane
from services.local.core.errors import ApiError
from services.local.core.names import Names, cluster_name, family_and_revision, resource_id
from services.local.credentials import DUMMY_ACCESS_KEY, Keys, RoleCredentials, callers_keys
from services.local.shapes import ServiceShapes
from services.local.state import State
from services.local.store import Store

Json = dict[str, Any]
SHAPES = ServiceShapes()
DEFINITION = {"family": "web", "containerDefinitions": [{"name": "web", "image": "i", "cpu": 100, "memory": 64}]}


class World:
    """A control plane without sockets: operations by name, an instance that counts as connected, a virtual clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, VirtualClock()
        self.open()

    def open(self) -> None:
        """As after a restart."""
        self.store = Store(self.path)
        self.state = State(self.store, Names("us-east-1"), self.clock)
        self.plane = Plane(self.state, SHAPES, Hub(self.state, RoleCredentials(self.clock)), "http://127.0.0.1:1")
        self.plane.hub.connected = lambda arn: True  # type: ignore[method-assign]

    def __call__(self, operation: str, **request: Any) -> Json:
        return api.call(self.plane, operation, request)

    def with_instance(self) -> World:
        """A cluster with one instance and one task definition."""
        self("CreateCluster")
        self.instance = self(
            "RegisterContainerInstance", cluster="default", clientToken="t",
            attributes=[{"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}],
            totalResources=[{"name": "CPU", "type": "INTEGER", "integerValue": 1024},
                            {"name": "MEMORY", "type": "INTEGER", "integerValue": 1024}],
        )["containerInstance"]["containerInstanceArn"]  # fmt: skip
        self("RegisterTaskDefinition", **DEFINITION)
        return self


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Empty."""
    return World(tmp_path / "local" / "control-plane.db")


def error(call: Callable[[], Any]) -> ApiError:
    """The error that a call raises."""
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def test_everything_is_there_after_a_restart(world: World) -> None:
    """Records, tags and counters survive; revisions and sequence numbers go on where they were."""
    world.with_instance()
    task = world("RunTask", taskDefinition="web", tags=[{"key": "k", "value": "v"}])["tasks"][0]["taskArn"]
    sequence = world.state.tasks[task].delivery.sequence
    world.store.close()
    world.open()
    described = world("DescribeTasks", tasks=[task], include=["TAGS"])["tasks"][0]
    assert described["tags"] == [{"key": "k", "value": "v"}]
    assert world.state.delivery("STOPPED").sequence > sequence
    assert world("RegisterTaskDefinition", **DEFINITION)["taskDefinition"]["revision"] == 2


def test_the_state_file_is_private_and_holds_no_credentials(world: World) -> None:
    """Mode 0600 in a directory of mode 0700; payloads with keys are made when they are sent."""
    world.with_instance()
    world("RegisterTaskDefinition", **DEFINITION, taskRoleArn="arn:aws:iam::000000000000:role/r")
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.path.parent.stat().st_mode) == 0o700
    everything = b"".join(p.read_bytes() for p in world.path.parent.iterdir())
    assert DUMMY_ACCESS_KEY.encode() not in everything


def test_a_broken_document_is_left_out_and_the_rest_is_read(world: World) -> None:
    """One bad row must not take the control plane down."""
    world.with_instance()
    world.store.write([("task", "arn:bad", b"{not json")])
    world.store.close()
    world.open()
    assert list(world.state.instances) == [world.instance]
    assert world.state.tasks == {}


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(world: World) -> None:
    """Reading it wrongly would be worse."""
    world.store._db.execute("PRAGMA user_version=99")
    world.store.close()
    with pytest.raises(Permanent, match="newer version"):
        Store(world.path)


def test_stopped_tasks_vanish_after_an_hour(world: World) -> None:
    """They stay visible for an hour, live ones for ever."""
    world.with_instance()
    ended, live = (t["taskArn"] for t in world("RunTask", taskDefinition="web", count=2)["tasks"])
    world("SubmitTaskStateChange", task=ended, status="STOPPED")
    world.clock.advance(3599)
    world.state.forget_old()
    assert not world("DescribeTasks", tasks=[ended])["failures"]
    world.clock.advance(2)
    world.state.forget_old()
    answer = world("DescribeTasks", tasks=[ended, live])
    assert answer["failures"] == [{"arn": ended, "reason": "MISSING"}]
    assert [t["taskArn"] for t in answer["tasks"]] == [live]


def test_the_same_client_token_gives_the_same_tasks_for_a_day(world: World) -> None:
    """A retried RunTask starts nothing new; another request with that token is a conflict."""
    world.with_instance()
    first = world("RunTask", taskDefinition="web", clientToken="once")["tasks"]
    again = world("RunTask", taskDefinition="web", clientToken="once")["tasks"]
    assert [t["taskArn"] for t in first] == [t["taskArn"] for t in again]
    conflict = error(lambda: world("RunTask", taskDefinition="web", count=2, clientToken="once"))
    assert conflict.code == "ConflictException"
    world.clock.advance(24 * 3600 + 1)
    world.state.forget_old()
    assert world("RunTask", taskDefinition="web", clientToken="once")["tasks"][0]["taskArn"] != first[0]["taskArn"]


def test_what_a_full_disk_does_not_take_has_not_happened(world: World) -> None:
    """The caller of a failed RunTask or StopTask tries again, and gets what it asked for once."""
    world.with_instance()
    work = world.state.on_work = Mock()
    (running,) = (t["taskArn"] for t in world("RunTask", taskDefinition="web")["tasks"])
    work.reset_mock()
    large = {"containerOverrides": [{"name": "web", "environment": [{"name": "A", "value": "x" * 200_000}]}]}
    request = {"taskDefinition": "web", "count": 3, "clientToken": "once", "overrides": large}
    pages = world.store._db.execute("PRAGMA page_count").fetchone()[0]
    world.store._db.execute(f"PRAGMA max_page_count={pages + 20}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        world("RunTask", **request)
    assert list(world.state.tasks) == [running] and not world.state.tokens
    with pytest.raises(sqlite3.OperationalError, match="full"):
        world("TagResource", resourceArn=running, tags=[{"key": "k", "value": "v" * 200_000}])
    assert not world.state.tags[running]
    work.assert_not_called()
    world.store._db.execute("PRAGMA max_page_count=100000")
    arns = [t["taskArn"] for t in world("RunTask", **request)["tasks"]]
    assert len(arns) == 3 and set(world.state.tasks) == {running, *arns}
    world.store.close()
    world.open()
    assert set(world.state.tasks) == {running, *arns}


def test_a_stop_that_could_not_be_saved_is_no_stop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither clients nor the agent see it; the next call does it. The same for old things that are dropped."""
    world.with_instance()
    (arn,) = (t["taskArn"] for t in world("RunTask", taskDefinition="web")["tasks"])
    with monkeypatch.context() as broken:
        broken.setattr(world.store, "write", Mock(side_effect=sqlite3.OperationalError("disk I/O error")))
        with pytest.raises(sqlite3.OperationalError):
            world("StopTask", task=arn)
        assert world.state.tasks[arn].delivery.desired == "RUNNING"
        assert world.state.tasks[arn].view["desiredStatus"] == "RUNNING"
    assert world("StopTask", task=arn)["task"]["desiredStatus"] == "STOPPED"
    world("SubmitTaskStateChange", task=arn, status="STOPPED")
    world.clock.advance(3601)
    with monkeypatch.context() as broken:
        broken.setattr(world.store, "write", Mock(side_effect=sqlite3.OperationalError("disk I/O error")))
        with pytest.raises(sqlite3.OperationalError):
            world.state.forget_old()
    assert arn in world.state.tasks


def test_tasks_of_one_call_share_what_is_left(world: World) -> None:
    """They are placed in one step, but each counts for the next."""
    world.with_instance()
    world("RegisterTaskDefinition", family="half", containerDefinitions=[
        {"name": "c", "image": "i", "cpu": 400, "memory": 64}])  # fmt: skip
    answer = world("RunTask", taskDefinition="half", count=3)
    assert len(answer["tasks"]) == 2 and [f["reason"] for f in answer["failures"]] == ["RESOURCE:CPU"]


def test_an_agent_that_starts_again_is_still_draining(world: World) -> None:
    """Whoever drains an instance wants nothing new on it, whatever its agent does."""
    world.with_instance()
    world("UpdateContainerInstancesState", containerInstances=[world.instance], status="DRAINING")
    again = world("RegisterContainerInstance", cluster="default", containerInstanceArn=world.instance)
    assert again["containerInstance"]["status"] == "DRAINING"
    world("UpdateContainerInstancesState", containerInstances=[world.instance], status="ACTIVE")
    world("DeregisterContainerInstance", containerInstance=world.instance)
    back = world("RegisterContainerInstance", cluster="default", containerInstanceArn=world.instance)
    assert back["containerInstance"]["status"] == "ACTIVE"


def test_a_registration_is_renewed_by_token_and_by_arn(world: World) -> None:
    """A retry makes no second instance; an agent that kept its ARN gets it back, even from an empty control plane."""
    world.with_instance()
    again = world("RegisterContainerInstance", cluster="default", clientToken="t")["containerInstance"]
    assert again["containerInstanceArn"] == world.instance
    kept = "arn:aws:ecs:us-east-1:000000000000:container-instance/default/" + "a" * 32
    adopted = world("RegisterContainerInstance", cluster="default", containerInstanceArn=kept)["containerInstance"]
    assert adopted["containerInstanceArn"] == kept


def test_an_agent_of_an_unknown_cluster_reads_the_words_it_looks_for(world: World) -> None:
    """Agents create the default cluster when the message says that it is not there (spec 01 §6.6)."""
    answer = error(lambda: world("RegisterContainerInstance", cluster="default"))
    assert (answer.code, answer.message) == ("ClientException", "Cluster not found.")
    assert error(lambda: world("ListTasks")).code == "ClusterNotFoundException"


def test_pages_go_through_everything_once(world: World) -> None:
    """nextToken walks all revisions in order, and a made-up token is refused."""
    for _ in range(5):
        world("RegisterTaskDefinition", **DEFINITION)
    seen, token = [], {}
    while True:
        page = world("ListTaskDefinitions", maxResults=2, **token)
        seen += page["taskDefinitionArns"]
        if "nextToken" not in page:
            break
        token = {"nextToken": page["nextToken"]}
    assert [a.rsplit(":", 1)[-1] for a in seen] == ["1", "2", "3", "4", "5"]
    assert "Invalid token" in error(lambda: world("ListTaskDefinitions", nextToken="x")).message
    assert "maxResults" in error(lambda: world("ListTaskDefinitions", maxResults=0)).message


def test_a_deregistered_instance_takes_its_tasks_along_only_by_force(world: World) -> None:
    """Without force running tasks are in the way; with it nobody will ever report on them."""
    world.with_instance()
    task = world("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    refused = error(lambda: world("DeregisterContainerInstance", containerInstance=world.instance))
    assert refused.message == "Found running tasks on the instance."
    world("DeregisterContainerInstance", containerInstance=world.instance, force=True)
    ended = world("DescribeTasks", tasks=[task])["tasks"][0]
    assert (ended["lastStatus"], ended["stopCode"]) == ("STOPPED", "UserInitiated")
    assert ended["stoppedReason"] == "The container instance was deregistered by force."
    assert ended["stoppingAt"] == ended["stoppedAt"] and ended["containers"][0]["lastStatus"] == "STOPPED"
    assert (
        error(lambda: world("RunTask", taskDefinition="web")).message
        == "No Container Instances were found in your cluster."
    )


def test_definitions_go_from_active_to_inactive_to_deleted(world: World) -> None:
    """A revision that a visible task uses is kept until the task is forgotten."""
    world.with_instance()
    task = world("RunTask", taskDefinition="web")["tasks"][0]["taskArn"]
    failure = world("DeleteTaskDefinitions", taskDefinitions=["web:1"])["failures"][0]
    assert "still in ACTIVE status" in failure["reason"]
    world("DeregisterTaskDefinition", taskDefinition="web:1")
    assert error(lambda: world("RunTask", taskDefinition="web:1")).message == "TaskDefinition is inactive"
    assert error(lambda: world("RunTask", taskDefinition="web")).message == "TaskDefinition not found."
    assert world("ListTaskDefinitionFamilies", status="INACTIVE")["families"] == ["web"]
    world("DeleteTaskDefinitions", taskDefinitions=["web:1"])
    world.state.forget_old()
    assert world("DescribeTaskDefinition", taskDefinition="web:1")["taskDefinition"]["status"] == "DELETE_IN_PROGRESS"
    world("SubmitTaskStateChange", task=task, status="STOPPED")
    world.clock.advance(3601)
    world.state.forget_old()
    assert error(lambda: world("DescribeTaskDefinition", taskDefinition="web:1")).code == "ClientException"


def test_unknown_members_are_dropped_and_wrong_types_are_named() -> None:
    """A newer SDK must not be refused; a wrong type gets botocore's own sentence and the service's code."""
    assert SHAPES.request("RunTask", {"taskDefinition": "x", "newMember": 1, "group": None}) == {"taskDefinition": "x"}
    wrong = error(lambda: SHAPES.request("RunTask", {"taskDefinition": 7}))
    assert wrong.code == "InvalidParameterException"
    assert "Invalid type for parameter taskDefinition" in wrong.message
    lacking = error(lambda: SHAPES.request("RegisterTaskDefinition", {"family": "x"}))
    assert (lacking.code, "containerDefinitions" in lacking.message) == ("ClientException", True)
    enum = error(lambda: SHAPES.request("RunTask", {"taskDefinition": "x", "launchType": "MOON"}))
    assert "Value 'MOON' at 'launchType' failed to satisfy constraint" in enum.message
    assert error(lambda: SHAPES.request("RunTask", [])).message == "The request body must be a JSON object."


def test_answers_have_the_shape_of_the_service() -> None:
    """Members of our own are not shown, times are Unix seconds."""
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    shaped = SHAPES.response("StopTask", {"task": {"taskArn": "a", "createdAt": at, "secret": 1, "version": 2.0}})
    assert shaped == {"task": {"taskArn": "a", "createdAt": at.timestamp(), "version": 2}}


def test_an_operation_that_is_not_offered_is_named_in_the_error(world: World) -> None:
    """A user of CreateCapacityProvider must not wonder what failed."""
    answer = error(lambda: world("CreateCapacityProvider", name="x"))
    assert answer.code == "UnsupportedFeatureException" and "CreateCapacityProvider" in answer.message
    assert error(lambda: world("Nonsense")).code == "UnknownOperationException"


def test_names_and_arns_are_both_understood() -> None:
    """Every parameter that names something takes either form."""
    assert cluster_name(None) == "default"
    assert cluster_name("arn:aws:ecs:r:0:cluster/prod") == "prod"
    assert family_and_revision("arn:aws:ecs:r:0:task-definition/web:7") == ("web", 7)
    assert family_and_revision("web") == ("web", None)
    assert resource_id("arn:aws:ecs:r:0:task/default/" + "a" * 32, "task") == "a" * 32
    for bad in ("short", "arn:aws:ecs:r:0:cluster/x"):
        assert error(lambda bad=bad: resource_id(bad, "task")).code == "InvalidParameterException"  # type: ignore[misc]
    assert error(lambda: family_and_revision("web:x")).code == "ClientException"


def test_role_credentials_are_the_callers_and_are_renewed_before_they_end() -> None:
    """Fifteen minutes before the end they are due; what the role's ARN is, the caller's keys cannot change."""
    clock = VirtualClock()
    keys = [Keys("AK1", "S1", "T1", clock.now() + 3600), Keys("AK2", "S2", "T2", clock.now() + 9000)]
    roles = RoleCredentials(clock, lambda: keys[0])
    first = roles.for_role("arn:role", "id")
    assert (first["accessKeyId"], first["roleArn"], first["credentialsId"]) == ("AK1", "arn:role", "id")
    assert not roles.due()
    clock.advance(3600 - 15 * 60)
    assert roles.due()
    keys.pop(0)
    assert roles.for_role("arn:role", "id")["accessKeyId"] == "AK2"


def test_without_keys_of_the_caller_tasks_get_dummies(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the chain fails; and the placeholders that the agent signs with are no keys."""
    clock = VirtualClock()
    assert RoleCredentials(clock, lambda: None).for_role("r", "i")["accessKeyId"] == DUMMY_ACCESS_KEY

    for failure in (
        OSError("no such profile"),
        ProfileNotFound(profile="nosuch"),
        ClientError({"Error": {"Code": "ExpiredToken", "Message": "The token is\nexpired"}}, "AssumeRole"),
        gevent.Timeout(10),
    ):
        caplog.clear()
        roles = RoleCredentials(clock, Mock(side_effect=failure))
        assert roles.for_role("r", "i")["accessKeyId"] == DUMMY_ACCESS_KEY
        (line,) = [r.getMessage() for r in caplog.records]
        assert line.startswith("the caller's AWS credentials cannot be read (") and "\n" not in line
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    assert callers_keys() is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKMINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    found = callers_keys()
    assert found is not None and found.access_key == "AKMINE" and "AKMINE" not in repr(found)


def test_a_session_that_can_send_no_more_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look connected and deliver nothing; the agent connects again instead."""
    world.with_instance()
    socket = Mock()
    session = Session(socket, world.instance, world.state, RoleCredentials(world.clock, lambda: None), deque())
    monkeypatch.setattr(session, "_send_due", Mock(side_effect=KeyError("web:1")))
    session._send_loop()
    socket.close.assert_called_once()
