"""docs/cases-control-plane.md and docs/differences.md name tests; none may be renamed or deleted behind their back."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CASES, DIFFERENCES = (ROOT / "docs" / name for name in ("cases-control-plane.md", "differences.md"))
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.M)
NAMED = re.compile(r"`(\w+\.py)::(test_\w+)`")
DIFFERS = re.compile(r'differs on purpose: "(.+?)"')


def known_tests() -> dict[str, set[str]]:
    """The names of all test functions, by the base name of their file."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        found[path.name] |= set(re.findall(r"^\s*def (test_\w+)", path.read_text(), re.M))
    return found


def sections() -> list[tuple[str, str]]:
    """Title and text of each section with a table."""
    parts = re.split(r"^## ", CASES.read_text(), flags=re.M)[1:]
    return [(part.splitlines()[0], part) for part in parts if "| # |" in part]


@pytest.mark.parametrize(("number", "count"), list(enumerate((78, 28, 86, 33))))
def test_every_case_and_trap_has_its_row(number, count):
    """As many as the specification has, in order, each with a test."""
    title, text = sections()[number]
    rows = ROW.findall(text)
    assert [int(row[0]) for row in rows] == list(range(1, count + 1)), title
    assert [row[0] for row in rows if not NAMED.search(row[2])] == []


def test_every_test_that_the_table_names_exists():
    """Under this name, in this file."""
    known = known_tests()
    named = NAMED.findall(CASES.read_text())
    assert len(named) > 225
    assert sorted({f"{file}::{name}" for file, name in named if name not in known.get(file, ())}) == []


def test_every_difference_has_its_words_and_its_tests():
    """What differs on purpose is told in differences.md, with the reason, and the tests named there exist."""
    text = DIFFERENCES.read_text()
    quoted = DIFFERS.findall(CASES.read_text())
    assert len(quoted) > 15
    assert [words for words in quoted if words not in text] == []
    everywhere = set().union(*known_tests().values())
    assert sorted(set(re.findall(r"`(test_\w+)`", text)) - everywhere) == []
