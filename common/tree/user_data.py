"""The EC2 user data, asked for once when the tree starts (ECS agent behaviour, spec 01 §3.1).

The client of the metadata service works under gevent, which the tree's process must not be patched for. So a forked
child asks, and its answer comes through a pipe; it is gone before the first program starts. Where nobody answers, one
attempt is enough, unless the machine is an EC2 instance: its cluster may be named there.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from common.errors import Temporary

BLACKHOLE = "ECS_TREE_BLACKHOLE_EC2_METADATA"  # what `ecs-agent -blackhole-ec2-metadata` leaves in the environment
CHILD_SECONDS = 8  # the client gives up after 5 s
NOT_FOUND = 404
EC2_MARKS = (("/sys/class/dmi/id/sys_vendor", "amazon ec2"), ("/sys/hypervisor/uuid", "ec2"))


def fetch(environ: Mapping[str, str], meanwhile: Callable[[], object] = lambda: None) -> str | None:
    """The user data; None where there are none or metadata is switched off. Raises Temporary when nobody tells.

    `meanwhile` is done while the child waits for the answer.
    """
    if any(environ.get(name, "").lower() == "true" for name in (BLACKHOLE, "AWS_EC2_METADATA_DISABLED")):
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(writing, environ)
    os.close(writing)
    meanwhile()
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        raise Temporary(f"the process that asks for them ended without an answer within {CHILD_SECONDS} s")
    text, problem = json.loads(said)
    if problem:
        raise Temporary(problem)
    return str(text) if text is not None else None


def _answer(writing: int, environ: Mapping[str, str]) -> NoReturn:
    """In the child: ask, write [text, problem] as JSON, end. It never returns into the tree's code."""
    try:
        signal.alarm(CHILD_SECONDS)
        from gevent import monkey

        monkey.patch_all()
        said = json.dumps(_ask(environ)).encode()
        with os.fdopen(writing, "wb") as stream:
            stream.write(said)
    finally:
        os._exit(0)


def _ask(environ: Mapping[str, str]) -> tuple[str | None, str]:
    from common.metadata import ATTEMPTS, Metadata, MetadataError

    try:
        return Metadata(environ).get("user-data", ATTEMPTS if is_ec2() else 1), ""
    except MetadataError as error:
        return None, "" if error.status == NOT_FOUND else str(error)


def is_ec2() -> bool:
    """Whether the firmware or the hypervisor says that this is an EC2 instance (EC2 User Guide, "Detect")."""
    for path, beginning in EC2_MARKS:
        with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            if file.read(64).lower().startswith(beginning):
                return True
    return False
