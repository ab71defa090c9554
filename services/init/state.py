"""What the netfilter manager has done to the host, so that it can be undone by another process.

One JSON file, nfm.json, in the run directory, replaced atomically and before the host is changed. It is bound to
the boot and to the network namespace it was written in: rules do not survive a reboot, and a directory that does must
not make us restore yesterday's values. A file that cannot be read counts as absent: the kernel is then the only record
(spec 09 §15 N2, N9, §18 trap 18).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from common import wholefile
from common.clock import boot_id
from services.init.rules import Rule

FILE_NAME = "nfm.json"
LOCK_NAME = "nfm.lock"


class Record(msgspec.Struct, frozen=True):
    """A rule, and whether it is ours to remove: False for one that was there before us in local mode."""

    rule: Rule
    owned: bool


class State(msgspec.Struct, frozen=True):
    """The content of nfm.json. Values are those before our first change; None or absent: nothing to put back."""

    boot: str
    namespace: int
    loopback: str = "lo"
    bridge: str | None = None
    rules: tuple[Record, ...] = ()
    route_localnet_before: str | None = None
    accept_ra_before: dict[str, str] = msgspec.field(default_factory=dict)
    route_added: bool | None = None  # None: not decided yet
    ports_reserved: tuple[int, ...] = ()  # those that were not before
    removed: bool = False
    schema: int = 1


def here() -> State:
    """An empty record for this boot and this network namespace."""
    return State(boot=boot_id(), namespace=os.stat("/proc/self/ns/net").st_ino)


def load(directory: Path, log: logging.Logger) -> State | None:
    """The record of an earlier incarnation in this boot and namespace, or None."""
    path = directory / FILE_NAME
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be used (%s); the rules in the kernel are taken as they are", path, error)
        return None
    current = here()
    if (state.boot, state.namespace) != (current.boot, current.namespace):
        return None
    return state


def save(directory: Path, state: State) -> None:
    """Replace the record. Raises OSError when the run directory cannot be written."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    wholefile.replace(directory / FILE_NAME, msgspec.json.encode(state))


def forget(directory: Path) -> None:
    """Remove the record: nothing of ours is left on the host."""
    with contextlib.suppress(FileNotFoundError):
        (directory / FILE_NAME).unlink()


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[bool]:
    """Hold the right to change the rules; yields False when another process has it. Ends with the process."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
