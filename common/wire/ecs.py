"""Bodies of the ECS API calls that the agent makes (AWS JSON 1.1), member by member as the reference sends them.

The service model that botocore ships lacks members that the agent must send (`clientToken`, `zoneId`) and has its own
idea of fractions of a second, so the bodies are built here (ECS agent behaviour, spec 02 §8.5, spec 01 §6-§7). Absent
members are left out, never null; limits are bytes of UTF-8.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.model.messages import ContainerChanged, ManagedAgentChanged, TaskChanged
from common.model.status import wire_container_status, wire_task_status
from common.model.task import PortBinding
from common.wire.shapes import clean

log = logging.getLogger(__name__)

REASON_BYTES = 1024
FIELD_BYTES = 255
MAX_BINDINGS = 100  # of a container that asked for a range of ports


@dataclass(frozen=True)
class BindingRules:
    """Which addresses are left out of networkBindings (spec 02 §8.5)."""

    exclude_ipv6: bool = True
    exclude_ipv4: bool = False  # on an instance that has IPv6 only

    @property
    def active(self) -> bool:
        """An exclusion is active: then an empty list is left out altogether."""
        return self.exclude_ipv6 or self.exclude_ipv4

    def keeps(self, bind_ip: str) -> bool:
        """True when a binding of this address is reported."""
        return not (self.exclude_ipv6 and bind_ip == "::") and not (self.exclude_ipv4 and bind_ip == "0.0.0.0")


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, without half a character at the end or of a surrogate pair."""
    text = clean(text)
    data = text.encode()
    return text if len(data) <= limit else data[:limit].decode("utf-8", "ignore")


def timestamp(seconds: float) -> int | float:
    """Unix seconds cut to milliseconds; without a fraction when that is zero."""
    milliseconds = round(seconds * 1_000_000) // 1000  # rounding first: 1.412 must not become 1.411
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


# -- SubmitTaskStateChange ---------------------------------------------------------------------


def submit_task(
    cluster: str,
    task: TaskChanged,
    containers: Sequence[ContainerChanged],
    managed_agents: Sequence[ManagedAgentChanged],
    rules: BindingRules,
) -> dict[str, Any]:
    """The report of one task, with the container entries in the order in which the changes happened."""
    body: dict[str, Any] = {"cluster": cluster}
    if containers:
        body["containers"] = [_container(c, rules) for c in containers]
    if task.execution_stopped_at:
        body["executionStoppedAt"] = timestamp(task.execution_stopped_at)
    if managed_agents:
        body["managedAgents"] = [_managed_agent(a) for a in managed_agents]
    if task.pull_started_at:
        body["pullStartedAt"] = timestamp(task.pull_started_at)
    if task.pull_stopped_at:
        body["pullStoppedAt"] = timestamp(task.pull_stopped_at)
    body["reason"] = cut(task.reason, REASON_BYTES)
    body["status"] = wire_task_status(task.status)
    body["task"] = task.arn
    return body


def _container(change: ContainerChanged, rules: BindingRules) -> dict[str, Any]:
    entry: dict[str, Any] = {"containerName": change.name}
    if change.exit_code is not None:
        entry["exitCode"] = change.exit_code
    if change.image_digest:
        entry["imageDigest"] = cut(change.image_digest, FIELD_BYTES)
    bindings = list(network_bindings(change, rules))
    if bindings or not rules.active:
        entry["networkBindings"] = bindings
    if change.reason:
        entry["reason"] = cut(change.reason, REASON_BYTES)
    if change.runtime_id:
        entry["runtimeId"] = cut(change.runtime_id, FIELD_BYTES)
    entry["status"] = wire_container_status(change.status)
    return entry


def _managed_agent(change: ManagedAgentChanged) -> dict[str, Any]:
    return {
        "containerName": change.container_name,
        "managedAgentName": change.name,
        "reason": cut(change.reason, REASON_BYTES),
        "status": change.status,
    }


def network_bindings(change: ContainerChanged, rules: BindingRules) -> Iterator[dict[str, Any]]:
    """The bindings ECS hears about: ports asked for one by one, then ranges, each in Docker's order.

    A container with a range and more than MAX_BINDINGS bindings is reported without any: ECS would refuse them, and the
    report must not be lost with them (spec 03 §8.3).
    """
    if change.port_ranges and len(change.port_bindings) > MAX_BINDINGS:
        log.error(
            "container %s of task %s has %d network bindings, more than the %d that ECS takes; none is reported",
            change.name, change.arn, len(change.port_bindings), MAX_BINDINGS,
        )  # fmt: skip
        return
    singles = [b for b in change.port_bindings if b.container_port in change.single_ports]
    for binding in singles:
        if rules.keeps(binding.bind_ip):
            yield {
                "bindIP": binding.bind_ip,
                "containerPort": binding.container_port,
                "hostPort": binding.host_port,
                "protocol": binding.protocol,
            }
    for container_range, host_range in change.port_ranges.items():
        yield from _range_bindings(change.port_bindings, container_range, host_range, rules)


def _range_bindings(
    bindings: Iterable[PortBinding], container_range: str, host_range: str, rules: BindingRules
) -> Iterator[dict[str, Any]]:
    first = host_range.partition("-")[0]
    seen = set()
    for binding in bindings:
        key = (binding.protocol, binding.bind_ip)
        if str(binding.host_port) != first or key in seen or not rules.keeps(binding.bind_ip):
            continue
        seen.add(key)
        yield {
            "bindIP": binding.bind_ip,
            "containerPortRange": container_range,
            "hostPortRange": host_range,
            "protocol": binding.protocol,
        }


def attached(cluster: str, attachment_arn: str, task_arn: str = "") -> dict[str, Any]:
    """The report of one attached device (spec 02 §6.6).

    With a task it is a SubmitTaskStateChange without status and reason, else a SubmitAttachmentStateChanges.
    """
    body: dict[str, Any] = {"attachments": [{"attachmentArn": attachment_arn, "status": "ATTACHED"}]}
    body["cluster"] = cluster
    return {**body, "task": task_arn} if task_arn else body


# -- other calls -------------------------------------------------------------------------------


def update_instance_state(cluster: str, instance_arn: str, status: str) -> dict[str, Any]:
    """UpdateContainerInstancesState."""
    return {"cluster": cluster, "containerInstances": [instance_arn], "status": status}


def attribute(name: str, value: str | None = None) -> dict[str, str]:
    """A name-only attribute has no value at all."""
    return {"name": name} if value is None else {"name": name, "value": value}


def resources(cpu: int, memory_mib: int, ports: Iterable[int], ports_udp: Iterable[int]) -> list[dict[str, Any]]:
    """totalResources (spec 01 §6.3); an integer of zero is left out, an empty set of strings is not."""
    return [
        _integer("CPU", cpu),
        _integer("MEMORY", memory_mib),
        {"name": "PORTS", "type": "STRINGSET", "stringSetValue": [str(p) for p in ports]},
        {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": [str(p) for p in ports_udp]},
    ]


def _integer(name: str, value: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "type": "INTEGER"}
    return {**entry, "integerValue": value} if value else entry


def register_instance(
    cluster: str,
    client_token: str,
    document: str,
    signature: str,
    attributes: Sequence[Mapping[str, str]],
    total_resources: Sequence[Mapping[str, Any]],
    instance_arn: str = "",
    tags: Mapping[str, str] | None = None,
    gpu_ids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """RegisterContainerInstance (spec 01 §6.1). `gpu_ids` None leaves platformDevices out, an empty list does not."""
    body: dict[str, Any] = {"cluster": cluster, "clientToken": client_token}
    if instance_arn:
        body["containerInstanceArn"] = instance_arn
    body["instanceIdentityDocument"] = document
    body["instanceIdentityDocumentSignature"] = signature
    body["attributes"] = list(attributes)
    if tags:
        body["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
    if gpu_ids is not None:
        body["platformDevices"] = [{"id": id_, "type": "GPU"} for id_ in gpu_ids]
    body["totalResources"] = list(total_resources)
    return body
