"""docs/cases-*.md say which test shows which case of the specification; no such test may be renamed or deleted."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLES = sorted((ROOT / "docs").glob("cases-*.md"))
NAMED = re.compile(r"([\w/]+\.py)::(test_\w+)")
ROW = re.compile(r"^\| (\d+[a-z]?) \| (.+) \| (.+) \|$", re.M)
WITHOUT_A_TEST = ("reference only:", "not possible here:", "differs on purpose:")


@cache
def known_tests() -> dict[str, set[str]]:
    """The test functions of each file, by its path in the tree and by its base name, which is unique."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        names = set(re.findall(r"^(?: {4})?(?:async )?def (test_\w+)", path.read_text(), re.M))
        found[path.name] |= names
        found[str(path.relative_to(ROOT))] |= names
    return found


def rows(table: Path) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Title and rows of each section that has a table of cases."""
    parts = re.split(r"^## ", table.read_text(), flags=re.M)[1:]
    return [(part.splitlines()[0], ROW.findall(part)) for part in parts if ROW.search(part)]


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_every_test_that_a_table_names_exists(table):
    """Under this name, in this file."""
    named = set(NAMED.findall(table.read_text()))
    assert named
    assert sorted(f"{file}::{name}" for file, name in named if name not in known_tests().get(file, ())) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_every_row_names_a_test_or_the_reason_for_none(table):
    """A row without either would be a promise."""
    found = [row for _, section in rows(table) for row in section]
    assert found
    assert [row for row in found if not NAMED.search(row[2]) and not row[2].startswith(WITHOUT_A_TEST)] == []


def test_every_difference_on_purpose_has_a_test():
    """docs/differences.md promises it, by names that can be searched for."""
    known = set[str]().union(*known_tests().values())
    lines = (ROOT / "docs" / "differences.md").read_text().splitlines()
    differences = [line for line in lines if line.startswith("| ") and not line.startswith("| The reference |")]
    assert len(differences) > 100
    for difference in differences:
        named = re.findall(r"`(test_\w+)`", difference.rsplit("|", 2)[1])
        assert named and set(named) <= known, difference


def numbered(last: int, *extra: str) -> set[str]:
    return {*map(str, range(1, last + 1)), *extra}


@pytest.mark.parametrize(("section", "wanted"), [
    (0, numbered(85, "17a", "26a", "38a", "54a", "54b", "76a", "76b", "76c")),
    (1, numbered(24)),
    (2, numbered(42, "1a", "6a", "17a", "26a")),
    (3, numbered(28)),
])  # fmt: skip
def test_init_and_packages_have_a_row_for_each_case_and_trap(section, wanted):
    """As many as spec 09 §17 and §18 and spec 10 §17 and §18 have."""
    title, found = rows(ROOT / "docs/cases-init-and-packages.md")[section]
    numbers = [row[0] for row in found]
    assert set(numbers) == wanted and len(numbers) == len(wanted), title
