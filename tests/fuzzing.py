"""How many examples hypothesis draws in a fuzz test, and a count of those that a test tried.

``CLREG_FUZZ_EXAMPLES`` is their number. ``CLREG_FUZZ_COUNTS`` names a folder, in which each test has a file with a byte
for each example.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

fuzzed = settings(
    max_examples=int(os.environ.get("CLREG_FUZZ_EXAMPLES", "20")),
    deadline=None,
    derandomize=True,  # the examples are the same in every run
    database=None,
    suppress_health_check=list(HealthCheck),
)


def count_example() -> None:
    """Count one more example of the test that runs."""
    if folder := os.environ.get("CLREG_FUZZ_COUNTS"):
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0].rpartition("::")[2]
        with Path(folder, test).open("ab") as file:
            file.write(b".")
