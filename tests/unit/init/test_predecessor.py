"""The Go agent's container is stopped and removed before this agent starts (spec 09 §16.4, case 80)."""

from __future__ import annotations

import http.client
import http.server
import json
import logging
import socketserver
import threading
from types import SimpleNamespace

import gevent.event
import pytest

from common import keep
from services.init import predecessor, service

LOG = logging.getLogger("test")


class _Docker(http.server.BaseHTTPRequestHandler):
    """Containers of a Docker that only knows what these tests ask."""

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        status = self.server.says.get(self.command, 200 if self.command == "GET" else 204)
        body = json.dumps(self.server.containers).encode() if self.command == "GET" else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer


@pytest.fixture
def docker(run_dir):
    """A Docker with three containers, only one of which is the agent's."""
    server = socketserver.ThreadingUnixStreamServer(str(run_dir / "d.sock"), _Docker)
    server.asked, server.says = [], {}
    server.containers = [
        {"Id": "a" * 64, "Names": ["/my-ecs-agent"]},
        {"Id": "b" * 64, "Names": ["/other/alias", "/ecs-agent"]},
        {"Id": "c" * 64, "Names": None},
    ]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [204, 304])
def test_only_the_agent_s_container_is_stopped_and_removed(docker, status, caplog):
    """Found by its exact name; one that is stopped already is fine; one log line."""
    docker.says["POST"] = status
    assert predecessor.remove_agent_container(docker.server_address, LOG) is True
    path = f"/containers/{'b' * 64}"
    assert docker.asked == ["GET /containers/json", f"POST {path}/stop", f"DELETE {path}"]
    assert len(caplog.records) == 1 and "two agents must not share this host" in caplog.text


def test_a_host_without_one_is_left_alone(docker):
    """The usual start."""
    docker.containers = docker.containers[:1]
    assert predecessor.remove_agent_container(docker.server_address, LOG) is False
    assert docker.asked == ["GET /containers/json"]


def test_a_docker_that_refuses_keeps_the_agent_from_starting(docker):
    """Never both agents: `start` ends with 255 and systemd tries again."""
    docker.says["POST"] = 500
    with pytest.raises(OSError, match="Docker answered 500 to POST") as refusal:
        predecessor.remove_agent_container(docker.server_address, LOG)
    assert not isinstance(refusal.value, predecessor.DockerAway)


def test_a_docker_that_cannot_list_keeps_nothing_from_starting(docker):
    """The service must serve running tasks meanwhile, and looks again (§1 Map: no verb needs Docker)."""
    docker.says["GET"] = 500
    with pytest.raises(predecessor.DockerAway, match="Docker answered 500 to GET"):
        predecessor.remove_agent_container(docker.server_address, LOG)
    with pytest.raises(predecessor.DockerAway, match="No such file"):
        predecessor.remove_agent_container("/nowhere.sock", LOG)


def test_a_docker_that_comes_late_is_asked_again(docker, run_dir):
    """The process `init` goes on looking until Docker has answered once, and nobody registers before."""
    waits: list[float] = []
    path = str(run_dir / "d.sock")

    def stopping(seconds: float) -> bool:
        waits.append(seconds)
        (run_dir / "away").rename(path)
        return False

    (run_dir / "d.sock").rename(run_dir / "away")
    assert predecessor.wait_and_remove(path, LOG, stopping) is True
    assert len(waits) == 1 and docker.asked[-1].startswith("DELETE ")


def test_a_docker_that_refuses_is_asked_until_the_service_stops(docker, run_dir, caplog):
    """Said once, not at each attempt; the caller hears that the container may still be there."""
    docker.says["POST"] = 500
    waits = iter([False, False, True])
    assert predecessor.wait_and_remove(docker.server_address, LOG, lambda seconds: next(waits)) is False
    assert caplog.text.count("could not remove existing Agent container: Docker answered 500") == 1


@pytest.mark.parametrize(("files", "told"), [
    ((), False), (("agent.db",), True), (("agent.db", "redis/appendonlydir/appendonly.aof.1.incr.aof"), False),
])  # fmt: skip
def test_a_database_of_the_go_agent_is_told_of_until_this_agent_has_a_state(tmp_path, caplog, files, told):
    """spec 10 §16 Q11: one warning, and the file stays."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert predecessor.warn_of_database(tmp_path, logging.getLogger("ecs-t")) is told
    assert (f"{tmp_path}/agent.db is the Go agent's state" in caplog.text) is told
    assert all((tmp_path / name).exists() for name in files)


def test_an_answer_that_nobody_foresaw_does_not_hold_up_the_service_for_ever(monkeypatch, eventually, caplog):
    """engine and acs wait for this look, so it is begun again whatever ended it."""
    answers = iter([http.client.BadStatusLine("half a line"), None])

    def look(socket_path, log, stopping):
        if (error := next(answers)) is not None:
            raise error
        return True

    monkeypatch.setattr(service, "wait_and_remove", look)
    monkeypatch.setattr(keep, "FIRST_PAUSE_SECONDS", 0.01)
    context = SimpleNamespace(log=LOG, stopping=gevent.event.Event())
    alone_here = gevent.event.Event()
    service.end_predecessor(context, alone_here)
    eventually(alone_here.is_set)
    assert "the end of the Go agent's container failed and is begun again" in caplog.text
