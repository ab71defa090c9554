"""The commit that the agent reports, from wherever a build has it."""

import subprocess

import pytest

from common import version


def git(directory, *words):
    """One git command without anybody's configuration."""
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=directory, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "more", [(), ("pack-refs", "--all"), ("checkout", "-q", "--detach")], ids=lambda m: " ".join(m)
)
def test_a_clone_tells_its_commit(tmp_path, more):
    """A branch, a branch whose reference is packed, and a detached head."""
    git(tmp_path, "init", "-q")
    commit = git(tmp_path, "commit", "-q", "--allow-empty", "-m", "m")
    if more:
        git(tmp_path, *more)
    assert version.read_commit(tmp_path / "common") == commit[:8]


def test_a_package_has_it_in_a_file_and_that_comes_first(tmp_path):
    """What was built counts, not the clone that it happens to lie in."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "m")
    (tmp_path / "common").mkdir()
    (tmp_path / "common/COMMIT").write_text("a8b3e7d3c0ffee\n")
    assert version.read_commit(tmp_path / "common") == "a8b3e7d3"


@pytest.mark.parametrize("head", [None, "ref: refs/heads/unborn\n", "nonsense\n", "", "\xff"])
def test_without_one_it_is_eight_zeros(tmp_path, head):
    """No repository, one without a commit, and a broken one."""
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_text(head, encoding="latin-1")
    assert version.read_commit(tmp_path / "common") == "00000000"
