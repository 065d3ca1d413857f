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
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed copy may lie in somebody else's checkout, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "..", "../../clreg_plugins"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" if changed.strip() else commit


@cache
def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
