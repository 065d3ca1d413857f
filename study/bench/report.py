"""The page: ``README.md`` and its figures, written from the measurements. Nothing is measured here."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from study.atomic import write_atomically
from study.bench.figures import growth_figure, pass_figure
from study.bench.memory import HELD, PEAK
from study.bench.pass_cost import EPOCHS, RATE
from study.bench.plugins import AVALANCHE
from study.bench.record import CLREG, BenchError, DeviceName, Measurement, Part, Performance, file_of, read
from study.bench.step import STEP
from study.report.figures.style import standalone

DEVICES: dict[DeviceName, str] = {"cpu": "CPU", "cuda": "GPU"}
NOTHING = "–"

HIGHLIGHTS: tuple[tuple[DeviceName, Part, str, str, str], ...] = (
    ("cpu", "step", STEP, "EWC", "MLP 400-400"),
    ("cpu", "step", STEP, "EWC", "reduced ResNet-18"),
    ("cpu", "step", STEP, "SI", "MLP 400-400"),
    ("cuda", "step", STEP, "EWC", "ResNet-18"),
    ("cpu", "memory", HELD, "EWC", "MLP 400-400"),
    ("cpu", "pass", EPOCHS, "exact Fisher", "MLP 400-400"),
    ("cpu", "pass", EPOCHS, "empirical Fisher", "reduced ResNet-18"),
    ("cuda", "pass", EPOCHS, "exact Fisher", "ViT-B/16"),
)
"""Rows of the first table: device, part, quantity, method and model, where most libraries were measured."""

NOUNS = {STEP: "training step", HELD: "memory held", EPOCHS: "importance pass"}

EXPLANATION = """\
Everything that is compared takes turns within one process, and a ratio is formed in each round, because the speed of a
machine drifts. Numbers are medians over the rounds, with the quartiles in brackets.

- A **training step** is forward, backward, fused Adam and every callback of the plugin, without Avalanche's loop around
  it. Naive's is the same step without a plugin.
- An **importance pass** is timed over the same images as the epoch. Unless it draws at random, a pass is first compared
  with ours in double precision; one whose numbers differ is left out. Other libraries get the batch size that suits
  them best. A slow pass is timed on fewer images, and its time is scaled.
- **Memory held** by a plugin is counted tensor by tensor, including buffers that only save time.
- The **peak** of a pass is what it takes beyond the memory before it and its result; all samples come in one batch.
- A **matrix product's rate**: the floating-point operations of the pass per second, counted as a lower bound, over
  those of a plain matrix product."""


def write_page(folder: Path) -> Path:
    """Write README.md and its figures from the measurements in a folder; BenchError if there are none."""
    found = [performance for device in DEVICES if (performance := read(folder, device)).parts]
    if not found:
        files = " and ".join(file_of(folder, device).name for device in DEVICES)
        raise BenchError(f"{folder} holds no measurements: expected {files}, or one of them")
    figures: dict[str, str] = {}
    text = "\n\n".join(_page(found, figures)) + "\n"
    for path in (folder / "figures").glob("*.svg"):
        if path.stem not in figures:
            path.unlink()
    for name, svg in figures.items():
        write_atomically(folder / "figures" / f"{name}.svg", standalone(svg).encode())
    write_atomically(folder / "README.md", text.encode())
    return folder / "README.md"


def _page(found: Sequence[Performance], figures: dict[str, str]) -> Iterator[str]:
    yield "# What clreg costs"
    yield from _growth(found, figures)
    yield from _highlights(found)
    yield _origin(found)
    for performance in found:
        yield from _device(performance, figures)
    yield from _folded("How it is measured", [EXPLANATION])


def _growth(found: Sequence[Performance], figures: dict[str, str]) -> Iterator[str]:
    """EWC's step over the experiences, on the first model on which both libraries were measured at several."""
    steps = [each for performance in found for each in performance.of("step") if each.method == "EWC"]
    for model, of_model in _grouped(steps, "model").items():
        of_both = [[each for each in of_model if each.by == by] for by in (CLREG, AVALANCHE)]
        lines = {each[0].by: sorted((_number_in(x.setting), x) for x in each) for each in of_both if len(each) > 1}
        if len(lines) == 2:
            (early, cheap), *_, (late, dear) = [(when, _number(each.median)) for when, each in lines[AVALANCHE]]
            ours = _number(lines[CLREG][-1][1].median)
            yield (
                f"A training step with Avalanche's EWC takes {cheap} times Naive's at experience {early} and {dear} "
                f"times at experience {late}; with clreg's it takes {ours} times ({model})."
            )
            alt = f"EWC's step over Naive's at experience {late}: clreg {ours}, Avalanche {dear}"
            figures["step"] = growth_figure("step", alt, lines)
            yield f"![{alt}](figures/step.svg)"
            return


def _highlights(found: Sequence[Performance]) -> Iterator[str]:
    by_device, rows = {performance.device: performance for performance in found}, []
    for device, part, quantity, method, model in HIGHLIGHTS:
        key, measured = (quantity, method, model), by_device[device].of(part) if device in by_device else ()
        about = [x for x in measured if (x.quantity, x.method, x.model) == key]
        sign = -1 if part == "pass" else 1  # the fewest classes, the last experience
        settings = [(len(group), sign * _number_in(each), each) for each, group in _grouped(about, "setting").items()]
        if settings:
            *_, setting = max(settings)
            shown = sorted((each for each in about if each.setting == setting), key=lambda each: each.median)
            cells = {each.by: _number(each.median) for each in shown}
            ours, others = cells.pop(CLREG, NOTHING), [f"{by} {cell}" for by, cell in cells.items()]
            what = f"{NOUNS[quantity]}: {method}, {model}, {setting}, {DEVICES[device]}"
            rows.append((what, f"**{ours}**", "; ".join(others) or NOTHING, quantity))
    if rows:
        yield _table(["", CLREG, "others", "in"], rows, ":---")


def _origin(found: Sequence[Performance]) -> str:
    measured = []
    for performance in found:
        parts = [part.circumstances for part in performance.parts.values()]
        versions = sorted({each.versions.get("clreg", "unknown") for each in parts})
        days = sorted({each.started[:10] for each in parts})
        commits = list(dict.fromkeys((each.commit or "unknown")[:10] for each in parts))
        first_to_last = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        measured.append(
            f"{DEVICES[performance.device]}: clreg {', '.join(versions)}, {first_to_last}, {', '.join(commits)}"
        )
    return f"Measured on the {'; on the '.join(measured)}."


def _device(performance: Performance, figures: dict[str, str]) -> Iterator[str]:
    yield f"## On a {DEVICES[performance.device]}"
    yield f"```sh\nclreg-study bench --device {performance.device}\n```"
    if "step" in performance.parts:
        yield from _folded("Training steps, relative to Naive's", _steps(performance.of("step")))
    if "pass" in performance.parts:
        yield from _folded("Importance passes, in training epochs", _passes(performance, figures))
    if "memory" in performance.parts:
        yield from _folded("Memory", _memory(performance.of("memory")))
    yield from _folded("Machine, versions, and what was not measured", _circumstances(performance))


def _steps(found: Sequence[Measurement]) -> Iterator[str]:
    for model, of_model in _grouped(found, "model").items():
        yield f"**{model}**"
        yield _by_setting(of_model, _with_quartiles)
    yield from _notes(found)


def _passes(performance: Performance, figures: dict[str, str]) -> Iterator[str]:
    found = performance.of("pass")
    epochs = [each for each in found if each.quantity == EPOCHS]
    of_ten = _grouped([each for each in epochs if each.setting == "10 classes"], "model")
    if of_ten:
        name = f"pass-{performance.device}"
        exact = [each for each in epochs if each.setting == "10 classes" and each.method == "exact Fisher"]
        alt = "Exact Fisher: " + "; ".join(f"{each.model}, {each.by} {_number(each.median)}" for each in exact)
        figures[name] = pass_figure(name, alt, of_ten)
        yield f"![{alt}](figures/{name}.svg)"
    for (model, setting), group in _grouped(epochs, "model", "setting").items():
        yield f"**{model}, {setting}**"
        columns = list(_grouped(group, "by"))
        yield _crossed(_grouped(group, "method"), "by", columns, _with_quartiles)
    rates = [each for each in found if each.quantity == RATE]
    if rates:
        yield "**Exact Fisher, share of a matrix product's rate**"
        yield _table(["", "share"], [(f"{each.model}, {each.setting}", _with_quartiles(each)) for each in rates])
    yield from _notes(found)


def _memory(found: Sequence[Measurement]) -> Iterator[str]:
    for model, held in _grouped([each for each in found if each.quantity == HELD], "model").items():
        yield f"**{model}: held by a plugin, in copies of the parameters**"
        yield _by_setting(held, lambda each: _number(each.median))
    peaks = [each for each in found if each.quantity == PEAK]
    if peaks:
        yield "**Peak of an exact Fisher's pass over its bound**"
        yield _table(["", "peak / bound"], [(f"{each.model}, {each.setting}", _number(each.median)) for each in peaks])


def _circumstances(performance: Performance) -> Iterator[str]:
    lines, skipped = [], []
    for part, record in performance.parts.items():
        now = record.circumstances
        started = now.started.replace("T", " ").removesuffix("+00:00") + " UTC"
        versions = ", ".join(f"{name} {version}" for name, version in now.versions.items())
        commit = (now.commit or "unknown")[:10]
        lines.append(f"- {part}: {started}, commit {commit}; {now.machine}, {now.threads} threads; {versions}.")
        skipped += [f"- {part}: {each.what}: `` {each.note} ``" for each in record.measurements if not each.values]
    yield "\n".join(lines)
    if skipped:
        yield "**Not measured**"
        yield "\n".join(skipped)


def _by_setting(found: Sequence[Measurement], text: Callable[[Measurement], str]) -> str:
    """A row for each method and library, a column for each setting."""
    columns = sorted({each.setting for each in found}, key=_number_in)
    rows = {", ".join(key): group for key, group in _grouped(found, "method", "by").items()}
    return _crossed(rows, "setting", columns, text)


def _crossed(
    rows: Mapping[str, Sequence[Measurement]], name: str, columns: Sequence[str], text: Callable[[Measurement], str]
) -> str:
    """A column for each of ``columns``, values of the attribute ``name``."""
    cells = {row: {getattr(each, name): text(each) for each in group} for row, group in rows.items()}
    return _table(["", *columns], [(row, *(of.get(each, NOTHING) for each in columns)) for row, of in cells.items()])


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], alignment: str = "---:") -> str:
    lines = [headings, [":---", *[alignment] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folded(summary: str, blocks: Iterable[str]) -> Iterator[str]:
    yield f"<details><summary>{summary}</summary>"
    yield from blocks
    yield "</details>"


def _notes(found: Iterable[Measurement]) -> Iterator[str]:
    yield from dict.fromkeys(each.note for each in found if each.note)


def _grouped(found: Iterable[Measurement], *names: str) -> dict[Any, list[Measurement]]:
    """Measurements by the value of an attribute, or by a tuple of several, in the order in which they come."""
    groups: dict[Any, list[Measurement]] = {}
    for each in found:
        groups.setdefault(attrgetter(*names)(each), []).append(each)
    return groups


def _with_quartiles(each: Measurement) -> str:
    low, high = each.quartiles
    return f"{_number(each.median)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    """Three digits.

    Example:
        >>> _number(0.794), _number(18.13), _number(1234.5)
        ('0.79', '18.1', '1234')
    """
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _number_in(setting: str) -> int:
    """The number in a setting: 50 of "experience 50"."""
    return int("".join(filter(str.isdigit, setting)) or 0)
