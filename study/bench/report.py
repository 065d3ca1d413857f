"""From the measurements to a page that people read. Nothing is measured here."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import table as rich_table

from study.atomic import write_atomically
from study.bench import pass_times, steps
from study.bench.figures import LOOKS, growth_figure, pass_figure
from study.bench.in_words import costs
from study.bench.judging import Judged, judge
from study.bench.plan import PARTS
from study.bench.record import DeviceName, Measurement, PartRecord, Performance, read
from study.bench.tables import MET, MISSED, TABLES, grouped, model_of, number, sign, slug, with_quartiles
from study.report.document import Cell, Code, Column, Document, Figure, Gallery, Paragraph, Section, Statement, Table
from study.report.figures.style import standalone
from study.report.html import to_html
from study.report.markdown import to_markdown
from study.report.number_formats import NOTHING

PAGE = "index.html"
OUR_FIGURES = re.compile(r"(step|pass)-.*-(cpu|cuda)")
DEVICES: dict[DeviceName, str] = {"cpu": "On a CPU", "cuda": "On a GPU"}
HEADINGS = {
    "step": "A training step",
    "pass": "An importance pass",
    "memory": "Memory",
    "limit": "Distance to the limit",
    "study": "The study",
    "waiting": "Waiting for the GPU",
}
EXPLANATIONS = {
    "step": "The time of a training step over that of Naive, the same step without a plugin: forward, backward, fused "
    "Adam, every callback in its place, without Avalanche's loop around it. All modes of a method take turns.",
    "pass": "The time of a pass over the data in training epochs over the same data. Before it is timed, a pass is "
    "compared with another that computes the same, as far as there is one; a pass that differs is not timed.",
    "memory": "What plugins hold, counted tensor by tensor, in copies of the parameters; and the most that an exact "
    "Fisher's pass takes beyond what was there before and its result, on a CPU in a process of its own.",
    "limit": "Operations and bytes are counted at their least (see `study/bench/limit.py`), and their rate is compared "
    "with that of a plain matrix product, or of a copy in memory, which take turns with what is measured. At that "
    "rate of a product, the matrix products alone of a pass take so many training epochs. A step's penalty is "
    "taken apart into the operations that it is made of (see `study/bench/operations.py`): what each takes bare, with "
    "its tensors at hand; what all take in a step of Naive's, in their places; and what a copy of their bytes takes "
    "after it, to which only a kernel written for the penalty could come. Beside a MLP's exact Fisher stand its own "
    "matrix products, in their own shapes, with nothing else. A pass over convolutions is taken apart into stages, "
    "each by itself with its tensors at hand (see `study/bench/stages.py`): forward; backward to the layers' outputs; "
    "each sample's weight gradients, layer by layer the fastest of several ways to write them in PyTorch; and the sum "
    "of their squares, each in pieces of the size that suits it best. What another way to write them, or a kernel of "
    "one's own, would take is not known. Passes, of a quarter of the samples, and steps are taken apart by kind of "
    "operation under PyTorch's profiler (see `study/bench/profiling.py`).",
    "study": "Whole runs of task-incremental Split MNIST in one thread, from the building of the benchmark to the "
    "record in its file, in turns with the same training and evaluation in bare PyTorch.",
    "waiting": "Ten steps of each plugin under PyTorch's `set_sync_debug_mode`, which raises where one waits.",
}


def write_report(folder: Path) -> Path:
    """Write README.md, index.html and figures from the measurements of both devices that the folder holds.

    Returns:
        The path of the HTML page.

    Raises:
        BenchError: a file of measurements is damaged.
        OSError: the folder cannot be written to.
    """
    document = compose([found for device in DEVICES if (found := read(folder, device)).parts])
    names = {figure.name for figure in document.figures}
    for path in (folder / "figures").glob("*.svg"):
        if OUR_FIGURES.fullmatch(path.stem) and path.stem not in names:
            path.unlink()
    for figure in document.figures:
        write_atomically(folder / "figures" / f"{figure.name}.svg", standalone(figure.svg).encode())
    for file, text in (("README.md", to_markdown(document)), (PAGE, to_html(document))):
        write_atomically(folder / file, text.encode())
    return folder / PAGE


def compose(found: Sequence[Performance]) -> Document:
    """The report in parts; what was not measured is not in it."""
    return Document(
        "What clreg costs",
        (
            "Time and memory of the plugins, of importance passes and of the study, beside other libraries and beside "
            "what the machine could do at best.",
            "Whatever is compared takes turns within one process, and a ratio is formed in each round: a machine's "
            "speed drifts, its ratios hold. Only how fast bare operations would be beside another library is a product "
            "of two such ratios: that library's time over ours, and ours over theirs. Numbers are medians over the "
            "rounds, with the quartiles in brackets; ✓ and ✗ say whether the median meets its target.",
        ),
        tuple(statement for performance in found for statement in (_statement(performance), *costs(performance))),
        tuple(_device_section(performance) for performance in found),
    )


def targets_table(performance: Performance) -> rich_table.Table:
    """The targets for a terminal."""
    source = _targets(performance)
    shown = rich_table.Table(title=source.caption)
    for column in source.columns:
        shown.add_column(column.heading, justify="right" if column.kind == "number" else "left")
    for row in source.rows:
        shown.add_row(*(cell.text.replace("[", r"\[") for cell in row))
    return shown


# ------------------------------------------------------------------------------------------------------ targets


def _statement(performance: Performance) -> Statement:
    judged = judge(performance)
    text = f"{sum(each.met_throughout for each in judged)} of {len(judged)} targets are met throughout"
    unmeasured = sum(bool(each.missing) for each in judged)
    if unmeasured:
        text += f"; {unmeasured} were not measured, or not in full"
    quick = any(part.circumstances.quick for part in performance.parts.values())
    return Statement(DEVICES[performance.device], text + ("; all was measured quickly." if quick else "."))


def _targets(performance: Performance) -> Table:
    judged = judge(performance)
    columns = (
        Column("what", "prose"),
        Column("target"),
        Column("measured, at worst"),
        Column("which is of", "prose"),
        Column("met"),
    )
    notes = tuple(
        f"Not measured of “{each.target.what}”: {'; '.join(dict(each.missing))} ({each.reasons})."
        for each in judged
        if each.measured and each.missing
    )
    bare = any(each.bare for each in judged)
    if bare:
        columns += (Column("bare"),)
        notes += (
            "Bare: PyTorch's operations by themselves, on the model of the worst: a MLP's pass as its matrix products "
            "alone, at the rate of a plain one; that over convolutions as its stages; a step as Naive's with the "
            "penalty's operations in it, without plugin and autograd. See “Distance to the limit”, also for what a "
            "kernel written for the penalty could come to.",
        )
    rows = tuple(_target_row(each) + ((_bare_cell(each.bare),) if bare else ()) for each in judged)
    return Table(f"targets-{performance.device}", "Targets", columns, rows, notes)


def _bare_cell(bare: Measurement | None) -> Cell:
    return Cell(NOTHING) if bare is None else Cell(with_quartiles(bare), bare.median)


def _target_row(judged: Judged) -> tuple[Cell, ...]:
    target = judged.target
    head = (Cell(target.what, target.what), Cell(target.text, target.bound))
    if not judged.measured:
        return (*head, Cell("not measured"), Cell(judged.reasons, judged.reasons), Cell(NOTHING))
    worst, count = judged.worst, len(judged.measured)
    where = f"{worst.mode}, {worst.model}, {worst.setting}"
    within = judged.met == count
    text = f"{sign(within)} {judged.met} of {count}"
    if judged.missing:
        text += f", {len(judged.missing)} not measured"
    mark = MET if judged.met_throughout else "" if within else MISSED
    return (
        *head,
        Cell(with_quartiles(worst), worst.median),
        Cell(where, where),
        Cell(text, judged.met / count, mark),
    )


# ------------------------------------------------------------------------------------------------------- devices


def _device_section(performance: Performance) -> Section:
    device = performance.device
    command = f"clreg-study bench --device {device}"
    blocks = (
        _targets(performance),
        _circumstances(performance),
        *map(Paragraph, _machines(performance)),
        Code(
            f"{command}            # measures all of this again\n{command} --check    # says what has become slower",
            "sh",
        ),
    )
    parts = [(part, performance.parts[part]) for part in PARTS[device] if part in performance.parts]
    sections = tuple(_part_section(device, part, record) for part, record in parts)
    return Section(device, DEVICES[device], blocks, sections)


def _circumstances(performance: Performance) -> Table:
    rows = []
    for part in filter(performance.parts.get, PARTS[performance.device]):
        now = performance.parts[part].circumstances
        load = " to ".join(NOTHING if each is None else f"{each:.2f}" for each in now.load)
        rows.append(
            tuple(
                Cell(text, text)
                for text in (
                    HEADINGS[part],
                    now.started.replace("T", " ").removesuffix("+00:00") + " UTC",
                    f"{now.threads} of {now.cpus}",
                    load,
                    (now.commit or NOTHING)[:10] + ("+" if (now.commit or "").endswith("+") else ""),
                    "quick" if now.quick else "full",
                )
            )
        )
    headings = ("part", "measured", "threads of CPUs", "load, start to end", "commit", "how")
    notes = (
        "The load is the system's average over a minute: at the start that of what ran before, which may be another "
        "part, at the end with this.",
        "A commit with + had changes that were not committed.",
    )
    columns = tuple(Column(heading, "name") for heading in headings)
    return Table(f"circumstances-{performance.device}", "When and beside what", columns, tuple(rows), notes)


def _machines(performance: Performance) -> list[str]:
    """Where the parts were measured and with what: one line if all are of one machine, else one for each part."""
    lines = {}
    for part in filter(performance.parts.get, PARTS[performance.device]):
        now = performance.parts[part].circumstances
        versions = ", ".join(f"{name} {version}" for name, version in now.versions.items())
        hardware = ", ".join(filter(None, (now.hardware.gpu, now.hardware.processor, now.hardware.system)))
        lines[part] = f"Machine: {hardware}. Versions: {versions}."
    if len(set(lines.values())) == 1:
        return list(dict.fromkeys(lines.values()))
    return [f"{HEADINGS[part]}: {line}" for part, line in lines.items()]


# --------------------------------------------------------------------------------------------------------- parts


def _part_section(device: DeviceName, part: str, record: PartRecord) -> Section:
    tables = [*TABLES[part](device, record.measurements)]
    galleries = [Gallery(figures) for figures in [tuple(_figures(device, part, record.measurements))] if figures]
    rest = [table for table in (_agreements(device, record), _skipped(device, part, record)) if table is not None]
    return Section(f"{part}-{device}", HEADINGS[part], (Paragraph(EXPLANATIONS[part]), *galleries, *tables, *rest))


def _agreements(device: DeviceName, record: PartRecord) -> Table | None:
    rows = tuple(
        (
            Cell(each.mode, each.mode),
            Cell(f"{each.model}, {each.setting}", each.model),
            Cell(each.reference, each.reference),
            Cell(f"{sign(each.holds)} {each.difference:.1e}", each.difference, MET if each.holds else MISSED),
            Cell(f"{each.compared}, within {each.allowed:g}", each.allowed),
        )
        for each in record.agreements
    )
    columns = (
        Column("pass", "name"),
        Column("of", "name"),
        Column("compared with", "name"),
        Column("relative difference"),
        Column("what is compared", "name"),
    )
    notes = (
        f"On at most {pass_times.COMPARED} samples in double precision; entries by the largest difference over the "
        "largest entry, estimates that draw at random by the sum of all entries.",
        *_timed_without_comparison(record),
    )
    summary = f"Agreement before timing: {sum(each.holds for each in record.agreements)} of {len(rows)} hold"
    return Table(f"agreement-{device}", "Agreement", columns, rows, notes, summary) if rows else None


def _timed_without_comparison(record: PartRecord) -> Iterator[str]:
    """Says which passes those are, and why: they are the references, or nothing else computes what they do."""
    compared = {(each.model, each.setting, each.mode) for each in record.agreements}
    references = {each.reference for each in record.agreements}
    modes = dict.fromkeys(
        each.mode
        for each in record.measurements
        if each.quantity == pass_times.EPOCHS and (each.model, each.setting, each.mode) not in compared
    )
    alone = [mode for mode in modes if mode not in references]
    if references:
        yield f"Timed as what others are compared with: {'; '.join(sorted(references))}."
    if alone:
        yield f"Timed without a comparison, since nothing else computes the same: {'; '.join(alone)}."


def _skipped(device: DeviceName, part: str, record: PartRecord) -> Table | None:
    rows = tuple(
        tuple(Cell(text, text) for text in (each.mode, f"{each.model}, {each.setting}".removesuffix(", "), each.reason))
        for each in record.skipped
    )
    columns = (Column("what", "name"), Column("on", "name"), Column("why", "prose"))
    summary = f"Not measured: {len(rows)}"
    return Table(f"skipped-{part}-{device}", "Not measured", columns, rows, (), summary) if rows else None


# ------------------------------------------------------------------------------------------------------- figures


def _figures(device: DeviceName, part: str, measurements: Sequence[Measurement]) -> Iterator[Figure]:
    for model, group in grouped(measurements, model_of):
        name = f"{part}-{slug(model)}-{device}"
        if part == "step":
            found = [each for each in group if each.quantity == steps.QUANTITY and each.mode.startswith("EWC, ")]
            lines = {
                kind: sorted((int(each.setting.split()[-1]), each) for each in found if each.mode == f"EWC, {kind}")
                for kind in LOOKS
            }
            lines = {kind: points for kind, points in lines.items() if len(points) > 1}
            if lines:
                alt = "; ".join(f"{kind}: {number(points[-1][1].median)} at the end" for kind, points in lines.items())
                caption = f"{model}: a step with EWC over Naive's, against the experience; bars span the quartiles."
                yield Figure(name, caption, alt, growth_figure(name, alt, lines))
        elif part == "pass":
            passes = [each for each in group if each.quantity == pass_times.EPOCHS and each.setting == "10 classes"]
            if passes:
                alt = "; ".join(f"{each.mode}: {number(each.median)} epochs" for each in passes)
                caption = f"{model}, 10 classes: passes in training epochs, on an axis by factors; ours in blue."
                yield Figure(name, caption, alt, pass_figure(name, alt, passes))
