"""SIGKILL at every commit of one task's life, one after the other, on real Redis and real Docker.

Each life is that of a task of its own: run, stop, accepted by ECS, cleaned up. The engine is killed at the n-th commit
of it, before Redis has it or right after; the engine that is started next finds the next task and its own death. The
same with every step of the core, calls to Docker included, is tests/unit/engine/test_engine_every_step.py.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from common import keys
from common.bus import Change
from common.model.agent import Sent
from common.model.messages import ContainerChanged, CredentialsReleased, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, MountPoint, Task, Volume
from tests.process.engine.conftest import Host

pytestmark = pytest.mark.docker

RUNNING, STOPPED = TaskStatus.RUNNING, TaskStatus.STOPPED
SECONDS = 60.0  # Docker asks a volume plugin that is away for half a minute
FEWEST_STEPS = 5  # run, id, RUNNING, STOPPED, deletion; a life with less is not counted as it should be


class Lives:
    """Engines that die, and the tasks that outlive them."""

    def __init__(self, host: Host, image: str) -> None:
        self.host, self.image = host, image
        self.family = f"mortal{os.getpid()}x{time.time_ns()}"
        self.fate = host.run_dir / "fate.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def start(self) -> None:
        """An engine."""
        environment = {
            **os.environ,
            "FATE_FILE": str(self.fate),
            "ECS_RUN_DIR": str(self.host.run_dir),
            "ECS_DATADIR": str(self.host.run_dir),
            "ECS_CLUSTER": "test",
            "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
            "ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false",
            "ECS_LOGFILE": "",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with open(self.host.run_dir / "engine.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gevent.monkey", "--module", "tests.fakes.mortal_engine"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """The last engine ends in peace, or else."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def until(self, condition) -> None:
        """Wait; a dead engine is followed by another, which is immortal."""
        end = time.monotonic() + SECONDS
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                assert self.process.returncode == -signal.SIGKILL
                self.deaths += 1
                self.fate.write_text(json.dumps({"arn": "", "at": 0, "after": False}))
                self.start()
            assert time.monotonic() < end, self.story()
            time.sleep(0.01)

    def story(self) -> str:
        """What a life that does not go on looks like."""
        log = (self.host.run_dir / "engine.log").read_text().splitlines()[-40:]
        tasks = [(t.arn[-20:], t.known.name) for t in self.host.bus.durable.all(keys.TASK).values()]
        return "\n".join([f"fate {self.fate.read_text()}, {self.host.commands_left()} commands left, {tasks}", *log])

    def live(self, number: int, at: int, after: bool) -> dict[str, object]:
        """One life; what came of it."""
        arn = f"arn:aws:ecs:us-west-2:1:task/test/{self.family}{number}"
        self.fate.write_text(json.dumps({"arn": arn, "at": at, "after": after}))
        app = Container(
            name="app", image=self.image, essential=True, stop_timeout_seconds=5,
            command=("sh", "-c", "trap 'exit 3' TERM; sleep 3600 & wait $!"),
            mount_points=(MountPoint(source_volume="data", container_path="/data"),),
        )  # fmt: skip
        task = Task(
            arn=arn, family=self.family, version="1", containers=(app,), volumes=(Volume(name="data"),),
            desired=RUNNING, network_mode="none", credentials_id=f"role{number}",
        )  # fmt: skip
        self.host.run(task)
        self.until(lambda: self.host.known(arn) == RUNNING)
        containers = len(self.ids(arn))
        self.host.run(Task(arn=arn, desired=STOPPED))
        self.until(lambda: self.host.known(arn) == STOPPED)
        self.host.bus.durable.commit(Change().save(keys.SENT, arn, Sent(revision=1, task=STOPPED)))
        self.until(lambda: self.host.task(arn) is None and not self.host.commands_left())
        events = [e for e in self.host.events() if getattr(e, "arn", "") == arn]
        return {
            "containers while it ran": containers,
            "containers left": len(self.ids(arn)),
            "task": [e.status.name for e in events if isinstance(e, TaskChanged)],
            "container": [
                (e.status.name, e.exit_code, e.reason, bool(e.runtime_id))
                for e in events
                if isinstance(e, ContainerChanged)
            ],
            "released": {i for e in events if isinstance(e, CredentialsReleased) for i in e.credentials_ids},
        }

    def ids(self, arn: str) -> list[str]:
        """Docker ids of the task's containers."""
        return _docker("ps", "-aq", "--filter", f"label=com.amazonaws.ecs.task-arn={arn}").split()

    def volumes(self) -> list[str]:
        """Docker volumes of this test."""
        return [v for v in _docker("volume", "ls", "-q").split() if self.family in v]


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def lives(host, real_image):
    """Engines on this host; what they leave in Docker is removed."""
    lives = Lives(host, real_image)
    lives.start()
    yield lives
    lives.stop()
    left = _docker("ps", "-aq", "--filter", f"label=com.amazonaws.ecs.task-definition-family={lives.family}").split()
    if left:
        _docker("rm", "-f", "-v", *left)
    if lives.volumes():
        _docker("volume", "rm", "-f", *lives.volumes())


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after it"])
def test_an_engine_that_is_killed_at_any_commit_changes_nothing_in_the_end(lives, after):
    """One container, one RUNNING and one STOPPED with the process's exit code, nothing left in Docker or Redis."""
    expected = lives.live(0, 0, after)
    assert expected == {
        "containers while it ran": 1,
        "containers left": 0,
        "task": ["RUNNING", "STOPPED"],
        "container": [("RUNNING", None, "", True), ("STOPPED", 3, "", True)],
        "released": {"role0"},
    }
    step, wrong = 0, {}
    while lives.deaths == step:  # the last life has fewer commits than its death asks for
        step += 1
        outcome = lives.live(step, step, after)
        if outcome != {**expected, "released": {f"role{step}"}}:
            wrong[step] = outcome
    assert not wrong
    assert lives.deaths >= FEWEST_STEPS
    assert lives.volumes() == []
