"""docs/cases-engine.md has a row for each numbered case and trap of specs 03, 04 and 05."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
TABLE = (DOCS / "cases-engine.md").read_text()
# how many cases or traps each section has, in the order of the document
SECTIONS = [92, 41, 51, 27, 60, 34]


@pytest.mark.parametrize(("section", "last"), list(enumerate(SECTIONS, 1)))
def test_every_case_has_one_row(section, last):
    """In the order of the specification."""
    numbers = re.findall(r"^\| (\d+) \|", TABLE.split("\n## ")[section], re.M)
    assert numbers == [str(number) for number in range(1, last + 1)]


def test_what_differs_on_purpose_stands_in_the_list_of_differences():
    """The quoted words lead to the row that gives the reason."""
    quoted = re.findall(r'differs on purpose: "([^"]+)"', TABLE)
    differences = (DOCS / "differences.md").read_text()
    assert quoted and [words for words in quoted if words not in differences] == []
