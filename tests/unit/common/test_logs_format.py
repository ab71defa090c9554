"""The two log formats and the table of levels (ECS agent behaviour, spec 01 §9)."""

from __future__ import annotations

import json
import logging

import pytest

from common import logs
from common.logfiles import RollingFile


def record(text: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, "/a/b/mytestmodule.py", 1, text, None, None)
    made.created = 1538355723.9
    if fields:
        made.fields = fields
    return made


def test_a_plain_message_in_logfmt_names_its_module():
    """Operators' parsers key on this exact shape."""
    line = logs.LogfmtFormatter().format(record("This is my log message"))
    assert line == 'level=info time=2018-10-01T01:02:03Z msg="This is my log message" module=mytestmodule.py'


def test_a_message_with_fields_in_logfmt_has_no_module():
    """Strings are quoted, everything else is bare."""
    line = logs.LogfmtFormatter().format(record("Waiting", reconnectDelay="1.5s", attempt=2, ok=True, l=["a", "b"]))
    assert line == (
        'level=info time=2018-10-01T01:02:03Z msg="Waiting" reconnectDelay="1.5s" attempt=2 ok=true l=[a b]'
    )


def test_json_lines_keep_the_order_and_escape_html():
    """level, time, msg, then the fields sorted by name."""
    line = logs.JsonFormatter().format(record("a<b", z=1, b="x&y"))
    assert line == '{"level":"info","time":"2018-10-01T01:02:03Z","msg":"a\\u003cb","b":"x\\u0026y","z":1}'
    assert json.loads(line)["b"] == "x&y"


@pytest.mark.parametrize(
    ("text", "quoted"),
    [('a"b', '"a\\"b"'), ("a\nb\t", '"a\\nb\\t"'), ("\x01", '"\\x01"'), ("é", '"é"'), ("\u200b", '"\\u200b"')],
)
def test_text_is_quoted_as_go_does(text, quoted):
    """One event is one line, whatever it says."""
    assert logs.quote(text) == quoted


@pytest.mark.parametrize(
    ("driver", "level", "on_instance", "out", "file"),
    [
        ("", "", "", "info", "info"),
        ("", "debug", "", "debug", "debug"),
        ("", "", "debug", "info", "debug"),
        ("", "warn", "crit", "warn", "crit"),
        ("journald", "debug", "", "debug", "none"),
        ("journald", "", "debug", "info", "debug"),
        ("journald", "warn", "debug", "warn", "debug"),
        ("journald", "", "", "info", "none"),
    ],
)
def test_levels_follow_the_table(driver, level, on_instance, out, file):
    """Row by row."""
    config = {"ECS_LOG_DRIVER": driver, "ECS_LOGLEVEL": level, "ECS_LOGLEVEL_ON_INSTANCE": on_instance}
    assert logs.sink_levels(config) == (logs.LEVELS[out], logs.LEVELS[file])


def test_a_file_rolls_over_by_size_and_keeps_the_newest(tmp_path):
    """The highest number is the newest; the lowest are deleted."""
    path = tmp_path / "agent.log"
    file = RollingFile(str(path), "size", max_bytes=10, keep=2)
    for text in ("first-line", "second-line", "third-line", "fourth-line"):
        file.write(text + "\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.log", "agent.log.2", "agent.log.3"]
    assert path.read_text() == "fourth-line\n"
    assert (tmp_path / "agent.log.3").read_text() == "third-line\n"


def test_a_file_rolls_over_by_the_hour_with_the_finished_hour_in_its_name(tmp_path):
    """Hours without output produce no file."""
    now = [1_700_000_000.0]
    path = tmp_path / "agent.log"
    file = RollingFile(str(path), "hourly", max_bytes=10**6, keep=0, now=lambda: now[0])
    file.write("one\n")
    now[0] += 7200
    file.write("two\n")
    rolled = [p for p in tmp_path.iterdir() if p.name != "agent.log"]
    assert len(rolled) == 1 and rolled[0].read_text() == "one\n"
    assert path.read_text() == "two\n"


def test_the_history_is_cut_to_its_count_by_number(tmp_path):
    """Case 65: the live file becomes .25, and .1 goes; what is no number is no history."""
    path = tmp_path / "agent.log"
    for number in range(1, 25):
        (tmp_path / f"agent.log.{number}").write_text("")
    (tmp_path / "agent.log.gz").write_text("")
    path.write_text("0123456789")
    RollingFile(str(path), "size", max_bytes=10, keep=24).write("new\n")
    kept = {p.name for p in tmp_path.iterdir()}
    assert kept == {"agent.log", "agent.log.gz", *(f"agent.log.{n}" for n in range(2, 26))}
    assert (tmp_path / "agent.log.25").read_text() == "0123456789"


def test_a_full_file_is_renamed_once_however_many_processes_see_it(tmp_path, monkeypatch):
    """Another process renames it between the look and the rename: its fresh file must not become history."""
    path = tmp_path / "agent.log"
    first, second = (RollingFile(str(path), "size", max_bytes=8, keep=9) for _ in range(2))
    first.write("0123456789\n")
    looks: list[bool] = []
    full = first._is_full

    def look() -> bool:
        looks.append(full())
        if len(looks) == 1:
            second.write("from the second\n"[:4] + "\n")
        return looks[-1]

    monkeypatch.setattr(first, "_is_full", look)
    first.write("first\n")
    assert looks == [True, False]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.log", "agent.log.1"]
    assert path.read_text() == "from\nfirst\n"


def test_the_format_windows_is_the_bare_message():
    """For sinks that add level and time themselves; an unknown word means logfmt."""
    assert logs.BareFormatter().format(record("text", a=1)) == "text"
    assert [logs.FORMATS.get(word) for word in ("windows", "json", "JSON")] == [
        logs.BareFormatter, logs.JsonFormatter, None,
    ]  # fmt: skip


def test_a_second_process_follows_a_rename(tmp_path):
    """Several processes append to one file; one of them renames it."""
    path = tmp_path / "agent.log"
    first, second = (RollingFile(str(path), "size", max_bytes=8, keep=5) for _ in range(2))
    second.write("0123456789\n")
    first.write("a\n")
    second.write("b\n")
    assert path.read_text() == "a\nb\n"
