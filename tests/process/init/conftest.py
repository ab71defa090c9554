"""Hosts of the tests' own: network namespaces with random names, removed afterwards.

Nothing here touches the rules or settings of the machine: every command that changes a rule runs inside such a
namespace. Without the privilege to make one the tests are skipped, unless ECS_TEST_NETNS=required says that the
machine must have it.
"""

from __future__ import annotations

import http.server
import json
import os
import secrets
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ANSWER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(b"hello")
    client.close()
"""
ASK = """
import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
print(client.recv(16).decode())
"""
_OWN_DIRECTORIES = "for path in /var/log /mnt /run; do mount -t tmpfs none $path || exit 99; done;"
ROOT = Path(__file__).resolve().parents[3]


class Namespace:
    """One network namespace, as a host to run commands on."""

    def __init__(self) -> None:
        self.name = f"ecs-t-{secrets.token_hex(4)}"
        self.children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Namespace:
        subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True, timeout=10)
        self.run("ip", "link", "set", "lo", "up")
        for scope in ("all", "default"):  # a new namespace inherits what an agent on the machine has set
            self.run("sysctl", "-qw", f"net.ipv4.conf.{scope}.route_localnet=0")
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait(10)
        subprocess.run(["ip", "netns", "del", self.name], check=True, timeout=10)

    def run(
        self, *argv: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace and wait for it."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], check=check, capture_output=True, text=True, timeout=90, env=env
        )

    def spawn(self, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a command in the namespace; `ip` becomes it, so the pid is that of the command."""
        child = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], **options)  # type: ignore[call-overload]
        self.children.append(child)
        return child

    def rules(self) -> list[str]:
        """Every rule of both families, as iptables-save prints it, IPv6 ones marked."""
        listed = [line for line in self.run("iptables-save").stdout.splitlines() if line.startswith("-A")]
        return listed + [
            f"v6 {line}" for line in self.run("ip6tables-save").stdout.splitlines() if line.startswith("-A")
        ]

    def setting(self, key: str) -> str:
        """The value of a key below /proc/sys."""
        return self.run("cat", f"/proc/sys/{key}").stdout.strip()


class Init:
    """The process `init` in a namespace."""

    def __init__(self, host: Namespace, run_dir: Path) -> None:
        self.host = host
        self.run_dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AWS_DEFAULT_REGION": "us-west-2",
            "ECS_DATADIR": str(self.run_dir),
            "ECS_RUN_DIR": str(self.run_dir),
            "DOCKER_HOST": f"unix://{self.run_dir}/no-docker.sock",
            **extra,
        }

    def start(self, **extra: str) -> Init:
        """Start it; its output goes to <run dir>/init.out."""
        with open(self.run_dir / "init.out", "ab") as out:
            self.process = self.host.spawn(
                sys.executable,
                "-m",
                "services.init",
                env=self.environment(**extra),
                stdout=out,
                stderr=out,
                cwd=str(self.run_dir),
            )
        return self

    def terminate(self) -> int:
        """SIGTERM; the exit status, which must come within 10 s."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def verb(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run the command `ecs-init` on the same host, over empty /var/log, /mnt and /run of its own.

        `ip netns exec` gives each command a mount namespace, so the machine's directories are not written to.
        """
        return self.host.run(
            "sh",
            "-c",
            f'{_OWN_DIRECTORIES} exec "$0" -m services.init.cli "$@"',
            sys.executable,
            *arguments,
            check=False,
            env=self.environment(**extra),
        )

    def spawn_verb(self, verb: str, log_directory: Path, **extra: str) -> subprocess.Popen[bytes]:
        """Start `ecs-init VERB` the same way, with /var/log/ecs in a directory of the test's; the pid is the verb's."""
        docker = os.path.realpath("/var/run/docker.sock")  # when the test has made its place beforehand
        place = self.run_dir / "no-docker.sock"
        bind = f"mount --bind {docker} {place} || exit 98; " if place.is_file() else ""
        script = (
            f"{bind}{_OWN_DIRECTORIES} mkdir -p /var/log/ecs && mount --bind {log_directory} /var/log/ecs && "
            f'exec "$0" -m services.init.cli {verb}'
        )
        with open(self.run_dir / f"{verb}.out", "ab") as out:
            return self.host.spawn(
                "sh", "-c", script, sys.executable, env=self.environment(**extra), stdout=out, stderr=out, cwd="/"
            )

    def log(self) -> str:
        """What it has written so far."""
        path = self.run_dir / "init.out"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def make_host() -> Iterator[Callable[[], Namespace]]:
    """Make hosts; they are gone after the test."""
    made: list[Namespace] = []

    def make() -> Namespace:
        try:
            host = Namespace().__enter__()
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("ECS_TEST_NETNS") == "required":
                raise
            pytest.skip(f"no network namespace can be made here: {error}")
        made.append(host)
        return host

    yield make
    for host in reversed(made):
        host.__exit__()


@pytest.fixture
def host(make_host: Callable[[], Namespace]) -> Namespace:
    """One host without rules."""
    return make_host()


@pytest.fixture
def init(host: Namespace, run_dir: Path) -> Init:
    """The process `init` on that host, not started."""
    return Init(host, run_dir)


def ask(host, address: str, port: int, seconds: float = 3.0) -> str:
    """Connect from a host; what the server says, empty when nobody does."""
    return host.run(sys.executable, "-c", ASK, address, str(port), str(seconds), check=False).stdout.strip()


def answer(host, port: int) -> None:
    """Start a server on 127.0.0.1 of a host."""
    server = host.spawn(sys.executable, "-c", ANSWER, str(port), stdout=-1)
    assert server.stdout.readline() == b"listening\n"


class _Networks(http.server.BaseHTTPRequestHandler):
    bridge = "docker0"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        options = {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": self.bridge}
        body = json.dumps([{"Name": "other", "Options": {}}, {"Name": "bridge", "Options": options}]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def name_bridge() -> Iterator[Callable[[Init], None]]:
    """Call it, and a Docker answers on the socket that this `init` is told; its default bridge is docker0."""
    servers: list[socketserver.ThreadingUnixStreamServer] = []

    def start(init: Init) -> None:
        servers.append(socketserver.ThreadingUnixStreamServer(str(init.run_dir / "no-docker.sock"), _Networks))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def linked(host: Namespace, make_host: Callable[[], Namespace]) -> Namespace:
    """A client beside the host."""
    return link(host, make_host)


def link(host: Namespace, make_host: Callable[[], Namespace]) -> Namespace:
    """A client beside a host: 10.99.0.1 is the host, 10.99.0.2 the client, which routes everything to the host."""
    client = make_host()
    host.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", client.name)
    host.run("ip", "addr", "add", "10.99.0.1/24", "dev", "veth0")
    host.run("ip", "link", "set", "veth0", "up")
    client.run("ip", "addr", "add", "10.99.0.2/24", "dev", "eth0")
    client.run("ip", "link", "set", "eth0", "up")
    client.run("ip", "route", "add", "default", "via", "10.99.0.1")
    return client
