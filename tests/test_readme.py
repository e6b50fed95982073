"""The README's tables say what the imports say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    "metaapi-cloud-sdk": "metaapi_cloud_sdk",
    "asyncio-throttle": "asyncio_throttle",
    "prometheus-client": "prometheus_client",
}
PACKAGES = [
    "metaapi-cloud-sdk",
    "asyncio-throttle",
    "redis",
    "sqlalchemy",
    "psycopg",
    "tenacity",
    "structlog",
    "prometheus-client",
    "pytest",
    "respx",
]
PARTS = ["connector", "pool", "queue", "health", "api", "tests", "config", "systemd"]


def rows() -> dict[str, list[str]]:
    """Return the README's table rows: first cell to the paths in the second."""
    found = {}
    for line in (ROOT / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3:
            found[cells[0]] = re.findall(r"`([^`]+)`", cells[1])
    return found


def imports_of(path: Path) -> set[str]:
    """Return the top-level modules a file or a folder of files imports."""
    files = [path] if path.is_file() else path.rglob("*.py")
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_imported_where_the_table_says(package):
    """A package the table places somewhere is imported there."""
    paths = rows()[package]
    assert paths
    for path in paths:
        assert MODULES.get(package, package) in imports_of(ROOT / path)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_where_the_table_says(part):
    """A part the table places somewhere exists and is not empty."""
    paths = rows()[part]
    assert paths
    for path in paths:
        place = ROOT / path
        assert place.is_file() or any(place.iterdir())


def test_every_document_the_readme_links_to_exists():
    """No link of the README leads nowhere."""
    text = (ROOT / "README.md").read_text()
    links = [t for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
