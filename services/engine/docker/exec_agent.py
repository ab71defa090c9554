"""The files and the process of ECS Exec's agent in a container (ECS agent behaviour, spec 05 §12).

The SSM agent's programs lie on the host; the newest complete version is bound into the container, with a configuration
that is named by the hash of its content, so that containers share it. The agent is a Docker exec of the container: it
outlives the engine and dies with the container.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import time
import uuid
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from common import wholefile
from common.backoff import Backoff
from common.model.task import Container, ManagedAgent, Task
from services.engine.core.agents import RUNNING, STOPPED
from services.engine.docker.api import Api, ApiError, DockerCallError, TimedOut
from services.engine.docker.texts import timeout
from services.engine.resources import files

INNER_ROOT = "/managed-agents/execute-command"  # where an agent in a container sees the files
HOST_ROOT = "/var/lib/ecs/deps/execute-command"
INNER_LOGS, HOST_LOGS = "/log/exec", "/var/log/ecs/exec"
PROGRAMS = ("amazon-ssm-agent", "ssm-agent-worker", "ssm-session-worker")
VERSION = re.compile(r"\d+(\.\d+)*", re.ASCII)
CALL_SECONDS = 60.0
ATTEMPTS, START_SECONDS, CHECK_SECONDS = 5, 600.0, 120.0
SETTLE_SECONDS = 0.4
DEFAULT_SESSIONS = 2
STOP_TIMEOUT_MILLIS = 20000

LOG_CONFIG = """\
<seelog type="adaptive" mininterval="2000000" maxinterval="100000000" critmsgcount="500" minlevel="info">
    <exceptions>
        <exception filepattern="test*" minlevel="error"/>
    </exceptions>
    <outputs formatid="fmtinfo">
        <console formatid="fmtinfo"/>
        <rollingfile type="size" filename="/var/log/amazon/ssm/amazon-ssm-agent.log" maxsize="40000000" maxrolls="1"/>
        <filter levels="error,critical" formatid="fmterror">
            <rollingfile type="size" filename="/var/log/amazon/ssm/errors.log" maxsize="10000000" maxrolls="1"/>
        </filter>
    </outputs>
    <formats>
        <format id="fmterror" format="%Date %Time %LEVEL [%FuncShort @ %File.%Line] %Msg%n"/>
        <format id="fmtdebug" format="%Date %Time %LEVEL [%FuncShort @ %File.%Line] %Msg%n"/>
        <format id="fmtinfo" format="%Date %Time %LEVEL %Msg%n"/>
    </formats>
</seelog>
"""


class ExecAgentFailed(Exception):
    """The agent cannot be had; the text goes to ECS as it stands."""


class ExecAgents:
    """Prepares, starts and checks the agents of this host's containers."""

    def __init__(
        self,
        api: Api,
        ipv6_only: bool,
        root: str,
        host_root: str,
        logs: str,
        host_logs: str,
        pause_seconds: float = 1.0,
    ) -> None:
        """`root` and `logs` are where this process sees what Docker sees at `host_root` and `host_logs`."""
        self._api, self._ipv6_only = api, ipv6_only
        self._root, self._host_root, self._logs, self._host_logs = root, host_root, logs, host_logs
        self._pause_seconds = pause_seconds

    @classmethod
    def standard(cls, api: Api, ipv6_only: bool, in_container: bool) -> ExecAgents:
        """At the places where the packages put things."""
        inside = in_container or (os.path.isdir(INNER_ROOT) and not os.path.isdir(HOST_ROOT))
        host_root = INNER_ROOT if inside and not in_container else HOST_ROOT
        root, logs = (INNER_ROOT if inside else HOST_ROOT), (INNER_LOGS if in_container else HOST_LOGS)
        return cls(api, ipv6_only, root, host_root, logs, HOST_LOGS)

    # -- files -------------------------------------------------------------------------------

    def binds(self, task: Task, container: Container, agent: ManagedAgent) -> list[str]:
        """The binds of the container, in the reference's order. Raises ExecAgentFailed."""
        version = self._version()
        config = self._file("amazon-ssm-agent", "json", self._agent_config(agent), "Config File")
        log_config = self._file("seelog", "xml", LOG_CONFIG, "LogConfig file")
        if not os.path.exists(f"{self._root}/certs/tls-ca-bundle.pem"):
            raise ExecAgentFailed("could not find certs")
        inner = directory_in(agent)
        programs = [f"{self._host_root}/bin/{version}/{name}:{inner}/{name}:ro" for name in PROGRAMS]
        return [
            *programs,
            f"{self._host_root}/config/{config}:{inner}/configuration/amazon-ssm-agent.json:ro",
            f"{self._host_root}/config/{log_config}:{inner}/configuration/seelog.xml:ro",
            f"{self._host_root}/certs/tls-ca-bundle.pem:{inner}/certs/amazon-ssm-agent.crt:ro",
            f"{_log_directory(self._host_logs, task, _log_name(container))}:/var/log/amazon/ssm",
        ]

    def _version(self) -> str:
        directory = f"{self._root}/bin"
        try:
            names = [name for name in os.listdir(directory) if VERSION.fullmatch(name)]
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise ExecAgentFailed(f"open {INNER_ROOT}/bin: {reason}") from error
        for name in sorted(names, key=_numbers, reverse=True):
            if all(os.path.exists(f"{directory}/{name}/{program}") for program in PROGRAMS):
                return name
        raise ExecAgentFailed(f"no valid versions were found in {HOST_ROOT}/bin")

    def _agent_config(self, agent: ManagedAgent) -> str:
        sessions = agent.properties.get("sessionLimit", "")
        limit = int(sessions) if re.fullmatch(r"\d{1,9}", sessions, re.ASCII) else 0
        document = {
            "Mgs": {"StopTimeoutMillis": STOP_TIMEOUT_MILLIS, "SessionWorkersLimit": limit or DEFAULT_SESSIONS},
            "Agent": {"ContainerMode": True, "UseDualStackEndpoint": self._ipv6_only},
        }
        return json.dumps(document, indent="\t")

    def _file(self, stem: str, suffix: str, content: str, what: str) -> str:
        """Write the file unless it is there; returns its name."""
        name = f"{stem}-{hash_of(content)}.{suffix}"
        path = f"{self._root}/config/{name}"
        try:
            if os.path.isdir(path):  # left by a bind of a file that did not exist
                os.rmdir(path)
            if not _holds(path, content):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                wholefile.replace(path, content.encode(), 0o644)
        except OSError as error:
            raise ExecAgentFailed(f"could not generate ExecAgent {what}: {error}") from error
        return name

    def remove_logs(self, task: Task) -> None:
        """Remove the logs of a task's agents. Raises OSError."""
        if self._logs:
            try:
                files.remove(_log_directory(self._logs, task))
            except ExecAgentFailed as error:
                raise OSError(str(error)) from error

    # -- process -----------------------------------------------------------------------------

    def start(self, container: Container, agent: ManagedAgent) -> ManagedAgent | None:
        """Start the agent unless it runs. None: nothing has changed, or nothing can be told."""
        if agent.exec_id:
            runs = self._runs(agent.exec_id)
            if runs or runs is None:
                return None
        fresh = ManagedAgent(name=agent.name, properties=agent.properties, id=agent.id)
        try:
            exec_id, process_id = self._start(container, agent)
        except ExecAgentFailed as failure:
            return replace(fresh, status=STOPPED, reason=str(failure))
        return replace(fresh, status=RUNNING, started_at=time.time(), exec_id=exec_id, process_id=process_id)

    def _start(self, container: Container, agent: ManagedAgent) -> tuple[str, int]:
        if not agent.id:
            raise ExecAgentFailed("container has not been initialized: missing UUID")
        backoff, end = Backoff(self._pause_seconds, 30.0, 1.5), time.monotonic() + START_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._start_once(container, agent)
            except ExecAgentFailed:
                delay = backoff.delay()
                if attempt == ATTEMPTS or time.monotonic() + delay > end:
                    raise
            time.sleep(delay)
        raise AssertionError("no attempt was made")

    def _start_once(self, container: Container, agent: ManagedAgent) -> tuple[str, int]:
        body = {"User": "0", "Detach": True, "Cmd": [f"{directory_in(agent)}/{PROGRAMS[0]}"]}
        path = f"/containers/{quote(container.docker_id, safe='')}/exec"
        exec_id = str(self._call("create", "exec command", "POST", path, body)["Id"])
        self._call("pre-start", "start exec command", "POST", f"/exec/{exec_id}/start", {"Detach": True, "Tty": False})
        seen = self._settled(exec_id)
        if not seen.get("Running"):
            raise ExecAgentFailed(f"{agent.name} process exited with exit code: {int(seen.get('ExitCode') or 0)}")
        return exec_id, int(seen.get("Pid") or 0)

    def _settled(self, exec_id: str) -> dict[str, Any]:
        """The exec once it has had the time to fail: a program that ends at once still runs at the first look."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            seen = self._call("inspect", "inspect exec command", "GET", f"/exec/{exec_id}/json")
            if not seen.get("Running") or time.monotonic() > end:
                return seen
            time.sleep(SETTLE_SECONDS / 4)

    def _call(self, step: str, what: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            answer = self._api.call(method, path, CALL_SECONDS, body=body)
        except DockerCallError as error:
            text = timeout(what, CALL_SECONDS).text if isinstance(error, TimedOut) else str(error)
            raise ExecAgentFailed(f"unable to start ExecuteCommandAgent [{step}]: {text}") from error
        found: dict[str, Any] = answer.json() if answer.body.strip() else {}
        return found

    def _runs(self, exec_id: str) -> bool | None:
        """Whether the exec runs; None when Docker does not tell."""
        backoff, end = Backoff(self._pause_seconds, 30.0, 1.5), time.monotonic() + CHECK_SECONDS
        for _ in range(ATTEMPTS):
            try:
                answer = self._api.call("GET", f"/exec/{quote(exec_id, safe='')}/json", CALL_SECONDS)
                return bool(answer.json().get("Running"))
            except TimedOut:
                return None
            except DockerCallError as error:
                if isinstance(error, ApiError) and error.status == 404:
                    return False
            delay = backoff.delay()
            if time.monotonic() + delay > end:
                return None
            time.sleep(delay)
        return None


def directory_in(agent: ManagedAgent) -> str:
    """Where the agent's files are inside the container."""
    return f"/ecs-execute-command-{agent.id}"


def hash_of(content: str) -> str:
    """URL-safe base64, with padding, of the SHA-256 of the content."""
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _numbers(version: str) -> tuple[int, ...]:
    """Missing parts count as 0: 3.1 is 3.1.0."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _log_directory(root: str, task: Task, *container: str) -> str:
    """Raises ExecAgentFailed for a name that would lead elsewhere: it is mounted, written to by root, and removed."""
    try:
        return files.task_directory(root, task.id, *container)
    except ValueError as error:
        raise ExecAgentFailed(f"no directory for the logs of ExecAgent: {error}") from error


def _log_name(container: Container) -> str:
    return container.name.lstrip("-") or f"nameless-container-{uuid.uuid4()}"


def _holds(path: str, content: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read() == content
    except (FileNotFoundError, UnicodeDecodeError):
        return False
