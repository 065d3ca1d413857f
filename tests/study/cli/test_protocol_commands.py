"""`new`, `show --toml`, and protocols with code of the user's own on the command line."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.protocol.load import load_protocol, packaged_text
from study.records.store import RunStore
from study.run.metrics import average_accuracy
from tests.study.own import CODE, PROTOCOL


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "my.toml").write_text(PROTOCOL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_writes_a_protocol_in_which_ewc_helps_and_overwrites_nothing(tmp_path):
    path, out = tmp_path / "a" / "new.toml", tmp_path / "out"
    written = call("new", path)
    assert (written.exit_code, written.stdout) == (0, f"written: {path}; next: clreg-study run {path}\n")
    text = path.read_text(encoding="utf-8")
    assert load_protocol(str(path)).title in text
    result = call("run", path, "--seeds", 2, "--methods", "none,ewc", "--jobs", 1, "--wandb", "disabled", "--out", out)
    assert result.exit_code == 0, result.output
    by_method: dict[str, list[float]] = {}
    for record in RunStore(out).read_all():
        by_method.setdefault(record.run.label, []).append(average_accuracy(record.accuracy))
    assert min(by_method["ewc"]) - max(by_method["none"]) > 0.1, by_method
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
    assert result.stderr.startswith("error: my.toml: methods.noise.kind = './mine.py:Noise': unknown key")
    assert not list((folder / "runs" / "my").glob("*.json"))


def test_a_failure_in_the_users_code_names_its_line_and_the_record_and_has_ended(folder):
    failing = CODE.replace("        strategy.loss += self.scale", "        1 / 0\n        strategy.loss += self.scale")
    (folder / "mine.py").write_text(failing, encoding="utf-8")
    line = 1 + failing[: failing.index("1 / 0")].count("\n")
    result = call("run", "my.toml", "--jobs", 1, "--wandb", "disabled", "--seeds", 1)
    assert result.exit_code == 1
    said = next(each for each in result.stderr.splitlines() if each.startswith("failed: "))
    (record,) = (folder / "runs" / "my").glob("class-noise-*.json")
    place = f"({folder / 'mine.py'}, line {line})"
    assert said.endswith(f": ZeroDivisionError: division by zero {place}; its record: runs/my/{record.name}")
    status = call("status", "my.toml").stdout
    assert "| class | noise | 1 | – | – | 1 |" in status
    assert "begun and not ended" not in status


def test_show_names_the_users_file_and_its_hash_once_and_nothing_internal(folder):
    shown = call("show", "my.toml").stdout
    assert shown.count(load_protocol("my.toml").benchmark.source_hash) == 1
    assert "| noise | kind = ./mine.py:Noise, size = 0.01, λ as reg_lambda | 1 |" in shown
    assert "source_hash" not in shown
    assert "strength_argument" not in shown
    (folder / "mine.py").unlink()
    assert "code: ./mine.py (there is no such file)" in call("show", "my.toml").stdout


FEW = ("--jobs", 1, "--wandb", "disabled", "--seeds", 1, "--methods", "none")


def test_after_an_edit_every_command_leaves_the_old_records_out_and_says_so(folder):
    old = load_protocol("my.toml").benchmark.source_hash
    assert call("run", "my.toml", *FEW).exit_code == 0
    (folder / "mine.py").write_text(CODE + "\n# edited\n", encoding="utf-8")
    left_out = f"left out, made with another version of ./mine.py (hash {old}): 1 of 1 records"
    status = call("status", "my.toml")
    assert f"{left_out}; to make them again: clreg-study run my.toml\n" in status.stdout
    assert "0 of 1 runs have ended" in status.stdout
    refused = call("report", "my.toml", "--set", "strength.noise.class=tuned")
    again = "clreg-study tune my.toml --set strength.noise.class=tuned && clreg-study run my.toml --set strength.noise."
    assert f"{left_out}; to make them again: {again}" in refused.stderr
    assert (refused.exit_code, "error: there are no records to report on" in refused.stderr) == (2, True)
    repeated = call("repeat", "my.toml")
    assert (repeated.exit_code, left_out in repeated.stderr, "source_hash" in repeated.stderr) == (2, True, False)
    repeated = call("repeat", "my")
    assert (repeated.exit_code, repeated.stderr.count("mine.py has changed")) == (2, 1)

    assert call("run", "my.toml", *FEW).exit_code == 0
    assert len(list((folder / "runs" / "my").glob("*.json"))) == 2
    for command in (["report", "my.toml"], ["compare", "my", "my"], ["repeat", "my"]):
        result = call(*command)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith(f"{left_out[: -len('1 of 1 records')]}1 of 2 records\n"), result.stderr


def test_a_report_carries_the_users_file_so_that_its_own_commands_work(folder, monkeypatch):
    assert call("tune", "my.toml", "--jobs", 1).exit_code == 0
    assert call("run", "my.toml", *FEW, "--seeds", 2).exit_code == 0
    assert call("report", "my.toml").exit_code == 0
    report = (folder / "runs" / "my" / "report").rename(folder / "report")
    assert (report / "mine.py").read_text(encoding="utf-8") == CODE
    (folder / "mine.py").unlink()
    assert call("repeat", "report").exit_code == 0
    monkeypatch.chdir(report)
    shown = (report / "README.md").read_text(encoding="utf-8")
    assert "It names `./mine.py`, which is here in the version of the runs" in shown
    commands = [line for line in shown.splitlines() if line.startswith("clreg-study ")]
    assert len(commands) == 4
    for line in commands:
        result = call(*shlex.split(line)[1:], *([] if " report " in line else ["--jobs", 1, "--wandb", "disabled"]))
        assert result.exit_code == 0, f"{line}: {result.output}"
    for path in report.glob("*.*"):
        assert path.read_bytes() == (report / "again" / path.name).read_bytes(), path.name

    (report / "mine.py").write_text(CODE + "\n# edited\n", encoding="utf-8")
    assert call("report", "protocol.toml", "--records", ".", "--out", "other").exit_code == 0
    assert not (report / "other" / "mine.py").exists()
    of_the_runs = load_protocol("protocol.toml").benchmark.source_hash
    said = f"It names `./mine.py`, which is not here: the runs used the version with the hash {of_the_runs}."
    assert said in (report / "other" / "README.md").read_text(encoding="utf-8")
