"""The page for Prometheus: format, label sets, what is left out when it is not known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gevent
import pytest

from common.bus import encode
from common.errors import Temporary
from common.keys import DOCKER_CALLS
from common.memory import MemoryStore
from common.model.agent import DockerCalls, DockerOperation, Session
from common.model.status import ContainerStatus, TaskStatus
from common.readiness import Beat, Stalls
from services.endpoint.counts import FAULTS, INTROSPECTION, REQUESTS, ROUTES, TASKS, Counts
from services.endpoint.exposition import CONTENT_TYPE, counter, gauge
from services.endpoint.introspection import Introspection
from services.endpoint.metrics import Metrics, Programs, backlog, docker_calls
from tests.unit.endpoint.conftest import World, ask

NOW = 1_780_308_000.0
LINE = re.compile(r'ecs_agent_[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? -?[0-9.e+-]+')


class Outbox:
    """Stands for the durable store: a stream of a given length, or a server that is away or hangs."""

    def __init__(self, length: int | None = 0, hangs: bool = False) -> None:
        self.length, self.hangs, self.asked = length, hangs, 0

    def call(self, _action: Any, _deadline_seconds: float | None = None) -> int:
        self.asked += 1
        if self.hangs:
            gevent.sleep(60)
        if self.length is None:
            raise Temporary("away")
        return self.length


class Page:
    """The metrics around a world's view."""

    def __init__(self, world: World, run_dir: Path) -> None:
        self.clock = 100.0
        self.outbox = Outbox(3)
        self.programs = Programs(str(run_dir), lambda: NOW)
        self.counts = Counts()
        self.store = MemoryStore()
        asked = backlog(self.outbox, lambda: self.clock), docker_calls(self.store, lambda: self.clock)
        metrics = Metrics(world.view, self.programs, *asked, self.counts, lambda: NOW)
        self.app = Introspection(world.source, metrics=metrics, counts=self.counts)
        world.tasks.counts = self.counts

    def lines(self) -> list[str]:
        answer = ask(self.app, "/metrics")
        assert (answer.status, answer.header("Content-Type")) == (200, CONTENT_TYPE)
        return answer.body.decode().splitlines()

    def value(self, series: str) -> float | None:
        found = [line.rpartition(" ")[2] for line in self.lines() if line.rpartition(" ")[0] == series]
        assert len(found) < 2
        return float(found[0]) if found else None


@pytest.fixture
def page(world: World, tmp_path: Path) -> Page:
    """Metrics of a world without programs."""
    return Page(world, tmp_path)


def beat(run_dir: Path, program: str, ready: bool, pid: int, age: float) -> None:
    """What `program` would have written `age` seconds ago."""
    import json
    import os

    path = run_dir / f"{program}.beat"
    path.write_text(json.dumps({"ready": ready, "pid": pid, "since": NOW - 9, "detail": ""}))
    os.utime(path, (NOW - age, NOW - age))


def test_the_format_is_help_type_and_samples(page, world, task, tmp_path):
    """Each name has one HELP and one TYPE before its samples; each sample is a valid line with our prefix."""
    world.view.set_task(task())
    beat(tmp_path, "engine", True, 7, 0)
    ask(page.app, "/v1/tasks")
    announced = ""
    names = []
    for line in page.lines():
        if line.startswith("# HELP "):
            announced = line.split(" ")[2]
            names.append(announced)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == announced and kind == ("counter" if name.endswith("_total") else "gauge")
        else:
            assert LINE.fullmatch(line) and re.split("[{ ]", line)[0] == announced
    assert len(names) == len(set(names)) >= 8


def test_labels_and_help_are_escaped():
    """Backslash, quotation mark and line end would break the page."""
    text = gauge("x", "a\\b\nc", [({"l": 'q"\\\n'}, 1.5)])
    assert text == '# HELP x a\\\\b\\nc\n# TYPE x gauge\nx{l="q\\"\\\\\\n"} 1.5\n'
    assert counter("x_total", "m", []) == ""


def test_tasks_and_containers_are_counted_by_known_status(page, world, task, container):
    """Every status has a series, also with 0, so that a graph never has a gap."""
    world.view.set_task(task(containers=(container(), container(name="b", known=ContainerStatus.PULLED))))
    world.view.set_task(task(arn="arn:2", known=TaskStatus.STOPPED, containers=(container(docker_id=""),)))
    assert page.value('ecs_agent_tasks{known_status="RUNNING"}') == 1
    assert page.value('ecs_agent_tasks{known_status="STOPPED"}') == 1
    assert page.value('ecs_agent_tasks{known_status="CREATED"}') == 0
    assert page.value('ecs_agent_containers{known_status="RUNNING"}') == 2
    assert page.value('ecs_agent_containers{known_status="PULLED"}') == 1


def test_sessions_tell_their_state_and_its_age(page, world):
    """A session that nobody has written about yet is absent, not down."""
    assert page.value('ecs_agent_session_connected{session="acs"}') is None
    world.source.volatile.apply["session"]("acs", Session(revision=1, connected=True, since=NOW - 12.34))
    world.source.volatile.apply["session"]("tcs", Session(revision=1, connected=False, reason="secret reason"))
    world.source.volatile.apply["session"]("acs", None)  # a store that lost it: what is known stays
    assert page.value('ecs_agent_session_connected{session="acs"}') == 1
    assert page.value('ecs_agent_session_state_age_seconds{session="acs"}') == 12.3
    assert page.value('ecs_agent_session_connected{session="tcs"}') == 0
    assert page.value('ecs_agent_session_state_age_seconds{session="tcs"}') is None
    assert "secret" not in "".join(page.lines())


def test_the_backlog_is_asked_for_every_five_seconds_at_most(page):
    """A scraper must not load the store that the engine needs."""
    assert page.value("ecs_agent_submission_backlog") == 3
    page.outbox.length = 4
    assert page.value("ecs_agent_submission_backlog") == 3 and page.outbox.asked == 1
    page.clock += 5
    assert page.value("ecs_agent_submission_backlog") == 4 and page.outbox.asked == 2


def test_the_backlog_is_absent_while_redis_is_away_or_hangs(page):
    """0 would be a lie; a hanging server must not hang the scrape, nor gather one read per scrape."""
    page.outbox.length = None
    assert page.value("ecs_agent_submission_backlog") is None
    page.clock += 5
    page.outbox.hangs = True
    with gevent.Timeout(2):
        for _ in range(3):
            assert page.value("ecs_agent_submission_backlog") is None
    assert page.outbox.asked == 2


def test_the_calls_to_docker_are_shown_as_the_engine_tells_them(page):
    """Buckets add up, as Prometheus wants them; nothing is there before the engine has told."""
    assert not [line for line in page.lines() if "docker" in line]
    buckets = (2, 1, 0, 0, 0, 0, 0, 0, 1)
    start = DockerOperation(name="container_start", buckets=buckets, seconds=130.5, errors={"timeout": 1})
    other = DockerOperation(name="info", buckets=(1, 2), seconds=1.0)  # as an older engine counted
    calls = DockerCalls(operations=(start, other))
    page.store.data[DOCKER_CALLS.key("docker")] = encode(DOCKER_CALLS, calls)
    page.clock += 5
    assert [line for line in page.lines() if "docker_call_seconds" in line][1:] == [
        "# TYPE ecs_agent_docker_call_seconds histogram",
        *(
            f'ecs_agent_docker_call_seconds_bucket{{operation="container_start",le="{bound}"}} {count}'
            for bound, count in zip(
                ("0.005", "0.02", "0.1", "0.5", "2", "10", "30", "120", "+Inf"),
                (2, 3, 3, 3, 3, 3, 3, 3, 4),
                strict=True,
            )
        ),
        'ecs_agent_docker_call_seconds_sum{operation="container_start"} 130.5',
        'ecs_agent_docker_call_seconds_count{operation="container_start"} 4',
    ]
    assert page.value('ecs_agent_docker_call_errors_total{operation="container_start",error="timeout"}') == 1


def test_programs_are_ready_when_they_said_so_lately_and_restarts_show_as_other_pids(page, tmp_path):
    """A program that died ready has a file that still says so; its age tells."""
    beat(tmp_path, "engine", True, 10, age=2)
    beat(tmp_path, "acs", False, 11, age=2)
    beat(tmp_path, "images", True, 12, age=31)
    (tmp_path / "broken.beat").write_text("{")
    assert page.value('ecs_agent_program_ready{program="engine"}') == 1
    assert page.value('ecs_agent_program_ready{program="acs"}') == 0
    assert page.value('ecs_agent_program_ready{program="images"}') == 0
    assert page.value('ecs_agent_program_heartbeat_age_seconds{program="images"}') == 31
    assert page.value('ecs_agent_program_restarts_total{program="engine"}') == 0
    beat(tmp_path, "engine", True, 20, age=0)
    assert page.value('ecs_agent_program_restarts_total{program="engine"}') == 1
    assert page.value('ecs_agent_program_restarts_total{program="acs"}') == 0


def test_programs_are_read_from_what_a_real_heartbeat_writes(tmp_path):
    """The file's format is that of common.readiness."""
    Beat(str(tmp_path), "acs").write(True, "connected")
    programs = Programs(str(tmp_path))
    (state,) = programs.observe()
    assert programs.works(state)
    assert Programs(str(tmp_path / "nowhere")).observe() == []


def test_requests_are_counted_by_class_of_routes_and_status(page, world, task, credentials):
    """The classes are few and known; ids and paths do not become labels."""
    world.view.set_task(task())
    world.view.set_credentials("x", credentials())
    for path in (
        "/v2/credentials/x", "/v1/credentials?id=no", f"/v4/{'1' * 8}/task", "/v3/no", "/v2/metadata", "/v4/no/stats",
        "/v4/no/associations/elastic-inference", "/api/no/task-protection/v1/state", "//v4/no", "/no/such",
    ):  # fmt: skip
        world.get(path)
    world.get("/api/no/fault/v1/network-latency/start", method="POST")
    world.get("/api/no/fault/v1/network-latency/start", method="POST")
    for path in ("/v1/metadata", "/v1/tasks", "/license", "/", "//x", "/no/such"):
        ask(page.app, path)
    text = "\n".join(page.lines())
    seen = set(re.findall(r'requests_total\{server="(\w+)",route="(\w+)",status="(\w+)"\}', text))
    assert {(s, r) for s, r, _ in seen} == {
        *((TASKS, r) for r in ROUTES[TASKS] if r != "malformed"),
        *((INTROSPECTION, r) for r in ROUTES[INTROSPECTION] if r not in ("malformed", "debug", "metrics")),
    }
    assert {(TASKS, "credentials", "200"), (TASKS, "credentials", "400"), (TASKS, "not_found", "404")} <= seen
    assert page.value('ecs_agent_http_throttled_requests_total{limit="faults"}') == 1
    assert page.value('ecs_agent_http_requests_total{server="introspection",route="commands",status="200"}') == 2


def test_throttled_requests_are_counted(make_world, tmp_path):
    """The limit of the task server."""
    world = make_world(steady=1.0, burst=2.0)
    page = Page(world, tmp_path)
    for _ in range(5):
        world.get("/v4/no")
    assert page.value('ecs_agent_http_throttled_requests_total{limit="requests"}') == 3
    assert page.value('ecs_agent_http_requests_total{server="tasks",route="metadata_v4",status="429"}') == 3


def test_no_id_and_no_secret_is_on_the_page(page, world, task, credentials):
    """Whoever reaches the port reads it, and a label per task would grow without end."""
    world.view.set_task(task(credentials_id="cred-id"))
    world.view.set_credentials("cred-id", credentials())
    world.get("/v2/credentials/cred-id")
    text = "\n".join(page.lines())
    for word in ("cred-id", "SECRET", "AKID", "to<ken", "0a1b", "arn:", "11111111-2222", "abab", "172.17"):
        assert word not in text, word


def test_metrics_is_not_in_the_list_of_commands_and_absent_without_being_asked_for(page, world):
    """The list is the reference's to the letter."""
    assert b"metrics" not in ask(page.app, "/").body
    assert world.look("/metrics").body == ask(page.app, "/").body


def test_workers_share_one_table_and_a_restarted_one_goes_on(tmp_path):
    """The worker that serves the page tells the sum; counters never go back because a worker was started again."""
    first, second = Counts(tmp_path, 1, 2), Counts(tmp_path, 2, 2)
    first.answered(TASKS, "credentials", 200)
    second.answered(TASKS, "credentials", 200)
    second.answered(TASKS, "task_protection", 418)
    second.throttled(FAULTS)
    again = Counts(tmp_path, 2, 2)
    again.answered(TASKS, "credentials", 200)
    assert set(first.answers()) == {(TASKS, "credentials", "200", 3), (TASKS, "task_protection", "other", 1)}
    assert dict(first.denials()) == {REQUESTS: 0, FAULTS: 1}
    assert [f.stat().st_mode & 0o777 for f in tmp_path.iterdir()] == [0o600]


def test_the_stalls_of_each_program_are_told(page, tmp_path):
    """They come with its heartbeat; a program of an older version tells of none."""
    Beat(str(tmp_path), "engine").write(True, "", Stalls(3, 0.75, 0.5))
    beat(tmp_path, "acs", True, 7, 0)
    for program, number, seconds, longest in (("engine", 3, 0.75, 0.5), ("acs", 0, 0, 0)):
        label = f'{{program="{program}"}}'
        assert page.value(f"ecs_agent_event_loop_stalls_total{label}") == number
        assert page.value(f"ecs_agent_event_loop_stall_seconds_total{label}") == seconds
        assert page.value(f"ecs_agent_event_loop_longest_stall_seconds{label}") == longest
