"""Commands of the host: deadlines, what they read, print and inherit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from common import command


def test_a_command_that_is_late_is_killed_and_named():
    """A hung iptables must not hang the manager."""
    began = time.monotonic()
    with pytest.raises(command.Late, match=r"sleep 30 did not end within 0\.2 s and was killed"):
        command.run(("sleep", "30"), 0.2)
    assert time.monotonic() - began < 5


def test_what_a_late_command_started_ends_with_it(tmp_path, eventually):
    """mount starts helpers of its own; they are in its process group."""
    child = tmp_path / "child"
    with pytest.raises(command.Late):
        command.run(("sh", "-c", f"sleep 30 & echo $! > {child}; wait"), 1.0)
    stat = Path(f"/proc/{child.read_text().strip()}/stat")
    eventually(lambda: not stat.exists() or ") Z " in stat.read_text())


def test_a_process_that_the_kernel_holds_does_not_hold_up_its_caller(monkeypatch):
    """SIGKILL does not end an uninterruptible wait, as of a dead NFS server; here it is not sent at all."""
    sent = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append(pid))
    monkeypatch.setattr(command, "_KILLED_SECONDS", 0.1)
    began = time.monotonic()
    with pytest.raises(command.Late, match="cannot be ended"):
        command.run(("sleep", "3"), 0.1)
    assert time.monotonic() - began < 2.5 and len(sent) == 1
    assert os.waitpid(sent[0], 0)[0] == sent[0]


def test_a_command_returns_its_status_and_what_it_printed():
    """Texts go to the operator; decisions go by status."""
    result = command.run(("sh", "-c", "echo out; echo '  why  ' >&2; exit 4"))
    assert (result.status, result.out, result.complaint()) == (4, "out\n", "why")


@pytest.mark.parametrize("text", ["", "*nat\nCOMMIT\n", "x" * 300_000])
def test_a_command_reads_the_text_and_then_its_end(text):
    """More than a pipe holds, and nothing at all."""
    assert command.run(("cat",), text=text).out == text


def test_many_quick_commands_all_end():
    """Without the handler in place gevent loses the end of a first child that is quicker than it."""
    true = command.find("true")
    assert true is not None
    assert [command.run((true,), 5).status for _ in range(100)] == [0] * 100


def test_a_command_that_cannot_be_run_says_so():
    """The path is in the text."""
    with pytest.raises(command.CommandFailed, match="/nowhere/iptables cannot be run"):
        command.run(("/nowhere/iptables",))


def test_a_command_gets_no_password_of_the_configuration(monkeypatch):
    """spec 10 §18 trap 15: what such tools read, and nothing else."""
    monkeypatch.setenv("ECS_ENGINE_AUTH_DATA", "secret")
    found = command.run(("env",)).out
    assert "LC_ALL=C\n" in found and "PATH=" in found and "ECS_" not in found
