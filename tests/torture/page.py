"""The page: README.md, written from the record. Nothing is tried here."""

from collections.abc import Iterator
from pathlib import Path

from study.atomic import write_atomically
from study.report.document import Block, Code, Column, Document, Section, Table, table_of
from study.report.markdown import to_markdown
from study.report.number_formats import SECONDS, count, enumeration, quantity
from tests.torture.record import Measured, PartName, PartRecord, Reliability, Tried

HEADINGS: dict[PartName, str] = {
    "kills": "Kills at random moments",
    "faults": "Single faults",
    "fuzz": "Damaged files and wrong input",
    "soak": "One call with many runs, with W&B offline",
    "scale": "Many trivial runs",
}

HOW: dict[PartName, str] = {
    "kills": "A small study on `digits` runs from the command line, on the local pool and on a Ray cluster of this "
    "machine, with W&B offline and without. At a random moment its driver, a worker or all processes get SIGKILL, or "
    "all get Ctrl-C twice; the same command goes on, until the kills are used up and the study ends. Then each "
    "record equals that of a study left alone to the last bit, apart from times and peak memory; so do the tables of "
    "`run` and `report`; no process, checkpoint or cut-off file is left; every run has a finished run of W&B, or "
    "more, with its accuracies in every row. A kill comes while a run is in progress if one has begun and not ended; "
    "the others came while the processes started.",
    "faults": "Each fault is done to the same study, which must say what it found, where it lives on to say so. Then "
    "the same command goes on, and the records equal those of a study left alone.",
    "fuzz": "The examples of the tests, with more of them: damaged or edited bytes, values drawn from a pool of good "
    "and bad. Each is refused in one message that names it, or gives the right numbers.",
    "soak": "Memory, handles and processes are sampled while it runs; each number is a median over samples.",
    "scale": "Runs of one training step an experience, on eight rows, so that what is measured is what the study adds. "
    "Memory is the driver's; its peak includes the table at the end.",
}


def write_page(folder: Path, found: Reliability) -> Path:
    path = folder / "README.md"
    write_atomically(path, to_markdown(compose(found)).encode())
    return path


def compose(found: Reliability) -> Document:
    sections = [Section(name, HEADINGS[name], tuple(_part(name, found.parts[name]))) for name in _names(found)]
    return Document("Reliability", _answer(found), tuple(_head(found)), tuple(sections))


def _names(found: Reliability) -> list[PartName]:
    return [name for name in HEADINGS if name in found.parts]


def _answer(found: Reliability) -> str:
    """What was tried, how often, and what was lost."""
    kills = sum(each.tries for each in _of(found, "kills") if each.hit is not None)
    hit = sum(each.hit or 0 for each in _of(found, "kills"))
    tried = [
        f"{count(kills, 'kill')} at random moments ({hit} of them while a run was in progress)" if kills else "",
        f"{count(sum(e.tries for e in _of(found, 'faults')), 'single fault')}" if "faults" in found.parts else "",
        f"{sum(e.tries for e in _of(found, 'fuzz')):,} damaged files and wrong inputs" if "fuzz" in found.parts else "",
        f"{sum(e.tries for n in ('soak', 'scale') for e in _of(found, n)):,} runs in long calls"
        if {"soak", "scale"} & found.parts.keys()
        else "",
    ]
    wrong = found.wrong
    lost = f"{count(len(wrong), 'thing')} went wrong, listed below" if wrong else "nothing was lost"
    return f"{enumeration([*filter(None, tried)])}: {lost}."


def _of(found: Reliability, name: PartName) -> tuple[Tried, ...]:
    return found.parts[name].tried if name in found.parts else ()


def _head(found: Reliability) -> Iterator[Block]:
    yield from found.wrong
    tried = [each for name in _names(found) for each in found.parts[name].tried]
    yield table_of(
        "tried",
        "What was tried",
        tried,
        Column("", lambda each: each.what),
        Column("tries", lambda each: each.tries, lambda number: f"{number:,.0f}"),
        Column("while a run was in progress", lambda each: each.hit, lambda number: f"{number:,.0f}"),
        Column("lost or wrong", lambda each: len(each.wrong) or "nothing"),
    )
    if measured := [each for name in _names(found) for each in found.parts[name].measured]:
        yield _measurements(measured)


def _measurements(measured: list[Measured]) -> Table:
    return table_of(
        "measured",
        "What was measured",
        measured,
        Column("", lambda each: each.what),
        Column("value", lambda each: each.value, lambda value: f"{value:.4g}"),
        Column("unit", lambda each: each.unit),
        Column("at most", lambda each: each.at_most, lambda value: f"{value:.4g}"),
    )


def _part(name: PartName, part: PartRecord) -> Iterator[Block]:
    now = part.circumstances
    yield HOW[name]
    yield Code(f"python -m tests.torture {name} --cycles {part.cycles} --seed {part.seed}", "sh")
    versions = ", ".join(f"{package} {version}" for package, version in now.versions.items())
    yield (
        f"{now.started.replace('T', ' ').removesuffix('+00:00')} UTC, {quantity(part.seconds, SECONDS)}, "
        f"commit {(now.commit or 'unknown')[:10]}; {now.machine}; {versions}."
    )
