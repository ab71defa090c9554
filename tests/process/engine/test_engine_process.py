"""The engine as a process of its own, on real Redis and real Docker: signals, crashes, bursts."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from common import keys
from common.bus import Change
from common.model.agent import Sent
from common.model.messages import ContainerChanged, RunOrUpdateTask, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Task

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[3]
IMAGE = "ecs-engine-test/busybox:1"
BUSYBOX = "/bin/busybox"
RUNNING, STOPPED = TaskStatus.RUNNING, TaskStatus.STOPPED


def docker(*words, data=None):
    """The docker command's output."""
    done = subprocess.run(["docker", *words], input=data, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def image():
    """An image of the static busybox, made locally: it has no RepoDigests and needs no registry."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(BUSYBOX, arcname="bin/busybox")
        for name in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    docker("import", "-", IMAGE, data=archive.getvalue())
    return IMAGE


class EngineProcess:
    """`python -m services.engine`, and what it leaves in Redis and Docker."""

    def __init__(self, host, run_dir):
        self.host, self.run_dir, self.process = host, run_dir, None
        self.prefix = f"{os.getpid()}x{time.time_ns()}"
        self.family = f"engine{time.time_ns()}"

    def start(self):
        """Start it, and wait until it has said something about Docker."""
        environment = {
            **os.environ,
            "ECS_RUN_DIR": str(self.run_dir),
            "ECS_DATADIR": str(self.run_dir),
            "ECS_CLUSTER": "test",
            "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
            "ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false",
            "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s",
            "ECS_LOGFILE": "",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with open(self.run_dir / "engine.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.engine"], env=environment, cwd=ROOT, stdout=log, stderr=log
            )

    def signal(self, number):
        """Send a signal; returns exit status and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(15), time.monotonic() - began

    def task(self, name, command=("sleep", "3600"), desired=RUNNING):
        """A task of one container that can be stopped at once."""
        app = Container(
            name="app", image=IMAGE, essential=True, command=command, stop_timeout_seconds=1,
            docker_config=json.dumps({"StopSignal": "SIGKILL"}),
        )  # fmt: skip
        arn = f"arn:aws:ecs:us-west-2:1:task/test/{self.prefix}{name}"
        return Task(arn=arn, family=self.family, version="1", containers=(app,), desired=desired)

    def containers(self):
        """Docker ids of all containers of this test."""
        return docker("ps", "-aq", "--filter", f"label=com.amazonaws.ecs.task-definition-family={self.family}").split()

    def reports(self, arn):
        """Task events."""
        return [e.status.name for e in self.host.events() if isinstance(e, TaskChanged) and e.arn == arn]


@pytest.fixture
def engine(host, run_dir, image):
    """A started engine; its containers are removed afterwards."""
    engine = EngineProcess(host, run_dir)
    engine.start()
    yield engine
    if engine.process.poll() is None:
        engine.signal(signal.SIGTERM)
    left = engine.containers()
    if left:
        docker("rm", "-f", *left)


def test_a_task_lives_and_dies_in_docker(engine, host, eventually):
    """Command in, RUNNING, stop, STOPPED with Docker's exit code, accepted, cleaned up."""
    web = engine.task("web")
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING, seconds=30)
    container = host.task(web.arn).containers[0]
    assert container.docker_name.startswith(f"ecs-{engine.family}-1-app-")
    host.run(engine.task("web", desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED, seconds=30)
    assert engine.reports(web.arn) == ["RUNNING", "STOPPED"]
    assert [e.exit_code for e in host.events() if isinstance(e, ContainerChanged)][-1] == 137
    host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=STOPPED)))
    eventually(lambda: host.task(web.arn) is None, seconds=15)
    assert engine.containers() == []


def test_a_process_that_exits_at_once_was_running(engine, host, eventually):
    """Conformance case 67."""
    web = engine.task("web", ("sh", "-c", "exit 4"))
    host.run(web)
    eventually(lambda: host.known(web.arn) == STOPPED, seconds=30)
    assert engine.reports(web.arn) == ["RUNNING", "STOPPED"]
    assert [e.exit_code for e in host.events() if isinstance(e, ContainerChanged)][-1] == 4


def test_sigterm_ends_the_engine_and_leaves_the_containers(engine, host, eventually):
    """Within two seconds; the next engine takes the task up without a word to ECS."""
    web = engine.task("web")
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING, seconds=30)
    status, seconds = engine.signal(signal.SIGTERM)
    assert status == 0
    assert seconds < 2
    assert len(engine.containers()) == 1
    engine.start()
    host.run(engine.task("web", desired=STOPPED))
    eventually(lambda: host.known(web.arn) == STOPPED, seconds=30)
    assert engine.reports(web.arn) == ["RUNNING", "STOPPED"]


def test_sigkill_in_the_middle_of_a_burst_loses_and_doubles_nothing(engine, host, eventually):
    """Twelve tasks, killed when some containers exist: in the end one container and one RUNNING report each."""
    tasks = [engine.task(str(n)) for n in range(12)]
    change = Change()
    for task in tasks:
        change.append(keys.COMMANDS, RunOrUpdateTask(task=task))
    host.bus.durable.commit(change)
    eventually(lambda: len(engine.containers()) >= 3, seconds=30)
    engine.signal(signal.SIGKILL)
    engine.start()
    eventually(lambda: all(host.known(t.arn) == RUNNING for t in tasks), seconds=60)
    assert len(engine.containers()) == 12
    assert all(engine.reports(t.arn) == ["RUNNING"] for t in tasks)
    assert host.commands_left() == 0


def test_a_container_removed_by_hand_is_noticed_within_seconds(engine, host, eventually):
    """Conformance case 79: exit code 137, no reason."""
    web = engine.task("web")
    host.run(web)
    eventually(lambda: host.known(web.arn) == RUNNING, seconds=30)
    docker("rm", "-f", *engine.containers())
    eventually(lambda: host.known(web.arn) == STOPPED, seconds=5)
    last = [e for e in host.events() if isinstance(e, ContainerChanged)][-1]
    assert (last.exit_code, last.reason) == (137, "")
