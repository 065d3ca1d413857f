"""Wheel and sdist: built as a package index would get them, and installed into an environment of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from clreg_plugins import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("clreg_plugins", "study")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def files_of(package: str) -> list[str]:
    """What the package holds, code and data, by path within the repository."""
    found = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def called(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    return source / called(sys.executable, "-c", BUILD, "build_sdist", source, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return folder / called(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment with the wheel, and of this one nothing but what clreg depends on."""
    folder = tmp_path_factory.mktemp("environment")
    called(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    called(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # a line of a .pth file adds a folder without reading the .pth files there, such as that of an editable install
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_sdist_holds_both_packages_and_the_readme(sdist: Path):
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = {*files_of("clreg_plugins"), *files_of("study"), "README.md", "LICENSE", "pyproject.toml"} - held
    assert not missing, f"{sdist.name} lacks {sorted(missing)}"


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = message_from_string(archive.read(f"clreg-{__version__}.dist-info/METADATA").decode())
    assert held == {*files_of("clreg_plugins"), *files_of("study")}
    assert metadata["Version"] == __version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# clreg")


def test_an_installed_wheel_runs(environment: Path, tmp_path: Path):
    where = "from importlib.util import find_spec as f; print(f('clreg_plugins').origin, f('study').origin)"
    for path in called(environment / "python", "-c", where, cwd=tmp_path).split():
        assert Path(path).is_relative_to(environment.parent), f"{path} is not what the wheel installed"
    listed = called(environment / "clreg-study", "list", cwd=tmp_path)
    protocols = {Path(name).stem for name in files_of("study") if Path(name).match("study/protocol/*.toml")}
    assert {line.partition(":")[0] for line in listed.splitlines()} == protocols
    assert "Split Digits" in called(environment / "clreg-study", "show", "digits", cwd=tmp_path)
