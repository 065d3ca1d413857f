"""``python -m tests.torture PART... --out FOLDER``: do it, write down what was tried and what was lost, and a page."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from tests.torture.faults import faults
from tests.torture.fuzz import fuzz
from tests.torture.kills import kills
from tests.torture.page import write_page
from tests.torture.record import WHOLE, Measured, PartName, PartRecord, Tried, now, read, write
from tests.torture.scale import scale
from tests.torture.soak import soak

PARTS: dict[PartName, Callable[[int, int, Path], Iterable[Tried | Measured]]] = {
    "kills": kills,
    "faults": faults,
    "fuzz": fuzz,
    "soak": soak,
    "scale": scale,
}
"""Each is called with the number of cycles, the seed, and an empty folder."""


def main(arguments: list[str]) -> int:
    """Do the parts that are named, all by default; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--out", type=Path, default=Path("reports/reliability"), help="folder of the record and page")
    parser.add_argument("--seed", type=int, default=0, help="of all random moments and examples")
    parser.add_argument(
        "--cycles", type=int, default=WHOLE, help="kills; the counts of other parts are in proportion [default: 100]"
    )
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; allowed: {', '.join(PARTS)}")
    if given.cycles < 1:
        parser.error(f"--cycles {given.cycles}; allowed: at least 1")
    for name in given.parts or get_args(PartName):
        part = carried_out(name, given.cycles, given.seed)
        found = read(given.out).with_part(name, part)
        write(given.out, found)
        print(f"{name}: {part.wrong or 'nothing lost'}; written: {write_page(given.out, found)}", file=sys.stderr)
    return 1 if read(given.out).wrong else 0


def carried_out(name: PartName, cycles: int, seed: int) -> PartRecord:
    circumstances, began = now(), time.monotonic()
    with TemporaryDirectory(prefix=f"torture-{name}-") as folder:
        found = list(PARTS[name](cycles, seed, Path(folder)))
    return PartRecord(
        circumstances=circumstances,
        cycles=cycles,
        seed=seed,
        seconds=round(time.monotonic() - began, 1),
        tried=tuple(each for each in found if isinstance(each, Tried)),
        measured=tuple(each for each in found if isinstance(each, Measured)),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
