"""What a user may type, and a terminal may be: one line and exit code 2, or output all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study import atomic
from study.atomic import write_atomically
from study.cli.app import app

DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "digits", "--out", ""], "the argument '' after --out is empty"),
        (["run", "digits", "--data-root="], "the argument '--data-root=' is empty"),
        (["status", ""], "the argument '' is empty"),
        (["run", "digits", "--out", "a\0b"], "has a NUL character"),
        (["show", "a\0b.toml"], "has a NUL character"),
        (["report", "digits", "--records", "\udcff"], "is not UTF-8"),
        (["show", "digits", "--set", "training.epochs=3\nseeds=5"], "has several lines"),
        (["show", "digits", "--set", "training.epochs=3\rseeds=5"], "has several lines"),
        (["show", "digits", "--set", f"training.epochs={DEEP}"], "nested too deeply"),
        (["show", "digits", "--set", f"training.epochs={'9' * 5000}"], "value has 5000 digits"),
        (["run", "digits", "--gpus-per-run", "0.5"], "--gpus-per-run 0.5: allowed with --ray"),
        (["run", "digits", "--max-silence", "3", "--ray", "local"], "--max-silence 3: allowed without --ray"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"title = {DEEP}", "nested too deeply"),
        ('[benchmark]\nkind = "./a\\u0000b.py:X"', r"benchmark.kind = './a\x00b.py:X'"),
    ],
)
def test_a_protocol_that_no_one_wrote_is_refused(content, said, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text(content)
    result = CliRunner().invoke(app, ["show", str(path)])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_home_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    result = CliRunner().invoke(app, ["run", "digits", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert (
        f"HOME: {tmp_path / 'file' / '.avalanche'}, where Avalanche keeps its settings, cannot be made" in result.stderr
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_replaced(encoding):
    command = [sys.executable, "-m", "study", "show", "digits"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    found = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert "source of ?" in found.stdout.decode(encoding)


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "kept").write_bytes(b"before")
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'kept'}'"):
        write_atomically(tmp_path / "kept", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"before"
