#!/usr/bin/env python3
"""Which distributions a package contains, and their licences: THIRD-PARTY for people, an SBOM for programs.

`thirdparty.py SITE-PACKAGES` prints the former, for what wheels.lock names. Names, versions and licence texts come from
the metadata of the installed wheels; a text that several distributions share is printed once. The SBOM is CycloneDX
1.5 (https://cyclonedx.org/docs/1.5/json/), without a time or a serial number: two builds have the same.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

LOCK = Path(__file__).resolve().parent / "wheels.lock"
RULE = "-" * 80
TEXT_NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "AUTHORS")


def notice(library: Path) -> str:
    """The whole text, for the distributions in `library`. Raises ValueError for one that states no licence."""
    parts = ["This package contains the following distributions, each under its own licence.\n"]
    table: list[str] = []
    texts: dict[str, list[str]] = {}
    for folder, metadata in distributions(library):
        name = f"{metadata['Name']} {metadata['Version']}"
        table.append(f"{name:34}{licence(metadata)}\n{'':34}{address(metadata)}\n")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name.upper().startswith(TEXT_NAMES):
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                texts.setdefault(text, []).append(f"{name} ({path.name})")
    parts.append("".join(table))
    parts += [f"{RULE}\n{', '.join(names)}\n{RULE}\n{text}\n" for text, names in texts.items() if text]
    return "\n".join(parts)


def sbom(library: Path, version: str) -> str:
    """The bill of materials of ecs-init `version`, as JSON. Raises ValueError as `notice` does."""
    components = [
        {
            "type": "library",
            "name": metadata["Name"],
            "version": metadata["Version"],
            "purl": f"pkg:pypi/{plain(metadata['Name'])}@{metadata['Version']}",
            "licenses": [{"license": {"name": licence(metadata)}}],
        }
        for _, metadata in distributions(library)
    ]
    product = {"type": "application", "name": "ecs-init", "version": version}
    document = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": product},
        "components": components,
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def distributions(library: Path) -> Iterator[tuple[Path, Message]]:
    """Folder and metadata of each distribution in `library` that wheels.lock names."""
    locked = {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", LOCK.read_text(), re.M)}
    for folder in sorted(library.glob("*.dist-info"), key=lambda path: path.name.lower()):
        metadata = HeaderParser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
        if plain(metadata["Name"]) in locked:  # else a tool of the developer's environment
            yield folder, metadata


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
