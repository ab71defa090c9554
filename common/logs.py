"""One log format for every process: logfmt or JSON lines, to stdout and, when asked, to a rolling file.

Formats, levels per sink and file rotation are those of the reference (ECS agent behaviour, spec 01 §9), so that
users' parsers and alarms keep working. Fields go in `extra={"fields": {...}}`, or shorter: `logs.fields(task=...)`.
A message with fields has no `module`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

import gevent

from common.logfiles import RollingFile

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "crit": logging.CRITICAL,
    "none": logging.CRITICAL + 10,
}
PRINTED = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "critical"}
LARGEST_FILE_MB = 1e12  # an exabyte is no limit, and larger numbers do not fit
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f",
           "\v": "\\v"}  # fmt: skip


def fields(**values: Any) -> dict[str, Any]:
    """For `log.info("text", **fields(task=arn))`."""
    return {"extra": {"fields": values}}


def quote(text: str) -> str:
    """`text` in double quotes, escaped as Go's %q does."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'  # nearly always, and twenty times quicker
    return '"' + "".join(_escape(c) for c in text) + '"'


def _escape(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _bare(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(str, value)) + "]"
    return quote(str(value))


class BareFormatter(logging.Formatter):
    """The message alone, without its line's end: what the event log of Windows wants (`windows`)."""

    def format(self, record: logging.LogRecord) -> str:
        return _text(record)


class LogfmtFormatter(logging.Formatter):
    """level=info time=... msg="..." and either module=... or the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"level={PRINTED.get(record.levelname, 'info')} time={_utc(record.created)} msg={quote(_text(record))}"
        values: Mapping[str, Any] | None = getattr(record, "fields", None)
        if not values:
            return f"{line} module={record.filename}"
        return line + "".join(f" {name}={_bare(value)}" for name, value in values.items())


class JsonFormatter(logging.Formatter):
    """The same as a JSON object; fields sorted by name."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "level": PRINTED.get(record.levelname, "info"),
            "time": _utc(record.created),
            "msg": _text(record),
        }
        values: Mapping[str, Any] | None = getattr(record, "fields", None)
        if values:
            entry |= {name: values[name] for name in sorted(values)}
        else:
            entry["module"] = record.filename
        line = json.dumps(entry, separators=(",", ":"), default=str, ensure_ascii=False)
        return line.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class Outlet(logging.Handler):
    """stdout of a process with an event loop: what one turn of the loop logs is written at its end, in one piece.

    The supervisor wakes up for each write, and on a busy machine it does so before the writer may go on. A warning or
    worse is written at once, with all that came before: it may be the last that is heard of this process. A process
    that is killed takes what it had said in that very turn with it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._thread = stream, threading.get_native_id()
        self._lines: list[str] = []
        self._due = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line for the end of the turn, or write it now."""
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)  # a message and arguments that do not fit each other cost this line alone
            return
        if threading.get_native_id() != self._thread:
            self._write(line)  # this thread must not touch the loop
            return
        self._lines.append(line)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif not self._due:
            self._due = True
            gevent.get_hub().loop.run_callback(self.flush)

    def flush(self) -> None:
        """Write what was kept."""
        self._due = False
        if self._lines and threading.get_native_id() == self._thread:
            lines, self._lines = self._lines, []
            self._write("".join(lines))

    def _write(self, text: str) -> None:
        # What this encoding does not have, a lone surrogate of a file's name perhaps, must not cost the other lines.
        encoding = self._stream.encoding or "utf-8"
        with suppress(OSError):  # nobody reads any more, and there is no other place to say so
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()


FORMATS: dict[str, type[logging.Formatter]] = {"json": JsonFormatter, "windows": BareFormatter}


def sink_levels(config: Mapping[str, Any]) -> tuple[int, int]:
    """The levels of stdout and of the file (table of spec 01 §9.1)."""
    level = LEVELS.get(str(config["ECS_LOGLEVEL"] or "").lower())
    on_instance = LEVELS.get(str(config["ECS_LOGLEVEL_ON_INSTANCE"] or "").lower())
    out = level if level is not None else logging.INFO
    if on_instance is not None:
        return out, on_instance
    return out, LEVELS["none"] if config["ECS_LOG_DRIVER"] else out


def configure(config: Mapping[str, Any]) -> logging.Logger:
    """Set up the root logger of this process; returns it."""
    formatter = FORMATS.get(str(config["ECS_LOG_OUTPUT_FORMAT"] or ""), LogfmtFormatter)()
    out_level, file_level = sink_levels(config)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    sinks: list[tuple[logging.Handler, int]] = [(Outlet(sys.stdout), out_level)]
    path = config["ECS_LOGFILE"]
    if path and file_level < LEVELS["none"]:
        sinks.append((_file(config, path), file_level))
    for handler, level in sinks:
        handler.setFormatter(formatter)
        handler.setLevel(level)
        root.addHandler(handler)
    root.setLevel(min(level for _, level in sinks))
    for noisy in ("urllib3", "botocore", "boto3", "docker", "geventwebsocket", "websocket"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    return root


def release() -> None:
    """Write what is kept and close every sink; for a process that goes on as something else."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        handler.flush()
        root.removeHandler(handler)
        handler.close()


def flush() -> None:
    """Write what is kept for the end of the turn; for a process that ends."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()


def _file(config: Mapping[str, Any], path: str) -> logging.Handler:
    return RollingFile(
        os.fspath(path),
        rollover=str(config["ECS_LOG_ROLLOVER_TYPE"] or "size"),
        max_bytes=int(min(float(config["ECS_LOG_MAX_FILE_SIZE_MB"]), LARGEST_FILE_MB) * 1_000_000),
        keep=int(config["ECS_LOG_MAX_ROLL_COUNT"]),
    )
