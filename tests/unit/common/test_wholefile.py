"""Files that are replaced as a whole."""

from __future__ import annotations

import os

import pytest

from common import wholefile


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_has_its_new_content_and_mode_and_nothing_lies_beside_it(tmp_path, durable):
    """Whatever the umask says, and whatever mode the former file had."""
    path = tmp_path / "file"
    path.write_bytes(b"former")
    path.chmod(0o640)
    before = os.umask(0o077)
    try:
        wholefile.replace(path, b"new", 0o644, durable)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (b"new", 0o644, [path])


def test_a_reader_that_has_the_former_file_open_reads_on_in_it(tmp_path):
    """The former file is not written to."""
    path = tmp_path / "file"
    wholefile.replace(path, b"former")
    with path.open("rb") as reader:
        wholefile.replace(path, b"new")
        assert (reader.read(), path.read_bytes(), path.stat().st_mode & 0o777) == (b"former", b"new", 0o600)


@pytest.mark.parametrize("failing", ["fsync", "replace", "fchmod"])
def test_a_failure_leaves_the_former_file_and_nothing_beside_it(tmp_path, monkeypatch, failing):
    """A full disk tells of itself at fsync at the latest."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"former")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        wholefile.replace(path, b"new", durable=True)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"former", [path])


def test_a_name_without_a_directory_is_one_of_the_working_directory(tmp_path, monkeypatch):
    """Not of the root or of /tmp."""
    monkeypatch.chdir(tmp_path)
    wholefile.replace("file", b"here")
    assert (tmp_path / "file").read_bytes() == b"here"
