"""Conformance cases of spec 03 §16 that need a whole engine and a real Docker; the others stand beside their units."""

import json
import subprocess
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from common.model.messages import ContainerChanged, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Dependency, RestartPolicy, Task
from services.engine.docker import pull
from tests.process.engine.conftest import DockerHost

pytestmark = pytest.mark.docker

REFUSING = "127.0.0.1:1"  # a registry that refuses connections
UNTIL_TERM = ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait $!")


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often a registry is asked is another test's concern."""
    monkeypatch.setattr(pull, "MANIFEST_ATTEMPTS", 1)
    monkeypatch.setattr(pull, "PULL_ATTEMPTS", 1)


class Told:
    """What ECS hears of one task."""

    def __init__(self, host: DockerHost, task: Task) -> None:
        self.host, self.task = host, task

    def tasks(self) -> list[TaskChanged]:
        """Task events."""
        return [e for e in self.host.events() if isinstance(e, TaskChanged) and e.arn == self.task.arn]

    def containers(self, name: str = "app") -> list[ContainerChanged]:
        """Container events."""
        events = [e for e in self.host.events() if isinstance(e, ContainerChanged) and e.arn == self.task.arn]
        return [e for e in events if e.name == name]

    def statuses(self) -> list[str]:
        """Task statuses."""
        return [e.status.name for e in self.tasks()]


def of_image(host: DockerHost, name: str, image: str, **more: object) -> Task:
    """A task of one container that ends on SIGTERM."""
    task = host.task(name)
    app = replace(task.containers[0], image=image, command=UNTIL_TERM, **more)
    return replace(task, containers=(app,))


def stopped(
    host: DockerHost, task: Task, eventually: Callable[..., object], desired: TaskStatus = TaskStatus.RUNNING
) -> Told:
    """A payload, and what was told when the task is STOPPED."""
    host.run(task, desired=desired)
    eventually(lambda: host.known(task) == ["STOPPED"], seconds=30)
    return Told(host, task)


@pytest.mark.parametrize(
    ("overlay", "memory", "reason", "created"),
    [
        ("{oops", 0, "HostConfigError: Unable to decode given host config: invalid character 'o' looking for beginning "
         "of object key string", False),
        ('{"NetworkMode":"no-such-network"}', 0,
         "CannotStartContainerError: Error response from daemon: network no-such-network not found", True),
        ("{}", 2, "CannotCreateContainerError: Error response from daemon: Minimum memory limit allowed is 6MB", False),
    ],
)  # fmt: skip
def test_a_container_that_cannot_begin_says_why(
    docker_host: DockerHost, eventually: Callable[..., object], overlay: str, memory: int, reason: str, created: bool
) -> None:
    """Cases 72, 73, 37: one report; what Docker has made stays until the cleanup, in state created."""
    docker_host.start()
    task = of_image(docker_host, "t", docker_host.image, docker_host_config=overlay, memory_mib=memory)
    told = stopped(docker_host, task, eventually)
    (report,) = told.containers()
    assert (report.status.name, report.reason, report.exit_code) == ("STOPPED", reason, None)
    assert (told.statuses(), told.tasks()[0].reason) == (["STOPPED"], "")
    assert bool(report.runtime_id) is created
    states = [docker_host.docker("inspect", "-f", "{{.State.Status}}", id_) for id_ in docker_host.ids()]
    assert states == (["created"] if created else [])


def test_an_image_that_is_nowhere_stops_the_task_with_the_manifests_error(
    docker_host: DockerHost, eventually: Callable[..., object]
) -> None:
    """Case 74: prefer-cached goes on to the pull and the create, whose errors are not the first."""
    docker_host.start(pull_behavior="prefer-cached")
    told = stopped(docker_host, of_image(docker_host, "t", f"{REFUSING}/none:1"), eventually)
    (report,), (task,) = told.containers(), told.tasks()
    assert report.reason.startswith("CannotPullImageManifestError: Error response from daemon: ")
    assert (report.runtime_id, report.exit_code, report.image_digest) == ("", None, "")
    assert task.pull_started_at and task.pull_stopped_at and task.execution_stopped_at
    assert docker_host.ids() == []


@pytest.fixture
def tagged(docker_host: DockerHost) -> object:
    """The local image under the name of a registry that refuses connections."""
    name = f"{REFUSING}/{docker_host.family}:1"
    subprocess.run(["docker", "tag", docker_host.image, name], check=True, timeout=30)
    yield name
    subprocess.run(["docker", "rmi", "-f", name], check=False, timeout=30, capture_output=True)


def test_always_does_not_use_what_is_here(
    docker_host: DockerHost, eventually: Callable[..., object], tagged: str
) -> None:
    """Case 75: no pull times and no create; a sidecar's image counts as much as an essential one's (case 8)."""
    docker_host.start(pull_behavior="always")
    task = of_image(docker_host, "t", tagged, essential=False)
    told = stopped(docker_host, task, eventually)
    (report,), (event,) = told.containers(), told.tasks()
    assert report.reason.startswith("CannotPullImageManifestError: Error response from daemon: ")
    assert (event.reason, event.pull_started_at, event.pull_stopped_at) == ("", 0.0, 0.0)
    assert docker_host.ids() == []


def test_by_default_the_local_image_runs_with_the_error_on_its_reports(
    docker_host: DockerHost, eventually: Callable[..., object], tagged: str
) -> None:
    """Case 76: reason and pull times are on RUNNING and on STOPPED."""
    docker_host.start(pull_behavior="default")
    task = of_image(docker_host, "t", tagged)
    docker_host.run(task)
    eventually(lambda: docker_host.known(task) == ["RUNNING"], seconds=30)
    told = stopped(docker_host, task, eventually, TaskStatus.STOPPED)
    assert told.statuses() == ["RUNNING", "STOPPED"]
    assert all(e.pull_started_at and e.pull_stopped_at for e in told.tasks())
    reasons = {e.reason for e in told.containers()}
    assert len(reasons) == 1 and reasons.pop().startswith("CannotPullImageManifestError: Error response from daemon: ")
    assert [e.exit_code for e in told.containers()] == [None, 0]


def test_an_imported_image_is_just_run_when_cached_ones_are_preferred(
    docker_host: DockerHost, eventually: Callable[..., object]
) -> None:
    """Cases 77 and 91: RUNNING is the first word, without digest, times and reason; foreign health is not tracked."""
    docker_host.start(pull_behavior="prefer-cached")
    check = json.dumps({"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000}})
    task = of_image(docker_host, "t", docker_host.image, docker_config=check)
    docker_host.run(task)
    eventually(lambda: docker_host.known(task) == ["RUNNING"], seconds=30)
    told = Told(docker_host, task)
    (report,), (event,) = told.containers(), told.tasks()
    assert (report.image_digest, report.reason, event.pull_started_at, event.pull_stopped_at) == ("", "", 0.0, 0.0)
    id_ = docker_host.container(task).docker_id
    state = "{{.State.Health.Status}}"
    eventually(lambda: docker_host.docker("inspect", "-f", state, id_) == "healthy", seconds=15)
    assert docker_host.container(task).health.since == 0.0


def test_a_health_check_that_never_passes_times_the_dependent_out(
    docker_host: DockerHost, eventually: Callable[..., object]
) -> None:
    """Case 70: one call; the dependent has exit code 143 and no runtime id, the dependency its own exit code."""
    docker_host.start()
    check = json.dumps({"Healthcheck": {"Test": ["CMD-SHELL", "false"], "Interval": 500_000_000, "Retries": 100}})
    image = docker_host.image
    db = Container(
        name="db", image=image, essential=True, command=UNTIL_TERM, start_timeout_seconds=2, stop_timeout_seconds=3,
        docker_config=check, health_check_type="docker",
    )  # fmt: skip
    app = Container(
        name="app", image=image, essential=True, depends_on=(Dependency(container_name="db", condition="HEALTHY"),)
    )
    task = replace(docker_host.task("t"), containers=(app, db))
    told = stopped(docker_host, task, eventually)
    (report,) = told.containers("app")
    assert (report.status.name, report.exit_code, report.runtime_id) == ("STOPPED", 143, "")
    assert report.reason == (
        "CannotStartContainerError: dependency graph: container ordering dependency "
        f"[db({image}) (RUNNING->RUNNING)] for target [app({image}) (MANIFEST_PULLED->RUNNING)] has timed out."
    )
    assert [(e.status.name, e.exit_code) for e in told.containers("db")] == [("RUNNING", None), ("STOPPED", 0)]
    assert told.statuses() == ["STOPPED"]


def test_restarts_by_policy_are_not_reported(docker_host: DockerHost, eventually: Callable[..., object]) -> None:
    """Case 92: two calls only, RUNNING and STOPPED, however often the process ended between; same Docker container."""
    docker_host.start()
    policy = RestartPolicy(enabled=True, restart_attempt_period_seconds=1)
    task = of_image(docker_host, "t", docker_host.image, restart_policy=policy)
    app = replace(task.containers[0], command=("sh", "-c", "trap 'exit 7' TERM; sleep 1.3 & wait $!; exit 1"))
    task = replace(task, containers=(app,))
    docker_host.run(task)
    eventually(lambda: docker_host.container_restarts(task) >= 2, seconds=20)
    assert len(docker_host.ids()) == 1
    eventually(lambda: docker_host.running(task))
    told = stopped(docker_host, task, eventually, TaskStatus.STOPPED)
    assert told.statuses() == ["RUNNING", "STOPPED"]
    assert [e.status.name for e in told.containers()] == ["RUNNING", "STOPPED"]
    assert told.containers()[-1].exit_code in (1, 7)
    assert told.containers()[-1].reason == ""
