"""Programs that are forked, not executed: what they see, how they end, what they may share (common/tree/nursery.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.tree.nursery import module_of

ROOT = Path(__file__).parents[3]
# What stdlib modules hold, gevent replaces where it is used (ssl, subprocess); the rest is never used:
NEVER_USED = {
    ("asyncio.base_futures", "get_ident"),  # no event loop of asyncio runs anywhere
    ("redis.asyncio.connection", "SSLContext"),  # nor its Redis client
    ("redis.connection", "LifoQueue"),  # a default of BlockingConnectionPool; ours is ConnectionPool
    ("redis.retry", "sleep"),  # our clients have Retry(NoBackoff(), 0)
}
SCAN = """
import json, sys
from common.tree import nursery, supervision
nursery.preload()
loaded = set(sys.modules)
from gevent import monkey
monkey.patch_all()
originals = {id(value) for items in monkey.saved.values() for value in items.values() if callable(value)}
print(json.dumps([
    (name, attribute)
    for name in sorted(loaded) if not name.startswith(("gevent", "_")) and name != "__main__"
    for attribute, value in vars(sys.modules[name]).items() if id(value) in originals
]))
"""
PROGRAM = """
import json, os, signal, sys
import setproctitle
handled = [int(n) for n in signal.valid_signals() if callable(signal.getsignal(n))]
print(json.dumps({"argv": sys.argv, "environ": dict(os.environ), "title": setproctitle.getproctitle(),
                  "handled": handled, "name": __name__, "wakeup": signal.set_wakeup_fd(-1)}))
END
"""
PARENT = """
import os, signal, sys
import setproctitle
setproctitle.getproctitle()
from common.tree import nursery
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 60)
signal.set_wakeup_fd(os.pipe2(os.O_NONBLOCK)[1])
os.environ["OF_THE_PARENT"] = "1"
import atexit
atexit.register(print, "the parent's own end")
pid = os.fork()
if pid == 0:
    nursery.become("probe", ["python", "-P", "-m", "probe", "--worker", "2"], {"OF_THE_CHILD": "2"})
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.flush()
os._exit(status)
"""


def run(tmp_path: Path, end: str) -> subprocess.CompletedProcess[str]:
    """Fork a program that ends with `end`."""
    (tmp_path / "probe.py").write_text(PROGRAM.replace("END", end))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    words = [sys.executable, "-c", PARENT]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_only_programs_of_ours_are_forked():
    """Everything else that supervisord.conf may name is executed, as ever."""
    assert module_of(["python", "-P", "-m", "services.acs"]) == "services.acs"
    assert module_of(["python", "-m", "common.tree.redis", "durable"]) == ""
    assert module_of(["redis-server", "--port", "0"]) == module_of(["python", "-m"]) == module_of([]) == ""


def test_a_program_sees_what_exec_would_have_given_it(tmp_path):
    """Arguments, environment, title, no handler, no timer and no wake-up descriptor of the parent; only its own end."""
    done = run(tmp_path, "")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["argv"][1:] == ["--worker", "2"] and seen["name"] == "__main__"
    assert seen["environ"].pop("LC_CTYPE", "") is not None and seen["environ"] == {"OF_THE_CHILD": "2"}
    assert seen["title"] == "ecs-agent: probe" and seen["wakeup"] == -1
    assert set(seen["handled"]) <= {2}, "only SIGINT has a handler: Python's own, unless the shell ignores it"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(5)", 5), ("sys.exit()", 0), ("sys.exit('words')", 1), ("raise ValueError('why')", 2),
        ("raise KeyboardInterrupt", 2), ("os.kill(os.getpid(), 15)", -15),
    ],
)  # fmt: skip
def test_a_program_s_end_is_its_own(tmp_path, end, status):
    """5 and 2 are what the tree judges. What nobody expected is 2 (spec 09 §16.2) and leaves its traceback.

    Nothing returns into supervisord's code.
    """
    done = run(tmp_path, end)
    assert done.returncode == (status if status >= 0 else 256 + status)
    assert ("ValueError: why" in done.stderr) == ("why" in end)
    assert "the parent's own end" not in done.stdout


def test_no_preloaded_module_uses_what_gevent_replaces():
    """A captured `time.sleep` would stop the whole program where a greenlet should sleep."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCAN], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    held = {(name, attribute) for name, attribute in json.loads(done.stdout)}
    ours = {pair for pair in held if pair[0].split(".")[0] not in sys.stdlib_module_names}
    assert ours <= NEVER_USED, "a module took these before gevent replaced them"


def test_a_program_that_begins_when_the_tree_is_already_dead_ends_at_once(tmp_path):
    """Killed between the fork and the program's first line: nobody would ever tell it to end."""
    (tmp_path / "probe.py").write_text("print('it runs')")
    script = """
import os, time
from common.tree import nursery
nursery.preload()
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
nursery.become("probe", ["python", "-m", "probe"], dict(os.environ))
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("", ""), "its output ends when it ends"
