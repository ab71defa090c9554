"""The ACS side: one session per connected agent, and what is owed to it.

Nothing is queued. What an agent must hear follows from the records: every live task whose delivery is not acknowledged
is sent, now and again every few seconds until it is (spec 11 §3); every acknowledged task with a role gets credentials
when the agent connects and before they end. So a restart of either side loses nothing.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from msgspec import Struct

from common.backoff import Backoff
from services.local.core import lifecycle, manifest
from services.local.core.errors import ApiError
from services.local.core.payload import task_payload
from services.local.core.records import Task
from services.local.credentials import RoleCredentials, RoleRefused
from services.local.state import State
from services.local.websocket import FAILED, GOING_AWAY, NORMAL, POLICY, Closed, Socket, decode

log = logging.getLogger("local.acs")
Json = dict[str, Any]
HEARTBEAT_SECONDS = 20.0
SILENT_SECONDS = 90.0  # an agent answers each heartbeat; one silent for four of them is gone
GRACE_SECONDS = 10.0  # an agent whose process was restarted is back in a few seconds; placement waits that long
RESEND_FIRST_SECONDS, RESEND_MOST_SECONDS = 3.0, 20.0
REPLIES_KEPT = 2000  # in memory only
ROLE_TYPES = {
    "TaskApplication": ("credentials_id", "taskRoleArn"),
    "TaskExecution": ("execution_credentials_id", "executionRoleArn"),
}


class Owed(Struct):
    """A message that was sent and not yet acknowledged: when it goes out again."""

    backoff: Backoff
    at: float


class Session:
    """One agent's connection: reads its replies in the caller's greenlet, sends from its own."""

    def __init__(
        self, socket: Socket, instance_arn: str, state: State, credentials: RoleCredentials, replies: deque[Json]
    ) -> None:
        self.socket, self.instance_arn, self.since = socket, instance_arn, state.clock.now()
        self._state, self._credentials, self._replies = state, credentials, replies
        self._manifest: Json = {}  # the last one, to which a stop verification belongs
        self._wake = Event()
        self._owed: dict[str, Owed] = {}  # message id -> when to send it again
        self._roles: dict[str, Json] = {}  # message id -> IAMRoleCredentialsMessage not yet acknowledged
        self._handed_out: int | None = None  # generation of the credentials that this agent has
        self._heard = time.monotonic()
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        self._stalled_until = 0.0

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def stall(self, seconds: float) -> None:
        """Neither read nor send for so long; the agent sees an open connection on which nothing happens."""
        self._stalled_until = time.monotonic() + seconds

    def redeliver(self, count: int) -> None:
        """Send the last word about the newest `count` tasks again, also about those that have stopped."""
        tasks = [t for t in self._state.tasks.values() if t.instance == self.instance_arn]
        try:
            for task in tasks[-count:]:
                self._send_payload(task)
        except Closed as error:
            log.info("nothing was sent again: %s", error)

    def send_manifest(self, omit: Collection[str]) -> Json:
        """Tell the agent which tasks shall run here; what it runs beside them it will ask about. Raises Closed."""
        cluster_arn = self._state.cluster_arn(self.instance_arn)
        self._manifest = {
            "clusterArn": cluster_arn,
            "containerInstanceArn": self.instance_arn,
            "generatedAt": int(self._state.clock.now() * 1000),
            "messageId": str(uuid.uuid4()),
            "tasks": manifest.manifest(self._state.tasks_on(self.instance_arn), cluster_arn, omit),
            # Milliseconds rise also when the state file was deleted, after which the counters begin anew.
            "timeline": max(int(self._state.clock.now() * 1000), self._manifest.get("timeline", 0) + 1),
        }
        self.socket.send("TaskManifestMessage", self._manifest)
        return self._manifest

    def _tell_what_shall_run(self) -> None:
        """First of all, as ECS does: an agent may run tasks of which nothing is known here any more."""
        try:
            self.send_manifest(())
        except Closed as error:
            log.debug("the manifest was not sent: %s", error)

    def _verify(self, question: Json) -> None:
        """Answer which of the tasks that the agent asks about must stop."""
        if not self._manifest or question.get("messageId") != self._manifest["messageId"]:
            return
        stop = manifest.confirmed(question.get("stopCandidates") or (), self._manifest["tasks"])
        if not stop:
            return
        log.warning("the agent runs %d tasks that it shall not run; they are stopped", len(stop))
        self.socket.send(
            "TaskStopVerificationAck",
            {
                "generatedAt": int(self._state.clock.now() * 1000),
                "messageId": self._manifest["messageId"],
                "stopTasks": stop,
            },
        )

    def _wait_out(self) -> None:
        while (left := self._stalled_until - time.monotonic()) > 0:
            gevent.sleep(left)
            self._heard = time.monotonic()  # it was we who did not listen

    def run(self) -> None:
        """Serve the agent until it closes, falls silent, or is closed."""
        self._tell_what_shall_run()
        sender = gevent.spawn(self._send_loop)
        try:
            while (text := self.socket.receive()) is not None:
                self._wait_out()
                self._heard = time.monotonic()
                self._handle(*decode(text))
        finally:
            sender.kill()

    # -- from the agent ---------------------------------------------------------------------------------------------

    def _handle(self, type_: str, message: Json) -> None:
        self._replies.append({"at": self._state.clock.now(), "type": type_, "message": message})
        if type_ == "AckRequest":
            self._acknowledged(str(message.get("messageId")))
        elif type_ == "IAMRoleCredentialsAckRequest":
            self._settle(str(message.get("messageId")))
        elif type_ == "NackRequest":
            log.warning("the agent refused message %s: %s", message.get("messageId"), message.get("reason"))
        elif type_ == "TaskStopVerificationMessage":
            self._verify(message)
        elif type_ != "HeartbeatAckRequest":
            log.warning("the agent sent something that ACS does not know: %s", type_ or "not a JSON envelope")

    def _acknowledged(self, message_id: str) -> None:
        self._settle(message_id)
        for task in self._state.tasks_on(self.instance_arn):
            if task.delivery.message_id == message_id and not task.delivery.acked:
                accepted = lifecycle.stop_accepted if task.delivery.desired == "STOPPED" else lifecycle.start_accepted
                delivery = msgspec.structs.replace(task.delivery, acked=True)
                self._state.change(task, view=accepted(task.view), delivery=delivery)

    def _settle(self, message_id: str) -> None:
        # A payload's credentials acks carry the payload's id; only its AckRequest settles the payload itself.
        if self._roles.pop(message_id, None) is not None or not self._unacknowledged(message_id):
            self._owed.pop(message_id, None)

    def _unacknowledged(self, message_id: str) -> bool:
        return any(
            t.delivery.message_id == message_id and not t.delivery.acked
            for t in self._state.tasks_on(self.instance_arn)
        )

    # -- to the agent -----------------------------------------------------------------------------------------------

    def _send_loop(self) -> None:
        try:
            while True:
                self._wake.clear()
                self._wait_out()
                self._send_due()
                self._wake.wait(self._pause())
                if time.monotonic() - self._heard > SILENT_SECONDS:
                    log.warning("the agent has been silent for %d s; closing its session", SILENT_SECONDS)
                    return self.socket.close(GOING_AWAY, "no heartbeat acknowledgement")
        except Closed as error:
            log.info("ACS session ended: %s", error)
        except Exception:  # a session that only listens would look connected and get nothing done
            log.exception("the ACS session failed and is closed; the agent connects again")
            self.socket.close(FAILED, "the control plane failed")

    def _pause(self) -> float:
        """Seconds until the next thing is due."""
        upcoming = [self._heartbeat_at, *(o.at for o in self._owed.values())]
        return max(0.05, min(upcoming) - time.monotonic())

    def _send_due(self) -> None:
        waiting = [t for t in self._state.tasks_on(self.instance_arn) if not t.delivery.acked]
        for task in waiting:
            if self._is_due(task.delivery.message_id):
                self._send_payload(task)
        if self._credentials.due() or self._handed_out != self._credentials.generation:
            self._renew_credentials()
        for message_id, message in list(self._roles.items()):
            task_gone = message["taskArn"] not in self._state.tasks or not self._state.tasks[message["taskArn"]].live
            if task_gone:
                self._settle(message_id)
            elif self._is_due(message_id):
                self.socket.send("IAMRoleCredentialsMessage", message)
        current = {t.delivery.message_id for t in waiting} | set(self._roles)
        self._owed = {k: v for k, v in self._owed.items() if k in current}
        if time.monotonic() >= self._heartbeat_at:
            self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
            self.socket.send("HeartbeatMessage", {"healthy": True, "messageId": str(uuid.uuid4())})

    def _send_payload(self, task: Task) -> None:
        """Send what the agent must know about a task; one that cannot be put into words must not hold up the others."""
        try:
            payload = self._payload(task)
        except RoleRefused as error:
            log.error("task %s is stopped: %s", task.arn, error)
            now = self._state.tasks.get(task.arn, task)  # asking took time, in which it may have changed
            self._state.stop(now, str(error), "TaskFailedToStart")
            return
        except (KeyError, TypeError, ApiError) as error:
            log.error(
                "no payload can be made for task %s: %r; it stays as it is. Stop it and run it again.", task.arn, error
            )
            return
        self.socket.send("PayloadMessage", payload)

    def _is_due(self, message_id: str) -> bool:
        """Whether to send the message now; books the next time if so."""
        owed = self._owed.get(message_id)
        if owed is not None and time.monotonic() < owed.at:
            return False
        if owed is None:
            owed = Owed(Backoff(RESEND_FIRST_SECONDS, RESEND_MOST_SECONDS, 1.5), 0.0)
            self._owed[message_id] = owed
        owed.at = time.monotonic() + owed.backoff.delay()
        return True

    def _payload(self, task: Task) -> Json:
        definition = self._state.sent_definition(task)
        roles = [self._role(task, role_type, definition) for role_type in ROLE_TYPES]
        return {
            "clusterArn": task.view["clusterArn"],
            "containerInstanceArn": self.instance_arn,
            "messageId": task.delivery.message_id,
            "seqNum": task.delivery.sequence,
            "generatedAt": int(self._state.clock.now() * 1000),
            "tasks": [task_payload(task.view, definition, task.delivery.desired, *roles)],
        }

    def _role(self, task: Task, role_type: str, definition: Json) -> Json | None:
        """Complete IAMRoleCredentials for one of the task's two roles, or None when it has none. Raises RoleRefused."""
        id_member, arn_member = ROLE_TYPES[role_type]
        role_arn = task.view.get("overrides", {}).get(arn_member) or definition.get(arn_member)
        credentials_id: str = getattr(task, id_member)
        if not role_arn or not credentials_id:
            return None
        try:
            return dict(self._credentials.for_role(role_arn, credentials_id, of_task=role_type == "TaskApplication"))
        except RoleRefused:
            if task.delivery.desired == "STOPPED":
                return None  # it ends without
            raise

    def _renew_credentials(self) -> None:
        """Owe fresh credentials for every task that the agent already has."""
        if self._credentials.due():
            self._credentials.refresh()
        self._handed_out = self._credentials.generation
        self._roles.clear()
        for task in self._state.tasks_on(self.instance_arn):
            if not task.delivery.acked or task.delivery.desired != "RUNNING":
                continue  # its payload carries them, or it is about to end
            for role_type in ROLE_TYPES:
                try:
                    role = self._role(task, role_type, self._state.definition_of(task))
                except RoleRefused as error:
                    log.warning("the credentials of task %s cannot be renewed: %s", task.arn, error)
                    self._credentials.retry_soon()
                    continue
                if role:
                    message_id = str(uuid.uuid4())
                    self._roles[message_id] = {
                        "messageId": message_id,
                        "taskArn": task.arn,
                        "taskClusterArn": task.view["clusterArn"],
                        "roleType": role_type,
                        "roleCredentials": role,
                    }


class Hub:
    """The sessions by container instance."""

    def __init__(self, state: State, credentials: RoleCredentials) -> None:
        self._state, self._credentials = state, credentials
        self._sessions: dict[str, Session] = {}
        self._started = time.monotonic()
        self._ended: dict[str, float] = {}  # when the last session of an instance ended
        self.replies: deque[Json] = deque(maxlen=REPLIES_KEPT)  # what agents said
        self.on_change: Callable[[str], None] = lambda instance_arn: None
        state.connected = self.connected
        state.on_work = self.wake

    def connected(self, instance_arn: str) -> bool:
        """Whether the instance's agent has an open session."""
        return instance_arn in self._sessions

    def reachable(self, instance_arn: str) -> bool:
        """Connected, or away for so short a time that it is surely coming back: tasks may be placed there."""
        away = time.monotonic() - self._ended.get(instance_arn, self._started)
        return self.connected(instance_arn) or away < GRACE_SECONDS

    def session(self, instance_arn: str) -> Session | None:
        """The open session of an instance."""
        return self._sessions.get(instance_arn)

    def since(self, instance_arn: str) -> float | None:
        """Unix time at which the open session began."""
        session = self._sessions.get(instance_arn)
        return session.since if session else None

    def refusal(self, instance_arn: str) -> tuple[str, str] | None:
        """(exception type, sentence) when the instance may not connect (spec 02 §3.4), else None."""
        instance = self._state.instances.get(instance_arn)
        if instance is None:
            return "InvalidInstanceException", f"The container instance {instance_arn or '(none given)'} is not known."
        if instance.view["status"] == "INACTIVE":
            return "InactiveInstanceException", "The container instance was deregistered."
        return None

    def serve(self, socket: Socket, instance_arn: str, query: Json) -> None:
        """Run the session of an accepted connection; an older one of the same instance ends."""
        self._note_versions(instance_arn, query)
        session = Session(socket, instance_arn, self._state, self._credentials, self.replies)
        previous = self._sessions.get(instance_arn)
        self._sessions[instance_arn] = session
        if previous:
            previous.socket.close(NORMAL, "replaced by a newer session")
        log.info("the agent of %s is connected", instance_arn.rsplit("/", 1)[-1])
        self.on_change(instance_arn)
        try:
            session.run()
        finally:
            socket.close(NORMAL)
            if self._sessions.get(instance_arn) is session:
                del self._sessions[instance_arn]
                self._ended[instance_arn] = time.monotonic()
                log.info("the agent of %s is disconnected", instance_arn.rsplit("/", 1)[-1])
                self.on_change(instance_arn)

    def _note_versions(self, instance_arn: str, query: Json) -> None:
        instance = self._state.instances[instance_arn]
        versions = {k: query[k] for k in ("agentVersion", "agentHash", "dockerVersion") if query.get(k)}
        if versions and instance.view.get("versionInfo") != versions:
            self._state.change(instance, view={**instance.view, "versionInfo": versions})

    def wake(self, instance_arn: str) -> None:
        """There is work for the instance."""
        session = self._sessions.get(instance_arn)
        if session:
            session.wake()

    def push(self, instance_arn: str, type_: str, message: Json) -> bool:
        """Send any ACS message as it is, once; False when the instance is not connected. For tests and trials."""
        session = self._sessions.get(instance_arn)
        if session is None:
            return False
        try:
            session.socket.send(type_, message)
        except Closed:
            return False
        return True

    def disconnect(self, instance_arn: str, inactive: bool = False) -> None:
        """End the instance's session; `inactive` tells the agent that it was deregistered (spec 02 §3.2)."""
        session = self._sessions.get(instance_arn)
        if session and inactive:
            session.socket.close(POLICY, "InactiveInstanceException: the container instance was deregistered")
        elif session:
            session.socket.close(NORMAL, "closed on request")

    def close(self) -> None:
        """End every session: the process is going away."""
        for session in list(self._sessions.values()):
            session.socket.close(GOING_AWAY, "the control plane is stopping")
