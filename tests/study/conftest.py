import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from study.protocol.load import parse_protocol
from study.protocol.schema import Protocol
from study.run.data import DataError, data_root
from study.run.specification import Run

TINY = {"epochs": "1", "experiences": "2", "learning_rate": "5e-3"}


@pytest.fixture(scope="session")
def text() -> str:
    """The embedded protocol, cut down to one epoch and two experiences: seconds instead of minutes."""
    text = (resources.files("study.protocol") / "digits.toml").read_text(encoding="utf-8")
    for key, value in TINY.items():
        text, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert times == 1, f"the embedded protocol says {key} {times} times"
    return text


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
