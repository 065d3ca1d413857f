"""Imports in the study go one way: each package imports from those before it, and no two files import each other."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "study").rglob("*.py")}

BEFORE = {
    "protocol": set(),
    "run": {"protocol"},
    "records": {"protocol", "run"},
    "campaign": {"protocol", "run", "records"},
    "statistics": {"protocol", "run", "records"},
    "report": {"protocol", "run", "records", "campaign", "statistics"},
    "cli": {"protocol", "run", "records", "campaign", "statistics", "report", "bench"},
}
FREE = {"bench", "__main__"}  # may import from all


def imports(module: str) -> set[str]:
    """The study's modules that a module imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "study":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found | {f"{name}.__init__" for name in found}) & FILES.keys()


def package(module: str) -> str:
    """``"run"`` for "study.run.trainer"; the module's own name where it lies in no package."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_module_imports_only_from_packages_before_its_own(module):
    if package(module) in FREE:
        return
    packages = {package(name) for name in imports(module)} & (BEFORE.keys() | FREE)
    assert packages <= BEFORE.get(package(module), set()) | {package(module)}


def test_no_two_modules_import_each_other():
    graph = {module: imports(module) for module in FILES}
    assert [(a, b) for a in graph for b in graph[a] if a < b and a in graph[b]] == []


def test_no_two_files_have_one_name():
    counts = Counter(path.name for path in FILES.values() if path.name not in ("__init__.py", "__main__.py"))
    assert [name for name, count in counts.items() if count > 1] == []
