"""The host's door: one queue for all tasks, woken by every release (the rules are in core.hosts)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from common.config import Config
from common.logs import fields
from common.model.agent import DockerFacts
from common.model.task import Task
from services.engine.core.hosts import MIB, Host, Queue, demand_of

log = logging.getLogger(__name__)

GPU_FILE = "/var/lib/ecs/gpu/nvidia-gpu-info.json"  # written by the host service (spec 05 §11.1)


def host_of(facts: DockerFacts, config: Config) -> Host:
    """What this host has for tasks. The memory is what Docker sees, less ECS_RESERVED_MEMORY (MiB)."""
    return Host(
        cpu=facts.cpu_count * 1024,
        memory_mib=facts.memory_bytes // MIB - int(config["ECS_RESERVED_MEMORY"]),
        tcp=frozenset(config["ECS_RESERVED_PORTS"] or ()),
        udp=frozenset(config["ECS_RESERVED_PORTS_UDP"] or ()),
        gpus=host_gpus() if config.enabled("ECS_ENABLE_GPU_SUPPORT") else None,
    )


def host_gpus(path: str = GPU_FILE) -> frozenset[str]:
    """Ids of the GPUs that the host service found; none, and an error in the log, without a usable file."""
    try:
        with open(path, encoding="utf-8") as file:
            return frozenset(map(str, json.load(file).get("GPUIDs") or ()))
    except (OSError, ValueError, AttributeError) as error:
        log.error("GPU support is on, but %s cannot be used: %s; tasks that need a GPU are refused", path, error)
        return frozenset()


class Admission:
    """Lets tasks in, in turn.

    `admitted` is called with the ARN of each task that may begin, `refused` with the ARN of each that never can, and
    why; they must not block.
    """

    def __init__(self, host: Host, admitted: Callable[[str], None], refused: Callable[[str, str], None]) -> None:
        self.queue = Queue(host)
        self.admitted, self.refused = admitted, refused

    def enter(self, task: Task) -> None:
        """Wait for room, or get it at once."""
        demand = demand_of(task)
        objection = self.queue.host.objection(demand)
        if objection:
            self.refused(task.arn, objection)
            return
        self.queue.enter(task.arn, demand)
        self._wake()

    def hold(self, task: Task) -> None:
        """The task had its resources before the engine was restarted."""
        self.queue.hold(task.arn, demand_of(task))

    def release(self, arn: str) -> None:
        """The task has stopped: what it held, or its place in the queue, is free at once."""
        if self.queue.release(arn):
            self._wake()

    def _wake(self) -> None:
        for arn in self.queue.admit():
            self.admitted(arn)
        for waiting in self.queue.waiting:
            log.debug("the task waits for host resources", **fields(task=waiting.arn, passed=waiting.passed))
