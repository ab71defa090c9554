"""Run a command on a terminal of its own, press Ctrl-C when a text appears, and tell how it ended.

A process of its own, because the suite runs under gevent and a controlling terminal needs a plain fork:
`pty_driver.py TEXT SECONDS COMMAND ...` prints everything the command wrote; its exit status is the command's.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import time


def main(text: str, seconds: float, command: list[str]) -> int:
    """Returns the exit status of `command`; 124 when it took longer than `seconds`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    end, said, pressed = time.monotonic() + seconds, "", False
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            chunk = os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said += chunk
        sys.stdout.write(chunk)
        sys.stdout.flush()
        if text in said and not pressed:
            pressed = True
            os.write(terminal, b"\x03")
    os.kill(pid, 15)
    return 124


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
