"""Measurements that nobody made."""

from study.bench.record import Agreement, Circumstances, Measurement, PartRecord, Performance, Skipped
from study.records.run_record import Hardware


def measurement(mode: str = "EWC, ours", *values: float, **changes: object) -> Measurement:
    """By default a step at experience 2."""
    settings = {
        "part": "step",
        "model": "MLP 400-400",
        "setting": "experience 2",
        "quantity": "step over Naive's",
        "ours": ", ours" in mode,
    }
    return Measurement(**{**settings, "mode": mode, "values": values or (1.0,), **changes})


def a_pass(mode: str, *values: float, **changes: object) -> Measurement:
    settings = {"part": "pass", "setting": "10 classes", "quantity": "training epochs", **changes}
    return measurement(mode, *values, **settings)


def agreement(difference: float, mode: str = "exact Fisher, ours") -> Agreement:
    return Agreement(
        model="MLP 400-400",
        setting="10 classes",
        mode=mode,
        reference="exact Fisher, one at a time",
        compared="entries",
        difference=difference,
        allowed=1e-4,
    )


def skipped(mode: str = "exact Fisher, BackPACK", **changes: object) -> Skipped:
    settings = {"part": "pass", "model": "small ViT", "setting": "10 classes", "reason": "it knows no attention"}
    return Skipped(mode=mode, **{**settings, **changes})


def performance(*measurements: Measurement, device: str = "cpu", **more: object) -> Performance:
    """Of one or more parts; ``more`` goes to the first."""
    circumstances = Circumstances(
        started="2026-01-02T03:04:05+00:00",
        ended="2026-01-02T03:14:05+00:00",
        quick=False,
        threads=2,
        cpus=2,
        load=(0.1, 1.9),
        versions={"torch": "2.9"},
        hardware=Hardware(system="Linux x86_64", processor="a processor"),
        commit="0123456789abcdef",
    )
    parts = {}
    for part in dict.fromkeys(each.part for each in measurements):
        own = tuple(each for each in measurements if each.part == part)
        parts[part] = PartRecord(circumstances=circumstances, measurements=own, **({} if parts else more))
    return Performance(device=device, parts=parts)
