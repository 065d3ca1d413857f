from pathlib import Path
from typing import Any, TextIO

import pytest
from matplotlib.figure import Figure

from tests.study.report.synthetic import all_records, failed, search_records, toy, written


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty, for tests that look at nothing but text: drawing is most of a report's time."""

    def save(figure: Figure, file: TextIO, **options: Any) -> None:
        file.write('<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on every method over 4 seeds, with the search, in which one run failed and one diverged."""
    protocol = toy()
    records = all_records(protocol)
    records += [failed(protocol, "ewc", 4), failed(protocol, "naive", 5, "diverged")]
    return written(tmp_path_factory.mktemp("complete"), records, search_records(protocol))
