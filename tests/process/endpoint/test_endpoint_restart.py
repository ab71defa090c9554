"""The restart of the endpoint process: within a second it serves again, rightly or with a 503, whoever is away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import gevent
import pytest

from services.endpoint import lastview
from services.endpoint.reply import NOT_YET_TEXT
from tests.process.endpoint.conftest import Child

RESTART_SECONDS = 1.0


def allowed_seconds() -> float:
    """RESTART_SECONDS of an idle machine: half of it is the interpreter's own work, which shares the CPUs."""
    return RESTART_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def restarted(child: Child, answered: Callable[[], bool]) -> float:
    """SIGKILL and start; seconds from the start until the right answer, which no wrong one may precede."""
    child.kill()
    started = time.monotonic()
    child.start()
    while not answered():
        assert time.monotonic() - started < 15, child.log.read_text()[-2000:]
        time.sleep(0.005)
    return time.monotonic() - started


def test_a_killed_process_serves_again_within_a_second_and_never_wrongly(child, capsys):
    """From exec to the credentials, with the interpreter's start; no 404 or 400 comes before the right answer."""

    def answered() -> bool:
        for path in ("/v4/e-a/task", "/v2/credentials/c-a"):
            status, body = child.get(path)
            assert status in (0, 200), (path, status, body)
            if not status:
                return False
        return True

    times = [restarted(child, answered) for _ in range(3)]
    with capsys.disabled():
        print("\nSIGKILL, start, right answers after " + ", ".join(f"{t:.2f} s" for t in times))
    assert min(times) < allowed_seconds()


@pytest.mark.parametrize("store", ["empty", "away"])
def test_credentials_that_have_not_come_back_are_a_503_after_the_restart(
    child, writers, redis_servers, store, eventually, capsys
):
    """SDKs retry a 503 and give up on a 400; an id that no task names is a 400 as ever. Then acs publishes again."""
    redis_servers[1].kill()
    if store == "empty":
        redis_servers[1].start()
    seconds = restarted(child, lambda: child.get("/v2/credentials/c-a")[0] != 0)
    status, body = child.get("/v2/credentials/c-a")
    assert (status, json.loads(body)) == (
        503,
        {
            "code": "CredentialsUninitialized",
            "message": "CredentialsV2Request: Credentials uninitialized for ID",
            "HTTPErrorCode": 503,
        },
    )
    assert child.get("/v2/credentials/unknown")[0] == 400
    assert child.get("/v4/e-a/task")[0] == 200
    with capsys.disabled():
        print(f"\nvolatile Redis {store}: 503 for pending credentials {seconds:.2f} s after the start")
    if store == "away":
        redis_servers[1].start()
    writers.credentials("c-a", "AKIDNEW")
    eventually(lambda: b"AKIDNEW" in child.get("/v2/credentials/c-a")[1], seconds=5)


def test_a_restart_while_the_durable_redis_is_away_serves_what_was_known(
    child, writers, redis_servers, run_dir, eventually, capsys
):
    """Metadata from the last view, credentials from volatile Redis, 503 for what cannot be known; then all is well."""
    writers.task("b")
    eventually(lambda: child.get("/v4/e-b")[0] == 200)
    gevent.sleep(4 * lastview.SAVE_SECONDS)
    redis_servers[0].kill()

    def answered() -> bool:
        statuses = [child.get(path)[0] for path in ("/v4/e-b/task", "/v3/e-a", "/v2/credentials/c-a")]
        assert set(statuses) <= {0, 200}, statuses
        return 0 not in statuses

    times = [restarted(child, answered) for _ in range(3)]
    assert child.get("/v4/e-c") == (503, json.dumps(NOT_YET_TEXT).encode())
    assert child.get("/v2/credentials/c-c")[0] == 503
    assert child.get("/v1/metadata", child.introspection)[0] == 200
    assert child.get("/v4/e-a/stats")[0] == 200
    assert b"SECRET" not in (run_dir / lastview.NAME).read_bytes()
    redis_servers[0].start()
    writers.task("c")
    eventually(lambda: child.get("/v4/e-c")[0] == 200)
    assert child.get("/v4/e-d")[0] == 404 and child.get("/v2/credentials/c-d")[0] == 400
    with capsys.disabled():
        print("\nthe same with the durable Redis away: " + ", ".join(f"{t:.2f} s" for t in times))
    assert min(times) < allowed_seconds()


def test_both_redis_servers_away_leave_metadata_and_a_503_for_credentials(child, redis_servers, eventually):
    """Credentials are nowhere but in memory; SDKs try again after a 503."""
    gevent.sleep(4 * lastview.SAVE_SECONDS)
    for server in redis_servers:
        server.kill()
    restarted(child, lambda: child.get("/v4/e-a/task")[0] == 200)
    assert child.get("/v2/credentials/c-a")[0] == 503
    for server in redis_servers:
        server.start()
    eventually(lambda: child.get("/v2/credentials/nobody")[0] == 400, seconds=5)


def test_the_first_start_waits_for_redis_and_for_the_registration(child, redis_servers, run_dir):
    """Without a last view nothing is known: connections are refused, as before the first registration."""
    redis_servers[0].kill()
    child.kill()
    (run_dir / lastview.NAME).unlink(missing_ok=True)
    child.start()
    gevent.sleep(2 * RESTART_SECONDS)
    assert child.get("/v4/e-a")[0] == 0
    redis_servers[0].start()
    end = time.monotonic() + 5
    while child.get("/v4/e-a")[0] != 200:
        assert time.monotonic() < end, child.log.read_text()[-2000:]
        gevent.sleep(0.02)
