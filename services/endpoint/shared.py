"""Token buckets in memory that all workers of the task server share.

Used only with more than one worker (ECS_ENDPOINT_WORKERS): connections are spread over the processes by the kernel,
and a limit per process would multiply the limit. The buckets lie in a file under the run directory that every worker
maps; a record lock makes each step whole. The clock is CLOCK_MONOTONIC, which all processes of the machine share. A
full table forgets the bucket that was idle the longest among those a key may use.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from pathlib import Path

SLOTS = 1 << 15
PROBES = 16
RECORD = struct.Struct("<Qdd")  # hash of the key (0 = free), tokens, time of the last change


class SharedBuckets:
    """A bucket per key, in a file that several processes map."""

    def __init__(self, path: Path, steady: float, burst: float) -> None:
        self.steady, self.burst = steady, burst
        size = SLOTS * RECORD.size
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, size)
        self._memory = mmap.mmap(self._descriptor, size)

    def close(self) -> None:
        """Let go of the file; the other workers keep it."""
        self._memory.close()
        os.close(self._descriptor)

    def take(self, key: tuple[str, str], now: float) -> bool:
        """Take one token of the bucket `key`."""
        digest = hashlib.blake2b("\0".join(key).encode("utf-8", "surrogateescape"), digest_size=8).digest()
        mark = int.from_bytes(digest, "little") | 1
        # Held for microseconds and never across a switch of greenlets, so waiting for it cannot stall the hub.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            return self._take(mark, now)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _take(self, mark: int, now: float) -> bool:
        offset = self._slot(mark)
        have, tokens, last = RECORD.unpack_from(self._memory, offset)
        # A time from the future is left over from before a reboot: the clock began anew.
        if have != mark or last > now + 1.0:
            tokens, last = self.burst, now
        tokens = min(self.burst, tokens + max(0.0, now - last) * self.steady)
        granted = tokens >= 1.0
        RECORD.pack_into(self._memory, offset, mark, tokens - granted, max(now, last))
        return granted

    def _slot(self, mark: int) -> int:
        oldest, oldest_at = 0, float("inf")
        for probe in range(PROBES):
            offset = ((mark >> 1) + probe) % SLOTS * RECORD.size
            have, _, last = RECORD.unpack_from(self._memory, offset)
            if have in (mark, 0):
                return offset
            if last < oldest_at:
                oldest, oldest_at = offset, last
        return oldest
