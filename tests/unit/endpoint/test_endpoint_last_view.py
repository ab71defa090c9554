"""What a process serves that starts while the durable Redis is away, and what it says to what it cannot know."""

from __future__ import annotations

import gevent
import gevent.event
import pytest

from common import wholefile
from services.endpoint import lastview
from services.endpoint.lastview import LastView
from services.endpoint.reply import NOT_YET_TEXT
from services.endpoint.service import worker_count
from services.endpoint.view import View
from tests.unit.endpoint.conftest import ENDPOINT_ID


def last_view(tmp_path, view: View, life: str = "boot 7 8") -> LastView:
    return LastView(str(tmp_path), view, gevent.event.Event(), gevent.event.Event(), lambda: life)


def test_a_view_is_restored_as_it_was_saved(world, task, tmp_path):
    """Instance and tasks with every index; the file is for root only."""
    world.view.set_task(task(local_ip_address="169.254.172.9", credentials_id="x"))
    last_view(tmp_path, world.view).save()
    assert (tmp_path / lastview.NAME).stat().st_mode & 0o777 == 0o600
    view = View()
    assert last_view(tmp_path, view).restore()
    assert view.instance == world.view.instance and view.by_endpoint.keys() == {ENDPOINT_ID}
    assert view.by_address.keys() == {"169.254.172.9"} and view.known_credentials.keys() == {"x"}


@pytest.mark.parametrize("life", ["boot 7 9", ""])
def test_a_view_of_another_life_of_the_tree_is_not_taken(world, task, tmp_path, life):
    """The state directory may have been replaced in between; what cannot be told apart is not trusted."""
    world.view.set_task(task())
    last_view(tmp_path, world.view).save()
    view = View()
    assert not last_view(tmp_path, view, life).restore() and not view.tasks


@pytest.mark.parametrize("content", [None, b"", b"\x94\xa1x", b"\xff" * 99])
def test_a_file_that_is_missing_or_broken_restores_nothing(tmp_path, content):
    """The process then waits for Redis, as at the first start."""
    if content is not None:
        (tmp_path / lastview.NAME).write_bytes(content)
    assert not last_view(tmp_path, View()).restore()


def test_nothing_is_saved_before_everything_was_read_and_a_burst_is_one_write(
    world, task, tmp_path, monkeypatch, eventually
):
    """Half a view must not replace a whole one."""
    one = last_view(tmp_path, world.view)
    writes: list[bytes] = []
    monkeypatch.setattr(wholefile, "replace", lambda path, content: writes.append(content))
    one.start()
    for number in range(10):
        world.view.set_task(task(revision=number))
        one.changed.set()
        gevent.sleep(0.01)
    assert not writes
    one.complete.set()
    eventually(lambda: writes)
    gevent.sleep(2 * lastview.SAVE_SECONDS)
    one.stop()
    assert len(writes) == 1 and not one.alive()


def test_the_life_is_that_of_the_supervisor_and_handed_to_further_workers(monkeypatch):
    """Two processes of one parent agree; a worker takes the word of its parent."""
    boot, parent, started = lastview.life().split()
    assert boot and int(parent) > 0 and int(started) >= 0 and lastview.life() == f"{boot} {parent} {started}"
    monkeypatch.setenv(lastview.LIFE_VARIABLE, "told")
    assert lastview.life() == "told"


def test_what_is_not_known_yet_is_a_503_in_the_words_of_its_route(world, task, credentials):
    """A 400 or 404 would make a client give up on what exists; what is known is served."""
    world.view.set_task(task(credentials_id="x"))
    world.view.set_credentials("x", credentials())
    world.source.durable.loaded.clear()
    assert world.get(f"/v4/{ENDPOINT_ID}/task").status == 200 and world.get("/v2/credentials/x").status == 200
    for path in ("/v2/metadata", "/v2/stats/a", "/v3/no", "/v4/no/task", "/v4/no/stats", "/v4/no/associations/gpu/a"):
        answer = world.get(path)
        assert (answer.status, answer.json) == (503, NOT_YET_TEXT)
    assert world.get("/v2/credentials/no").json["code"] == "CredentialsUninitialized"
    assert world.get("/v1/credentials").status == 400
    answer = world.get("/api/no/task-protection/v1/state")
    assert (answer.status, answer.json) == (503, {"error": {"Code": "ServerException", "Message": NOT_YET_TEXT}})
    answer = world.get("/api/no/fault/v1/network-latency/status", method="POST")
    assert (answer.status, answer.json) == (503, {"Error": NOT_YET_TEXT})
    assert len(answer.all("X-Rate-Limit-Limit")) == 2
    for query in ("taskarn=no", "dockerid=0123456789abc", "dockerid=no"):
        assert world.look(f"/v1/tasks?{query}").status == 503
    assert world.look("/v1/tasks").status == 200


@pytest.mark.parametrize(
    ("setting", "cpus", "workers"),
    [("0", 1, 1), ("0", 2, 1), ("0", 7, 1), ("0", 8, 2), ("0", 16, 4), ("0", 96, 4), ("3", 96, 3), ("2", 1, 2)],
)
def test_the_number_of_workers_follows_the_machine_unless_it_is_set(setting, cpus, workers):
    """One per four CPUs, four at most: each costs 30 MB."""
    assert worker_count({"ECS_ENDPOINT_WORKERS": setting}, cpus) == workers
