"""Measuring one unit after the other, on one device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from study.bench import plan
from study.bench.plan import Unit
from study.bench.record import DeviceName, Part, Stopwatch
from study.bench.under_way import Request, UnderWay
from study.run.threads import torch_threads


@dataclass(frozen=True)
class Measuring:
    """How it is measured.

    Attributes:
        device: where.
        quick: less of everything.
        threads: of PyTorch on the CPU.
        cpus: that there are.
        data_root: folder of the data.
        say: shows a line meanwhile.
    """

    device: DeviceName
    quick: bool
    threads: int
    cpus: int
    data_root: Path
    say: Callable[[str], None]

    def units(self, parts: Sequence[Part]) -> list[tuple[Part, Unit]]:
        """What these parts consist of, in order."""
        scale = plan.scale_for(self.device, self.quick)
        where = torch.device(self.device)
        return [(part, unit) for part in parts for unit in plan.units(part, scale, where, self.data_root)]

    def request(self, parts: Sequence[Part]) -> Request:
        """To measure these parts, here and now."""
        return Request.of(parts, self.device, self._stopwatch().circumstances())

    def with_unit(self, before: UnderWay, part: Part, unit: Unit) -> UnderWay:
        """Measure a unit, saying so meanwhile."""
        stopwatch, found = self._stopwatch(), []
        with torch_threads(self.threads):
            for each in unit.measure():
                found.append(each)
                self.say(f"{part}: {each.line}")
        return before.with_unit(part, unit.name, found, stopwatch.circumstances())

    def _stopwatch(self) -> Stopwatch:
        gpu = torch.cuda.get_device_name(torch.device(self.device)) if self.device == "cuda" else None
        return Stopwatch(quick=self.quick, threads=self.threads, cpus=self.cpus, gpu=gpu)
