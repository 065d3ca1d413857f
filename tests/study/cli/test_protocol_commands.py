"""`new`, `show --toml`, and protocols with code of the user's own on the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.protocol.load import load_protocol, packaged_text
from tests.study.own import CODE, PROTOCOL


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "my.toml").write_text(PROTOCOL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_writes_a_protocol_that_is_valid_and_runs_and_overwrites_nothing(tmp_path):
    path = tmp_path / "new.toml"
    assert call("new", path).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert load_protocol(str(path)).title in text
    short = ["--seeds", 1, "--jobs", 1, "--wandb", "disabled", "--set", "training.epochs=1", "--methods", "none,ewc"]
    result = call("run", path, *short, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    again = call("new", path)
    assert again.exit_code == 2
    assert f"error: {path} exists already; name another file" in again.stderr
    assert path.read_text(encoding="utf-8") == text
    assert "a file name that ends in .toml" in call("new", tmp_path / "protocol").stderr


def test_show_toml_prints_the_file():
    assert call("show", "digits", "--toml").stdout == packaged_text("digits")
    assert call("show", "digit", "--toml").exit_code == 2


def test_only_run_and_tune_import_the_users_code(folder, monkeypatch):
    few = ["my.toml", "--jobs", 1, "--wandb", "disabled"]
    for command in ("run", "tune"):
        result = call(command, *few)
        assert result.exit_code == 0, result.output
    monkeypatch.setenv("FORBIDDEN", "1")
    import sys

    for name in [name for name in sys.modules if name.startswith("mine_")]:
        monkeypatch.delitem(sys.modules, name)
    for command in (
        ["show", "my.toml"],
        ["status", "my.toml"],
        ["report", "my.toml"],
        ["compare", "my:none", "my:noise"],
    ):
        result = call(*command)
        assert result.exit_code == 0, result.output
    for command in ("run", "tune"):
        result = call(command, *few, "--force")
        assert result.exit_code == 2
        assert "error: my.toml: " in result.stderr
        assert "mine.py:clouds': it cannot be imported: RuntimeError: imported (mine.py, line 14)" in result.stderr


def test_an_error_of_the_users_code_comes_before_training_and_without_a_traceback(folder):
    result = call("run", "my.toml", "--jobs", 1, "--wandb", "disabled", "--set", "methods.noise.sise=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: my.toml: methods.noise.kind = './mine.py:Noise': got an unexpected keyword")
    assert not list((folder / "runs" / "my").glob("*.json"))


def test_after_an_edit_the_report_is_of_the_new_code_alone(folder):
    few = ["--jobs", 1, "--wandb", "disabled", "--seeds", 1, "--methods", "none"]
    assert call("run", "my.toml", *few).exit_code == 0
    (folder / "mine.py").write_text(CODE + "\n# edited\n", encoding="utf-8")
    refused = call("report", "my.toml")
    assert refused.exit_code == 2
    assert "benchmark.source_hash" in refused.stderr
    assert call("run", "my.toml", *few).exit_code == 0
    assert len(list((folder / "runs" / "my").glob("*.json"))) == 2
    assert "1 other settings than the protocol's" in call("report", "my.toml").stdout
