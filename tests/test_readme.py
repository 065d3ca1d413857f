"""What README prints runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
DATA = os.environ.get("CLREG_DATA_ROOT")


def test_opens_with_the_two_commands():
    commands = re.search(r"```sh\n(.*?)```", README, re.DOTALL).group(1)
    assert [line.split("  ")[0].split(" #")[0].strip() for line in commands.splitlines()] == ["make study", "make test"]


@pytest.mark.skipif(DATA is None, reason="CLREG_DATA_ROOT does not name a folder with MNIST")
def test_the_plugin_example_runs(tmp_path):
    """The example downloads MNIST into ``data``; here it finds it there."""
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in example.splitlines() if line]) <= 13
    (tmp_path / "data").symlink_to(Path(DATA).resolve())
    (tmp_path / "example.py").write_text(example)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    accuracies = re.findall(r"Top1_Acc_Exp/eval_phase/test_stream/Task\d+/Exp\d+ = ([\d.]+)", done.stdout)
    assert len(accuracies) == 5
    assert min(map(float, accuracies)) > 0.97, "README says about 98% or more"


def test_every_command_exists():
    commands = set(re.findall(r"clreg-study (\w+)", README))
    assert commands
    for command in commands:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, f"clreg-study {command}: {result.output}"
