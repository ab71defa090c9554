#!/usr/bin/env python3
"""Write packaging/wheels.lock: requirements.txt with the SHA-256 of every wheel that a package may contain.

Run it after requirements.txt was changed. It asks the package index that pip is configured for, for each interpreter
and architecture that packages are built for, and downloads nothing but metadata. Needs pip 23 or later: run it with
the Python of .venv.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12", "3.13")
ARCHITECTURES = ("x86_64", "aarch64")
# Newest first; 2.28 is the C library of the oldest distribution that has a Python of PYTHONS (RHEL 8 and its kin).
PLATFORMS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
HEAD = """\
# Written by packaging/lock.py from requirements.txt. pip refuses a wheel whose hash is not here.
"""


def resolve(python: str, architecture: str) -> dict[str, set[str]]:
    """`name==version` -> hashes, for one interpreter and architecture. Ends the program when pip fails."""
    with tempfile.TemporaryDirectory() as scratch:
        # pip judges markers by the interpreter that it runs on, not by the one asked for; a package contains them all.
        every = re.sub(r"\s*;.*", "", (HERE.parent / "requirements.txt").read_text())
        Path(scratch, "requirements.txt").write_text(every)
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps",
            "--only-binary", ":all:", "--target", scratch, "--report", f"{scratch}/report.json",
            "--implementation", "cp", "--python-version", python,
            *(f"--abi={abi}" for abi in ("cp" + python.replace(".", ""), "abi3", "none")),
            *(f"--platform={platform}_{architecture}" for platform in PLATFORMS),
            "-r", f"{scratch}/requirements.txt",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"Python {python} on {architecture}: pip cannot resolve requirements.txt:\n{done.stderr}")
        report = json.loads(Path(scratch, "report.json").read_text())
    return {
        "{name}=={version}".format(**item["metadata"]): {item["download_info"]["archive_info"]["hashes"]["sha256"]}
        for item in report["install"]
    }


def main() -> None:
    """Resolve everything, then replace the file."""
    found: dict[str, set[str]] = {}
    for python in PYTHONS:
        for architecture in ARCHITECTURES:
            for pin, hashes in resolve(python, architecture).items():
                found.setdefault(pin, set()).update(hashes)
    lines = [HEAD]
    for pin, hashes in sorted(found.items(), key=lambda item: item[0].lower()):
        lines += [pin, *(f" \\\n    --hash=sha256:{value}" for value in sorted(hashes)), "\n"]
    (HERE / "wheels.lock").write_text("".join(lines))


if __name__ == "__main__":
    main()
