"""Our supervisord on programs of the test's own: exit statuses, delays, the order of the end, the operator's commands.

The programs are shell one-liners under the names of the real ones; `tests/system` has the real tree.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from common.tree import control

ROOT = Path(__file__).resolve().parents[3]
SLEEP = "trap 'echo NAME >>order; exit 0' TERM; echo hello; while :; do sleep 60 & wait $!; done"
HEAD = """
[supervisord]
nodaemon=true
silent=true
logfile=%(run)s/supervisord.log
pidfile=%(run)s/supervisord.pid
childlogdir=%(run)s
directory=%(run)s
[unix_http_server]
file=%(run)s/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:%(name)s]
command=%(run)s/%(name)s
priority=%(priority)d
autorestart=false
startsecs=0
startretries=1000000
redirect_stderr=true
stdout_logfile=%(run)s/%(name)s.out
stdout_events_enabled=true
"""
PRIORITIES = {"init": 10, "redis": 20, "endpoint": 30, "engine": 40, "telemetry": 50, "images": 51, "acs": 60}


class Tree:
    """A supervised set of programs in a directory."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **scripts: str) -> None:
        """Programs by name; `sleep` means one that runs until SIGTERM."""
        text = HEAD % {"run": self.dir}
        for name, script in scripts.items():
            path = self.dir / name
            body = SLEEP.replace("NAME", name) if script == "sleep" else script
            path.write_text(f"#!/bin/sh\ncd {self.dir}\ndate +%s.%N >>{name}.starts\n{body}\n")
            path.chmod(0o755)
            text += PROGRAM % {"run": self.dir, "name": name, "priority": PRIORITIES[name]}
        (self.dir / "tree.conf").write_text(text)
        code = "import sys; from common.tree.supervision import supervise; sys.exit(supervise(sys.argv[1]))"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ECS_RUN_DIR": str(self.dir),
            "ECS_TREE_INIT_LOG": str(self.dir / "ecs-init.log"),
        }
        with open(self.dir / "out", "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(self.dir / "tree.conf")], env=environment, stdout=out, stderr=out
            )

    def end(self) -> None:
        """Stop it, whatever is left of it."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def starts(self, name: str) -> list[float]:
        """When the program was started, in Unix seconds."""
        path = self.dir / f"{name}.starts"
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def text(self) -> str:
        return (self.dir / "out").read_text()

    def init_log(self) -> str:
        path = self.dir / "ecs-init.log"
        return path.read_text() if path.exists() else ""

    def control(self, *words: str) -> tuple[int, str]:
        """`ecs-supervisorctl` against this tree."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ECS_RUN_DIR", str(self.dir))
            patch.setattr(sys, "stdout", said)
            status = control.main(list(words))
        return status, said.getvalue()


@pytest.fixture
def tree(run_dir):
    made = Tree(run_dir)
    yield made
    made.end()


@pytest.fixture(scope="module")
def failing():
    """One tree whose programs fail in every way at the same time, since most of it is waiting for the next start."""
    made = Tree(Path(tempfile.mkdtemp(prefix="ecs-t-")))
    made.start(
        acs="case $(wc -l <acs.starts) in 1) exit 1;; 2) kill -9 $$;; 3) exit 0;; *) exit 7;; esac",
        engine="[ -e engine.crashed ] && exit 42; touch engine.crashed; "
        "for n in $(seq 300); do echo line $n; done; echo trace >&2; exit 2",
        images="exit 5",
        telemetry="exit 1",
    )
    yield made
    made.end()
    shutil.rmtree(made.dir)


def test_a_program_that_cannot_be_spawned_is_tried_again(failing, eventually):
    """Its file is gone while it is replaced by an upgrade."""
    eventually(lambda: failing.starts("telemetry"))
    (failing.dir / "telemetry").rename(failing.dir / "away")
    eventually(lambda: failing.text().count("telemetry cannot be started") >= 2, seconds=8)
    count = len(failing.starts("telemetry"))
    (failing.dir / "away").rename(failing.dir / "telemetry")
    eventually(lambda: len(failing.starts("telemetry")) > count, seconds=10)
    assert failing.process.poll() is None


def test_status_5_of_another_program_is_a_crash_like_any_other(failing, eventually):
    """Only acs and engine speak for the service."""
    eventually(lambda: len(failing.starts("images")) >= 2)
    assert failing.process.poll() is None


def test_the_last_words_of_a_crash_go_into_the_log_of_ecs_init(failing, eventually):
    """Case 37: status 2, at most 200 lines, both streams, as one message; the end by a signal as well."""
    eventually(lambda: "engine crashed" in failing.init_log())
    (line,) = [line for line in failing.init_log().splitlines() if "engine crashed" in line][:1]
    assert line.startswith("level=error time=") and line.endswith('\\nline 300\\ntrace"')
    assert "\\nline 102\\n" in line and "\\nline 101\\n" not in line
    eventually(lambda: "acs crashed; its last output" in failing.init_log())


def test_status_42_is_an_error_and_a_restart_like_any_other(failing, eventually):
    """§7.4, §16.2: there is no image to load."""
    eventually(lambda: len(failing.starts("engine")) >= 3)
    (line,) = [text for text in failing.text().splitlines() if "engine" in text and "status 42" in text][:1]
    assert line.startswith("level=error") and "ended with status 42 (update), but upgrades come through" in line


def test_failures_are_started_again_later_and_later_and_never_become_fatal(failing, eventually):
    """Cases 33, 34, 84: 0.5, 1, 2, 4 s plus at most a tenth, whatever the status; a signal counts as well."""
    eventually(lambda: len(failing.starts("acs")) >= 5, seconds=12)
    starts = failing.starts("acs")
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)][:4]
    for gap, wanted in zip(gaps, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert wanted <= gap <= wanted * 1.1 + 0.4, gaps
    eventually(lambda: "BACKOFF" in failing.control("status", "acs")[1])
    said = failing.control("status", "acs")[1]
    assert "ended with status 7" in said


@pytest.mark.parametrize("name", ["acs", "engine"])
def test_status_5_within_the_first_second_ends_the_service_with_5(tree, name):
    """Cases 32 and trap 24: in the reference's words, and every other program ends in order."""
    tree.start(init="sleep", **{name: "while [ ! -e init.starts ]; do sleep 0.02; done; sleep 0.2; exit 5"})
    assert tree.process.wait(15) == 5
    assert (tree.dir / "order").read_text() == "init\n"
    assert 'msg="agent exited with terminal exit code: 5"' in tree.init_log()
    assert f"{name} ended for good (status 5)" in tree.text()


def test_an_operator_s_stop_start_and_restart_wait_for_nothing(tree, eventually):
    """Case 85: also for a program that is waiting; the service goes on throughout."""
    tree.start(acs="sleep", images="exit 1")
    eventually(lambda: len(tree.starts("images")) >= 2)
    assert tree.control("stop", "acs", "images") == (0, "acs: stopped\nimages: stopped\n")
    count = len(tree.starts("images"))
    assert tree.control("start", "acs") == (0, "acs: started\n")
    eventually(lambda: len(tree.starts("acs")) == 2, seconds=2)
    began = time.time()
    assert tree.control("restart", "acs") == (0, "acs: stopped\nacs: started\n")
    assert time.time() - began < 2
    time.sleep(max(0.0, began + 1.3 - time.time()))  # longer than the second that images was to wait
    assert len(tree.starts("images")) == count
    assert tree.process.poll() is None
    eventually(lambda: tree.control("tail", "acs")[1].count("hello") == 3)


def test_what_is_not_for_single_programs_is_refused(tree, eventually):
    """It would change the set of programs, or end the service behind systemd's back."""
    tree.start(acs="sleep")
    eventually(lambda: tree.starts("acs"))
    for words in (["reload"], ["update"], ["shutdown"], ["restart", "all"], ["stop", "all"]):
        status, said = tree.control(*words)
        assert status != 0 and "systemctl" in said, words
    assert tree.control("status")[0] == 0 and len(tree.starts("acs")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_is_in_stages_with_the_rules_last(tree, eventually, number):
    """§16.1: acs, then telemetry and images, engine, endpoint, the store, init; SIGHUP is a stop as well."""
    tree.start(**dict.fromkeys(PRIORITIES, "sleep"))
    eventually(lambda: all(f"{name}.out" in os.listdir(tree.dir) and tree.starts(name) for name in PRIORITIES))
    eventually(lambda: all((tree.dir / f"{name}.out").read_text() for name in PRIORITIES))
    tree.process.send_signal(number)
    assert tree.process.wait(15) == 0
    order = (tree.dir / "order").read_text().split()
    assert order[0] == "acs" and set(order[1:3]) == {"telemetry", "images"}
    assert order[3:] == ["engine", "endpoint", "redis", "init"]


def test_sigusr1_reaches_the_programs_and_ends_nothing(tree, eventually):
    """spec 01 §5: a dump of all stacks; the default action would end the service."""
    program = "trap 'echo dumped' USR1; trap 'exit 0' TERM; echo up; while :; do sleep 60 & wait $!; done"
    tree.start(acs=program, redis="sleep")
    eventually(lambda: "up" in tree.text() and "hello" in tree.text())
    tree.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "dumped" in tree.text())
    assert tree.process.poll() is None and len(tree.starts("redis")) == 1
