"""Instance metadata on a real socket, answering by script."""

from __future__ import annotations

from typing import Any

from gevent.pywsgi import WSGIServer


class Service:
    """Instance metadata that answers by script: a status per request of a token, and per value."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []  # method, path, token sent, life of the token asked for
        self.token_status: list[int] = []
        self.value_status: list[int] = []
        self._server = WSGIServer(("127.0.0.1", 0), self._answer, log=None)
        self._server.start()

    @property
    def url(self) -> str:
        """For AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop listening."""
        self._server.stop(timeout=0.1)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        life = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "")
        self.asked.append((method, path, environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN", ""), life))
        script = self.token_status if method == "PUT" else self.value_status
        status = script.pop(0) if script else 200
        body = f"token-{len(self.asked)}" if method == "PUT" else "value"
        start_response(f"{status} X", [("Content-Length", str(len(body)))])
        return [body.encode()]

    def methods(self) -> list[str]:
        """What was asked, in short."""
        return [method for method, *_ in self.asked]
