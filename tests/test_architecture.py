"""Imports go one way: the penalties, and what both sides share, import nothing of what measures an importance."""

import ast
from pathlib import Path

import pytest

import clreg_plugins

PENALTY_SIDE = ("checks", "factors", "flat", "held", "kronecker", "layer_curvature", "penalty", "penalty_step")


@pytest.mark.parametrize("module", PENALTY_SIDE)
def test_the_penalty_side_imports_only_itself(module):
    tree = ast.parse(Path(clreg_plugins.__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {n for n in names if n.startswith("clreg_plugins")} <= {f"clreg_plugins.{m}" for m in PENALTY_SIDE}
