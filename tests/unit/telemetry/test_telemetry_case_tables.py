"""docs/cases-endpoints.md and docs/cases-telemetry-and-images.md have a row for each case and trap of spec 06, 07, 08.

That each test that they name exists is shown in tests/unit/common/test_case_tables.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


def numbers(file: str, section: str) -> list[str]:
    """The first column of the table in this section."""
    text = (DOCS / file).read_text()
    assert section in text
    return re.findall(r"^\| (\d+[a-z]?) \|", text.partition(f"## {section}\n")[2].partition("\n## ")[0], re.M)


@pytest.mark.parametrize(
    ("file", "section", "last", "more"),
    [
        ("cases-endpoints.md", "Cases (spec 06 §23)", 99, ()),
        ("cases-endpoints.md", "Traps (spec 06 §24)", 55, ()),
        ("cases-telemetry-and-images.md", "Telemetry, cases (spec 07 §19)", 55,
         ("31a", "31b", "50a", "50b", "50c", "50d")),
        ("cases-telemetry-and-images.md", "Telemetry, traps (spec 07 §20)", 22, ()),
        ("cases-telemetry-and-images.md", "Image cleanup, cases (spec 08 §11)", 52, ("18a", "45a", "45b", "45c")),
        ("cases-telemetry-and-images.md", "Image cleanup, traps (spec 08 §12)", 19, ()),
    ],
)  # fmt: skip
def test_each_case_has_one_row(file, section, last, more):
    """In the order of the specification."""
    found = numbers(file, section)
    assert set(found) == {*map(str, range(1, last + 1)), *more} and len(found) == last + len(more)
    assert found == sorted(found, key=lambda n: (int(n.rstrip("abcd")), n))
