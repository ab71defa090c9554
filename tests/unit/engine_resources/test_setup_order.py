"""A task with two faults: ECS is told the one that the reference comes upon first (spec 03 §3.7)."""

from __future__ import annotations

from typing import Any

import pytest

from common.model.agent import DockerFacts
from common.model.task import Association, Attachment, Container, Firelens, Task, VolumeFrom
from services.engine.core.effects import SetupError
from services.engine.docker.settings import Settings
from services.engine.resources.kind import Host
from services.engine.resources.registry import Registry

ARN = "arn:aws:ecs:eu-west-1:1:task/default/t1"
GREEDY = Container(name="greedy", memory_mib=1024)
ASTRAY = Container(name="astray", volumes_from=(VolumeFrom(source_container="nobody"),))
ROUTER = Container(name="router", firelens=Firelens(type="none-such"))
GPU = Association(name="gpu-1", type="gpu", containers=("nobody",))
PROXIED = Attachment(
    type="serviceconnectdetail", properties={"ContainerName": "greedy", "ServiceConnectConfig": "{}"}
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"containers": (GREEDY, ASTRAY), "memory_mib": 512}, "cgroup resource: "),
        ({"containers": (GREEDY, ASTRAY), "attachments": (PROXIED,)}, "the task uses Service Connect"),
        ({"containers": (ASTRAY,), "associations": (GPU,)}, "could not find volume source container"),
        (
            {"containers": (ROUTER,), "associations": (GPU,)},
            "could not find container with name nobody for associating",
        ),
    ],
    ids=["cgroup before order", "Service Connect before order", "order before GPU", "GPU before FireLens"],
)
def test_of_two_faults_the_first_in_order_is_told(task: dict[str, Any], told: str):
    """Both faults are there; one would be told by any order of looking."""
    host = Host(Settings(gpu=True), DockerFacts(task_limits_enabled=True), None)  # type: ignore[arg-type]
    with pytest.raises(SetupError) as caught:
        Registry().resources_for(Task(arn=ARN, **task), host)
    assert str(caught.value).startswith(told)
