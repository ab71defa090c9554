"""Ctrl-C for us alone.

Under `make`, a Ctrl-C reaches make as well, which then reports failure however well we end. As a shell does for a job,
we become the foreground process group of the terminal: the interrupt comes to us only, and make sees our exit status.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def own_foreground(environ: Mapping[str, str] = os.environ) -> Iterator[bool]:
    """Hold the terminal's foreground while the block runs, when make started us on a terminal; yields whether."""
    if not environ.get("MAKELEVEL") or not sys.stdin.isatty():
        yield False
        return
    terminal = sys.stdin.fileno()
    # Without this, taking or giving back the terminal from the background would stop us (tcsetpgrp(3)).
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    former = os.tcgetpgrp(terminal)
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        signal.signal(signal.SIGTTOU, before)
        yield False
        return
    try:
        yield True
    finally:
        os.tcsetpgrp(terminal, former)
        signal.signal(signal.SIGTTOU, before)
