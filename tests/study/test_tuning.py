import tomllib

from typer.testing import CliRunner

from study import training
from study.cli import app
from study.protocol import FIRST_TUNING_SEED
from study.records import Run, RunRecord
from study.tuning import choose, tuning_runs


def test_the_search_never_uses_a_reports_seeds_or_its_test_data(protocol):
    runs = tuning_runs("tiny", protocol, ["task", "class"], list(protocol.methods))
    assert {run.evaluated_on for run in runs} == {"validation"}
    assert {run.validation_fraction for run in runs} == {protocol.tuning.validation_fraction}
    assert min(run.seed for run in runs) >= FIRST_TUNING_SEED
    grid = protocol.tuning.grid
    assert {run.label for run in runs} == set(grid)
    assert len({run.id for run in runs}) == 2 * sum(map(len, grid.values())) * len(protocol.tuning.seeds)


def record(run: Run, accuracy: float | None) -> RunRecord:
    return RunRecord.of(run, accuracy=None if accuracy is None else [[0.0, 0.0], [accuracy, accuracy]])


def test_the_best_mean_over_the_seeds_is_chosen_and_failures_are_not(run_of):
    outcomes = {1.0: (0.5, 0.6), 10.0: (0.9, 0.4), 100.0: (0.5, 0.4), 1000.0: (1.0, None)}
    records = [
        record(run_of("ewc", strength=strength, seed=seed), accuracy)
        for strength, accuracies in outcomes.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (choice,) = choose(records)
    assert choice.best == 10.0
    assert not choice.at_edge
    assert list(choice.accuracy) == [1.0, 10.0, 100.0]


def test_of_equals_the_weakest_is_chosen_and_the_edge_of_the_grid_is_named(run_of):
    (choice,) = choose([record(run_of("si", strength=strength), 0.5) for strength in (10.0, 0.1, 1.0)])
    assert choice.best == 0.1
    assert choice.at_edge


def test_the_command_prints_what_a_protocol_file_needs(protocol_file, tmp_path, monkeypatch):
    def best_at_10_in_class_and_100_elsewhere(run: Run) -> list[list[float]]:
        best = 10.0 if run.scenario == "class" else 100.0
        return [[float(run.strength == best)] * 2] * 2

    monkeypatch.setattr(training, "accuracy_matrix", best_at_10_in_class_and_100_elsewhere)
    arguments = [
        "tune",
        str(protocol_file),
        "--methods",
        "ewc,online_ewc",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    toml = result.stdout[result.stdout.index("[strength]") :]
    expected = {"task": 100, "domain": 100, "class": 10}
    assert tomllib.loads(toml) == {"strength": {"ewc": expected, "online_ewc": expected}}
