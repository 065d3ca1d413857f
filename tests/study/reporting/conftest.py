from typing import Any, TextIO

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty, for tests that look at nothing but text: drawing is most of a report's time."""

    def save(figure: Figure, file: TextIO, **options: Any) -> None:
        file.write('<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", save)
