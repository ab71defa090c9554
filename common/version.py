"""The version that the agent reports.

The reference puts "<version> (<commit>)" into registration, introspection and User-Agent. VERSION is that of the
reference whose behaviour this agent follows: the control plane gates features on it. COMMIT is the build's, 8 hex
digits (ECS agent behaviour, spec 02 §2.1): a package has it in a file, a clone in its .git.
"""

from __future__ import annotations

from pathlib import Path

VERSION = "1.105.1"
UNKNOWN_COMMIT = "00000000"


def read_commit(package: Path) -> str:
    """The first 8 digits of the commit of the tree that `package` lies in; UNKNOWN_COMMIT when nothing tells it."""
    for told in (package / "COMMIT", package.parent / ".git" / "HEAD"):
        try:
            text = told.read_text(encoding="ascii").strip()
            if text.startswith("ref: "):
                text = _of_reference(told.parent, text.removeprefix("ref: "))
            int(text[:8], 16)
        except (OSError, ValueError):  # not there, a worktree's .git file, or something else than a commit
            continue
        return text[:8]
    return UNKNOWN_COMMIT


def _of_reference(git: Path, name: str) -> str:
    loose = git / name
    if loose.is_file():
        return loose.read_text(encoding="ascii").strip()
    for line in (git / "packed-refs").read_text(encoding="ascii").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name:
            return commit
    raise ValueError(name)


COMMIT = read_commit(Path(__file__).parent)
