"""ecs-init.log: line, rotation by the hour, one rotating writer among several (spec 09 §13)."""

from __future__ import annotations

import logging
import os
import re

import pytest

from common.tree.linelog import KEPT_HOURS, LineFile, open_log
from services.init import initlog

HOUR = 3600


@pytest.fixture
def root_logger():
    """The root logger as it was afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_that_of_the_reference(tmp_path, capsys):
    """On the console and in the file; log shippers are configured for it."""
    log = open_log("test-line", str(tmp_path / "log"))
    log.warning('a "b"\n%s', "c")
    log.debug("not shown")
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(r'level=warn time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ msg="a \\"b\\"\\nc"\n', text)
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(("level", "seen"), [
    ("debug", "debug info error"), ("WARN", "error"), ("none", ""), ("", "info error"),
])  # fmt: skip
def test_the_level_is_a_word_in_any_case(tmp_path, level, seen):
    """§13."""
    log = open_log("test-level", str(tmp_path / "log"), level)
    for name in ("debug", "info", "error"):
        getattr(log, name)(name)
    text = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert re.findall(r'msg="(\w+)"', text) == seen.split()


def test_an_unknown_level_is_told_and_changes_nothing(tmp_path):
    """§13."""
    open_log("test-unknown", str(tmp_path / "log"), "loud").info("shown")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].startswith("level=error") and "log level mapping not found" in lines[0] and "shown" in lines[1]


def test_the_hour_s_file_is_renamed_and_the_24_newest_stay(tmp_path):
    """Only the rotating writer renames; an appender finds the new file; the mode stays."""
    path = tmp_path / "log"
    writer, appender = LineFile(str(path), rotates=True), LineFile(str(path), rotates=False)
    moment = [1_700_000_000.0]
    writer.now = appender.now = lambda: moment[0]
    writer.write("first\n")
    path.chmod(0o640)
    for hour in range(30):
        moment[0] += HOUR
        appender.write(f"appended {hour}\n")
        writer.write(f"written {hour}\n")
    files = sorted(os.listdir(tmp_path))
    assert len(files) == 1 + KEPT_HOURS and files[0] == "log"
    assert all(re.fullmatch(r"log\.\d{4}-\d\d-\d\d-\d\d", name) for name in files[1:])
    assert path.read_text() == "written 29\n"
    assert (tmp_path / files[-1]).read_text() == "written 28\nappended 29\n"
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in files} == {0o640}


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    """The console has the lines."""
    (tmp_path / "file").touch()
    open_log("test-nowhere", str(tmp_path / "file" / "log")).error("said")
    assert 'msg="said"' in capsys.readouterr().err


def test_the_process_init_writes_its_lines_there(tmp_path, root_logger):
    """Instead of the agent's log file; its console stays."""
    before = [handler for handler in root_logger.handlers]
    initlog.take_over(str(tmp_path / "log"), "info")
    logging.getLogger("init").warning("netfilter: put back R5")
    assert (tmp_path / "log").read_text().endswith('msg="netfilter: put back R5"\n')
    assert all(handler in root_logger.handlers for handler in before)
