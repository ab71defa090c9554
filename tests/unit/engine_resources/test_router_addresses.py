"""For which log routers a start waits: those that Docker's default bridge gives an address."""

from __future__ import annotations

import json

import pytest

from common.model.task import Container, Firelens, Task
from services.engine.network.addresses import on_default_bridge


@pytest.mark.parametrize(
    ("task_mode", "own", "bridge"),
    [
        ("bridge", None, True), ("bridge", "", True), ("bridge", "bridge", True), ("bridge", "host", False),
        ("bridge", "none", False), ("bridge", "default", False), ("host", "host", False), ("host", None, True),
        ("", "bridge", True), ("", "host", False), ("awsvpc", None, False), ("awsvpc", "bridge", False),
    ],
)  # fmt: skip
def test_the_containers_own_mode_decides_whether_it_has_an_address(
    task_mode: str, own: str | None, bridge: bool
) -> None:
    """Spec 04 §1: a task without a mode may have a router in the host's network, which never gets one."""
    config = {} if own is None else {"networkmode": own}
    router = Container(name="router", firelens=Firelens(type="fluentbit"), docker_host_config=json.dumps(config))
    assert on_default_bridge(Task(arn="a/1", network_mode=task_mode, containers=(router,)), router) is bridge
