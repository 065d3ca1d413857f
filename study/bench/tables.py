"""Measurements as tables: a cell each, with its quartiles and whether it meets its target."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from study.bench import limit, memory, operations, pass_times, profiling, stages
from study.bench.record import DeviceName, Measurement
from study.bench.targets import target_of
from study.report.document import Cell, Column, Table
from study.report.number_formats import NOTHING

MET, MISSED = "significant", "problem"
"""The marks that are set off as good and bad and bring no sign of their own."""

LIMITS = {
    limit.FLOPS: f"An exact Fisher: {limit.FLOPS}",
    limit.LEAST_PASS: f"A pass: {limit.LEAST_PASS}: its matrix products, at their least",
    limit.BANDWIDTH: f"A step's penalty: {limit.BANDWIDTH}",
    operations.SHARE: f"A step's penalty, operation by operation: {operations.SHARE}",
    operations.BARE: f"A {operations.BARE}",
    stages.SHARE: f"A pass over convolutions: {stages.SHARE}",
    stages.BARE: f"A pass over convolutions: {stages.BARE}",
    stages.OVER_BARE: f"A pass over convolutions: {stages.OVER_BARE}",
    profiling.OF_A_PASS: f"A pass, by kind of operation: {profiling.OF_A_PASS}",
    profiling.BEYOND_NAIVE: f"A step with a plugin, by kind of operation: {profiling.BEYOND_NAIVE}",
}
"""Captions, by quantity."""

Key = Callable[[Measurement], str]


def grouped(measurements: Sequence[Measurement], key: Key) -> list[tuple[str, list[Measurement]]]:
    """Groups in the order in which they first come."""
    order = list(dict.fromkeys(map(key, measurements)))
    ordered = sorted(measurements, key=lambda each: order.index(key(each)))
    return [(name, list(group)) for name, group in groupby(ordered, key)]


def _step_tables(device: DeviceName, measurements: Sequence[Measurement]) -> Iterator[Table]:
    for model, group in grouped(measurements, lambda each: each.model):
        caption = f"{model}: a step over Naive's; last, the step at the last experience over that at the first"
        yield _pivot(device, f"step-{slug(model)}", caption, group, _mode, _setting)


def _pass_tables(device: DeviceName, measurements: Sequence[Measurement]) -> Iterator[Table]:
    epochs = [each for each in measurements if each.quantity == pass_times.EPOCHS]
    for model, group in grouped(epochs, lambda each: each.model):
        yield _pivot(device, f"pass-{slug(model)}", f"{model}: a pass in training epochs", group, _mode, _setting)
    faster = [each for each in measurements if each.quantity != pass_times.EPOCHS]
    for where, group in grouped(faster, lambda each: f"{each.model}, {each.setting}"):
        caption = f"{where}: times as fast as"
        yield _pivot(device, f"faster-{slug(where)}", caption, group, _mode, _rival)


def _memory_tables(device: DeviceName, measurements: Sequence[Measurement]) -> Iterator[Table]:
    for quantity, group in grouped(measurements, lambda each: each.quantity):
        row = model_of if quantity == memory.PEAK else _mode
        yield _pivot(device, slug(quantity), quantity[0].upper() + quantity[1:], group, row, _setting)


def _limit_tables(device: DeviceName, measurements: Sequence[Measurement]) -> Iterator[Table]:
    for quantity, group in grouped(measurements, lambda each: each.quantity):
        if quantity in (profiling.OF_A_PASS, profiling.BEYOND_NAIVE, stages.SHARE):
            row, column = _where, _mode
        elif quantity in (limit.FLOPS, limit.LEAST_PASS, stages.BARE, stages.OVER_BARE):
            row, column = model_of, _mode
        else:
            row, column = _mode, model_of
        yield _pivot(device, slug(quantity), LIMITS.get(quantity, quantity), group, row, column)


def _other_tables(device: DeviceName, measurements: Sequence[Measurement]) -> Iterator[Table]:
    for quantity, group in grouped(measurements, lambda each: each.quantity):
        caption = quantity[0].upper() + quantity[1:]
        yield _pivot(device, slug(quantity), caption, group, _mode, _where)


TABLES = {
    "step": _step_tables,
    "pass": _pass_tables,
    "memory": _memory_tables,
    "limit": _limit_tables,
    "study": _other_tables,
    "waiting": _other_tables,
}
"""By part: its measurements as tables."""


def _mode(each: Measurement) -> str:
    return each.mode


def model_of(each: Measurement) -> str:
    """What it was measured on."""
    return each.model


def _where(each: Measurement) -> str:
    return f"{each.model}, {each.setting}"


def _setting(each: Measurement) -> str:
    return each.setting


def _rival(each: Measurement) -> str:
    return each.quantity.removeprefix(pass_times.FASTER).strip()


def _pivot(
    device: DeviceName, name: str, caption: str, measurements: Sequence[Measurement], row: Key, column: Key
) -> Table:
    """A table with a cell for each measurement, and what there is to know about them below it."""
    found = {(row(each), column(each)): each for each in measurements}
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    cells = tuple(
        (Cell(of_row, of_row), *(_cell(found.get((of_row, of_column)), device) for of_column in columns))
        for of_row in rows
    )
    headings = (Column("", "name"), *(Column(heading) for heading in columns))
    return Table(f"{name}-{device}", caption, headings, cells, _notes(measurements))


def _notes(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """What there is to know about the modes of a table, each said once."""
    several = len({each.setting for each in measurements}) > 1
    said: dict[str, None] = {}
    scaled = []
    for each in measurements:
        for note in filter(None, each.note.split("; ")):
            if note.startswith(pass_times.SCALED):
                where = f" with {each.setting}" if several else ""
                scaled.append(f"{each.mode}{where}: {note.removeprefix(pass_times.SCALED).strip()}")
            else:
                said[f"{each.mode}: {note}."] = None
    if scaled:
        said[f"Timed on fewer samples, and scaled: {'; '.join(scaled)}."] = None
    return tuple(said)


def _cell(measurement: Measurement | None, device: DeviceName) -> Cell:
    if measurement is None:
        return Cell(NOTHING)
    target = target_of(measurement, device)
    text = with_quartiles(measurement)
    if target is None:
        return Cell(text, measurement.median)
    met = target.met(measurement)
    return Cell(f"{sign(met)} {text}", measurement.median, MET if met else MISSED)


def with_quartiles(measurement: Measurement) -> str:
    """The median with its quartiles, which a single value does not have."""
    if len(measurement.values) == 1:
        return number(measurement.median)
    low, high = measurement.quartiles
    return f"{number(measurement.median)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three digits, or two decimals."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sign(met: bool) -> str:
    """For those who see no colours."""
    return "✓" if met else "✗"


def slug(text: str) -> str:
    """Text as part of a file's or table's name."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())
