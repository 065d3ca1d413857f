"""Command lines with one thing wrong: each is refused in one message, whatever else it says, and nothing runs.

``CLREG_FUZZ_EXAMPLES=3000 pytest tests/study/cli/test_command_lines.py`` tries more of them.
"""

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from study.cli.app import app
from study.records.run_record import record_of
from study.records.store import RunStore
from tests.fuzzing import count_example, fuzzed
from tests.study.conftest import ALL_METHODS
from tests.study.made_up import finished

COMMANDS = typer.main.get_command(app).commands
FLAGS = ("--force", "--rebuild", "--toml")
NO_COUNT = ("-1", "1.5", "x", "nan", "1e3", "0x10", "3 4")
NO_FOLDER = ("", "nowhere", "no/where", "a\0b")
WRONG: dict[str, tuple[str, ...]] = {
    "--data-root": ("", "a\0b"),
    "--device": ("gpu", "CPU", "cuda:0", ""),
    "--gpus-per-run": ("0", "-1", "1.5", "nan", "inf", "x", "0.5"),
    "--jobs": ("0", *NO_COUNT),
    "--max-silence": ("0", "-1", "nan", "inf", "1e7", "x", ""),
    "--methods": ("nope", "ewc,nope", "EWC", ",", "ewc;joint", ""),
    "--only": ("steps", "all", ""),
    "--out": ("", "a\0b"),
    "--ranks": ("", "a\0b"),
    "--ray": ("nonsense", "localhost", "localhost:1", "ray://localhost:1", "localhost:99999999", ""),
    "--records": NO_FOLDER,
    "--reuse": NO_FOLDER,
    "--samples": ("0", *NO_COUNT),
    "--scenario": ("nope", "class,", "Class", ""),
    "--seed": (*NO_COUNT, "9" * 30),
    "--seeds": ("0", *NO_COUNT, "1000001"),
    "--set": (
        *("training.epochs", "=3", "nope=1", "training.nope=1", "training.epochs=-1", "training.epochs=x", "seeds=0"),
        *("training.learning_rate=nan", "benchmark.experiences=3", "methods.ewc.fisher='nope'", "methods=", ""),
        *("training.epochs=1e99", f"training.epochs={'[' * 2000}", f"training.epochs={'9' * 5000}", "title=\0"),
    ),
    "--tuning": NO_FOLDER,
    "--wandb": ("on", "Offline", "1", ""),
}
MORE = {"--jobs": "2", "--methods": "ewc,joint", "--scenario": "class", "--set": "training.epochs=1", "--seeds": "1"}


@pytest.fixture(scope="module")
def folder(run_of, tmp_path_factory) -> Path:
    """Records of two methods."""
    path = tmp_path_factory.mktemp("records")
    for run in (run_of("ewc"), run_of("joint")):
        RunStore(path).write(record_of(run, finished(run)))
    return path


def options_of(command: str) -> list[str]:
    return [name for parameter in COMMANDS[command].params for name in parameter.opts if name.startswith("--")]


def right(command: str, folder: Path) -> list[str]:
    """Arguments that a command takes."""
    protocol, written = str(ALL_METHODS), ["--out", str(folder / "written")]
    return {
        "list": [],
        "new": [str(folder / "new.toml")],
        "show": [protocol],
        "overview": [str(folder)],
        "compare": [f"{folder}:ewc", f"{folder}:joint"],
        "repeat": [str(folder)],
        "bench": written,
        **{name: [protocol, "--records", str(folder)] for name in ("status", "report")},
        **{name: [protocol, *written] for name in ("run", "tune", "agreement", "curvature")},
    }[command]


def spoilt(data: st.DataObject, command: str, folder: Path) -> list[str]:
    """Those arguments and some more, of which one thing is wrong."""
    arguments, options = right(command, folder), options_of(command)
    names = [argument for argument in arguments if not argument.startswith("--")]
    ways = ["an option that there is not", *(["an argument left out"] if names else []), *options]
    if command != "compare":
        ways.append("an argument too many")
    way = data.draw(st.sampled_from(ways))
    more = [name for name in options if name in MORE and name != way and data.draw(st.booleans())]
    arguments += [word for name in more for word in (name, MORE[name])]
    if way in FLAGS:
        return [*arguments, f"{way}=yes"]
    if way in options:
        if way in arguments:
            at = arguments.index(way)
            del arguments[at : at + 2]
        value = data.draw(st.sampled_from(WRONG[way]))
        given = [f"{way}={value}"] if data.draw(st.booleans()) else [way, value]
        return [*arguments, *given] if data.draw(st.booleans()) else [*given, *arguments]
    if way == "an argument left out":
        return arguments[1:]
    return [*arguments, "--nope" if way == "an option that there is not" else "too-many"]


@given(data=st.data())
@fuzzed
def test_a_command_line_with_one_thing_wrong_is_refused(data, folder, tmp_path_factory):
    count_example()
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    arguments = spoilt(data, command, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.getbasetemp())
        monkeypatch.setattr("study.run.trainer.perform", None)  # nothing runs
        result = CliRunner().invoke(app, [command, *arguments])
    assert isinstance(result.exception, SystemExit), (command, arguments, result.exception)
    assert result.exit_code == 2, (command, arguments, result.output)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ") or "─ Error ─" in line]
    assert len(errors) == 1, (command, arguments, result.stderr)
    assert len(result.stderr) < 3000, (command, arguments, result.stderr)
    assert not (folder / "written").exists()


def test_every_option_has_wrong_values():
    options = {option for command in COMMANDS for option in options_of(command)}
    assert options == {*WRONG, *FLAGS}
