from collections.abc import Callable
from pathlib import Path

import pytest

from study.protocol.load import parse_protocol
from study.protocol.schema import Protocol
from study.run.data import DataError, data_root
from study.run.specification import Run

ALL_METHODS = Path(__file__).with_name("all_methods.toml")


@pytest.fixture(scope="session")
def text() -> str:
    """A protocol with every kind of method, on Split Digits with one epoch and two experiences."""
    return ALL_METHODS.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def protocol(text: str) -> Protocol:
    return parse_protocol(text, "tiny.toml")


@pytest.fixture
def protocol_file(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_of(protocol: Protocol) -> Callable[..., Run]:
    """A run of the tiny protocol, by default class-incremental naive training with seed 0."""

    def make(method: str = "naive", /, scenario: str = "class", seed: int = 0, **changes: object) -> Run:
        return Run.of("tiny", protocol, scenario, method, seed).model_copy(update=changes)

    return make


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of the published MNIST."""
    try:
        root = data_root(None)
    except DataError as error:
        pytest.skip(str(error))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"MNIST is not in {root.absolute()}; CLREG_DATA_ROOT names the folder of the data")
    return root
