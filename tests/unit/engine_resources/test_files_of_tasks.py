"""Files and directories of a task: a removal that fails or hangs is an error with words."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engine.resources import files


def test_a_directory_is_removed_with_all_in_it_and_one_that_is_gone_is_fine(tmp_path: Path):
    """A link is removed, not what it leads to."""
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.mkdir()
    (kept / "file").write_text("stays")
    (gone / "a" / "b").mkdir(parents=True)
    (gone / "a" / "link").symlink_to(kept)
    files.remove(str(gone))
    files.remove(str(gone))
    assert not gone.exists() and (kept / "file").read_text() == "stays"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo \"rm: cannot remove '$4/a': Operation not permitted\" >&2; exit 1", "a': Operation not permitted$"),
        ("exit 3", "is not removed: rm ended with 3$"),
        ("exec sleep 60", r"did not end within 0\.3 s and was killed$"),
    ],
)
def test_a_removal_that_fails_or_hangs_is_told(tmp_path: Path, monkeypatch, program: str, words: str):
    """What rm said last, or that it did not end; the cleanup is tried again."""
    rm = tmp_path / "bin" / "rm"
    rm.parent.mkdir()
    rm.write_text(f"#!/bin/sh\n{program}\n")
    rm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{rm.parent}:/usr/bin:/bin")
    monkeypatch.setattr(files, "REMOVE_SECONDS", 0.3)
    with pytest.raises(OSError, match=words):
        files.remove(str(tmp_path / "mine"))
