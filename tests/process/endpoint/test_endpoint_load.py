"""The real endpoint process under clients that do not behave: slow ones, idle ones, malformed ones."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import random
import re
import resource
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import gevent
import psutil
import pytest

from services.endpoint.wire import READ_SECONDS
from tests.process.endpoint.conftest import Child

SLOW_CLIENTS, IDLE_CLIENTS = 100, 2000
MEASURED_SECONDS = 4.0
P99_SECONDS = 0.05
FUZZ_REQUESTS = 3000
GROWTH_BYTES = 6 << 20


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for the clients' sockets in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (SLOW_CLIENTS + IDLE_CLIENTS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except ValueError:
            pytest.skip(f"needs {wanted} open files, and this machine allows {hard}")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(child: Child, open_sockets: contextlib.ExitStack) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", child.tasks), timeout=10)
    open_sockets.callback(sock.close)
    return sock


def drip(child: Child, open_sockets: contextlib.ExitStack, offset: float) -> None:
    """A client that sends a byte of its request each second, again and again when it is dropped."""
    gevent.sleep(offset)
    request = b"PUT /api/e-a/task-protection/v1/state HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n{"
    while True:
        sock = connect(child, open_sockets)
        try:
            for byte in request:
                sock.sendall(bytes([byte]))
                gevent.sleep(1.0)
        except OSError:
            pass  # dropped after its five seconds: the next connection follows


def latencies(child: Child, seconds: float) -> list[float]:
    """Seconds of each request of a client that behaves: one connection, a hundred requests a second."""
    connection = http.client.HTTPConnection("127.0.0.1", child.tasks, timeout=5)
    paths = itertools.cycle(("/v2/credentials/c-a", "/v4/e-a/task"))
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        connection.request("GET", next(paths))
        response = connection.getresponse()
        response.read()
        found.append(time.perf_counter() - started)
        assert response.status == 200
        gevent.sleep(0.01)
    connection.close()
    return sorted(found)


def quantile(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def test_slow_clients_and_idle_connections_delay_nobody(child, many_files, capsys):
    """100 clients at one byte a second and 2,000 idle connections; the p99 of another client stays below 50 ms."""
    soft, _ = child.facts.rlimit(psutil.RLIMIT_NOFILE)
    assert soft > SLOW_CLIENTS + IDLE_CLIENTS + 256, "the service raises its limit of open files itself"
    with contextlib.ExitStack() as open_sockets:
        drips = [gevent.spawn(drip, child, open_sockets, n / SLOW_CLIENTS) for n in range(SLOW_CLIENTS)]
        idle = [connect(child, open_sockets) for _ in range(IDLE_CLIENTS)]
        gevent.sleep(0.2)
        assert child.facts.num_fds() > IDLE_CLIENTS
        found = latencies(child, MEASURED_SECONDS)
        # They are idle for longer than READ_SECONDS by now or soon: the service closes them, not the test.
        gevent.sleep(READ_SECONDS)
        assert idle[0].recv(1) == b"" and idle[-1].recv(1) == b""
        assert child.facts.num_fds() < SLOW_CLIENTS + 256
        gevent.killall(drips)
    p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
    with capsys.disabled():
        print(f"\n{len(found)} requests beside {SLOW_CLIENTS} slow clients and {IDLE_CLIENTS} idle connections: "
              f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, longest {found[-1] * 1e3:.1f} ms")  # fmt: skip
    assert p99 < P99_SECONDS


ROUTES = [
    "/v1/credentials", "/v2/credentials", "/v2/credentials/{id}", "/v2/metadata", "/v2/metadata/", "/v2/metadata/{id}",
    "/v2/metadataWithTags", "/v2/metadataWithTags/", "/v2/stats", "/v2/stats/", "/v2/stats/{id}",
    *(f"/v{v}/{{id}}{rest}" for v in (3, 4) for rest in (
        "", "/task", "/taskWithTags", "/stats", "/task/stats", "/associations/{id}", "/associations/{id}/{id}")),
    "/api/{id}/task-protection/v1/state",
    *(f"/api/{{id}}/fault/v1/network-{fault}/{what}" for fault in ("blackhole-port", "latency", "packet-loss")
      for what in ("start", "stop", "status")),
]  # fmt: skip
LOCAL_ROUTES = ["/", "/v1/metadata", "/v1/tasks", "/v1/tasks?taskarn={id}", "/v1/tasks?dockerid={id}", "/metrics",
                "/license", "/debug/pprof/{id}"]  # fmt: skip
IDS = [
    "", "e-no", "a%2Fb", "%", "%zz", "%00", "%0a", "..", "../..", ";", "?", "#", "%ff%fe", "x" * 300, "x" * 70_000,
    "%25", "+", "a b", "'\"<>", "{id}", "-1", "%e2%82%ac",
]  # fmt: skip
METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "BREW", "get", "G ET", ""]
BODIES = [
    b"", b"{", b"[]", b"null", b"0", b'"x"', b"{}", b'{"ProtectionEnabled":"yes"}', b'{"ProtectionEnabled":true,"x":1}',
    b'{"ProtectionEnabled":true,"ExpiresInMinutes":1e99}', b'{"Port":-1,"Protocol":7,"TrafficType":[]}',
    b'{"DelayMilliseconds":1e400,"JitterMilliseconds":"","Sources":{}}', b'{"LossPercent":NaN,"Sources":["::/0",0]}',
    b"\xff\xfe\x00", b"[" * 5000, b'{"a":' * 3000, b'{"ExpiresInMinutes":' + b"9" * 5000 + b"}", b"x" * 200_000,
]  # fmt: skip
FRAMINGS = [
    "Content-Length: -1", "Content-Length: x",
    "Content-Length: {n}\r\nContent-Length: 7", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip",
    "Expect: 100-continue\r\nContent-Length: {n}", "Content-Length: 99999999999999999999",
]  # fmt: skip
HEADERS = [
    "", "X: y", "X" * 2000 + ": y", "no colon", " folded", "X-Forwarded-For: \u00e9\u00ff", "Host: twice",
    "User-Agent: " + "u" * 30_000, "Connection: close", "\x00: \x01", "Accept-Encoding: gzip",
]  # fmt: skip
# The one 500 that a request can cause is the reference's: metadata v3 of an unknown id (spec 06 §10).
UNKNOWN_V3 = re.compile(rb'\r\n\r\n"V3 [a-z ]+ handler: unable to get ')
VERSIONS = ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "", "JUNK"]


def malformed(dice: random.Random, routes: list[str]) -> bytes:
    """One request, wrong in one place or several."""
    path = dice.choice(routes)
    while "{id}" in path and (part := dice.choice(IDS)) != "{id}":
        path = path.replace("{id}", part, 1)
    body = dice.choice(BODIES)
    # Mostly one fault at a time: a request with five of them would never get past the first check.
    method = dice.choice(METHODS if dice.random() < 0.2 else ["GET", "PUT", "POST"])
    version = dice.choice(VERSIONS) if dice.random() < 0.15 else "HTTP/1.1"
    header = dice.choice(HEADERS) if dice.random() < 0.2 else ""
    framing = dice.choice(FRAMINGS).format(n=len(body)) if dice.random() < 0.2 else f"Content-Length: {len(body)}"
    lines = [f"{method} {path} {version}", "Host: h", header, framing]
    data = "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n" + body
    if dice.random() < 0.1:
        at = dice.randrange(len(data))
        data = data[:at] + dice.randbytes(dice.randrange(1, 9)) + data[at:]
    return data[: dice.randrange(len(data))] if dice.random() < 0.1 else data


def throw(port: int, data: bytes) -> bytes:
    """Send it, say that nothing follows, and return whatever comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        received = b""
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                received += chunk
        except OSError:
            pass  # reset: the service refused to read the rest
        return received


def test_malformed_requests_to_every_path_give_no_500_no_crash_and_no_growth(child, capsys):
    """A bounded run with a fixed seed; afterwards the same process serves as before with the memory of before."""
    dice = random.Random(6)
    seen: dict[int, int] = {}

    def volley(count: int) -> None:
        for n in range(count):
            port, routes = (child.introspection, LOCAL_ROUTES) if n % 5 == 0 else (child.tasks, ROUTES)
            data = malformed(dice, routes)
            answer = throw(port, data)
            for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer):
                seen[int(status)] = seen.get(int(status), 0) + 1
                allowed = UNKNOWN_V3.search(answer) or data.startswith(b"HEAD /v3/")
                assert int(status) != 500 or allowed, (data[:2000], answer[:2000])

    volley(FUZZ_REQUESTS // 3)  # caches and arenas fill first
    before = child.facts.memory_info().rss
    volley(FUZZ_REQUESTS)
    grown = child.facts.memory_info().rss - before
    with capsys.disabled():
        print(f"\n{sum(seen.values())} answers {dict(sorted(seen.items()))}, memory {grown / 1024:+.0f} KiB")
    assert child.process.poll() is None
    assert child.get("/v2/credentials/c-a")[0] == child.get("/v4/e-a/task")[0] == 200
    assert child.series('ecs_agent_http_requests_total{server="tasks",route="malformed"') > 100
    assert "Traceback" not in child.log.read_text(errors="replace")
    assert grown < GROWTH_BYTES


def test_long_paths_and_names_are_not_remembered(child):
    """Caches of paths, request lines, header names and buckets are keyed by what the client sends."""
    before = child.facts.memory_info().rss

    def one(n: int) -> bytes:
        long = f"{n:06}" + "p" * 200_000
        return f"GET /v4/{long} HTTP/1.1\r\nHost: h\r\n{long}: v\r\nConnection: close\r\n\r\n".encode()

    for n in range(20):
        throw(child.tasks, one(n))
    warm = child.facts.memory_info().rss
    for n in range(20, 120):
        assert throw(child.tasks, one(n)).startswith(b"HTTP/1.1 4")
    grown = child.facts.memory_info().rss - warm
    assert grown < 20 << 20, f"{(warm - before) >> 20} MiB for 20 requests of 400 kB, then {grown >> 20} MiB for 100"


def test_the_metrics_of_the_real_process(child, writers, redis_servers, run_dir, eventually):
    """The page over the wire; the backlog is absent while Redis is away, and the rest stays."""
    from common import keys
    from common.bus import Change
    from common.model.agent import Session

    document = Session(revision=1, connected=True, since=time.time() - 5)
    writers.bus.volatile.commit(Change().save(keys.SESSION, "acs", document))
    eventually(lambda: child.series('ecs_agent_session_connected{session="acs"}') == 1)
    assert child.series('ecs_agent_tasks{known_status="RUNNING"}') == 1
    assert child.series('ecs_agent_program_ready{program="endpoint"}') == 1
    page = child.get("/metrics", child.introspection)[1].decode()
    assert "\necs_agent_submission_backlog 0\n" in page
    assert child.facts.pid  # the process that is measured is the one that was started
    redis_servers[0].kill()
    eventually(lambda: "submission_backlog" not in child.get("/metrics", child.introspection)[1].decode(), seconds=10)
    assert child.series('ecs_agent_tasks{known_status="RUNNING"}') == 1


def test_sigterm_ends_it_at_once_although_clients_are_connected(child):
    """Idle and slow clients must not hold up a restart."""
    with contextlib.ExitStack() as open_sockets:
        socks = [connect(child, open_sockets) for _ in range(20)]
        socks[0].sendall(b"GET /v4/e-a HT")
        gevent.sleep(0.1)
        started = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        status: Any = child.process.wait(10)
        assert status == 0 and time.monotonic() - started < 7
