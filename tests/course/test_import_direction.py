"""Who may import whom: the library knows nothing of the course, and grading knows nothing of the library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {"labkit": (), "autograder": (), "course": ("autograder.format",)}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_in_one_direction(package):
    others = set(ALLOWED) - {package}
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                allowed = any(f"{name}.".startswith(f"{one}.") for one in ALLOWED[package])
                assert name.split(".")[0] not in others or allowed, f"{file}:{node.lineno} imports {name}"
