"""docs/faults.md has a row for every fault of the project's list, with tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text()
WANTED = {f"F{number}" for number in (*range(1, 37), 68)}
"""A link's own faults; those of the ledger, the store and the fleet are shown as they come."""


def rows():
    """Return the cells of every row: fault, what happens, test, measured."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0].strip() != "fault"]


def functions():
    """Return the names of all tests by their file."""
    return {
        str(path.relative_to(ROOT / "tests")): {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for path in (ROOT / "tests").rglob("test_*.py")
    }


def test_every_fault_of_the_list_has_a_row():
    """Each with a test, or with words that say why it cannot be shown."""
    told = {name for row in rows() for name in re.findall(r"\bF\d+\b", row[0])}
    assert sorted(WANTED - told) == []
    for row in rows():
        assert len(row) == 4, row
        fault, happens, test, _ = row
        is_shown = "`" in test or "above" in test
        assert is_shown or "not detectable here" in happens or "not applicable here" in happens, (
            fault
        )


def test_every_test_that_is_named_exists():
    """By its file where the row names one; a name that ends in dots is the beginning of one."""
    existing = functions()
    every = set().union(*existing.values())
    for row in rows():
        for place in re.findall(r"`([\w/]+\.py)", row[2]):
            assert (ROOT / "tests" / place).is_file() or (ROOT / place).is_file(), place
        for place, name, dots in re.findall(r"([\w/]+\.py)?::(test_\w+)(…?)", row[2]):
            among = existing.get(place, every)
            assert any(each.startswith(name) if dots else each == name for each in among), name
