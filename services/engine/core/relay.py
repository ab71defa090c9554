"""The relay: the agent's own task that speaks to AWS for all Service Connect proxies of this host (spec 04 §11.4).

ECS knows nothing of it. It begins with the first task that uses Service Connect and stays; its container is restarted
by policy, and a relay that has ended for good is followed by another while there are such tasks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from common.model.status import ContainerType, TaskStatus
from common.model.task import Container, RestartPolicy, Task
from common.serviceconnect import AGENT_IMAGE, proxy_name

NAME = "instance-service-connect-relay"
SECOND = 1_000_000_000  # in Docker's unit
HEALTH_CHECK = {
    "Test": ["CMD-SHELL", "/health_check.sh"], "Interval": 5 * SECOND, "Timeout": 2 * SECOND, "Retries": 3,
}  # fmt: skip
RESTART_AFTER_SECONDS = 60


def task_of(region: str, endpoint: str) -> Task:
    """A new relay. `endpoint` is where Service Connect is in this region."""
    container = Container(
        name=NAME,
        container_arn=f"arn:::::/{NAME}",
        image=AGENT_IMAGE,
        type=ContainerType.SERVICE_CONNECT_RELAY,
        essential=True,
        docker_config=json.dumps({"Healthcheck": HEALTH_CHECK}),
        docker_host_config=json.dumps({"NetworkMode": "host"}),
        restart_policy=RestartPolicy(enabled=True, restart_attempt_period_seconds=RESTART_AFTER_SECONDS),
        environment={
            "APPNET_AGENT_ADMIN_UDS_PATH": "/var/run/ecs/appnet_admin.sock",
            "APPNET_RELAY_LISTENER_UDS_PATH": "/var/run/ecs/relay/envoy_xds.sock",
            "AWS_REGION": region,
            "ENVOY_ADMIN_MODE": "uds",
            "APPNET_AGENT_ADMIN_MODE": "uds",
            "APPNET_ENABLE_RELAY_MODE_FOR_XDS": "1",
            "APPMESH_XDS_ENDPOINT": endpoint,
            "APPNET_ENVOY_LOG_DESTINATION": "/var/log/",
        },
    )
    return Task(
        arn=f"arn:::::/service-connect-relay-{uuid.uuid4()}",
        is_internal=True,
        desired=TaskStatus.RUNNING,
        network_mode="host",
        launch_type="EC2",
        containers=(container,),
    )


def is_relay(task: Task) -> bool:
    """Whether it is the agent's relay."""
    return any(c.type == ContainerType.SERVICE_CONNECT_RELAY for c in task.containers)


def running_relay(tasks: Iterable[Task]) -> Task | None:
    """The relay that has not stopped."""
    return next((t for t in tasks if is_relay(t) and t.known < TaskStatus.STOPPED), None)


def is_needed(tasks: Iterable[Task]) -> bool:
    """Whether a task with Service Connect runs, or shall."""
    return any(proxy_name(t) and TaskStatus.STOPPED not in (t.known, t.desired) for t in tasks)
