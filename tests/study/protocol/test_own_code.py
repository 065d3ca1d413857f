"""A protocol may name the user's own code; loading it imports nothing."""

import os
import py_compile
import re
import sys
from pathlib import Path

import pytest

from study.errors import ProtocolError
from study.protocol.load import load_protocol, parse_protocol
from study.protocol.own_code import resolve, source_hash
from study.protocol.schema import Protocol
from study.protocol.settings import OwnMethod
from tests.study.own import PROTOCOL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    (tmp_path / "my.toml").write_text(PROTOCOL, encoding="utf-8")
    return tmp_path


def test_loading_takes_the_hash_of_the_file_and_imports_nothing(folder):
    protocol = load_protocol(str(folder / "my.toml"))
    expected = source_hash("./mine.py:Noise", folder)
    assert re.fullmatch("[0-9a-f]{16}", expected)
    parts = (protocol.benchmark, protocol.model, protocol.methods["noise"])
    assert [part.source_hash for part in parts] == [expected] * 3
    assert [part.options for part in parts] == [{"samples": 40}, {"width": 8}, {"size": 0.01}]
    (folder / "mine.py").write_text("raise RuntimeError('edited')\n", encoding="utf-8")
    assert load_protocol(str(folder / "my.toml")) != protocol


def test_the_code_that_runs_is_the_code_of_the_hash(folder, monkeypatch):
    """Also where bytecode of another version lies beside it, of the same size and time."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, found = folder / "mine.py", []
    for value in (1, 2):
        file.write_text(f"def Made(): return {value}\n", encoding="utf-8")
        os.utime(file, (10**9, 10**9))
        settings = OwnMethod(kind="./mine.py:Made", source_hash=source_hash("./mine.py:Made", folder))
        found.append(resolve(settings, "methods.made", folder)())
        py_compile.compile(str(file))
    assert found == [1, 2]


def test_a_module_of_a_package_is_found_without_importing_the_package(folder, monkeypatch):
    package = folder / "ours" / "inner"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py", package / "method.py"):
        path.write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    assert source_hash("ours.inner.method:Method", folder) == source_hash("./ours/inner/method.py:Method", folder)
    assert source_hash("ours.other:Method", folder) is None
    assert not [name for name in sys.modules if name.startswith("ours")]


def test_what_is_written_is_read_as_the_same_protocol_wherever_the_code_is(folder, tmp_path_factory):
    import tomli_w

    protocol = load_protocol(str(folder / "my.toml"))
    text = tomli_w.dumps(protocol.model_dump(exclude_none=True, mode="json"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "protocol.toml"
    elsewhere.write_text(text, encoding="utf-8")
    assert load_protocol(str(elsewhere)) == protocol


def test_lambda_is_given_where_the_protocol_has_a_strength(folder):
    protocol = load_protocol(str(folder / "my.toml"))
    assert protocol.methods["noise"].strength_argument == "reg_lambda"
    assert protocol.strength_of("noise", "class") == 1.0
    without = load_protocol(str(folder / "my.toml"), ["strength.noise=", "tuning="])
    assert without.strength_of("noise", "class") is None
    named = load_protocol(str(folder / "my.toml"), ["methods.noise.strength_argument=alpha"])
    assert named.methods["noise"].strength_argument == "alpha"


def test_a_grid_may_hold_any_option_of_the_users_method(folder):
    protocol: Protocol = load_protocol(str(folder / "my.toml"))
    found = [protocol.variant("noise", values) for values in protocol.tuning.combinations("noise")]
    assert [(method.options["size"], strength) for method, strength in found] == [
        (0.01, 1),
        (0.1, 1),
        (0.01, 2),
        (0.1, 2),
    ]


@pytest.mark.parametrize(
    ("original", "replacement", "said"),
    [
        ("./mine.py:Noise", "mine.py", "methods.noise.kind = 'mine.py'; allowed: naive, joint,"),
        ("./mine.py:Noise", "mine.py:", "methods.noise.kind = 'mine.py:': allowed: your own as package.module:Name or"),
        ("./mine.py:Network", "./mine:Net", "model.kind = './mine:Net': allowed: your own as package.module:Name or"),
        ('kind = "./mine.py:Network"', 'name = "cnn"\nhidden = [1] #', "[model]: unknown key 'width'"),
        (
            "[strength]",
            "[strength]\nnone.class = 1",
            "strength.none: no such method with a λ; did you mean",
        ),
        (
            "noise.class = 1",
            "",
            "strength.noise is missing: a method with a grid needs it, as in strength.noise.class = ",
        ),
        ("noise.class = 1", "noise.task = 1", "strength.noise.class is missing"),
        (
            "[methods]",
            '[methods]\nold = { kind = "replay", examples = 9, storage = "uint8" }',
            "methods.old.storage = 'uint8': allowed with a benchmark of your own: 'float32'",
        ),
    ],
)
def test_an_error_names_file_key_value_and_what_is_allowed(original, replacement, said):
    assert original in PROTOCOL
    with pytest.raises(ProtocolError, match=re.escape(f"my.toml: {said}")):
        parse_protocol(PROTOCOL.replace(original, replacement, 1), "my.toml")
