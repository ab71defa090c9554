"""What the tree says, and that nothing which happens to its output can end it (common/tree/run.py)."""

from __future__ import annotations

import errno
import os

import pytest

from common.tree import run


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EAGAIN, errno.EBADF])
def test_an_output_that_cannot_be_written_costs_the_line_only(number, monkeypatch, tmp_path):
    """A log file on a full disk, `ecs-agent | head`, a slow reader: it is said while supervisord judges an exit."""
    log = tmp_path / "ecs-init.log"
    monkeypatch.setenv(run.INIT_LOG, str(log))
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if descriptor == 1:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        run.say("warn", "acs ended")
    assert 'msg="acs ended"' in log.read_text()
