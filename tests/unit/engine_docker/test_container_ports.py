"""Which host ports a container holds, from its create to its end (spec 03 §6.6.5, W19)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import NamedError
from common.model.status import ContainerStatus as C
from common.model.task import Container, PortBinding, RestartPolicy, Task
from services.engine.core.effects import Observation
from services.engine.docker.containers import ContainerFailed
from services.engine.docker.events import Flights
from services.engine.docker.lifecycle import Lifecycle
from services.engine.docker.observe import observe
from services.engine.docker.ports import NoPorts, PortPicker
from services.engine.docker.settings import Settings

PORT = 41000
TASK = Task(arn="arn:aws:ecs:us-west-2:1:task/c/t1")
POLICY = RestartPolicy(enabled=True, restart_attempt_period_seconds=60)
CREATED = {"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}
EXITED = {"ExitCode": 1, "StartedAt": "2026-06-01T10:00:00Z", "FinishedAt": "2026-06-01T10:10:00Z"}


class Docker:
    """One container whose first port is published at PORT; its start may fail."""

    def __init__(self, state: dict[str, Any], failure: ContainerFailed | None = None) -> None:
        self.state, self.failure = state, failure

    def inspect(self, id_: str) -> Observation:
        """The ports of a container that does not run are those of its HostConfig only."""
        bindings = {"80/tcp": [{"HostIp": "", "HostPort": str(PORT)}]}
        ports = bindings if self.state.get("Running") else {}
        return observe(
            {
                "Id": id_,
                "State": self.state,
                "HostConfig": {"PortBindings": bindings},
                "NetworkSettings": {"Ports": ports},
            }
        )

    def start(self, id_: str, version: str) -> Observation:
        """As told."""
        if self.failure is not None:
            raise self.failure
        return self.inspect(id_)


def lifecycle(docker: Any) -> tuple[Lifecycle, PortPicker]:
    """The effects on containers, with a picker that has one port to give."""
    picker = PortPicker((PORT, PORT), free=lambda port, protocol: True)
    world: Any = SimpleNamespace(facts=SimpleNamespace(default_api_version="1.24", usable_api_versions=("1.24",)))
    nothing: Any = None
    made = Lifecycle(
        docker, Settings(metadata_file=False), nothing, picker, Flights(), nothing, lambda: world, nothing, nothing,
        nothing,
    )  # fmt: skip
    return made, picker


def app(**more: Any) -> Container:
    """A container that Docker knows."""
    more = {"known": C.CREATED, "desired": C.RUNNING, **more}
    return Container(name="app", docker_id="d", docker_name="n", **more)


def is_held(picker: PortPicker) -> bool:
    """Whether the port is not to be had."""
    try:
        picker.pick(1, "tcp")
    except NoPorts:
        return True
    return False


def failed(seen: dict[str, Any] | None) -> ContainerFailed:
    """A start that failed; what the inspect after it said."""
    told = Docker(seen).inspect("d") if seen is not None else None
    return ContainerFailed(NamedError("CannotStartContainerError", "no"), seen=told)


@pytest.mark.parametrize(
    ("seen", "held"), [({"Error": "no such file", **CREATED}, False), ({"Running": True}, True), (None, True)]
)
def test_a_start_that_failed_holds_no_ports_unless_the_process_may_run(seen, held) -> None:
    """Tasks that fail at once, again and again, used up the range of ports until their clean-up."""
    made, picker = lifecycle(Docker({}, failed(seen)))
    picker.hold("d", [(PORT, "tcp")])
    made.start(TASK, app())
    assert is_held(picker) is held


def test_a_container_that_is_over_holds_no_ports() -> None:
    """One that was never started, and one whose policy might have started it again."""
    for container in (app(), app(restart_policy=POLICY, known=C.RUNNING)):
        made, picker = lifecycle(Docker(EXITED))
        made.inspect(TASK, container)
        picker.hold("d", [(PORT, "tcp")])
        assert is_held(picker)
        made.ended(container)
        made.look("d")
        assert not is_held(picker)


@pytest.mark.parametrize(
    ("state", "more", "held"),
    [
        ({"Running": True}, {"known": C.RUNNING}, True),
        (CREATED, {}, True),
        (CREATED, {"known": C.STOPPED}, False),
        (CREATED, {"desired": C.STOPPED}, False),
        (EXITED, {"known": C.RUNNING}, False),
        (EXITED, {"known": C.RUNNING, "restart_policy": POLICY}, True),
        (EXITED, {"known": C.STOPPED, "restart_policy": POLICY}, False),
    ],
)
def test_after_a_restart_of_the_agent_ports_that_are_still_needed_are_held(state, more, held) -> None:
    """Those of a container that is still to be started, too: Docker shows them in its HostConfig only."""
    made, picker = lifecycle(Docker(state))
    made.inspect(TASK, app(**more))
    assert is_held(picker) is held


def test_a_saved_container_holds_its_ports_before_docker_has_told() -> None:
    """The first task that asks for a port after a start of the engine is not given one of a running container."""
    made, picker = lifecycle(Docker(EXITED))
    container = app(known=C.RUNNING, port_bindings=(PortBinding(container_port=80, host_port=PORT),))
    made.taken_up(container)
    assert is_held(picker)
    made.inspect(TASK, container)  # it ended meanwhile
    assert not is_held(picker)
