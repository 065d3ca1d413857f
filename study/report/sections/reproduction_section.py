"""How to get the same numbers: commands, versions, machines, commits, and the protocol."""

from collections import Counter
from collections.abc import Sequence

from study.report.analysis import Analysis
from study.report.attachments import own_file
from study.report.document import Code, Column, Section, table_of
from study.report.number_formats import count, enumeration
from study.report.provenance import changed_settings, is_packaged, protocol_text

PROTOCOL = "protocol.toml"
"""In the folder of a report: the protocol as it was used."""

DATA = (
    "On the same kind of CPU and with the same versions, the same seed gives the same accuracies to the last bit. "
    "`records.jsonl.gz` holds the records of every run of this report, `results.csv` and `results.parquet` one "
    "row per run, `accuracy.csv` and `accuracy.parquet` every entry of the accuracy matrices (accuracies there are "
    "from 0 to 1)."
)


def reproduction_section(analysis: Analysis) -> Section:
    packaged = is_packaged(analysis.name, analysis.protocol)
    records = analysis.selection.records
    versions = [
        (package, _counted(Counter(record.versions.get(package, "not installed") for record in records)))
        for package in sorted({package for record in records for package in record.versions})
    ]
    machines = sorted(Counter(record.hardware for record in records).items(), key=lambda item: str(item[0]))
    return Section(
        "reproduction",
        "How to reproduce",
        (
            DATA,
            _where(analysis, packaged),
            Code("\n".join(_commands(analysis, packaged)), "sh"),
            _provenance(analysis),
            table_of(
                "versions",
                "Versions",
                versions,
                Column("package", lambda row: row[0]),
                Column("version", lambda row: row[1]),
            ),
            table_of(
                "machines",
                "Machines",
                machines,
                Column("processor", lambda row: row[0].processor),
                Column("GPU", lambda row: row[0].gpu),
                Column("system", lambda row: row[0].system),
                Column("runs", lambda row: row[1]),
            ),
            Code(protocol_text(analysis.name, analysis.protocol).rstrip("\n"), "toml"),
        ),
    )


def _where(analysis: Analysis, packaged: bool) -> str:
    changed = changed_settings(analysis.name, analysis.protocol)
    origin = "the packaged protocol" if packaged else "a protocol of your own"
    if changed:
        origin = f"the packaged protocol except for {changed}"
    code = "".join(_code(analysis, file, version) for file, version in analysis.protocol.own_code.items())
    return f"`{PROTOCOL}` is {origin}. {code}In the folder of this report:"


def _code(analysis: Analysis, file: str, version: str | None) -> str:
    """Where the user's own code is."""
    if own_file(file) in analysis.attachments.files:
        return f"It names `{file}`, which is here in the version of the runs; modules that it imports are not.  "
    return f"It names `{file}`, which is not here: the runs used the version with the hash {version}. "


def _commands(analysis: Analysis, packaged: bool) -> list[str]:
    name = analysis.name if packaged else PROTOCOL
    protocol, records = analysis.protocol, analysis.selection.records
    there = {result.method for result in analysis.results}
    methods = [method for method in protocol.methods if method in there]
    subset = "" if len(methods) == len(protocol.methods) else f" --methods {','.join(methods)}"
    if len(analysis.scenarios) < len(protocol.scenarios):
        subset += f" --scenario {','.join(analysis.scenarios)}"
    device = " --device cuda" if {record.run.device for record in records} == {"cuda"} else ""
    return [
        *([f"clreg-study tune {name}{device}"] if analysis.selection.tuning else []),
        f"clreg-study run {name} --seeds {1 + max(record.run.seed for record in records)}{subset}{device}",
        f"clreg-study report {name}",
        "# the same report from the records in this folder, without training anything:",
        f"clreg-study report {name} --records . --out again",
    ]


def _provenance(analysis: Analysis) -> str:
    records = analysis.selection.records
    days = sorted(record.ended[:10] for record in records)
    when = f"on {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
    commits = Counter(record.commit or "no commit known" for record in records)
    held, asked = sorted({record.run.seed for record in records}), range(analysis.protocol.seeds)
    resumed = sum(record.resumed > 0 for record in records)
    said = (
        f"{count(len(records), 'run')}, ended {when}. Code: {_counted(commits)}.",
        "" if held == [*asked] else f"The protocol asks for {_seeds(asked)}; the records hold {_seeds(held)}.",
        'A "+" marks a commit with local changes.' if any(commit.endswith("+") for commit in commits) else "",
        f"{count(resumed, 'run')} resumed from a checkpoint." if resumed else "",
        analysis.selection.left_out_sentence,
    )
    return " ".join(filter(None, said))


def _seeds(seeds: Sequence[int]) -> str:
    several = len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{count(len(seeds), 'seed')}, {f'{seeds[0]} to {seeds[-1]}' if several else enumeration(map(str, seeds))}"


def _counted(counter: Counter[str]) -> str:
    items = sorted(counter.items())
    return items[0][0] if len(items) == 1 else enumeration(f"{name} ({count(n, 'run')})" for name, n in items)
