"""docs/sdk.md accounts for every defect of the audit, by overrides and tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "sdk.md").read_text()
AUDITED = {
    *(f"A{number}" for number in range(1, 16)),
    *(f"B{number}" for number in range(1, 33)),
    *(f"C{number}" for number in range(1, 16)),
}
OVERRIDES = ROOT / "brokerd" / "connector" / "metaapi_stream" / "overrides"


def rows(heading: str) -> list[str]:
    """Return the rows of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def numbers(table: list[str]) -> list[str]:
    """Return the defects that the first cells name."""
    return [number for row in table for number in re.findall(r"\b[ABC]\d+\b", row.split("|")[1])]


def functions(folder: Path, *, pattern: str) -> set[str]:
    """Return the names of the functions of modules at their top level, and in classes."""
    return {
        node.name
        for path in folder.glob(pattern)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_audited_defect_is_contained_or_harmless_and_never_both() -> None:
    """A1 to A15 and B1 to B32 each have exactly one row; what was found later has one too.

    A defect of class C may be several, of which some reach us.
    """
    contained, harmless = (
        numbers(rows("Defect, containment, test")),
        numbers(rows("Harmless here")),
    )
    told = contained + harmless
    grave = [number for number in told if not number.startswith("C")]
    assert len(grave) == len(set(grave))
    assert sorted(AUDITED - set(told)) == []


def test_every_containment_names_tests_that_exist() -> None:
    """And each harmless row's, where it names some."""
    existing = functions(Path(__file__).parent, pattern="test_*.py")
    for row in rows("Defect, containment, test"):
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= existing, row
    for row in rows("Harmless here"):
        assert row.split("|")[2].strip(), row
        assert set(re.findall(r"`(test_\w+)`", row)) <= existing, row


def test_every_override_has_its_row() -> None:
    """Each public function of the overrides is named as a containment."""
    told = set(re.findall(r"`(\w+)`", "\n".join(rows("Defect, containment, test"))))
    public = {
        node.name
        for path in OVERRIDES.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert public - {"replace"} <= told


def test_plain_and_contained_are_shown_side_by_side() -> None:
    """A test that the page marks so is run on both kinds."""
    text = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)` ⇄", PAGE):
        place = text.index(f"def {name}(")
        around = text[max(0, place - 600) : place + 1200]
        assert re.search(r"plain|KINDS|MemoryHistoryStorage|_ORIGINAL|is_judged", around), name
