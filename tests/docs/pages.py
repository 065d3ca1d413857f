"""Pages of documentation, run block by block as they are printed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str = "python") -> list[str]:
    """The code blocks of a page, named by its path within the repository."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def run(page: str, after_each: Callable[[dict[str, Any]], None] = lambda names: None) -> dict[str, Any]:
    """The names that a page's Python blocks leave behind, run in order in one namespace.

    Args:
        page: its path within the repository.
        after_each: called with the namespace after each block.
    """
    names: dict[str, Any] = {"__name__": page}
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
        after_each(names)
    return names
