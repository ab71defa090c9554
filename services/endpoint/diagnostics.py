"""What /debug/pprof/ serves when ECS_ENABLE_RUNTIME_STATS is on: the Python counterpart of the reference's profiles.

The formats of Go's tools have no meaning here; these are texts for people: greenlets and threads with their stacks,
counts of the garbage collector, and a sampled profile as folded stacks (for flame graphs).
"""

from __future__ import annotations

import collections
import gc
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gevent
import gevent.monkey
import gevent.util

from services.endpoint.reply import TEXT, Reply

BASE = "/debug/pprof/"
COMMANDS = tuple(BASE + name for name in ("", "cmdline", "profile", "symbol", "trace"))
PROFILE_SECONDS, LONGEST_SECONDS = 30.0, 240.0
SAMPLE_SECONDS = 0.01


def index(_environ: Mapping[str, Any]) -> Reply:
    """What there is."""
    names = "\n".join(sorted(ROUTES))
    return _text(f"Diagnostics of the ECS agent's endpoint process:\n{names}\n")


def stacks(_environ: Mapping[str, Any]) -> Reply:
    """All greenlets and threads with their stacks."""
    lines: Any = gevent.util.format_run_info()  # type: ignore[func-returns-value]
    return _text("\n".join(lines) + "\n")


def heap(_environ: Mapping[str, Any]) -> Reply:
    """Resident memory, garbage collector, and the types with the most instances."""
    counts = collections.Counter(type(o).__name__ for o in gc.get_objects())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    lines = [f"peak resident KiB: {usage.ru_maxrss}", f"collections: {gc.get_stats()}"]
    lines += [f"{count:8} {name}" for name, count in counts.most_common(50)]
    return _text("\n".join(lines) + "\n")


def cmdline(_environ: Mapping[str, Any]) -> Reply:
    """The command line, its words separated by NUL."""
    return Reply(200, Path("/proc/self/cmdline").read_bytes().rstrip(b"\0"), TEXT)


def symbol(_environ: Mapping[str, Any]) -> Reply:
    """There are no addresses to resolve."""
    return _text("num_symbols: 0\n")


def profile(environ: Mapping[str, Any]) -> Reply:
    """Folded stacks of the main thread, sampled for ?seconds=N."""
    samples = gevent.get_hub().threadpool.apply(_sample, (threading.main_thread().ident, _seconds(environ)))
    return _text("".join(f"{stack} {count}\n" for stack, count in samples.most_common()))


def _sample(thread: int, seconds: float) -> collections.Counter[str]:
    sleep = gevent.monkey.get_original("time", "sleep")
    found: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame, names = sys._current_frames().get(thread), []
        while frame is not None:
            code = frame.f_code
            names.append(f"{Path(code.co_filename).name}:{code.co_name}")
            frame = frame.f_back
        found[";".join(reversed(names))] += 1
        sleep(SAMPLE_SECONDS)
    return found


def _seconds(environ: Mapping[str, Any]) -> float:
    text = dict(parse_qsl(environ["QUERY_STRING"])).get("seconds", "")
    return min(LONGEST_SECONDS, float(text)) if text.isdecimal() and text != "0" else PROFILE_SECONDS


def _text(text: str) -> Reply:
    return Reply(200, text.encode("utf-8", "replace"), TEXT)


ROUTES: dict[str, Callable[[Mapping[str, Any]], Reply]] = {
    BASE: index,
    BASE + "allocs": heap,
    BASE + "block": stacks,
    BASE + "cmdline": cmdline,
    BASE + "goroutine": stacks,
    BASE + "heap": heap,
    BASE + "mutex": stacks,
    BASE + "profile": profile,
    BASE + "symbol": symbol,
    BASE + "threadcreate": stacks,
    BASE + "trace": profile,
}
