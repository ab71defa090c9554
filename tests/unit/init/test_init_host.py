"""Facts about the host, and when Docker is asked for its bridge."""

from __future__ import annotations

import time
from types import SimpleNamespace

import gevent.event
import pytest

from services.init import host
from services.init.service import BridgeWatch, Service

BRIDGE = {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": "docker0"}


@pytest.mark.parametrize(("networks", "name"), [
    ([{"Options": BRIDGE}], "docker0"),
    ([{"Options": None}, {"Options": {}}, {"Options": BRIDGE}], "docker0"),
    ([{"Options": {**BRIDGE, "com.docker.network.bridge.default_bridge": "True"}}], None),
    ([{"Options": {"com.docker.network.bridge.default_bridge": "true"}}], None),
    ([{"Options": {**BRIDGE, "com.docker.network.bridge.name": ""}}], None),
    ([], None), ({}, None), (None, None),
])  # fmt: skip
def test_the_bridge_is_the_first_that_calls_itself_default_and_has_a_name(networks, name):
    """An empty name would make `-i ""` (trap 22); "true" must be exact (spec 09 §2 step 5)."""
    assert host.default_bridge(networks) == name


@pytest.mark.parametrize(("value", "path"), [
    ("", "/var/run/docker.sock"), ("unix:///x.sock", "/x.sock"), ("tcp://h:1", "/var/run/docker.sock"),
    ("invalid", "/var/run/docker.sock"),
])  # fmt: skip
def test_only_a_unix_docker_host_changes_the_socket(value, path):
    """Case 50."""
    assert host.docker_socket(value) == path


def test_docker_is_asked_again_only_when_it_may_answer_differently(tmp_path):
    """Until it answers with back-off, after its restart at once, otherwise every five minutes."""
    now, asked, answers = [0.0], [], [OSError("not yet"), "docker0", "docker0", "br0", "br0"]
    path = tmp_path / "docker.sock"

    def ask(_path):
        asked.append(now[0])
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    watch = BridgeWatch(str(path), lambda: now[0], ask)
    assert watch.changed(None) == (False, None) and asked == []  # no socket: nothing to ask
    path.touch()
    assert watch.changed(None) == (False, None) and len(asked) == 1  # it does not answer
    assert watch.changed(None) == (False, None) and len(asked) == 1  # back-off
    now[0] = 2.0
    assert watch.changed(None) == (True, "docker0")
    now[0] = 200.0
    assert watch.changed("docker0") == (False, "docker0") and len(asked) == 2
    now[0] = 310.0
    assert watch.changed("docker0") == (False, "docker0") and len(asked) == 3
    path.unlink()
    path.with_suffix(".new").touch()
    path.with_suffix(".new").rename(path)
    now[0] = 311.0
    assert watch.changed("docker0") == (True, "br0") and len(asked) == 4


def test_a_change_that_the_kernel_tells_of_ends_a_pause_but_no_back_off(monkeypatch):
    """Flushed rules are back at once; a failing iptables is not called again for each change of others."""
    monkeypatch.setattr("services.init.service.EARLY_LOOK_SECONDS", 0.3)
    context = SimpleNamespace(config={"ECS_LOCAL_CONTROL_PLANE": False}, stopping=gevent.event.Event())
    service = Service(context, SimpleNamespace(), parent=0, alone_here=gevent.event.Event())
    service._changes = SimpleNamespace(heard=gevent.event.Event())
    service._changes.heard.set()
    began = time.monotonic()
    service._pause(5.0)
    assert 0.1 <= time.monotonic() - began < 2 and not service._changes.heard.is_set()
    service._changes.heard.set()
    service._looked = began = time.monotonic()
    service._pause(5.0)
    assert 0.3 <= time.monotonic() - began < 3, "no early look follows another at once"
    service._changes.heard.set()
    service._told = "iptables fails"
    began = time.monotonic()
    service._pause(0.3)
    assert time.monotonic() - began >= 0.3
