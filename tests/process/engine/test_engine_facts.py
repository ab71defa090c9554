"""What the engine finds out about Docker: the pause image, and the command that prints the facts without a tree."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.errors import Temporary, Terminal
from common.memory import MemoryBus
from common.model.agent import DockerFacts
from services.engine.docker import facts_command
from services.engine.docker.hands import Hands
from services.engine.docker.settings import Settings
from tests.fakes.docker_proxy import DockerProxy, Rule

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[3]
PAUSE = "/images/amazon/amazon-ecs-pause:0.1.0/json$"


@pytest.fixture
def proxy(run_dir):
    """A line to Docker in which the pause image can be there or not."""
    with DockerProxy(str(run_dir)) as proxy:
        yield proxy


def hands(proxy, **more):
    """Hands on that line."""
    return Hands(None, MemoryBus(), settings=Settings(limits=False, **more), address=proxy.address)


@pytest.mark.parametrize("there", [True, False])
def test_the_fact_about_the_pause_image_is_what_docker_says(proxy, there):
    """Without the image, shared PID and IPC namespaces are not offered."""
    proxy.add(Rule("GET", PAUSE, body=b"{}") if there else Rule("GET", PAUSE, status=404))
    assert hands(proxy).facts().pause_image_loaded is there
    assert not proxy.count("POST", "/images/load$")


def test_the_tarball_of_the_pause_image_is_loaded_at_the_start(proxy, run_dir):
    """Whole, with Docker's content type, before the fact is told; only once."""
    tarball = run_dir / "pause.tar"
    tarball.write_bytes(b"\x00tar" * 100)
    proxy.add(Rule("GET", PAUSE, times=1, status=404))
    proxy.add(Rule("GET", PAUSE, body=b"{}"))
    proxy.add(Rule("POST", "/images/load$", body=b'{"stream":"Loaded image"}\n'))
    engine = hands(proxy, pause_tarball=str(tarball))
    assert engine.facts().pause_image_loaded
    assert engine.refresh_facts().pause_image_loaded
    (load,) = [r for r in proxy.requests if r.path == "/images/load"]
    assert (load.body, load.headers["content-type"], load.query) == (b"\x00tar" * 100, "application/x-tar", "quiet=0")


@pytest.mark.parametrize("network_interfaces", [True, False])
def test_a_missing_pause_image_ends_only_a_host_that_needs_it(proxy, run_dir, network_interfaces):
    """Spec 08 §10.1: without ECS_ENABLE_TASK_ENI the start goes on."""
    proxy.add(Rule("GET", PAUSE, status=404))
    engine = hands(proxy, pause_tarball=str(run_dir / "absent.tar"), task_network_interfaces=network_interfaces)
    if network_interfaces:
        with pytest.raises(Terminal, match=r"absent\.tar"):
            engine.facts()
    else:
        assert not engine.facts().pause_image_loaded


@pytest.mark.parametrize("refusal", [{"status": 500}, {"body": b'{"error":"unexpected EOF"}'}], ids=["500", "200"])
def test_a_tarball_that_docker_refuses_is_no_reason_to_give_up(proxy, run_dir, refusal):
    """Where the image is needed the engine tries again, otherwise it goes on without."""
    tarball = run_dir / "pause.tar"
    tarball.write_bytes(b"no tar")
    proxy.add(Rule("GET", PAUSE, status=404))
    proxy.add(Rule("POST", "/images/load$", **refusal))
    assert not hands(proxy, pause_tarball=str(tarball)).facts().pause_image_loaded
    with pytest.raises(Temporary, match=r"pause\.tar"):
        hands(proxy, pause_tarball=str(tarball), task_network_interfaces=True).facts()


# -- the command -------------------------------------------------------------------------------


def command(address):
    """`python -m services.engine --facts`."""
    environment = {**os.environ, "DOCKER_HOST": address, "ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false"}
    words = [sys.executable, "-m", "services.engine", "--facts"]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=30)


def test_the_command_prints_the_facts_and_nothing_else(proxy):
    """One JSON object on stdout; no Redis is there."""
    done = command(proxy.address)
    assert (done.returncode, done.stderr) == (0, b"")
    facts = msgspec.json.decode(done.stdout, type=DockerFacts)
    assert facts.server_version
    assert facts.default_api_version
    assert not proxy.count("POST", "")


def test_the_command_says_which_docker_is_not_there(run_dir):
    """Exit status 1 and one sentence."""
    done = command(f"unix://{run_dir}/no-docker.sock")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Cannot connect to the Docker daemon at unix://" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_command_does_not_wait_for_ever(proxy, capfd, monkeypatch):
    """A Docker that hangs is given ten seconds, here less."""
    monkeypatch.setattr(facts_command, "ANSWER_SECONDS", 0.3)
    proxy.add(Rule("GET", "/info$", hang=True))
    environment = {"ECS_ENABLE_TASK_CPU_MEM_LIMIT": "false", "DOCKER_HOST": proxy.address}
    assert facts_command.main(environment) == 1
    assert "has not answered within 0.3 s" in capfd.readouterr().err
