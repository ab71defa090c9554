"""Small benchmarks of the parts: `make bench`. One line each; compare two runs made one after the other.

For the whole agent against Docker's own speed use the measuring tool that the project is developed with; this here
needs nothing but redis-server.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from common import keys
from common.bus import Bus, Change, decode, encode
from common.model.messages import TaskChanged
from common.model.status import TaskStatus
from common.model.task import Container, Task
from common.tree.redis import find_server

SERVICES = ("engine", "acs", "endpoint", "telemetry", "images", "init")


def rate(action: Callable[[], object], seconds: float = 1.0) -> float:
    """How often `action` runs in a second."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        action()
        count += 1
    return count / seconds


def sample_task() -> Task:
    """A task of three containers, as large as an ordinary one."""
    environment = {f"NAME_{n}": "value " * 5 for n in range(10)}
    containers = tuple(Container(name=f"c{n}", image="web:1", environment=environment) for n in range(3))
    return Task(arn="arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef", containers=containers)


def codec() -> None:
    """Task document to bytes and back."""
    task = sample_task()
    data = encode(keys.TASK, task)
    print(f"encode a task ({len(data)} bytes): {rate(lambda: encode(keys.TASK, task)):10,.0f} /s")
    print(f"decode a task:              {rate(lambda: decode(keys.TASK, data)):10,.0f} /s")


def commits() -> None:
    """Document and event in one commit, on disk before it is answered."""
    with tempfile.TemporaryDirectory(prefix="ecs-bench-") as directory:
        server = subprocess.Popen(
            [find_server() or "redis-server", "--port", "0", "--unixsocket", f"{directory}/redis.sock",
             "--dir", directory, "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not Path(directory, "redis.sock").exists():
                time.sleep(0.01)
            store = Bus(directory).durable
            task = sample_task()

            def commit() -> None:
                nonlocal task
                task = msgspec.structs.replace(task, revision=task.revision + 1)
                event = TaskChanged(arn=task.arn, status=TaskStatus.RUNNING)
                store.commit(Change().save(keys.TASK, task.arn, task).append(keys.EVENTS, event))

            print(f"durable commits, one writer: {rate(commit):9,.0f} /s")
        finally:
            server.terminate()
            server.wait()


def imports() -> None:
    """What each program pays before its first line of work: seconds and private memory."""
    probe = (
        "import time; t = time.perf_counter()\n"
        "from gevent import monkey; monkey.patch_all()\n"
        "import services.{name}.service, common.process\n"
        "took = time.perf_counter() - t\n"
        "rows = dict(l.split(':', 1) for l in open('/proc/self/smaps_rollup').read().splitlines()[1:])\n"
        "print(f'{took:.2f} s, {int(rows[\"Private_Dirty\"].split()[0]) / 1024:.0f} MiB private')"
    )
    for name in SERVICES:
        done = subprocess.run(
            [sys.executable, "-c", probe.replace("{name}", name)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            timeout=60,
        )
        print(f"import {name:10} {done.stdout.strip() or done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    codec()
    commits()
    imports()
