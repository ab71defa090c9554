"""The engine on real Docker with a faulty line in between: hung calls, refusals, cut streams, a daemon that is away.

What the reference does about these is in docs/differences.md; each promise there has its test here or beside it.
"""

import time

import pytest
from msgspec.structs import replace

from common import keys
from common.bus import Change
from common.model.agent import Sent
from services.engine import patrol, worker
from services.engine.docker import containers
from tests.fakes.docker_proxy import Rule, Swap

pytestmark = pytest.mark.docker

RUNNING, STOPPED = "RUNNING", "STOPPED"
NO = "Error response from daemon: the proxy says no"


@pytest.fixture
def impatient(monkeypatch):
    """Stops are repeated after a moment."""
    backoff = containers.Backoff
    monkeypatch.setattr(containers, "Backoff", lambda *_: backoff(0.02, 0.02, 1.0))
    monkeypatch.setattr(worker, "STOP_PAUSE_SECONDS", 0.1)


# -- a call that hangs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/containers/create$"), ("POST", "/start$"), ("GET", "/images/.*/json$")],
    ids=["create", "start", "image inspect"],
)
def test_a_hung_call_on_the_way_up_delays_only_its_own_task(docker_host, eventually, method, path):
    """The next task, with the same image, runs within seconds; the hung one waits for its own deadline."""
    docker_host.start()
    hung, web = docker_host.task("hung"), docker_host.task("web")
    rule = docker_host.proxy.add(Rule(method, path, times=1, hang=True))
    docker_host.run(hung)
    eventually(lambda: rule.used)
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [RUNNING], seconds=5)
    assert docker_host.known(hung) != [RUNNING]


def test_a_hung_call_on_the_way_down_delays_only_its_own_task(docker_host, eventually):
    """A stop that hangs, and an inspect after an exit that hangs: the other tasks end as they should."""
    docker_host.start()
    tasks = [docker_host.task(name) for name in ("stop", "die", "web", "api")]
    docker_host.run(*tasks)
    eventually(lambda: docker_host.known(*tasks) == [RUNNING] * 4, seconds=15)
    stop, die, web, api = tasks
    docker_host.proxy.add(Rule("POST", f"/{docker_host.container(stop).docker_id}/stop$", hang=True))
    docker_host.proxy.add(Rule("GET", f"/{docker_host.container(die).docker_id}/json$", hang=True))
    docker_host.run(stop, web, desired=worker.TaskStatus.STOPPED)
    docker_host.docker("kill", docker_host.container(die).docker_id, docker_host.container(api).docker_id)
    eventually(lambda: docker_host.known(web, api) == [STOPPED] * 2, seconds=5)
    assert docker_host.known(stop, die) == [RUNNING] * 2
    assert docker_host.last(api) == (STOPPED, 137, "")


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "/containers/create$", f"CannotCreateContainerError: {NO}"),
        ("POST", "/start$", f"CannotStartContainerError: {NO}"),
    ],
)
def test_a_refused_step_is_the_reason_of_the_stop(docker_host, eventually, method, path, error):
    """Docker's refusal is final, as in the reference; nothing runs afterwards."""
    docker_host.start()
    web = docker_host.task("web")
    docker_host.proxy.add(Rule(method, path, times=1, status=500))
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [STOPPED])
    assert docker_host.last(web) == (STOPPED, None, error)
    assert docker_host.reports(web) == [STOPPED]
    assert not docker_host.running(web)


def test_a_start_that_cannot_be_inspected_leaves_no_process_behind(docker_host, eventually):
    """The start has succeeded: the process is stopped before ECS hears STOPPED, and its exit code goes along."""
    docker_host.start()
    web = docker_host.task("web")
    docker_host.proxy.add(Rule("POST", "/containers/create$", times=1))
    docker_host.proxy.add(Rule("GET", "/containers/[^/]+/json$", times=1))  # the inspect of create passes
    failing = docker_host.proxy.add(Rule("GET", "/containers/[^/]+/json$", times=2, status=500))
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [STOPPED], seconds=15)
    assert failing.used
    assert not docker_host.running(web)
    assert docker_host.reports(web)[-1] == STOPPED
    status, exit_code, reason = docker_host.last(web)
    assert (status, exit_code) == (STOPPED, 0)
    assert reason.startswith("CannotInspectContainerError: ")


def test_stopped_is_reported_only_when_the_process_is_gone(docker_host, eventually, impatient):
    """Seven refused stops are more than one round; the reference reports STOPPED after five and leaves the process."""
    docker_host.start()
    web = docker_host.task("web")
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [RUNNING])
    refusing = docker_host.proxy.add(Rule("POST", "/stop$", status=500))
    docker_host.run(web, desired=worker.TaskStatus.STOPPED)
    eventually(lambda: refusing.used >= 7)
    assert docker_host.running(web)
    assert docker_host.reports(web) == [RUNNING]
    docker_host.proxy.clear()
    eventually(lambda: docker_host.known(web) == [STOPPED])
    assert docker_host.last(web) == (STOPPED, 0, f"CannotStopContainerError: {NO}")
    assert docker_host.reports(web) == [RUNNING, STOPPED]


def test_a_container_that_somebody_started_again_is_gone_after_the_cleanup(docker_host, eventually):
    """It is stopped once when it is seen; the cleanup ends what runs even so, for nobody knows of it afterwards."""
    engine = docker_host.start()
    engine.shop.settings = replace(engine.shop.settings, cleanup_wait_seconds=0.2)
    web = docker_host.task("web")
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [RUNNING])
    docker_host.run(web, desired=worker.TaskStatus.STOPPED)
    eventually(lambda: docker_host.known(web) == [STOPPED])
    docker_host.docker("start", *docker_host.ids())
    eventually(lambda: docker_host.proxy.count("POST", "/stop$") == 2 and not docker_host.running(web))
    docker_host.docker("start", *docker_host.ids())
    assert docker_host.running(web)
    docker_host.bus.durable.commit(Change().save(keys.SENT, web.arn, Sent(revision=1, task=worker.TaskStatus.STOPPED)))
    eventually(lambda: docker_host.known(web) == ["NONE"])
    assert docker_host.ids() == []


# -- events ------------------------------------------------------------------------------------


def test_events_lost_with_a_cut_stream_are_made_up_for(docker_host, eventually):
    """The stream is cut, a process ends meanwhile, and the next stream never tells: everything is inspected."""
    docker_host.start()
    web, api = docker_host.task("web"), docker_host.task("api")
    docker_host.run(web, api)
    eventually(lambda: docker_host.known(web, api) == [RUNNING] * 2)
    docker_host.proxy.add(Rule("GET", "/events$", times=2, status=500))
    docker_host.proxy.add(Rule("GET", "/events$", hang=True, body=b""))
    docker_host.proxy.cut_all()
    docker_host.docker("kill", docker_host.container(web).docker_id)
    eventually(lambda: docker_host.known(web) == [STOPPED], seconds=5)
    assert docker_host.last(web) == (STOPPED, 137, "")
    assert docker_host.known(api) == [RUNNING]


def test_a_silent_stream_does_not_hide_a_removed_container(docker_host, eventually, monkeypatch):
    """The stream hangs without breaking: the list of all containers, taken now and then, shows what is missing."""
    monkeypatch.setattr(patrol, "ROUND_SECONDS", 0.2)
    monkeypatch.setattr(patrol, "ROUND_JITTER_SECONDS", 0.1)
    docker_host.proxy.add(Rule("GET", "/events$", hang=True, body=b""))
    docker_host.start()
    web, api, job = docker_host.task("web"), docker_host.task("api"), docker_host.task("job")
    docker_host.run(web, api, job)
    eventually(lambda: docker_host.known(web, api, job) == [RUNNING] * 3)
    docker_host.docker("rm", "-f", docker_host.container(web).docker_id)
    docker_host.docker("kill", docker_host.container(api).docker_id)
    eventually(lambda: docker_host.known(web, api) == [STOPPED] * 2, seconds=5)
    vanished = (STOPPED, None, "ContainerVanishedError: No container matching saved ID found")
    assert docker_host.last(web) in (vanished, (STOPPED, 137, ""))  # the look may come between the kill and the removal
    assert docker_host.last(api) == (STOPPED, 137, "")
    assert docker_host.known(job) == [RUNNING]


def test_a_container_removed_behind_our_back_is_noticed_within_seconds(docker_host, eventually):
    """By its die event, which tells the exit code although the container is gone."""
    docker_host.start()
    web = docker_host.task("web")
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [RUNNING])
    docker_host.docker("rm", "-f", docker_host.container(web).docker_id)
    eventually(lambda: docker_host.known(web) == [STOPPED], seconds=3)
    assert docker_host.last(web) == (STOPPED, 137, "")


def test_events_in_the_wrong_order_are_put_right(docker_host, eventually):
    """The die of a short process arrives before its start: RUNNING is announced first all the same."""
    swap = Swap(b'"status":"start"', b'"status":"die"')
    docker_host.proxy.add(Rule("GET", "/events$", rewrite=swap))
    docker_host.start()
    web = docker_host.task("web", "exit 4")
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [STOPPED])
    eventually(lambda: swap.swapped)
    assert docker_host.reports(web) == [RUNNING, STOPPED]
    assert docker_host.last(web) == (STOPPED, 4, "")


# -- a daemon that is away ---------------------------------------------------------------------


def test_a_daemon_that_is_away_for_seconds_loses_no_task(docker_host, eventually):
    """As at a restart with live-restore: tasks run on, a new one waits, an exit meanwhile is told truthfully."""
    docker_host.start()
    web, api, late = docker_host.task("web"), docker_host.task("api"), docker_host.task("late")
    docker_host.run(web, api)
    eventually(lambda: docker_host.known(web, api) == [RUNNING] * 2)
    docker_host.proxy.refuse()
    docker_host.run(late)
    docker_host.docker("kill", docker_host.container(api).docker_id)
    time.sleep(2.5)
    assert docker_host.known(web, api) == [RUNNING, RUNNING]
    assert not docker_host.reports(late)
    docker_host.proxy.listen()
    eventually(lambda: docker_host.known(web, api, late) == [RUNNING, STOPPED, RUNNING], seconds=8)
    assert [docker_host.reports(t) for t in (web, api, late)] == [[RUNNING], [RUNNING, STOPPED], [RUNNING]]
    assert docker_host.last(api) == (STOPPED, 137, "")
    assert docker_host.last(late) == (RUNNING, None, "")


@pytest.mark.parametrize("path", ["/containers/create$", "/start$"])
def test_an_answer_that_is_lost_fails_no_task(docker_host, eventually, path):
    """A daemon that ends hangs up after it has done the work: the call is repeated, and finds what was done."""
    docker_host.start()
    web = docker_host.task("web")
    lost = docker_host.proxy.add(Rule("POST", path, times=1, drop_after=True))
    docker_host.run(web)
    eventually(lambda: docker_host.known(web) == [RUNNING])
    assert lost.used
    assert len(docker_host.ids()) == 1
    assert docker_host.reports(web) == [RUNNING]
    assert docker_host.last(web) == (RUNNING, None, "")


# -- pulls -------------------------------------------------------------------------------------


def test_a_stop_cancels_a_pull_in_flight(docker_host, eventually):
    """A registry that never answers: STOPPED is reported at once, and the connection of the pull is closed."""
    digest = b'{"Descriptor":{"mediaType":"m","digest":"sha256:%s"}}' % (b"a" * 64)
    docker_host.proxy.add(Rule("GET", "/distribution/", body=digest))
    docker_host.proxy.add(Rule("POST", "/images/create$", hang=True, body=b""))
    docker_host.start(pull_behavior="always")
    slow = docker_host.task("slow", image="registry.invalid/slow:1")
    docker_host.run(slow)
    eventually(lambda: docker_host.proxy.count("POST", "/images/create$"))
    began = time.monotonic()
    docker_host.run(slow, desired=worker.TaskStatus.STOPPED)
    eventually(lambda: docker_host.known(slow) == [STOPPED], seconds=2)
    (pull,) = [r for r in docker_host.proxy.requests if r.path == "/images/create"]
    eventually(lambda: pull.left, seconds=2)
    assert time.monotonic() - began < 2
    assert docker_host.reports(slow)[-1] == STOPPED
