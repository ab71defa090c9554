"""Commands to one Redis server over kept connections, as few steps from the socket as can be.

The client library's connection speaks the protocol; what the library's client adds to each command (a retry policy, a
cache, metrics, a check of the socket, a form for each answer) costs several times the command itself, and the bus asks
many times in a task's life. So the bus asks here, and gets answers as the protocol has them: bytes, integers, lists,
None. What is rarely asked goes through the library's client.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_SECONDS = 2.0
Connection: Any = redis.UnixDomainSocketConnection  # abstract to a type checker: a unix socket has no host


def connection_options(timeout: float | None) -> dict[str, Any]:
    """For the library's connection, and for its client alike."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": CONNECT_SECONDS,
        # The bus's own loop retries (it can be told to stop); the library's would hold a caller for seconds.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,  # the library would look its own version up for each connection: ten times what one costs
    }


class Link:
    """`timeout` is for each read and write, in seconds; None for a reader that blocks.

    A connection that was kept may have died with its server: with `again` the command is then sent once more over a new
    one, so it must be one that may be done twice. A blocking reader learns of it, and looks what it missed.
    """

    def __init__(self, path: str, timeout: float | None, again: bool = True) -> None:
        self._path, self._again = path, again
        self._options = connection_options(timeout)
        self._idle: list[Any] = []

    def ask(self, *words: Any) -> Any:
        """The answer to one command. Raises redis.RedisError (ResponseError: the server's own) and OSError."""
        kept = bool(self._idle)
        connection: Any = self._idle.pop() if kept else self._new()
        try:
            return self._exchange(connection, words)
        except (redis.ConnectionError, OSError):
            if not (kept and self._again):
                raise
            self._idle.clear()
        return self._exchange(self._new(), words)

    def _new(self) -> Any:
        return Connection(path=self._path, **self._options)

    def _exchange(self, connection: Any, words: tuple[Any, ...]) -> Any:
        try:
            # In one piece: several would wake the server for each.
            connection.send_packed_command([b"".join(connection.pack_command(*words))], check_health=False)
            answer = connection.read_response()
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()  # half an answer may be on its way
            raise
        self._idle.append(connection)
        return answer
