"""Fixtures that every level shares. The suite runs under gevent, as the product does."""

from gevent import monkey

monkey.patch_all()

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.tree.redis import find_server

for _name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(_name, None)  # the tests talk to servers of their own

# gevent closes a directory when its loop turns next, and pytest removes old temporary trees in a single turn.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_most = 65536 if _hard == resource.RLIM_INFINITY else min(_hard, 65536)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, _most), _hard))

IN_GUEST = "TEST_PATIENCE" in os.environ  # a guest of tests/vm has everything, so nothing is left out there
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))  # and is slow: how many times longer to wait


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Wait until a condition holds: `eventually(lambda: ..., seconds=10)` returns its first true value."""

    def wait(condition: Callable[[], object], seconds: float = 10.0, pause: float = 0.02) -> object:
        end = time.monotonic() + seconds * PATIENCE
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"the condition did not hold within {seconds * PATIENCE:g} s")
            time.sleep(pause)

    return wait


class RedisServer:
    """A redis-server of the test's own on a unix socket; can be killed and started again on the same data."""

    def __init__(self, run_dir: Path, socket: str, durable: bool) -> None:
        self.path = run_dir / socket
        self.data = run_dir / f"{socket}.data"
        self.data.mkdir(exist_ok=True)
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        persist = ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        self.process = subprocess.Popen(
            [find_server() or "redis-server", "--port", "0", "--unixsocket", str(self.path), "--unixsocketperm", "600",
             "--save", "", "--dir", str(self.data), *persist],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 10 * PATIENCE
        while not self._answers():
            if time.monotonic() > end:
                raise AssertionError("redis-server did not start")
            time.sleep(0.01)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis(unix_socket_path=str(self.path), socket_timeout=1).ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short directory (unix sockets) that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="ecs-t-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def redis_servers(run_dir: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """The durable and the volatile server in `run_dir`, where common.bus.Bus(str(run_dir)) finds them."""
    servers = RedisServer(run_dir, "redis.sock", True), RedisServer(run_dir, "secrets.sock", False)
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()
