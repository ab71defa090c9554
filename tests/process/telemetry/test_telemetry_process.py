"""The whole process: documents in, stats documents and telemetry messages out, whatever dies around it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from common import readiness
from common.bus import Change
from common.keys import SESSION, STATS, TASK
from common.model.agent import Session
from common.model.status import ContainerStatus, HealthStatus
from common.model.task import Attachment, Health
from tests.fakes.csi_process import FakeDriver
from tests.process.telemetry.conftest import INSTANCE_ARN, Containers, Tree, task_of

pytestmark = pytest.mark.docker
Eventually = Callable[..., object]
METRICS, HEALTH = "PublishMetricsRequest", "PublishHealthRequest"
BRISK, PUBLISH_SECONDS = "tests.process.telemetry.brisk", 3  # its period


def test_a_fresh_instance_says_at_once_that_it_is_idle(tree: Tree, eventually: Eventually):
    """Cases 25 and 50b: discovery, upgrade, one idle request; before the registration nothing at all."""
    tree.start()
    eventually(lambda: b"waits for the registration" in tree.log.read_bytes())
    assert tree.server.attempts == [] and tree.server.api_calls == []
    registered = time.monotonic()
    tree.register()
    eventually(lambda: tree.server.messages(METRICS))
    assert time.monotonic() - registered < 3
    (message,) = tree.server.messages(METRICS)
    assert message["metadata"] | {"messageId": ""} == {
        "cluster": "default", "containerInstance": INSTANCE_ARN, "fin": True, "idle": True, "messageId": "",
    }  # fmt: skip
    assert "taskMetrics" not in message and tree.server.messages(HEALTH) == []
    body, headers = tree.server.api_calls[0]
    assert body == f'{{"cluster":"default","containerInstance":"{INSTANCE_ARN}","zoneId":""}}'
    assert headers["X-Amz-Target"].endswith(".DiscoverPollEndpoint")
    eventually(lambda: getattr(tree.bus.volatile.get(SESSION, "tcs"), "connected", False))
    assert tree.stop() == 0


def test_each_word_of_a_deregistration_drops_the_session_once(tree: Tree, eventually: Eventually):
    """`acs` says so at each hourly attempt; the same word, read again, is no news (spec 02 §3.4)."""

    def announce(revision: int) -> None:
        gone = Session(revision=revision, inactive=True, reason="InactiveInstanceException: gone")
        tree.bus.volatile.commit(Change().save(SESSION, "acs", gone))

    def drops() -> int:
        return tree.log.read_bytes().count(b"was deregistered; the next attempt")

    announce(5)
    tree.register()
    tree.start()
    eventually(lambda: getattr(tree.bus.volatile.get(SESSION, "tcs"), "connected", False))
    assert drops() == 0, "what was said before this process lived is no news"
    announce(6)
    eventually(lambda: drops() == 1)
    eventually(lambda: len(tree.server.connections) == 2)
    announce(7)
    eventually(lambda: drops() == 2)
    assert tree.stop() == 0


@pytest.fixture
def driver(run_dir: Path) -> Iterator[FakeDriver]:
    """A CSI driver that knows how full one volume is."""
    (run_dir / "csi").mkdir()
    driver = FakeDriver(run_dir / "csi")
    driver.behave(usage={"vol-1": [15 << 30, 20 << 30]})
    driver.start()
    yield driver
    driver.kill()


def test_a_running_task_is_measured_reported_and_forgotten(
    tree: Tree, containers: Containers, daemon, driver: FakeDriver, eventually: Eventually
):
    """Stats documents every second, metrics and health every period, and both end with the container.

    The use of its EBS volume is what the driver says (spec 07 §8.1, case 54).
    """
    config = tree.run_dir / "config.json"
    config.write_text(json.dumps({"CSIDriverSocketPath": str(driver.socket)}))
    volume = {"volumeId": "vol-1", "volumeName": "data", "sourceVolumeHostPath": "t_vol-1"}
    health = Health(status=HealthStatus.UNHEALTHY, since=1780307990.417)
    described = containers.describe(containers.start(), health_check_type="docker", health=health)
    task = task_of(described, attachments=(Attachment(type="amazonebs", properties=volume),))
    tree.save(task)
    tree.register()
    tree.start(BRISK, ECS_AGENT_CONFIG_FILE_PATH=str(config))
    eventually(lambda: tree.bus.volatile.get(STATS, task.arn))
    (shown,) = tree.bus.volatile.get(STATS, task.arn).containers
    assert (shown.docker_id, shown.name) == (described.docker_id, "app")

    def with_rates() -> dict | None:
        stats = json.loads(tree.bus.volatile.get(STATS, task.arn).containers[0].rendered) or {}
        return stats if "network_rate_stats" in stats else None

    stats = eventually(with_rates)
    assert list(stats)[-1] == "network_rate_stats" and stats["name"] == f"/{described.docker_name}"
    later = eventually(lambda: (s := with_rates()) and s["read"] > stats["read"] and s, seconds=2.5)
    assert later["preread"] >= stats["read"]
    sent = eventually(lambda: tree.server.messages(HEALTH))[0]
    assert sent["tasks"][0]["containers"] == [
        {"containerName": "app", "healthStatus": "UNHEALTHY", "statusSince": 1780307990.417},
    ]  # fmt: skip
    (metrics,) = eventually(lambda: tree.server.messages(METRICS), seconds=PUBLISH_SECONDS + 5)
    assert metrics["metadata"]["idle"] is False and metrics["taskMetrics"][0]["taskArn"] == task.arn
    (measured,) = metrics["taskMetrics"][0]["volumeMetrics"]
    assert (measured["utilized"]["max"], measured["size"]["sum"]) == (16106127360, 21474836480)
    assert driver.calls()[-1]["request"] == {"volume_id": "vol-1", "volume_path": "/mnt/ecs/ebs/t_vol-1"}
    sets = metrics["taskMetrics"][0]["containerMetrics"][0]
    assert PUBLISH_SECONDS - 1 <= sets["memoryStatsSet"]["sampleCount"] <= PUBLISH_SECONDS + 1, "one a second"
    assert sets["cpuStatsSet"]["sampleCount"] == sets["memoryStatsSet"]["sampleCount"] - 1
    stopped = msgspec.structs.replace(described, known=ContainerStatus.STOPPED)
    tree.save(msgspec.structs.replace(task, revision=2, containers=(stopped,)))
    eventually(lambda: tree.bus.volatile.get(STATS, task.arn) is None, seconds=3)
    assert tree.stop() == 0


def test_a_heartbeat_of_the_control_plane_runs_the_check(tree: Tree, daemon, eventually: Eventually):
    """acs writes the time of the heartbeat; the status goes out one period after the session began."""
    tree.register()
    tree.start(BRISK)
    eventually(lambda: tree.server.connections)
    session = Session(revision=1, connected=True, heartbeat_at=time.time())
    tree.bus.volatile.commit(Change().save(SESSION, "acs", session))
    (found,) = eventually(lambda: tree.server.messages("PublishInstanceStatusRequest"))
    (status,) = found["statuses"]
    assert (status["status"], status["type"]) == ("OK", "ContainerRuntime")
    assert status["lastUpdated"] < status["lastStatusChange"]


def test_the_process_outlives_both_redis_servers(
    tree: Tree, redis_servers, containers: Containers, eventually: Eventually
):
    """Killed in turn and started again: stats come back, nothing is restarted, the session stays up."""
    task = task_of(containers.describe(containers.start()))
    tree.save(task)
    tree.register()
    tree.start()
    eventually(lambda: tree.bus.volatile.get(STATS, task.arn) and tree.server.connections)
    for server in redis_servers:
        server.kill()
    time.sleep(1.5)
    for server in redis_servers:
        server.start()
    document = eventually(lambda: tree.bus.volatile.get(STATS, task.arn), seconds=15)
    assert document.containers[0].docker_id == task.containers[0].docker_id
    second = task_of(containers.describe(containers.start()))
    tree.save(second)
    eventually(lambda: tree.bus.volatile.get(STATS, second.arn), seconds=15)
    assert len(tree.server.connections) == 1 and tree.process.poll() is None
    assert tree.bus.durable.get(TASK, task.arn) is not None


def test_the_process_works_while_nothing_else_does(run_dir, tcs, eventually: Eventually):
    """No Redis, no Docker, no backend: it stays up, says why it is not ready, and ends when it is told to."""
    tree = Tree(run_dir, tcs)
    tree.start(DOCKER_HOST="unix:///nonexistent.sock")
    eventually(lambda: tree.log.exists() and b"does not answer" in tree.log.read_bytes())
    assert tree.process.poll() is None
    assert tree.stop() == 0


def test_without_metrics_nothing_is_measured_and_the_session_runs(
    tree: Tree, containers: Containers, eventually: Eventually
):
    """Case 27: an idle request and a health request; no stats document."""
    health = Health(status=HealthStatus.HEALTHY, since=5.0)
    task = task_of(containers.describe(containers.start(), health_check_type="docker", health=health))
    tree.save(task)
    tree.register()
    tree.start(ECS_DISABLE_METRICS="true", ECS_DISABLE_DOCKER_HEALTH_CHECK="true")
    eventually(lambda: tree.server.messages(METRICS) and tree.server.messages(HEALTH))
    assert tree.server.messages(METRICS)[0]["metadata"]["idle"] is True
    assert tree.bus.volatile.get(STATS, task.arn) is None
    assert b"Both metrics and health were disabled" in tree.log.read_bytes()


def test_a_stats_document_of_an_earlier_run_is_taken_away(tree: Tree, eventually: Eventually):
    """The process was away while the task ended."""
    from common.model.agent import TaskStats

    tree.bus.volatile.commit(Change().save(STATS, "arn:gone", TaskStats(revision=1, arn="arn:gone")))
    tree.register()
    tree.start()
    eventually(lambda: tree.bus.volatile.get(STATS, "arn:gone") is None)
    assert eventually(lambda: readiness.read(str(tree.run_dir), "telemetry"))
