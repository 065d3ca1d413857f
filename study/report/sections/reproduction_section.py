"""How to get the same numbers: commands, versions, machines, commits, and the protocol."""

from collections import Counter
from collections.abc import Iterable

from study.records.run_record import RunRecord
from study.report.analysis import Analysis
from study.report.document import Cell, Code, Column, Paragraph, Section, Table
from study.report.number_formats import count, enumeration
from study.report.provenance import changed_settings, is_packaged, protocol_text

PROTOCOL = "protocol.toml"
"""In the folder of a report: the protocol as it was used."""


def reproduction_section(analysis: Analysis) -> Section:
    packaged = is_packaged(analysis.name, analysis.protocol)
    text = protocol_text(analysis.name, analysis.protocol)
    return Section(
        "reproduction",
        "How to reproduce",
        (
            Paragraph(
                "On the same kind of CPU and with the same versions, the same seed gives the same accuracies to the "
                "last bit. `records.jsonl.gz` holds the records of every run of this report, `results.csv` and "
                "`results.parquet` a row a run, `accuracy.csv` and `accuracy.parquet` every entry of the accuracy "
                "matrices (accuracies there are from 0 to 1)."
            ),
            Paragraph(_where(analysis, packaged)),
            Code("\n".join(_commands(analysis, packaged)), "sh"),
            Paragraph(_provenance(analysis)),
            _versions(analysis),
            _machines(analysis),
            Code(text.rstrip("\n"), "toml", "The protocol"),
        ),
    )


def _where(analysis: Analysis, packaged: bool) -> str:
    changed = changed_settings(analysis.name, analysis.protocol)
    if packaged:
        origin = "as it comes with the package"
    else:
        origin = f"which differs from the packaged one in {changed}" if changed else "which is not a packaged one"
    return f"`{PROTOCOL}` is the protocol, {origin}. In the folder of this report:"


def _commands(analysis: Analysis, packaged: bool) -> list[str]:
    name = analysis.name if packaged else PROTOCOL
    there = list(dict.fromkeys(runs.method for runs in analysis.selection.runs))
    methods = [method for method in analysis.protocol.methods if method in there]
    subset = "" if len(methods) == len(analysis.protocol.methods) else f" --methods {','.join(methods)}"
    if len(analysis.scenarios) < len(analysis.protocol.scenarios):
        subset += f" --scenario {','.join(analysis.scenarios)}"
    seeds = 1 + max(record.run.seed for record in analysis.selection.records)
    searched = bool(analysis.selection.tuning)
    device = " --device cuda" if {r.run.device for r in analysis.selection.records} == {"cuda"} else ""
    return [
        *([f"clreg-study tune {name}{device}"] if searched else []),
        f"clreg-study run {name} --seeds {seeds}{subset}{device}",
        f"clreg-study report {name}",
        "# the same report from the records in this folder, without training anything:",
        f"clreg-study report {name} --records . --out again",
    ]


def _provenance(analysis: Analysis) -> str:
    records = analysis.selection.records
    days = sorted(record.ended[:10] for record in records)
    when = f"on {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    commits = Counter(record.commit or "no commit known" for record in records)
    text = f"{count(len(records), 'run')}, ended {when}. Code: {_counted(commits)}."
    if any(commit.endswith("+") for commit in commits):
        text += ' A "+" says that files differed from the commit.'
    resumed = sum(record.resumed > 0 for record in records)
    if resumed:
        text += f" {count(resumed, 'run')} went on from a checkpoint."
    left_out = analysis.selection.left_out_sentence
    return f"{text} {left_out}" if left_out else text


def _counted(counter: Counter[str]) -> str:
    items = sorted(counter.items())
    return items[0][0] if len(items) == 1 else enumeration(f"{name} ({count(n, 'run')})" for name, n in items)


def _versions(analysis: Analysis) -> Table:
    records = analysis.selection.records
    packages = sorted({package for record in records for package in record.versions})
    rows = [(Cell(package, package), Cell(_counted(_of_each(records, package)))) for package in packages]
    return Table("versions", "Versions", (Column("package", "name"), Column("version", "name")), tuple(rows))


def _of_each(records: Iterable[RunRecord], package: str) -> Counter[str]:
    return Counter(record.versions.get(package, "not installed") for record in records)


def _machines(analysis: Analysis) -> Table:
    counter = Counter(record.hardware for record in analysis.selection.records)
    rows = [
        (
            Cell(hardware.processor, hardware.processor),
            Cell(hardware.gpu or "–", hardware.gpu),
            Cell(hardware.system, hardware.system),
            Cell(str(runs), runs),
        )
        for hardware, runs in sorted(counter.items(), key=lambda item: item[0].model_dump_json())
    ]
    columns = (Column("processor", "name"), Column("GPU", "name"), Column("system", "name"), Column("runs"))
    return Table("machines", "Machines", columns, tuple(rows))
