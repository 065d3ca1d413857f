"""A small protocol, and records of it with numbers that can be worked out by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from study.campaign.strength_search import tuning_runs
from study.protocol.load import parse_protocol
from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.records.run_record import Hardware, RunRecord
from study.report.write_report import write_report
from study.run.result import Seconds
from study.run.specification import Run, identity

TEXT = """
title = "Toy & <Digits>"
description = "Two experiences, numbers_made *up* by hand."
scenarios = ["task", "class"]
seeds = 4
strength_source = "given by hand"

[benchmark]
name = "split_digits"
experiences = 2
test_fraction = 0.25

[model]
name = "mlp"
hidden = [8]

[training]
epochs = 1
batch_size = 32
optimizer = "adam"
learning_rate = 1e-3

[methods]
naive = { kind = "naive" }
ewc = { kind = "ewc", fisher = "exact" }
online_ewc = { kind = "online_ewc" }
replay-2 = { kind = "replay", copies = 2 }
joint = { kind = "joint" }

[strength]
ewc = { task = 100, class = 100 }
online_ewc = { task = 0.01, class = 1e6 }

[tuning]
seeds = [1000, 1001]
validation_fraction = 0.2
[tuning.grid]
ewc.strength = [1, 10, 100]
online_ewc.strength = [0, 1]
online_ewc.gamma = [0.5, 1.0]

[[published]]
source = "Somebody 2018, Table 2, https://example.org/table_2"
spread = "sd"
n = 10
[published.results]
naive = { class = { mean = 50.5, spread = 1.0 } }
ewc = { class = { mean = 61.5, spread = 2.0 }, task = { mean = 86.0, spread = 2.0 } }
joint = { class = { mean = 99.5, spread = 0.2 } }

[[published]]
source = "Somebody else 2019"
spread = "none"
[published.results]
replay-2 = { class = { mean = 79.0 } }
"""

# for each method the accuracies after the last experience, on the first and on the second, by seed
LAST = {
    "naive": [(0.10, 0.90), (0.08, 0.94), (0.12, 0.90), (0.06, 0.92)],
    "ewc": [(0.40, 0.80), (0.44, 0.78), (0.35, 0.87), (0.42, 0.82)],
    "online_ewc": [(0.38, 0.80), (0.46, 0.78), (0.35, 0.85), (0.40, 0.82)],
    "replay-2": [(0.75, 0.90), (0.76, 0.94), (0.74, 0.91), (0.80, 0.92)],
    "joint": [(0.97, 0.98), (0.96, 0.98), (0.97, 0.97), (0.97, 0.96)],
}
LEARNED_FIRST = [0.96, 0.98, 0.97, 0.95]  # accuracy on the first experience right after it, by seed
VERSIONS = {"clreg": "0.1.0", "torch": "2.8.0"}


def toy(text: str = TEXT) -> Protocol:
    return parse_protocol(text, "toy.toml")


def matrix(method: str, seed: int) -> list[list[float]]:
    last = LAST[method][seed]
    return [list(last)] if method == "joint" else [[LEARNED_FIRST[seed], 0.0], list(last)]


def record(
    protocol: Protocol,
    method: str,
    scenario: Scenario = "class",
    seed: int = 0,
    *,
    accuracy: Sequence[Sequence[float]] | None = None,
    run: Mapping[str, object] | None = None,
    **changes: object,
) -> RunRecord:
    """A finished run of a method, with the accuracies above unless others are given."""
    strength = protocol.strength_of(method, scenario)
    asked = Run.of(
        "toy",
        protocol,
        scenario,
        method,
        seed,
        settings=protocol.methods[method],
        strength=None if strength == "tuned" else strength,
    ).model_copy(update=run or {})
    found = matrix(method, seed) if accuracy is None else [list(row) for row in accuracy]
    rows = len(found)
    index = list(LAST).index(method)
    fields = dict(
        id=identity(asked.model_dump(mode="json"), VERSIONS),
        run=asked,
        outcome="finished",
        accuracy=found,
        loss=[[0.5] * len(row) for row in found],
        training_loss=[0.1] * rows,
        seconds=Seconds(training=[1.0 + seed] * rows, consolidation=[0.25 * index] * rows, evaluation=[0.5] * rows),
        peak_memory=(600 + index) * 2**20,
        plugin_memory={"ewc": 2, "online_ewc": 3, "replay-2": 8}.get(method, 0) * 2**10,
        plugin_scratch={"ewc": 5, "replay-2": 1}.get(method, 0) * 2**10,
        memory_examples=32 if method == "replay-2" else None,
        ended=f"2026-03-01T10:00:0{seed}+00:00",
        versions=VERSIONS,
        hardware=Hardware(system="Linux x86_64", processor="A CPU"),
        commit="0123456789abcdef0123456789abcdef01234567",
    )
    error = {} if changes.get("outcome", "finished") == "finished" else {"error": "RuntimeError: why"}
    return RunRecord(**(fields | error | changes)).sealed()


def all_records(protocol: Protocol, seeds: int = 4) -> list[RunRecord]:
    """Every method and scenario, some seeds of each; in the task-incremental scenario the first task is kept."""
    records = []
    for seed in range(seeds):
        for method in protocol.methods:
            records.append(record(protocol, method, "class", seed))
            last = [0.9, LAST[method][seed][1]]
            task = [last] if method == "joint" else [[LEARNED_FIRST[seed], 0.5], last]
            records.append(record(protocol, method, "task", seed, accuracy=task))
    return records


def search_records(protocol: Protocol) -> list[RunRecord]:
    """Of the search: λ = 10 is best for EWC, the largest λ with γ = 0.5 for Online EWC."""
    records = []
    for run in tuning_runs("toy", protocol, protocol.scenarios, list(protocol.methods)):
        accuracy = [[validation_accuracy(run)] * 2] * 2
        records.append(record(protocol, run.label, run.scenario, accuracy=accuracy, run=dict(run)))
    return records


def validation_accuracy(run: Run) -> float:
    if run.label == "ewc":
        accuracy = {1.0: 0.5, 10.0: 0.75, 100.0: 0.625}[run.strength]
    else:
        accuracy = 0.25 + 0.25 * run.strength + (0.125 if run.method.gamma == 0.5 else 0.0)
    return accuracy + (0.0625 if run.seed == 1000 else -0.0625)


def failed(protocol: Protocol, method: str, seed: int, outcome: str = "failed", **changes: object) -> RunRecord:
    """A run that learned one experience and then ended; the accuracy would show if it entered a mean."""
    error = "Traceback (most recent call last):\n  a line of it\nRuntimeError: x_1 | <y> & 50% of {z}\n"
    changes = {"error": error} | changes
    return record(protocol, method, seed=seed, accuracy=[[0.123, 0.456]], outcome=outcome, **changes)


def written(
    folder: Path, records: Sequence[RunRecord], tuning: Sequence[RunRecord] = (), protocol: Protocol | None = None
) -> Path:
    """The folder of a report on records of the toy protocol."""
    write_report("toy", protocol or toy(), records, tuning, folder)
    return folder
