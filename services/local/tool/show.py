"""What the user sees: colours and a spinner on a terminal, plain lines elsewhere. Both say the same words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

STYLES = {"good": "green", "bad": "bold red", "note": "dim", "head": "bold", "plain": ""}
STATUS_STYLES = {"RUNNING": "green", "HEALTHY": "green", "STOPPED": "yellow", "UNHEALTHY": "red", "PENDING": "cyan"}


class Screen:
    """Prints lines, steps and tables. `rich` is imported only for a terminal."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._console = None
        if self._out.isatty():
            from rich.console import Console

            self._console = Console(file=self._out, highlight=False)

    def line(self, text: str = "", style: str = "plain") -> None:
        """One line."""
        if self._console:
            # soft_wrap: a long command must stay one line, so that it can be copied
            self._console.print(text, style=STYLES[style] or None, markup=False, soft_wrap=True)
        else:
            print(text, file=self._out, flush=True)

    def event(self, subject: str, text: str, status: str = "", at: float | None = None) -> None:
        """One line about something that happened, with its local time; `status` gives the colour."""
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        hundredths = int(((at if at is not None else time.time()) % 1) * 100)
        stamp = f"{clock}.{hundredths:02d}"
        if self._console:
            from rich.text import Text

            self._console.print(
                Text.assemble(
                    (stamp, "dim"), "  ", (f"{subject:<14}", "bold"), " ", (text, STATUS_STYLES.get(status, ""))
                )
            )
        else:
            print(f"{stamp}  {subject:<14} {text}", file=self._out, flush=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A step that takes time; says so at once, and how long it took when it is done."""
        began = time.monotonic()
        if self._console:
            with self._console.status(f"{text} …"):
                yield
        else:
            self.line(f"{text} ...")
            yield
        self.line(f"{'✓' if self._console else '-'} {text} ({time.monotonic() - began:.1f} s)", "good")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Aligned columns."""
        if self._console:
            from rich.table import Table
            from rich.text import Text

            table = Table(*columns, box=None, header_style="bold", pad_edge=False)
            for row in rows:
                table.add_row(*(Text(cell, STATUS_STYLES.get(cell, "")) for cell in row))
            self._console.print(table)
            return
        widths = [max(len(r[i]) for r in [columns, *rows]) for i in range(len(columns))]
        for row in [columns, *rows]:
            print(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(),
                file=self._out,
                flush=True,
            )
