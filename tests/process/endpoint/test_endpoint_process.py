"""The endpoint process against real Redis: it follows what the others write, and reads go on without Redis."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from typing import Any

import gevent
import pytest

from common.model.status import TaskStatus
from common.readiness import read
from services.endpoint import audit, follow


def test_listeners_open_with_the_registration_and_not_before(start, writers, eventually):
    """Installers poll for the ARN; an early answer would be taken for the truth."""
    running = start(wait=False)
    gevent.sleep(0.3)
    assert not running.listening
    writers.instance()
    eventually(lambda: running.listening)
    assert running.look("/v1/metadata").json["ContainerInstanceArn"].endswith("/77")


def test_a_port_that_is_taken_is_what_the_endpoint_says_of_itself(start, writers, run_dir, eventually):
    """The other port serves meanwhile: introspection is not what tasks need. Ready when the port is free again."""
    writers.instance()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start(wait=False)
        running.endpoint.ports = (0, port)
        told = f"the introspection server cannot listen on *:{port}: process {os.getpid()} "
        eventually(lambda: (state := read(run_dir, "endpoint")) and state.detail.startswith(told) and not state.ready)
        writers.task("a")
        eventually(lambda: running.endpoint.servers and running.get("/v4/e-a").status == 200)
    eventually(lambda: read(run_dir, "endpoint").ready)
    assert running.look("/v1/metadata").status == 200


def test_a_container_that_asks_right_after_the_commit_is_known(start, writers):
    """The feed may be behind; the read-through is not. One hundred tasks, each asked for at once."""
    writers.instance()
    running = start()
    for n in range(100):
        task = writers.task(f"t{n}")
        answer = running.get(f"/v4/e-t{n}/task")
        assert answer.status == 200 and answer.json["TaskARN"] == task.arn


def test_without_the_feed_the_second_look_finds_a_new_task_and_its_credentials(start, writers):
    """What a request waits for when the feed is stuck."""
    writers.instance()
    running = start()
    running.endpoint.source.stop()
    gevent.sleep(0.05)
    writers.task("new", local_ip_address="127.0.0.1")
    writers.credentials("c-new")
    assert running.get("/v4/e-new").status == 200
    assert running.get("/v2/metadata").status == 200
    assert running.get("/v2/credentials/c-new").status == 200
    assert running.look("/v1/tasks?dockerid=" + b"new".hex().ljust(64, "0")).status == 200


@pytest.mark.parametrize("path", ["/v4/e-a/task", "/v3/e-a/task", "/v2/metadata"])
def test_who_heard_of_a_state_reads_no_earlier_one(start, writers, path):
    """`acs` reports from the same commit that the feed announces, and may be first (spec 06: one process there)."""
    writers.instance()
    where = {"local_ip_address": "127.0.0.1"}
    writers.task("a", desired=TaskStatus.STOPPED, **where)
    running = start()
    running.endpoint.source.stop()
    assert running.get(path).json["KnownStatus"] == "RUNNING"
    writers.task("a", known=TaskStatus.STOPPED, desired=TaskStatus.STOPPED, **where)
    assert running.get(path).json["KnownStatus"] == "STOPPED"


def test_a_task_at_rest_is_answered_from_memory(start, writers):
    """No request of a running task costs a question to Redis."""
    writers.instance()
    writers.task("a")
    running = start()
    running.endpoint.source.stop()
    writers.task("a", known=TaskStatus.STOPPED)
    assert running.get("/v4/e-a/task").json["KnownStatus"] == "RUNNING"


def test_credentials_are_pending_then_served_then_refreshed_then_gone(start, writers, eventually):
    """Cases 15 to 17 over the wire."""
    writers.instance()
    running = start()
    task = writers.task("a")
    assert running.get("/v2/credentials/c-a").status in (400, 503)
    eventually(lambda: running.get("/v2/credentials/c-a").status == 503)
    writers.credentials("c-a")
    assert running.get("/v2/credentials/c-a").json["AccessKeyId"] == "AKID"
    writers.credentials("c-a", "AKIDNEW")
    eventually(lambda: running.get("/v1/credentials?id=c-a").json["AccessKeyId"] == "AKIDNEW", seconds=2)
    writers.task("a", arn=task.arn, credentials_released=True)
    assert running.get("/v2/credentials/c-a").status == 200
    writers.release("c-a")
    eventually(lambda: running.get("/v2/credentials/c-a").status == 400, seconds=2)


def test_a_change_is_seen_and_a_cleaned_up_task_is_gone(start, writers, eventually):
    """The rendered answers follow the documents."""
    writers.instance()
    task = writers.task("a")
    running = start()
    assert running.get("/v4/e-a/task").json["Family"] == "web"
    writers.task("a", family="other")
    eventually(lambda: running.get("/v4/e-a/task").json["Family"] == "other")
    assert len(running.look("/v1/tasks").json["Tasks"]) == 1
    writers.clean_up(task)
    eventually(lambda: running.get("/v4/e-a").status == 404)
    assert running.look("/v1/tasks").json == {"Tasks": []}
    assert running.get("/v2/credentials/c-a").status == 400


def test_reads_go_on_while_both_redis_servers_are_dead(start, writers, redis_servers, eventually):
    """And unknown ids get their answer in time, without waiting for Redis again and again."""
    writers.instance()
    task = writers.task("a")
    writers.credentials("c-a")
    writers.stats(task, b'{"read":"x"}')
    running = start()
    assert running.get("/v4/e-a/stats").json == {"read": "x"}
    for server in redis_servers:
        server.kill()
    started = time.monotonic()
    for _ in range(10):
        assert running.get("/v2/credentials/c-a").json["AccessKeyId"] == "AKID"
        assert running.get("/v4/e-a/task").status == 200
        assert running.get("/v4/e-a/stats").json == {"read": "x"}
        assert running.get("/v4/unknown").status == 404
        assert running.get("/v2/credentials/unknown").status == 400
    assert time.monotonic() - started < 3.0
    assert running.look("/v1/tasks").status == 200


def test_changes_are_followed_again_after_redis_came_back(start, writers, redis_servers, eventually):
    """The durable server has its data; the endpoint reads everything anew."""
    writers.instance()
    writers.task("a")
    running = start()
    redis_servers[0].kill()
    gevent.sleep(0.2)
    redis_servers[0].start()
    writers.task("b")
    eventually(lambda: running.get("/v4/e-b").status == 200)
    assert running.get("/v4/e-a").status == 200


def test_credentials_outlive_a_redis_that_lost_them(start, writers, redis_servers, monkeypatch, eventually):
    """The volatile server has no persistence: until acs publishes again, the old credentials are the best there are."""
    monkeypatch.setattr(follow, "CARRY_SECONDS", 0.5)
    writers.instance()
    writers.task("a")
    writers.credentials("c-a")
    writers.credentials("nobody")
    running = start()
    redis_servers[1].kill()
    redis_servers[1].start()
    writers.credentials("later")
    eventually(lambda: running.get("/v2/credentials/later").status == 200)
    assert running.get("/v2/credentials/c-a").status == 200
    eventually(lambda: running.get("/v2/credentials/nobody").status == 400, seconds=5)
    assert running.get("/v2/credentials/c-a").status == 200


def test_a_restarted_endpoint_serves_at_once(start, writers):
    """Nothing in it is durable, everything is read again."""
    writers.instance()
    writers.task("a")
    writers.credentials("c-a")
    start().stop()
    started = time.monotonic()
    running = start()
    assert running.get("/v2/credentials/c-a").status == 200
    assert time.monotonic() - started < 3.0


def test_stats_are_read_when_somebody_asks(start, writers, eventually):
    """Nothing before the first sample, then the sample, within a second the next one; no reads for nobody."""
    writers.instance()
    task = writers.task("a")
    running = start()
    assert running.get("/v4/e-a/stats").body == b"{}", "it runs: the engine says so before telemetry does"
    writers.stats(task, b"null")
    assert running.get("/v4/e-a/stats").body == b"{}"
    for n in range(3):
        writers.stats(task, b'{"read":%d}' % n)
        eventually(lambda n=n: running.get("/v4/e-a/stats").json == {"read": n}, seconds=1.5)


def test_the_audit_log_is_a_file_with_a_line_per_request(start, writers, run_dir, eventually):
    """Written away from the loop; what is left is written at the end."""
    writers.instance()
    writers.credentials("c-a")
    running = start()
    running.get("/v2/credentials/c-a")
    running.get("/v1/credentials")
    path = run_dir / "audit.log"
    eventually(lambda: path.exists() and len(path.read_text().splitlines()) == 2)
    first, second = path.read_text().splitlines()
    assert first.split(" ", 2)[1] == "200" and first.endswith(
        '"/v2/credentials" "test" arn:t GetCredentials 2 c arn:aws:ecs:us-west-2:111122223333:container-instance/c/77'
    )
    assert second.endswith('"/v1/credentials" "test" - ')
    running.get("/v2/credentials/c-a")
    running.stop()
    assert len(path.read_text().splitlines()) == 3


def test_the_audit_log_is_written_before_anything_else_is_ended(start, writers, run_dir, monkeypatch):
    """The end may be cut short, and these lines are nowhere else."""
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 60.0)
    writers.instance()
    running = start()
    running.get("/v1/credentials")
    stop, path, written = running.endpoint.source.stop, run_dir / "audit.log", list[str]()

    def stop_source() -> None:
        written.extend(path.read_text().splitlines() if path.exists() else ())
        stop()

    monkeypatch.setattr(running.endpoint.source, "stop", stop_source)
    running.stop()
    assert len(written) == 1


def test_the_throttle_holds_over_the_wire(start, writers):
    """ECS_TASK_METADATA_RPS_LIMIT as configured."""
    writers.instance()
    running = start(ECS_TASK_METADATA_RPS_LIMIT="1,5")
    answers = [running.get("/v4/x") for _ in range(7)]
    assert [a.status for a in answers] == [404] * 5 + [429] * 2
    assert answers[-1].headers["X-Rate-Limit-Limit"] == "1.00"


class FakeEcs(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put into `answers`."""

    answers: dict[str, tuple[int, Any, dict[str, str]]] = {}
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        self.seen.append((operation, body, dict(self.headers.items())))
        status, answer, headers = self.answers[operation]
        if answer is None:
            gevent.sleep(10)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        """Quiet."""


@pytest.fixture
def ecs():
    """A server that speaks as much of ECS as these calls need."""
    FakeEcs.answers, FakeEcs.seen = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeEcs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    FakeEcs.url = f"http://127.0.0.1:{server.server_port}"
    yield FakeEcs
    server.shutdown()
    server.server_close()


def test_task_protection_goes_to_ecs_with_the_roles_key(start, writers, ecs):
    """The recorded scenario: get, put, failure, denied without a request id."""
    writers.instance()
    task = writers.task("a")
    writers.credentials("c-a")
    running = start(ECS_BACKEND_HOST=ecs.url)
    path = "/api/e-a/task-protection/v1/state"
    protected = {"taskArn": task.arn, "protectionEnabled": True, "expirationDate": 1900000000}
    ecs.answers["GetTaskProtection"] = (
        200,
        {"protectedTasks": [{"taskArn": task.arn, "protectionEnabled": False}]},
        {},
    )
    assert running.get(path).json == {
        "protection": {"ExpirationDate": None, "ProtectionEnabled": False, "TaskArn": task.arn}
    }
    ecs.answers["UpdateTaskProtection"] = (200, {"protectedTasks": [protected], "failures": []}, {})
    answer = running.get(path, method="PUT", body=b'{"ProtectionEnabled":true,"ExpiresInMinutes":-1}')
    assert answer.json["protection"]["ExpirationDate"] == "2030-03-17T17:46:40Z"
    _, body, headers = ecs.seen[-1]
    assert body == {"cluster": "c", "tasks": [task.arn], "protectionEnabled": True, "expiresInMinutes": -1}
    assert "Credential=AKID/" in headers["Authorization"] and headers["User-Agent"].startswith("Amazon ECS Agent - v")
    ecs.answers["UpdateTaskProtection"] = (400, {"__type": "AccessDeniedException", "message": "denied"}, {})
    answer = running.get(path, method="PUT", body=b'{"ProtectionEnabled":true}')
    assert (answer.status, answer.json) == (
        400,
        {"requestID": "", "error": {"Arn": task.arn, "Code": "AccessDeniedException", "Message": "denied"}},
    )


@pytest.mark.parametrize(
    ("status", "answer", "headers", "expected"),
    [
        (400, {}, {"x-amzn-RequestId": "r1"}, {"requestID": "r1", "Code": "UnknownError", "Message": "UnknownError"}),
        (
            400,
            {"__type": "com.amazonaws#ClientException"},
            {},
            {"requestID": "", "Code": "ClientException", "Message": ""},
        ),
        (400, b"<html>", {}, {"Code": "ServerException"}),
    ],
)
def test_errors_of_ecs_are_read_like_the_reference_reads_them(start, writers, ecs, status, answer, headers, expected):
    """Where botocore would say "400" the reference says UnknownError; a body that is not JSON is an error of ours."""
    writers.instance()
    writers.task("a")
    writers.credentials("c-a")
    running = start(ECS_BACKEND_HOST=ecs.url)
    ecs.answers["GetTaskProtection"] = (status, answer, headers)
    got = running.get("/api/e-a/task-protection/v1/state")
    flat = got.json["error"] | ({"requestID": got.json["requestID"]} if "requestID" in got.json else {})
    assert expected.items() <= flat.items() and ("requestID" in flat) == ("requestID" in expected)
    assert got.status == (500 if expected["Code"] == "ServerException" else status)


def test_an_ecs_that_does_not_answer_is_a_504_in_time(start, writers, ecs):
    """Case 59; meanwhile other requests are served."""
    writers.instance()
    writers.task("a")
    writers.credentials("c-a")
    running = start(ECS_BACKEND_HOST=ecs.url)
    ecs.answers["GetTaskProtection"] = (200, None, {})
    started = time.monotonic()
    asking = gevent.spawn(running.get, "/api/e-a/task-protection/v1/state", timeout=6)
    gevent.sleep(0.5)
    assert running.get("/v4/e-a").status == 200
    answer = asking.get(timeout=6)
    assert answer.status == 504 and answer.json["error"]["Code"] == "RequestCanceled"
    assert 3.5 < time.monotonic() - started < 5.0


def test_tags_come_from_ecs_with_the_agents_key_and_the_containers_name(start, writers, ecs, monkeypatch):
    """The instance is asked first; v4 names the asking container in the User-Agent."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AGENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S")
    writers.instance()
    writers.task("a")
    running = start(ECS_BACKEND_HOST=ecs.url)
    ecs.answers["ListTagsForResource"] = (200, {"tags": [{"key": "k", "value": "v"}]}, {})
    answer = running.get("/v4/e-a/taskWithTags")
    assert answer.json["TaskTags"] == answer.json["ContainerInstanceTags"] == {"k": "v"}
    assert [body["resourceArn"].split("/")[0].rpartition(":")[2] for _, body, _ in ecs.seen] == [
        "container-instance",
        "task",
    ]
    assert all(headers["User-Agent"].endswith(" container/app") for _, _, headers in ecs.seen)
    assert all("Credential=AGENT/" in headers["Authorization"] for _, _, headers in ecs.seen)


def test_profiling_serves_diagnostics_only_when_it_is_on(start, writers):
    """ECS_ENABLE_RUNTIME_STATS."""
    writers.instance()
    running = start(ECS_ENABLE_RUNTIME_STATS="true")
    assert running.look("/").json["AvailableCommands"][3:] == [
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "/debug/pprof/profile",
        "/debug/pprof/symbol",
        "/debug/pprof/trace",
    ]
    assert running.look("/debug/pprof").headers["Location"] == "/debug/pprof/"
    assert b"/debug/pprof/heap" in running.look("/debug/pprof/").body
    assert b"Greenlet" in running.look("/debug/pprof/goroutine").body
    heap = running.look("/debug/pprof/heap")
    assert heap.status == 200 and heap.body.startswith(b"peak resident KiB: ")
    assert running.look("/debug/pprof/profile?seconds=1").status == 200


def test_listeners_wait_for_the_tasks_and_not_only_for_the_instance(start, writers, monkeypatch, eventually):
    """A request between the two would be told that its task does not exist."""
    writers.instance()
    writers.task("a")
    replace = follow.Follower._replace

    def slowly(self: follow.Follower, kind: Any, carry: bool) -> None:
        if kind.name == "task":
            gevent.sleep(0.4)
        replace(self, kind, carry)

    monkeypatch.setattr(follow.Follower, "_replace", slowly)
    running = start(wait=False)
    eventually(lambda: running.endpoint.view.instance.arn)
    eventually(lambda: running.listening, pause=0.001)
    assert running.get("/v4/e-a").status == 200
