#!/usr/bin/env python3
"""The text of THIRD-PARTY: which distributions a package contains, and their licences.

`thirdparty.py SITE-PACKAGES` prints it, for what wheels.lock names. Names, versions and licence texts come from the
metadata of the installed wheels; a text that several distributions share is printed once.
"""

from __future__ import annotations

import re
import sys
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

LOCK = Path(__file__).resolve().parent / "wheels.lock"
RULE = "-" * 80
TEXT_NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "AUTHORS")


def notice(library: Path) -> str:
    """The whole text, for the distributions in `library`. Raises ValueError for one that states no licence."""
    locked = {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", LOCK.read_text(), re.M)}
    parts = ["This package contains the following distributions, each under its own licence.\n"]
    table: list[str] = []
    texts: dict[str, list[str]] = {}
    for folder in sorted(library.glob("*.dist-info"), key=lambda path: path.name.lower()):
        metadata = HeaderParser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
        if plain(metadata["Name"]) not in locked:
            continue  # a tool of the developer's environment
        name = f"{metadata['Name']} {metadata['Version']}"
        table.append(f"{name:34}{licence(metadata)}\n{'':34}{address(metadata)}\n")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name.upper().startswith(TEXT_NAMES):
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                texts.setdefault(text, []).append(f"{name} ({path.name})")
    parts.append("".join(table))
    parts += [f"{RULE}\n{', '.join(names)}\n{RULE}\n{text}\n" for text, names in texts.items() if text]
    return "\n".join(parts)


def plain(name: str) -> str:
    """A distribution's name in the one spelling that compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(metadata: Message) -> str:
    """What the distribution says its licence is, in a few words."""
    short = metadata["License-Expression"] or metadata["License"] or ""
    if not short or "\n" in short:
        classes = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
        short = "; ".join(c.rsplit(" :: ", 1)[1] for c in classes) or short.partition("\n")[0]
    if not short:
        raise ValueError(f"{metadata['Name']} {metadata['Version']} states no licence")
    return short


def address(metadata: Message) -> str:
    """Where it comes from."""
    if metadata["Home-page"]:
        return metadata["Home-page"]
    urls = dict(url.split(", ", 1) for url in metadata.get_all("Project-URL") or [])
    for name in ("Homepage", "Source", "Repository", "Source Code"):
        for key, value in urls.items():
            if key.lower() == name.lower():
                return value
    return next(iter(urls.values()), "")


if __name__ == "__main__":
    sys.stdout.write(notice(Path(sys.argv[1])))
