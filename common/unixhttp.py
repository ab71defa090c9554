"""One HTTP request over a Unix socket, with a deadline for all of it."""

from __future__ import annotations

import http.client
import socket

import gevent


def get(socket_path: str, target: str, seconds: float, longest: int) -> tuple[int, bytes]:
    """Status and body of a GET.

    Raises OSError: a TimeoutError when `seconds` have passed, another for a body of more than `longest` bytes.
    """
    connection = http.client.HTTPConnection("localhost", timeout=seconds)
    try:
        with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:g} s")):
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(socket_path)
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read(longest + 1)
            if len(body) > longest:
                raise OSError(f"the answer has more than {longest} bytes")
            return response.status, body
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
