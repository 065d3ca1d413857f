"""The fuzz tests, with many examples."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.torture.record import Tried

ROOT = Path(__file__).parents[2]

TESTS: dict[str, dict[str, str]] = {
    "tests/study/test_damaged_files.py": {
        "test_records": "records: damaged, edited, or copied to another name",
        "test_archives": "archives: damaged or edited",
        "test_progress_and_request": "progress files and requests: damaged or edited",
        "test_checkpoints": "checkpoints: damaged",
        "test_checkpoints_whose_hash_is_right": "checkpoints: damaged, with the hash of what they hold",
        "test_protocols": "protocols: damaged, or with a number that is out of range",
    },
    "tests/study/cli/test_command_lines.py": {
        "test_a_command_line_with_one_thing_wrong_is_refused": "command lines with one thing wrong",
    },
    "tests/test_fuzz.py": {
        "test_a_call_is_refused_by_name_or_works[plugins]": "constructors of plugins: arguments good and bad",
        "test_a_call_is_refused_by_name_or_works[functions]": "functions: arguments good and bad",
        "test_a_state_is_refused_by_name_or_works[penalties]": "states of penalties: one entry changed",
        "test_a_state_is_refused_by_name_or_works[plugins]": "states of plugins: one entry changed",
        "test_a_term_is_refused_by_name_or_works": "terms of a penalty: one entry changed",
        "test_parameters_are_refused_by_name_or_the_penalty_grows": "parameters of a penalty: one entry changed",
    },
}
"""What the tests of a file try, by their names."""

OF_THE_WHOLE = {
    "tests/study/test_damaged_files.py": 20,
    "tests/study/cli/test_command_lines.py": 30,
    "tests/test_fuzz.py": 9,
}
"""Examples of each test for each cycle: 12,000 damaged files, 3,000 command lines, and 5,400 calls in all."""

HANGS = 3600.0
"""Seconds after which the tests of a file hang."""


def fuzz(cycles: int, seed: int, folder: Path, files: Sequence[str] = (*TESTS,)) -> Iterator[Tried]:
    """Each test of ``files``; hypothesis draws the same examples whatever the seed."""
    for file in files:
        counts = folder / Path(file).stem
        counts.mkdir()
        failed = _failures(file, OF_THE_WHOLE[file] * cycles, seed, counts)
        for test, what in TESTS[file].items():
            tries = (counts / test).stat().st_size if (counts / test).is_file() else 0
            wrong = [sentence for name, sentence in failed if name in (test, "")]
            if not tries:
                wrong.append("no example was tried")
            yield Tried(what=what, tries=tries, wrong=tuple(wrong))


def _failures(file: str, examples: int, seed: int, counts: Path) -> list[tuple[str, str]]:
    """Names of tests that failed, and how; without a name if that is of all."""
    tests = [f"{file}::{test}" for test in TESTS[file]]
    environment = {
        "CLREG_FUZZ": str(examples),
        "CLREG_FUZZ_SEED": str(seed * examples),
        "CLREG_FUZZ_EXAMPLES": str(examples),
        "CLREG_FUZZ_COUNTS": str(counts),
        "COLUMNS": "400",  # of the summary, where messages are cut off
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=HANGS
        )
    except subprocess.TimeoutExpired:
        return [("", f"the tests have not ended within {HANGS:g} s")]
    print(done.stdout[-2000:], file=sys.stderr, flush=True)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)(?: - (.*))?$", done.stdout, re.MULTILINE)
    if done.returncode and not failed:
        return [("", f"the tests ended with {done.returncode}: {done.stdout[-300:]}")]
    return [(name, message or "it failed") for name, message in failed]
