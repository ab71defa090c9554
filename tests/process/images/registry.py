"""A real registry on loopback behind a proxy that can hold back every layer, as a slow network does."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from pathlib import Path

from tests.fakes.registry import Registry

LAYER_SECONDS = 60.0  # the longest that a layer is held back


class SlowRegistry:
    """`address` is the proxy's host:port. While `hold` was called, requests for layers wait for `release`."""

    def __init__(self, directory: Path) -> None:
        self._registry = Registry(directory)
        self.port = self._registry.port
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0  # requests that are held back now
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hold(self) -> None:
        """Let every layer wait from now on."""
        self._open.clear()

    def release(self) -> None:
        """Let all go on."""
        self._open.set()

    def close(self) -> None:
        """End both."""
        self._open.set()
        self._server.shutdown()
        self._server.server_close()
        self._registry.close()

    def _handler(registry) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                # Docker tries TLS first. A ClientHello need not have a line end, so waiting for one could take long.
                if self.connection.recv(1, socket.MSG_PEEK) != b"\x16":
                    super().handle()

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.command == "GET" and "/blobs/" in self.path:
                    registry.waiting += 1
                    registry._open.wait(LAYER_SECONDS)
                    registry.waiting -= 1
                headers = {name: ", ".join(self.headers.get_all(name) or ()) for name in self.headers}
                upstream = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=30)
                try:
                    upstream.request(self.command, self.path, body or None, headers)
                    answer = upstream.getresponse()
                    data = answer.read()
                finally:
                    upstream.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_HEAD = _pass_on

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler
