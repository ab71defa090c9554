"""What each ACS message does (ECS agent behaviour, spec 02 §4 to §7).

One worker handles messages in the order in which they came. A message is acknowledged only after its effect is durable:
credentials stored, commands in the engine's stream. Whatever goes wrong with one message is logged and leaves it
unacknowledged; the control plane sends it again. Replies go to the connection on which the message came; when that is
gone, the message is handled all the same and its repetition on the next connection finds nothing left to do.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent
import gevent.queue

from common import keys
from common.bus import Bus, Change
from common.channel import Channel
from common.errors import Temporary
from common.logs import fields
from common.model.agent import Credentials, DeviceAttachment
from common.model.messages import CredentialsChanged, RunOrUpdateTask, StopVerified, TaskChanged
from common.model.status import TaskStatus
from common.model.task import Task
from common.wire import acs
from common.wire.payload import InvalidTask, credentials, parse_task, role_credentials
from services.acs.attach import INSTANCE_ENI, TASK_ENI, Unusable, confirmation, interfaces, is_arn
from services.acs.attachments import Attachments
from services.acs.instance import InstanceRecord
from services.acs.roles import RoleCredentials

log = logging.getLogger(__name__)

Given = tuple[Task, tuple[Credentials, ...]]  # a task of a payload with the credentials that came with it
ROLE_TYPES = ("TaskApplication", "TaskExecution")
REMEMBERED_TASKS = 10_000
UPDATES_DISABLED = "Updates are disabled"
ENGINE_SECONDS, ENGINE_LOOK_SECONDS = 1.0, 0.02  # a manifest waits for what the engine has not taken yet


class Handlers:
    """The worker's inbox and the handler of each type of message."""

    def __init__(
        self,
        bus: Bus,
        roles: RoleCredentials,
        instance: InstanceRecord,
        reject: Callable[[TaskChanged], None],
        attachments: Attachments,
        untaken: Callable[[], int] = lambda: 0,
    ) -> None:
        """`reject` reports a task that cannot be read; `untaken` counts commands that the engine has not done."""
        self._bus, self._roles, self._instance, self._reject = bus, roles, instance, reject
        self._attachments, self._untaken = attachments, untaken
        self._inbox: gevent.queue.Queue[tuple[Channel, acs.Frame]] = gevent.queue.Queue()
        self._handed_over: OrderedDict[str, None] = OrderedDict()  # arns the engine may not have saved yet
        self._sequence = instance.current.manifest_sequence
        self._manifest_id = ""
        self._by_type: dict[str, Callable[[Channel, dict[str, Any]], None]] = {
            "PayloadMessage": self._payload,
            "IAMRoleCredentialsMessage": self._refresh,
            "TaskManifestMessage": self._manifest,
            "TaskStopVerificationAck": self._verified,
            "AttachTaskNetworkInterfacesMessage": self._attach_task,
            "AttachInstanceNetworkInterfacesMessage": self._attach_instance,
            "ConfirmAttachmentMessage": self._confirm,
            "StageUpdateMessage": self._stage_update,
            "PerformUpdateMessage": self._perform_update,
        }

    # -- inbox ---------------------------------------------------------------------------------

    def put(self, channel: Channel, frame: acs.Frame) -> None:
        """Take over a message from the reader."""
        self._inbox.put((channel, frame))

    def run(self) -> None:
        """Handle messages for the life of the process."""
        while True:
            self.handle(*self._inbox.get())

    def handle(self, channel: Channel, frame: acs.Frame) -> None:
        """Handle one message; nothing is raised."""
        handler = self._by_type.get(frame.type)
        if handler is None:
            log.info("ACS says %s: %s", frame.type, frame.message.get("message", ""))
            return
        try:
            handler(channel, frame.message)
        except Temporary as error:
            log.warning("a %s was not finished and is not acknowledged: %s", frame.type, error)
        except Exception:
            log.exception("a %s could not be handled and is not acknowledged", frame.type)

    # -- payload -------------------------------------------------------------------------------

    def _payload(self, channel: Channel, message: dict[str, Any]) -> None:
        if not _has(message, "messageId", "clusterArn", "containerInstanceArn"):
            return
        tasks, all_good = self._read_tasks(message.get("tasks", []))
        self._sequence = max(self._sequence, message.get("seqNum", self._sequence))
        self._store(tasks)
        # What stops gives its resources to what starts, so it goes first.
        ordered = sorted(tasks, key=lambda given: given[0].desired != TaskStatus.STOPPED)
        self._forget_taken()
        change = Change()
        for task, _ in ordered:
            change.append(keys.COMMANDS, RunOrUpdateTask(task=task))
            self._remember(task.arn)
        self._bus.durable.commit(change)
        log.info("payload taken over", **fields(messageID=message["messageId"], tasks=len(ordered), complete=all_good))
        if not all_good:
            return
        channel.reply(acs.ack(message))
        for _, roles in ordered:
            for role in roles:
                channel.reply(acs.credentials_ack(role.credentials_id, role.expiration, message["messageId"]))

    def _read_tasks(self, members: list[dict[str, Any] | None]) -> tuple[list[Given], bool]:
        tasks: list[Given] = []
        all_good = True
        for member in members:
            if member is None:
                log.warning("a payload has an empty task; the payload is not acknowledged")
                all_good = False
                continue
            try:
                task = parse_task(member)
                roles = role_credentials(member)
            except InvalidTask as error:
                all_good = False
                self._refuse(str(member.get("arn") or ""), error)
                continue
            if task.desired == TaskStatus.RUNNING and not is_arn(task.arn):
                log.error("a task shall run whose ARN is none: %r; its payload is not acknowledged", task.arn)
                all_good = False
            if task.arn:
                tasks.append((task, roles))
        return tasks, all_good

    def _refuse(self, arn: str, error: InvalidTask) -> None:
        if not arn:
            log.error("a task without an ARN cannot be run: %s", error)
            return
        if self._is_known(arn):
            # The report would tell ECS that a running task has stopped.
            log.error("a new payload of the task %s is not usable and changes nothing: %s", arn, error)
            return
        log.error("the task %s cannot be run: %s; ECS is told that it stopped", arn, error)
        self._reject(TaskChanged(arn=arn, status=TaskStatus.STOPPED, reason=error.reason))

    def _store(self, tasks: Iterable[Given]) -> None:
        """Store credentials, unless their task is over: nothing would ever delete them again."""
        for task, roles in tasks:
            if not roles:
                continue
            known = self._bus.durable.get(keys.TASK, task.arn)
            over = task.desired == TaskStatus.STOPPED if known is None else known.known == TaskStatus.STOPPED
            if not over:
                self._roles.put(*roles)

    def _remember(self, arn: str) -> None:
        self._handed_over[arn] = None
        self._handed_over.move_to_end(arn)
        if len(self._handed_over) > REMEMBERED_TASKS:
            self._handed_over.popitem(last=False)

    def _forget_taken(self) -> None:
        """The engine has taken all commands: its documents alone tell by now which tasks there are."""
        if not self._untaken():
            self._handed_over.clear()

    def _is_known(self, arn: str) -> bool:
        self._forget_taken()
        return arn in self._handed_over or self._bus.durable.get(keys.TASK, arn) is not None

    # -- credentials refresh -------------------------------------------------------------------

    def _refresh(self, channel: Channel, message: dict[str, Any]) -> None:
        if not _has(message, "messageId", "taskArn"):
            return
        arn, role_type = message["taskArn"], message.get("roleType", "")
        value = message.get("roleCredentials", {})
        if role_type not in ROLE_TYPES:
            log.warning("credentials for the unknown role type %r are ignored", role_type)
            return
        try:
            document = credentials(value, arn, role_type)
        except InvalidTask as error:
            log.warning("credentials of the task %s are ignored: %s", arn, error)
            return
        self._roles.put(document)
        if not self._is_known(arn):
            log.warning("credentials came for the task %s, which is not known here; they are not acknowledged", arn)
            return
        command = CredentialsChanged(
            arn=arn, credentials_id=document.credentials_id, execution=role_type == "TaskExecution"
        )
        self._bus.durable.commit(Change().append(keys.COMMANDS, command))
        channel.reply(acs.credentials_ack(document.credentials_id, value.get("expiration"), message["messageId"]))

    # -- manifest ------------------------------------------------------------------------------

    def _manifest(self, channel: Channel, message: dict[str, Any]) -> None:
        timeline = message.get("timeline")
        if timeline is None or timeline <= self._sequence:
            log.info("a task manifest with number %s is not newer than %d; it is ignored", timeline, self._sequence)
            return
        self._manifest_id, self._sequence = message.get("messageId", ""), timeline
        self._instance.change(manifest_sequence=timeline)
        self._wait_for_engine()
        wanted = {
            t.get("taskArn") for t in message.get("tasks", []) if t is not None and t.get("desiredStatus") == "RUNNING"
        }
        extra = [
            task.arn
            for task in self._bus.durable.all(keys.TASK).values()
            if task.desired == TaskStatus.RUNNING and not task.is_internal and task.arn not in wanted
        ]
        channel.reply(acs.ack(message))
        if extra:
            log.info("the task manifest does not list %s; ECS is asked whether they must stop", ", ".join(extra))
            channel.reply(acs.stop_verification(message, extra))

    def _wait_for_engine(self) -> None:
        """Payloads that came before the manifest count: a task that is being stopped is no candidate."""
        end = time.monotonic() + ENGINE_SECONDS
        while self._untaken() and time.monotonic() < end:
            gevent.sleep(ENGINE_LOOK_SECONDS)

    def _verified(self, channel: Channel, message: dict[str, Any]) -> None:
        if not message.get("messageId") or message["messageId"] != self._manifest_id:
            log.info("a stop verification does not belong to the last manifest; it is ignored")
            return
        change = Change()
        for entry in message.get("stopTasks", []):
            arn = (entry or {}).get("taskArn", "")
            if arn and self._is_known(arn):
                log.warning("ECS confirms that the task %s must stop", arn)
                change.append(keys.COMMANDS, StopVerified(arn=arn))
        self._bus.durable.commit(change)
        self._manifest_id = ""  # the same acknowledgement is not honoured twice

    # -- attachments ---------------------------------------------------------------------------

    def _attach_task(self, channel: Channel, message: dict[str, Any]) -> None:
        if _has(message, "messageId", "clusterArn", "containerInstanceArn", "taskArn"):
            self._attach(channel, message, lambda now: interfaces(message, TASK_ENI, now))

    def _attach_instance(self, channel: Channel, message: dict[str, Any]) -> None:
        if _has(message, "messageId", "clusterArn", "containerInstanceArn"):
            self._attach(channel, message, lambda now: interfaces(message, INSTANCE_ENI, now))

    def _confirm(self, channel: Channel, message: dict[str, Any]) -> None:
        if _has(message, "messageId"):
            self._attach(channel, message, lambda now: confirmation(message, now))

    def _attach(
        self, channel: Channel, message: dict[str, Any], read: Callable[[float], list[DeviceAttachment]]
    ) -> None:
        try:
            announced = read(time.time())
        except (Unusable, InvalidTask) as error:
            log.warning("the attachment message %s is ignored: %s", message["messageId"], error)
            return
        self._attachments.announced(announced)
        channel.reply(acs.ack(message))

    # -- updates -------------------------------------------------------------------------------

    def _stage_update(self, channel: Channel, message: dict[str, Any]) -> None:
        if _has(message, "messageId"):
            self._perform_update(channel, message)

    def _perform_update(self, channel: Channel, message: dict[str, Any]) -> None:
        """The agent is updated by its package manager, never through ACS (spec 02 §7)."""
        log.info("ECS asks for an update of the agent; packages are updated by the system's package manager")
        channel.reply(acs.nack(message, UPDATES_DISABLED))


def _has(message: Mapping[str, Any], *names: str) -> bool:
    for name in names:
        if not message.get(name):
            log.warning("a message without %s is ignored", name)
            return False
    return True
