"""A Docker daemon of the test's own is restarted while tasks run, with live-restore and without it.

The daemon has its own network namespace, and data, state and socket in the test's directory; the tasks have no network.
Nothing of the machine's own Docker is touched.
"""

import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from tests.fakes import images
from tests.fakes.dockerd import Daemon

pytestmark = pytest.mark.docker

RUNNING, STOPPED = "RUNNING", "STOPPED"
IMAGE = "own/busybox:1"
PATIENT = "trap 'exit 7' TERM; sleep 3600 & wait $!"


@pytest.fixture
def daemon():
    """A running daemon with the image; everything of it is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="ecs-dockerd-"))
    daemon = Daemon(directory)
    daemon.start()
    imported = daemon.docker("import", "-", IMAGE, data=images.archive())
    assert imported.returncode == 0, imported.stderr
    yield daemon
    daemon.clean()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def own_host(make_docker_host, daemon):
    """An engine's host on that daemon."""
    return make_docker_host(IMAGE, daemon.address)


def test_a_restart_with_live_restore_loses_no_task(daemon, own_host, eventually):
    """Two tasks run on and one arrives meanwhile; ECS hears nothing of the restart, and a stop works afterwards."""
    daemon.stop()
    daemon.start("--live-restore")
    own_host.start(direct=True)
    web, api, late = own_host.task("web"), own_host.task("api"), own_host.task("late")
    own_host.run(web, api)
    eventually(lambda: own_host.known(web, api) == [RUNNING] * 2, seconds=20)
    before = sorted(own_host.ids())
    daemon.stop()
    own_host.run(late)
    time.sleep(0.5)
    daemon.start("--live-restore")
    eventually(lambda: own_host.known(late) == [RUNNING], seconds=20)
    own_host.docker("kill", own_host.container(api).docker_id)
    eventually(lambda: own_host.known(api) == [STOPPED], seconds=5)
    assert own_host.known(web) == [RUNNING]
    assert set(before) < set(own_host.ids())
    assert len(own_host.ids()) == 3
    own_host.run(web, late, desired=type(web.desired).STOPPED)
    eventually(lambda: own_host.known(web, late) == [STOPPED] * 2, seconds=10)
    assert [own_host.reports(t) for t in (web, api, late)] == [[RUNNING, STOPPED]] * 3
    assert [own_host.last(t) for t in (web, api, late)] == [(STOPPED, 0, ""), (STOPPED, 137, ""), (STOPPED, 0, "")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_a_restart_without_live_restore_is_reported_truthfully(daemon, own_host, eventually, number):
    """The daemon ends its containers; each is STOPPED with what Docker says of its exit, and nothing runs on."""
    own_host.start(direct=True)
    web, api = own_host.task("web", PATIENT), own_host.task("api", PATIENT)
    own_host.run(web, api)
    eventually(lambda: own_host.known(web, api) == [RUNNING] * 2, seconds=20)
    daemon.stop(number)
    time.sleep(0.3)
    daemon.start()
    eventually(lambda: own_host.known(web, api) == [STOPPED] * 2, seconds=20)
    for task in (web, api):
        id_ = own_host.container(task).docker_id
        code, state = own_host.docker("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", id_).split()
        assert state == "exited"
        assert own_host.last(task) == (STOPPED, int(code), "")
        assert own_host.reports(task) == [RUNNING, STOPPED]
