"""The host's door: one queue for all tasks, woken by every release (DESIGN §4; the rules are in core.hosts)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from common.config import Config
from common.logs import fields
from common.model.agent import DockerFacts
from common.model.task import Task
from services.engine.core.hosts import MIB, Host, Queue, demand_of

log = logging.getLogger(__name__)


def host_of(facts: DockerFacts, config: Config) -> Host:
    """What this host has for tasks. The memory is what Docker sees, less ECS_RESERVED_MEMORY (MiB)."""
    return Host(
        cpu=facts.cpu_count * 1024,
        memory_mib=facts.memory_bytes // MIB - int(config["ECS_RESERVED_MEMORY"]),
        tcp=frozenset(config["ECS_RESERVED_PORTS"] or ()),
        udp=frozenset(config["ECS_RESERVED_PORTS_UDP"] or ()),
    )


class Admission:
    """Lets tasks in, in turn. `admitted` is called with the ARN of each task that may begin; it must not block."""

    def __init__(self, host: Host, admitted: Callable[[str], None]) -> None:
        self.queue = Queue(host)
        self.admitted = admitted

    def enter(self, task: Task) -> None:
        """Wait for room, or get it at once."""
        self.queue.enter(task.arn, demand_of(task))
        self._wake()

    def hold(self, task: Task) -> None:
        """The task had its resources before the engine was restarted."""
        self.queue.hold(task.arn, demand_of(task))

    def release(self, arn: str) -> None:
        """The task has stopped: what it held is free at once."""
        if self.queue.release(arn):
            self._wake()

    def _wake(self) -> None:
        for arn in self.queue.admit():
            self.admitted(arn)
        for waiting in self.queue.waiting:
            log.debug("the task waits for host resources", **fields(task=waiting.arn, passed=waiting.passed))
