"""The listener: the ECS API, ACS and TCS on one loopback port.

Flask routes, gevent's WSGI server serves, gevent-websocket upgrades. The listener binds 127.0.0.1 and answers only
requests addressed to a loopback name, so that no web page can reach it through a name that it made point here.
Signatures are accepted, not checked.
"""

from __future__ import annotations

import json
import logging
import socket
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
from services.local import api, secrets, trial
from services.local.acs import Hub
from services.local.api.plane import Plane
from services.local.core.errors import ApiError
from services.local.core.names import Names
from services.local.credentials import RoleCredentials
from services.local.secrets import SecretsFile
from services.local.shapes import ServiceShapes
from services.local.state import State
from services.local.store import Store
from services.local.tcs import Telemetry
from services.local.trial import Backstage
from services.local.websocket import Socket

log = logging.getLogger("local")
Json = dict[str, Any]
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_BODY_BYTES = 16 << 20
WIRE = "ecs_local.wire"  # environ: the socket of the connection
REFUSAL = "ecs_local.refusal"  # environ: the ApiError that a handshake meets
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
        secrets_file: SecretsFile | None = None,
    ) -> None:
        """State is kept in `directory`, `listener` is from listen(). Raises Permanent when state cannot be opened."""
        clock = clock or SystemClock()
        self.path = directory / "control-plane.db"
        self._store = Store(self.path)
        self.state = State(self._store, Names(region), clock)
        self.hub = Hub(self.state, credentials or RoleCredentials(clock))
        self.telemetry = Telemetry(self.state)
        self.backstage = Backstage(self.state, self.hub, self.telemetry)
        self.secrets = secrets_file or SecretsFile(None)
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
        rule = self.backstage.misbehaviour.for_handshake() if path == "/acs/ws" else None
        if rule is not None:
            handler.environ[REFUSAL] = rule.error
            return True
        return path == "/acs/ws" and self.hub.refusal(_query(handler.environ, "containerInstanceArn")) is not None


class Handler(WebSocketHandler):  # type: ignore[misc]  # the library has no types
    """No access log: the operations themselves log what changes."""

    def log_request(self) -> None:
        """Nothing."""

    def get_environ(self) -> Json:
        """With the connection itself, for those calls whose answer must not arrive."""
        environ: Json = super().get_environ()
        environ[WIRE] = self.socket
        return environ


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
        made = flask.request.environ.get(REFUSAL)
        if made is not None:
            return _json({"type": made.code, "message": {"message": made.message}}, made.status)
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
        prefix, _, name = target.rpartition(".")
        if prefix == trial.PREFIX:
            return _json(trial.call(server.backstage, name, body), 200)
        if prefix in secrets.PREFIXES:
            return _json(server.secrets.call(target, body), 200)
        if prefix != server.plane.shapes.target_prefix:
            raise ApiError(
                "UnknownOperationException",
                f"X-Amz-Target must be {server.plane.shapes.target_prefix}.<Operation>, not {target or '(none)'}.",
            )
        return _do(server, name, body)
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


def _do(server: Server, name: str, body: object) -> flask.Response:
    """One operation of the ECS API, with what it meets on its way (EcsLocal.Misbehave)."""
    rule = server.backstage.misbehaviour.for_call(name)
    do = rule.demand.do if rule else ""
    if rule and do in ("error", "throttle"):
        raise rule.error
    if rule and do == "delay":
        gevent.sleep(rule.demand.delay_seconds)
    if do == "cut":
        return _cut()
    answer = api.call(server.plane, name, body)
    if name in ("SubmitTaskStateChange", "SubmitAttachmentStateChanges"):
        server.backstage.heard(body, answered=do != "lose")
    return _cut() if do == "lose" else _json(answer, 200)


def _cut() -> flask.Response:
    """End the connection; what is returned goes nowhere."""
    try:
        flask.request.environ[WIRE].shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("the connection was down already: %s", error)
    return flask.Response("")


def _json(body: Json, status: int) -> flask.Response:
    response = flask.Response(json.dumps(body), status=status, content_type=CONTENT_TYPE)
    response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
    return response


def _error(code: str, message: str, status: int) -> flask.Response:
    response = _json({"__type": code, "message": message}, status)
    response.headers["x-amzn-ErrorType"] = code
    return response
