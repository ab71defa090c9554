"""The TCS side: every message is acknowledged, container health reaches the tasks, instance status the instance.

Metrics themselves are counted and dropped: nobody reads them on one machine (spec 07 §12-13).
"""

from __future__ import annotations

import logging
from typing import Any

import gevent

from services.local.core import lifecycle
from services.local.state import State
from services.local.websocket import GOING_AWAY, Closed, Socket, decode

log = logging.getLogger("local.tcs")
Json = dict[str, Any]
HEARTBEAT_SECONDS = 30.0  # the agent's timer runs out after 60 s (spec 07 §12.5)
ACKS = {
    "PublishMetricsRequest": "AckPublishMetric",
    "PublishHealthRequest": "AckPublishHealth",
    "PublishInstanceStatusRequest": "AckPublishInstanceStatus",
}


class Telemetry:
    """The open TCS connections and what arrives on them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._sockets: set[Socket] = set()
        self.received = dict.fromkeys(ACKS, 0)

    def serve(self, socket: Socket, instance_arn: str) -> None:
        """Run one connection until it ends."""
        self._sockets.add(socket)
        heartbeat = gevent.spawn(self._heartbeat, socket)
        try:
            while (text := socket.receive()) is not None:
                type_, message = decode(text)
                if type_ in ACKS:
                    self.received[type_] += 1
                    self._take(type_, message, instance_arn)
                    socket.send(ACKS[type_], {"message": "ok"})
        except Closed as error:
            log.info("TCS session ended: %s", error)
        finally:
            heartbeat.kill()
            self._sockets.discard(socket)
            socket.close()

    def _heartbeat(self, socket: Socket) -> None:
        try:
            while True:
                gevent.sleep(HEARTBEAT_SECONDS)
                socket.send("HeartbeatMessage", {"healthy": True})
        except Closed as error:
            log.debug("no more heartbeats: %s", error)

    def _take(self, type_: str, message: Json, instance_arn: str) -> None:
        """Apply a message; a malformed one is logged and acknowledged all the same, as it would only come again."""
        try:
            if type_ == "PublishHealthRequest":
                self._health(message)
            elif type_ == "PublishInstanceStatusRequest":
                self._instance_status(message, instance_arn)
        except (KeyError, TypeError, AttributeError) as error:
            log.warning("a %s from the agent is malformed: %r", type_, error)

    def _health(self, message: Json) -> None:
        for reported in message.get("tasks") or []:
            task = self._state.tasks.get(reported["taskArn"])
            if task is None or not task.live:
                continue
            view = lifecycle.apply_health(task.view, reported.get("containers") or [], set(task.essential))
            if view is not task.view:
                self._state.change(task, view=view)

    def _instance_status(self, message: Json, instance_arn: str) -> None:
        instance = self._state.instances.get(instance_arn)
        if instance is None:
            return
        types = {"ContainerRuntime": "CONTAINER_RUNTIME"}
        details = [
            {
                "type": types.get(s["type"], s["type"]),
                "status": s["status"],
                "lastUpdated": s.get("lastUpdated"),
                "lastStatusChange": s.get("lastStatusChange"),
            }
            for s in message.get("statuses") or []
        ]
        bad = next((d["status"] for d in details if d["status"] != "OK"), "OK")
        health = {"overallStatus": bad, "details": details}
        self._state.change(instance, view={**instance.view, "healthStatus": health})

    def sockets(self) -> list[Socket]:
        """The open connections."""
        return list(self._sockets)

    def close(self) -> None:
        """End every connection: the process is going away."""
        for socket in list(self._sockets):
            socket.close(GOING_AWAY, "the control plane is stopping")
