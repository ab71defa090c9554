"""Service Connect: the names that several processes must agree on, and what a task's attachment says about it.

A proxy container in the task (Amazon's Service Connect agent, an Envoy) carries the task's traffic to and from other
services. In bridge mode each container of the task lives in the network namespace of a pause container of its own,
which publishes its ports (ECS agent behaviour, spec 04 §11). `engine` runs all that, `endpoint` shows it, `telemetry`
asks the proxy for its metrics.
"""

from __future__ import annotations

from common.host_paths import host_path
from common.model.status import ContainerType
from common.model.task import Container, Task

ATTACHMENT = "serviceconnectdetail"  # type of the task's attachment
CONFIG, CONTAINER_NAME = "ServiceConnectConfig", "ContainerName"  # its properties

PAUSE_OF = "~internal~ecs~pause-"  # and the name of the container that lives in its network namespace

AGENT_IMAGE = "ecs-service-connect-agent:interface-v1"
AGENT_ARCHIVE = host_path("/managed-agents/serviceconnect/ecs-service-connect-agent.interface-v1.tar")

STATE = "/var/run/ecs/service_connect"  # on the host: one directory per task, and that of the relay
RELAY_DIRECTORY = "relay"


def admin_socket(task_id: str, root: str = STATE) -> str:
    """Where the proxy of a task takes requests for its metrics and for draining (spec 04 §11.2)."""
    return f"{root}/{task_id}/appnet_admin.sock"


def proxy_name(task: Task) -> str:
    """The name of the task's proxy container; "" for a task without Service Connect. Of attachments the last wins."""
    names = [a.properties.get(CONTAINER_NAME, "") for a in task.attachments if a.type == ATTACHMENT]
    return names[-1] if names and task.container(names[-1]) is not None else ""


def proxy_of(task: Task) -> Container | None:
    """The task's proxy container, if it has one."""
    return task.container(proxy_name(task))


def in_bridge_mode(task: Task) -> bool:
    """Whether the containers of the task live in pause containers."""
    return task.network_mode == "bridge" and bool(proxy_name(task))


def pause_of(task: Task, container: Container) -> Container | None:
    """The pause container in whose network namespace `container` lives; None where it has one of its own."""
    if container.type != ContainerType.NORMAL or not in_bridge_mode(task):
        return None
    return task.container(f"{PAUSE_OF}{container.name}")


def publisher(task: Task, container: Container) -> Container:
    """The container whose port bindings are those of `container`: its pause container, or itself."""
    return pause_of(task, container) or container
