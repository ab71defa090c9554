"""The two local Redis servers as the tree starts them: what they answer, and what they refuse."""

from __future__ import annotations

import subprocess

import pytest
import redis

from common.config import load
from common.tree.redis import DENIED, SOCKETS, arguments, find_server


@pytest.fixture(params=["durable", "volatile"])
def store(request, run_dir, eventually):
    """One server with the tree's own arguments."""
    (run_dir / "data").mkdir()
    words = arguments(request.param, load({}), str(run_dir), str(run_dir / "data"))
    process = subprocess.Popen([find_server(), *words], stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(run_dir / SOCKETS[request.param]))

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    eventually(answers)
    yield client
    client.close()
    process.terminate()
    process.wait(10)


def test_a_store_has_no_command_that_could_change_its_promises(store):
    """Spec 10 §15: its memory stays where it belongs, and nobody ends it or leads it elsewhere; data works."""
    store.set("a", "1")
    for command in DENIED:
        with pytest.raises(redis.ResponseError, match="unknown command"):
            store.execute_command(command)
    assert store.get("a") == b"1"
