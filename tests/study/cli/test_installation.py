"""What the command line needs to start, and what it says where that is missing."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = {"torch", "avalanche", "numpy", "scipy", "matplotlib", "pandas", "wandb", "ray", "sklearn"}

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing}))  # importing them raises ModuleNotFoundError
from study.__main__ import main
sys.argv = ["clreg-study", *{arguments}]
main()
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [(["typer"], ["--help"]), (["rich"], ["list"]), (["pydantic"], ["list"])],
)
def test_an_installation_of_the_plugins_alone_says_what_to_install(missing, arguments):
    result = python(WITHOUT.format(missing=missing, arguments=arguments))
    said = f"error: clreg-study needs {missing[0]}; in the folder of clreg: pip install -e '.[study]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", said)


def test_a_command_asks_for_what_it_needs_only():
    result = python(WITHOUT.format(missing=["matplotlib", "statsmodels"], arguments=["show", "digits"]))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["run", "--help"]])
def test_the_command_line_starts_without_what_only_training_and_reports_need(arguments):
    code = WITHOUT.format(missing=sorted(HEAVY), arguments=arguments)
    result = python(code)
    assert (result.returncode, result.stderr) == (0, "")
    if arguments == ["--version"]:
        assert result.stdout == f"clreg {version('clreg')}\n"


def test_importing_what_trains_prints_no_warning_of_others():
    result = python("import study.run.trainer, study.report.write_report")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(os.name != "posix", reason="closes files in a shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_closed_stream_is_no_error(closed):
    result = subprocess.run(f"{sys.executable} -m study list {closed}", shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert ("digits" in result.stdout) == (closed != ">&-")


def test_a_terminal_without_greek_letters_is_no_error():
    code = "import os, sys; os.environ['PYTHONIOENCODING'] = 'ascii'; os.execv(sys.executable, {})"
    result = python(code.format([sys.executable, "-m", "study", "show", "digits"]))
    assert result.returncode == 0, result.stderr
    assert "?: " in result.stdout
