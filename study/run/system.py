"""Packages, code and processor that a run uses."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES_THAT_DECIDE = ("clreg", "torch", "torchvision", "avalanche-lib", "numpy", "scikit-learn")


@cache
def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES_THAT_DECIDE}


@cache
def git_commit() -> str | None:
    """The commit of the code, with "+" if files differ from it; None outside its checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails for a copy installed in another checkout
        changed = git("status", "--porcelain", "--untracked-files=no", "..", "../../clreg_plugins")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
