"""The two sinks as a process sets them up: levels, formats and rollover from the configuration (spec 01 §9)."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from common import logs
from common.config import load
from common.logfiles import RollingFile
from common.logs import Outlet


@pytest.fixture(autouse=True)
def own_root() -> Iterator[None]:
    """The root logger of the test run comes back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def configured(path: Path, **environment: str) -> logging.Logger:
    """Logging as with this environment."""
    logs.configure(load({"AWS_DEFAULT_REGION": "us-west-2", "ECS_LOGFILE": str(path), **environment}))
    return logging.getLogger("some.part")


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stdout, that of this turn of the loop included."""
    logs.flush()
    return capsys.readouterr().out


def messages(text: str) -> list[str]:
    """The messages of JSON lines."""
    return [json.loads(line)["msg"] for line in text.splitlines()]


@pytest.mark.parametrize(
    ("environment", "out", "file"),
    [
        ({}, ["i", "w", "c"], ["i", "w", "c"]),
        ({"ECS_LOGLEVEL": "WARN", "ECS_LOGLEVEL_ON_INSTANCE": "debug"}, ["w", "c"], ["d", "i", "w", "c"]),
        ({"ECS_LOGLEVEL_ON_INSTANCE": "crit"}, ["i", "w", "c"], ["c"]),
        ({"ECS_LOG_DRIVER": "journald"}, ["i", "w", "c"], []),
        ({"ECS_LOGLEVEL": "none", "ECS_LOGLEVEL_ON_INSTANCE": "info"}, [], ["i", "w", "c"]),
        ({"ECS_LOGLEVEL": "loud"}, ["i", "w", "c"], ["i", "w", "c"]),
    ],
)
def test_each_sink_has_its_level(tmp_path, capsys, environment, out, file):
    """In any letter case; a word that is no level leaves info; a log driver switches the file off."""
    path = tmp_path / "deep" / "agent.log"
    log = configured(path, ECS_LOG_OUTPUT_FORMAT="json", **environment)
    for level, text in ((10, "d"), (20, "i"), (30, "w"), (50, "c")):
        log.log(level, text)
    assert messages(printed(capsys)) == out
    assert (messages(path.read_text()) if path.exists() else []) == file


@pytest.mark.parametrize(("word", "begins"), [("json", '{"level":"info",'), ("logfmt", "level=info "), ("x", "level=")])
def test_the_format_is_one_of_two_and_a_wrong_word_costs_nothing(tmp_path, capsys, word, begins):
    """The reference loses its whole log set-up over a wrong word."""
    configured(tmp_path / "a.log", ECS_LOG_OUTPUT_FORMAT=word).info("text")
    line = printed(capsys)
    assert line.startswith(begins) and line.endswith("\n") and line.count("\n") == 1
    assert (tmp_path / "a.log").read_text() == line


def test_a_control_character_keeps_a_json_line_valid(tmp_path, capsys):
    """The reference quotes it as Go does, which JSON does not know."""
    configured(tmp_path / "a.log", ECS_LOG_OUTPUT_FORMAT="json").info("bell \a and <tag>")
    assert messages(printed(capsys)) == ["bell \a and <tag>"]


def test_a_plain_message_names_its_module_in_json_too(tmp_path, capsys):
    """Case 64; a message with fields has none."""
    configured(tmp_path / "a.log", ECS_LOG_OUTPUT_FORMAT="json").info('a "b"')
    line = printed(capsys)
    assert line.startswith('{"level":"info","time":"') and line.endswith(
        'Z","msg":"a \\"b\\"","module":"test_logs_sinks.py"}\n'
    )


class Pipe(io.StringIO):
    """Remembers each write; breaks on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.broken = False

    def write(self, text: str) -> int:
        """See the base."""
        if self.broken:
            raise BrokenPipeError
        self.writes.append(text)
        return len(text)


@pytest.fixture
def outlet() -> tuple[logging.Logger, Pipe]:
    """A logger with an outlet of its own, which prints bare messages."""
    pipe, log = Pipe(), logging.Logger("own", logging.DEBUG)
    log.addHandler(Outlet(pipe))
    return log, pipe


def test_one_turn_of_the_loop_is_one_write(outlet):
    """Each write wakes the supervisor; lines keep their order and none waits for the next turn."""
    log, pipe = outlet
    for text in ("a", "b", "c"):
        log.info(text)
    assert pipe.writes == []
    gevent.sleep(0)
    assert pipe.writes == ["a\nb\nc\n"]
    log.info("d")
    gevent.sleep(0)
    assert pipe.writes == ["a\nb\nc\n", "d\n"]


def test_a_warning_is_written_at_once_with_what_came_before(outlet):
    """It may be the last that is heard of a process."""
    log, pipe = outlet
    log.info("a")
    log.warning("b")
    assert pipe.writes == ["a\nb\n"]
    gevent.sleep(0)
    assert pipe.writes == ["a\nb\n"]


def test_a_line_that_cannot_be_made_or_written_costs_nothing_else(outlet, capfd):
    """A wrong argument is told on stderr, as logging does; a lone surrogate is written as an escape."""
    log, pipe = outlet
    log.info("before")
    log.info("%d tasks", "three")
    log.info("a file named \udcff")
    gevent.sleep(0)
    assert pipe.writes == ["before\na file named \\udcff\n"]
    assert "'three'" in capfd.readouterr().err


def test_another_thread_writes_for_itself(outlet):
    """The loop belongs to the first thread; neither loses a line."""
    log, pipe = outlet
    log.info("first thread")
    gevent.get_hub().threadpool.apply(log.info, ("second thread",))
    gevent.sleep(0)
    assert sorted(pipe.writes) == ["first thread\n", "second thread\n"]


def test_a_pipe_that_nobody_reads_is_no_error(outlet, capfd):
    """The supervisor is gone and this process is about to follow."""
    log, pipe = outlet
    pipe.broken = True
    log.info("a")
    log.error("b")
    gevent.sleep(0)
    assert pipe.writes == [] and capfd.readouterr().err == ""


def names(path: Path) -> list[str]:
    """The files beside the log, the log included."""
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize(
    ("environment", "files"),
    [
        ({"ECS_LOG_MAX_FILE_SIZE_MB": "0.001", "ECS_LOG_MAX_ROLL_COUNT": "2"}, ["a.log", "a.log.3", "a.log.4"]),
        ({"ECS_LOG_MAX_FILE_SIZE_MB": "0.001", "ECS_LOG_MAX_ROLL_COUNT": "0"},
         ["a.log", "a.log.1", "a.log.2", "a.log.3", "a.log.4"]),
        ({"ECS_LOG_MAX_FILE_SIZE_MB": "0.001", "ECS_LOG_ROLLOVER_TYPE": "none"}, ["a.log"]),
        ({"ECS_LOG_MAX_FILE_SIZE_MB": "1"}, ["a.log"]),
        ({"ECS_LOG_MAX_FILE_SIZE_MB": "0"}, []),
    ],
)  # fmt: skip
def test_the_size_and_the_count_come_from_the_configuration(tmp_path, environment, files):
    """Megabytes are millions of bytes; no history is lost with a count of zero; a size of zero is no file."""
    path = tmp_path / "logs" / "a.log"
    path.parent.mkdir()
    log = configured(path, **environment)
    for _ in range(5):
        log.info("x" * 1000)
    assert names(path) == files


def test_hours_are_counted_too(tmp_path):
    """The oldest by name go; what is no hour is left alone."""
    path = tmp_path / "a.log"
    clock = [1_700_000_000.0]
    (tmp_path / "a.log.1").write_text("a number is no hour")
    file = RollingFile(str(path), "hourly", max_bytes=1, keep=2, now=lambda: clock[0])
    for number in range(5):
        file.write(f"{number}\n")
        clock[0] += 3600
    kept = names(path)
    assert kept[:2] == ["a.log", "a.log.1"] and len(kept) == 4
    assert [(tmp_path / name).read_text() for name in kept[2:]] == ["2\n", "3\n"]


def test_fields_of_any_type_stay_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A field that JSON does not know becomes its text."""
    configured(tmp_path / "a.log", ECS_LOG_OUTPUT_FORMAT="json").info("x", **logs.fields(error=OSError("no"), n=None))
    assert json.loads(printed(capsys)) | {"time": ""} == {
        "level": "info", "time": "", "msg": "x", "error": "no", "n": None,
    }  # fmt: skip


def test_arguments_that_do_not_fit_cost_no_caller_anything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With a file as without one: whoever logs goes on, and the next line is there."""
    log = configured(tmp_path / "log")
    log.warning("%d of %d", 1)
    log.warning("next")
    assert "next" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("size", ["1e308", "1e9999", "99999999999999999999"])
def test_a_file_may_be_as_large_as_anybody_says(tmp_path: Path, size: str) -> None:
    """Numbers that no machine holds mean that the file never rolls over."""
    configured(tmp_path / "log", ECS_LOG_MAX_FILE_SIZE_MB=size).warning("said")
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_a_process_may_let_go_of_its_sinks(tmp_path: Path) -> None:
    """The tree says what is wrong with the configuration, and holds no log file afterwards."""
    before = set(os.listdir("/proc/self/fd"))
    configured(tmp_path / "log").warning("said")
    logs.release()
    assert logging.getLogger().handlers == [] and set(os.listdir("/proc/self/fd")) <= before
