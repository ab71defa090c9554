#!/usr/bin/env python3
"""What deb/debian/changelog says, the one place of version, release and date of the packages.

`changelog.py version|release|epoch` prints one of them (epoch: of the newest entry, Unix seconds); `changelog.py rpm`
prints the whole as a %changelog, `changelog.py deb` as it is; the last two with an entry for a rebuild first when
RELEASE is set to another release.
"""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parent.parent / "deb/debian/changelog"
ENTRY = re.compile(r"^ecs-init \((?P<version>[^-)]+)-(?P<release>[^)]+)\)[^\n]*\n\n(?P<text>.*?)\n\n"
                   r" -- (?P<who>[^\n]*?)  (?P<date>[^\n]+)\n", re.S | re.M)  # fmt: skip


class Entry(NamedTuple):
    """One version of the package."""

    version: str
    release: str
    text: str
    who: str
    when: datetime


def entries() -> list[Entry]:
    """Newest first, with the rebuild that RELEASE asks for. Raises ValueError when the file is not understood."""
    found = [Entry(m["version"], m["release"], m["text"], m["who"], parsedate_to_datetime(m["date"]))
             for m in ENTRY.finditer(FILE.read_text(encoding="utf-8"))]  # fmt: skip
    if not found:
        raise ValueError(f"{FILE} has no entry")
    release = os.environ.get("RELEASE", "")
    if release and release != found[0].release:
        found.insert(0, found[0]._replace(release=release, text="  * Rebuild."))
    return found


def as_rpm(entry: Entry) -> str:
    """One entry of a %changelog."""
    text = re.sub(r"^  \* ", "- ", entry.text, flags=re.M).replace("%", "%%")
    return f"* {entry.when:%a %b %d %Y} {entry.who} - 1:{entry.version}-{entry.release}\n{text}\n"


def as_deb(entry: Entry) -> str:
    """One entry of debian/changelog."""
    when = entry.when.strftime("%a, %d %b %Y %H:%M:%S %z")
    head = f"ecs-init ({entry.version}-{entry.release}) unstable; urgency=medium"
    return f"{head}\n\n{entry.text}\n\n -- {entry.who}  {when}\n"


if __name__ == "__main__":
    history = entries()
    newest = history[0]
    answers = {
        "version": lambda: newest.version,
        "release": lambda: newest.release,
        "epoch": lambda: str(int(newest.when.timestamp())),
        "rpm": lambda: "\n".join(map(as_rpm, history)),
        "deb": lambda: "\n".join(map(as_deb, history)),
    }
    print(answers[sys.argv[1]]())
