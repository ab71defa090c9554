"""Messages between the publisher and the TCS session: at most fifteen, the newest dropped (spec 07 §1, §9.2).

A message is taken out only when all its requests were sent, so what a broken connection left over goes out on the next
one, without what had been sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import gevent.queue

CAPACITY = 15
WAIT_SECONDS = 1.0


class Mailbox:
    """A bounded queue of messages; a message is its requests, ready to be signed."""

    def __init__(self, capacity: int = CAPACITY, wait_seconds: float = WAIT_SECONDS) -> None:
        self._queue: gevent.queue.Queue[deque[bytes]] = gevent.queue.Queue(capacity)
        self._wait = wait_seconds

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, requests: Iterable[bytes]) -> bool:
        """Hand over a message; False when there was no room within a second."""
        message = deque(requests)
        if not message:
            return True
        try:
            self._queue.put(message, timeout=self._wait)
        except gevent.queue.Full:
            return False
        return True

    def next(self) -> bytes:
        """Wait for the next request; it stays until `sent` is called."""
        return self._queue.peek()[0]

    def sent(self) -> None:
        """The request that `next` answered is out."""
        message = self._queue.peek_nowait()
        message.popleft()
        if not message:
            self._queue.get_nowait()
