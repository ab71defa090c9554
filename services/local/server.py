"""The listener: the ECS API, ACS and TCS on one loopback port.

Flask routes, gevent's WSGI server serves, gevent-websocket upgrades. The listener binds 127.0.0.1 and answers only
requests addressed to a loopback name, so that no web page can reach it through a name that it made point here.
Signatures are accepted, not checked.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import flask
import gevent
import gevent.socket
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from common.clock import Clock, SystemClock
from services.local import api
from services.local.acs import Hub
from services.local.api.plane import Plane
from services.local.core.errors import ApiError
from services.local.core.names import Names
from services.local.credentials import RoleCredentials
from services.local.shapes import ServiceShapes
from services.local.state import State
from services.local.store import Store
from services.local.tcs import Telemetry
from services.local.websocket import Socket

log = logging.getLogger("local")
Json = dict[str, Any]
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_BODY_BYTES = 16 << 20
PUSH_TARGET = "EcsLocal.PushAcsMessage"  # not part of ECS: {containerInstance?, type, message}
DISCONNECT_TARGET = "EcsLocal.CloseAcsSession"  # not part of ECS: {containerInstance?}
TIDY_SECONDS = 60.0


class Server:
    """The whole control plane in one object: start(), stop(), and `plane`, `hub`, `state` for those who look inside."""

    def __init__(
        self,
        directory: Path,
        listener: gevent.socket.socket,
        region: str,
        cluster: str = "default",
        clock: Clock | None = None,
        credentials: RoleCredentials | None = None,
    ) -> None:
        """State is kept in `directory`, `listener` is from listen(). Raises Permanent when state cannot be opened."""
        clock = clock or SystemClock()
        self.path = directory / "control-plane.db"
        self._store = Store(self.path)
        self.state = State(self._store, Names(region), clock)
        self.hub = Hub(self.state, credentials or RoleCredentials(clock))
        self.telemetry = Telemetry(self.state)
        self._listener = listener
        self.port: int = self._listener.getsockname()[1]
        self.plane = Plane(self.state, ServiceShapes(), self.hub, f"http://127.0.0.1:{self.port}")
        if cluster.rsplit("/", 1)[-1] not in self.state.clusters:
            api.call(self.plane, "CreateCluster", {"clusterName": cluster.rsplit("/", 1)[-1]})
        self._wsgi = WSGIServer(self._listener, _application(self), handler_class=Handler, log=None, error_log=log)
        vars(self._wsgi)["pre_start_hook"] = self._refuses_upgrade  # gevent-websocket looks for it on the server
        self._tidy = gevent.Greenlet(self._tidy_loop)

    def start(self) -> None:
        """Listen."""
        self._wsgi.start()
        self._tidy.start()

    def stop(self) -> None:
        """End the sessions, stop listening, close the file."""
        self._tidy.kill()
        self.hub.close()
        self.telemetry.close()
        self._wsgi.stop(timeout=2)
        self._store.close()

    def _tidy_loop(self) -> None:
        while True:
            gevent.sleep(TIDY_SECONDS)
            try:
                self.state.forget_old()
            except sqlite3.Error as error:
                log.error("old tasks cannot be dropped from %s: %s", self.path, error)

    def _refuses_upgrade(self, handler: WebSocketHandler) -> bool:
        """True keeps gevent-websocket from upgrading: the application then answers with an ordinary response."""
        path = handler.environ.get("PATH_INFO")
        if path not in ("/acs/ws", "/tcs/ws") or not _is_loopback(handler.environ.get("HTTP_HOST", "")):
            return True
        return path == "/acs/ws" and self.hub.refusal(_query(handler.environ, "containerInstanceArn")) is not None


class Handler(WebSocketHandler):  # type: ignore[misc]  # the library has no types
    """No access log: the operations themselves log what changes."""

    def log_request(self) -> None:
        """Nothing."""


def _is_loopback(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in LOOPBACK_NAMES


def _query(environ: Json, name: str) -> str:
    return str(flask.Request(environ).args.get(name, ""))


def _application(server: Server) -> flask.Flask:
    app = flask.Flask("ecs-local", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.before_request
    def only_loopback() -> flask.Response | None:
        if _is_loopback(flask.request.host):
            return None
        return _error("AccessDeniedException", "This control plane answers to 127.0.0.1 and localhost only.", 403)

    @app.post("/")
    def operation() -> flask.Response:
        return _operation(server)

    @app.route("/acs/ws", websocket=True)
    def acs() -> flask.Response:
        arn = flask.request.args.get("containerInstanceArn", "")
        refusal = server.hub.refusal(arn)
        if refusal:
            type_, text = refusal
            return _json({"type": type_, "message": {"message": text}}, 400)
        return _websocket(lambda ws: server.hub.serve(ws, arn, flask.request.args.to_dict()))

    @app.route("/tcs/ws", websocket=True)
    def tcs() -> flask.Response:
        arn = flask.request.args.get("containerInstance", "")
        return _websocket(lambda ws: server.telemetry.serve(ws, arn))

    @app.errorhandler(404)
    @app.errorhandler(405)
    def elsewhere(error: Exception) -> flask.Response:
        return _error(
            "UnknownOperationException",
            "This is an ECS API endpoint: POST / with X-Amz-Target, or /acs/ws and /tcs/ws for agents.",
            404,
        )

    @app.errorhandler(400)
    def no_upgrade(error: Exception) -> flask.Response:
        return _error("BadRequestException", "A WebSocket upgrade is expected here.", 400)

    @app.errorhandler(413)
    def too_large(error: Exception) -> flask.Response:
        return _error("ClientException", f"The request body is larger than {MAX_BODY_BYTES >> 20} MiB.", 413)

    return app


def _websocket(serve: Any) -> flask.Response:
    raw = flask.request.environ.get("wsgi.websocket")
    if raw is None:
        flask.abort(400)
    try:
        serve(Socket(raw))
    except Exception:  # the library would drop it without a word
        log.exception("a session on %s failed", flask.request.path)
    return flask.Response("")


def _operation(server: Server) -> flask.Response:
    target = flask.request.headers.get("X-Amz-Target", "")
    try:
        body = json.loads(flask.request.get_data() or b"{}")
    except ValueError as error:
        return _error("SerializationException", f"The request body is not JSON: {error}", 400)
    try:
        if target in (PUSH_TARGET, DISCONNECT_TARGET):
            return _json(_trial(server, target, body), 200)
        prefix, _, name = target.rpartition(".")
        if prefix != server.plane.shapes.target_prefix:
            raise ApiError(
                "UnknownOperationException",
                f"X-Amz-Target must be {server.plane.shapes.target_prefix}.<Operation>, not {target or '(none)'}.",
            )
        return _json(api.call(server.plane, name, body), 200)
    except ApiError as error:
        log.info("%s answers %s: %s", target.rpartition(".")[2], error.code, error.message)
        return _error(error.code, error.message, error.status)
    except sqlite3.Error as error:
        log.error("%s: the state file cannot be written: %s", target, error)
        return _error(
            "ServerException",
            f"The state file {server.path} cannot be written: {error}. Free space or mend "
            "its permissions, and try again.",
            500,
        )
    except Exception:
        log.exception("%s failed", target)
        return _error("ServerException", "The local control plane failed; its log has the details.", 500)


def _trial(server: Server, target: str, body: object) -> Json:
    """The two calls beside the ECS API with which tests and demonstrations play the backend."""
    if not isinstance(body, dict):
        raise ApiError("ClientException", "The request body must be a JSON object.")
    arn = body.get("containerInstance") or next((i for i in server.state.instances if server.hub.connected(i)), "")
    if not server.hub.connected(arn):
        raise ApiError("ClientException", "No agent is connected.")
    if target == DISCONNECT_TARGET:
        server.hub.disconnect(arn)
    elif not isinstance(body.get("type"), str) or not isinstance(body.get("message"), dict):
        raise ApiError("ClientException", "Give 'type' (a string) and 'message' (an object).")
    else:
        server.hub.push(arn, body["type"], body["message"])
    return {"containerInstance": arn}


def _json(body: Json, status: int) -> flask.Response:
    response = flask.Response(json.dumps(body), status=status, content_type=CONTENT_TYPE)
    response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
    return response


def _error(code: str, message: str, status: int) -> flask.Response:
    response = _json({"__type": code, "message": message}, status)
    response.headers["x-amzn-ErrorType"] = code
    return response
