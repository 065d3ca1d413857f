import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.campaign.strength_search import choose, resolve, tuning_runs
from study.cli.app import app
from study.errors import MissingRecords, ProtocolError
from study.protocol.load import parse_protocol
from study.protocol.schema import Protocol
from study.records.run_record import RunRecord, record_of
from study.run.result import RunResult
from study.run.specification import Run
from tests.study.made_up import finished


def test_the_search_never_uses_a_reports_seeds_or_its_test_data(protocol):
    runs = tuning_runs("tiny", protocol, ["task", "class"], list(protocol.methods))
    assert {run.evaluated_on for run in runs} == {"validation"}
    assert {run.validation_fraction for run in runs} == {protocol.tuning.validation_fraction}
    assert not {run.seed for run in runs} & set(protocol.run_seeds())
    grid = protocol.tuning.grid
    assert {run.label for run in runs} == set(grid)
    assert len({run.id for run in runs}) == 2 * sum(len(g["strength"]) for g in grid.values()) * len(
        protocol.tuning.seeds
    )


def test_a_protocol_without_a_grid_for_a_method_says_so(protocol):
    with pytest.raises(ProtocolError, match=r"tuning\.grid has no values to try for naive, joint"):
        tuning_runs("tiny", protocol, ["task"], ["naive", "joint"])
    with pytest.raises(ProtocolError, match=r"tuning\.grid has no values"):
        tuning_runs("tiny", protocol.model_copy(update={"tuning": None}), ["task"], ["ewc"])


def outcome(run: Run, accuracy: float | None, **more: object) -> RunRecord:
    if accuracy is None:
        return record_of(run, RunResult(outcome="diverged", error="a loss of nan"))
    return record_of(run, replace(finished(run), accuracy=[[0.0, 0.0], [accuracy, accuracy]], **more))


@pytest.fixture(scope="session")
def searching(text: str) -> Protocol:
    """A search for λ of EWC, and for λ and γ of Online EWC together, in the class-incremental scenario."""
    overrides = [
        'scenarios=["class"]',
        "tuning.seeds=[1000, 1001]",
        "tuning.grid={ewc = {strength = [1, 10, 100, 1000]}, online_ewc = {gamma = [0.5, 1.0], strength = [1, 10]}}",
        'strength.ewc.class="tuned"',
        'strength.online_ewc.class="tuned"',
    ]
    return parse_protocol(text, "tiny.toml", overrides)


def searched(protocol: Protocol, method: str, accuracy) -> list[RunRecord]:
    return [outcome(run, accuracy(run)) for run in tuning_runs("tiny", protocol, ["class"], [method])]


def test_the_best_mean_over_the_seeds_is_chosen_and_what_diverged_is_not(searching):
    outcomes = {1.0: (0.5, 0.6), 10.0: (0.9, 0.4), 100.0: (0.5, 0.4), 1000.0: (1.0, None)}
    records = searched(searching, "ewc", lambda run: outcomes[run.strength][run.seed - 1000])
    (choice,) = choose("tiny", searching, records)
    assert choice.strength == 10.0
    assert choice.best == (10.0,)
    assert not choice.at_edge
    assert list(choice.accuracy) == [(1.0,), (10.0,), (100.0,)]
    assert choice.accuracy[10.0,] == pytest.approx(0.65)
    assert choice.by_seed == {(1.0,): (0.5, 0.6), (10.0,): (0.9, 0.4), (100.0,): (0.5, 0.4)}
    assert resolve(searching, "class", "ewc", [choice]) == (searching.methods["ewc"], 10.0)


def test_of_equals_the_weakest_is_chosen_and_the_edge_of_the_grid_is_named(searching):
    (choice,) = choose("tiny", searching, reversed(searched(searching, "ewc", lambda run: 0.5)))
    assert choice.strength == 1.0
    assert choice.at_edge


def test_options_are_searched_over_together_with_the_strength(searching):
    records = searched(
        searching, "online_ewc", lambda run: 0.9 if (run.strength, run.method.gamma) == (10, 0.5) else 0.1
    )
    (choice,) = choose("tiny", searching, records)
    assert choice.options == ("strength", "gamma")
    assert choice.best == (10.0, 0.5)
    method, strength = resolve(searching, "class", "online_ewc", [choice])
    assert (method.gamma, strength) == (0.5, 10.0)
    assert searching.methods["online_ewc"].gamma == 1.0


def test_nothing_is_chosen_from_a_part_of_the_grid_or_from_runs_of_other_settings(searching):
    complete = searched(searching, "ewc", lambda run: 0.5)
    assert choose("tiny", searching, complete[:-1]) == []
    longer = searching.training.model_copy(update={"epochs": 9})
    others = [outcome(r.run.model_copy(update={"training": longer}), 1.0) for r in complete]
    assert choose("tiny", searching, others) == []
    (choice,) = choose("tiny", searching, [*complete, *others])
    assert set(choice.accuracy.values()) == {0.5}


def test_of_several_records_of_one_run_the_latest_counts(searching):
    old = [r.model_copy(update={"ended": "2001-01-01"}) for r in searched(searching, "ewc", lambda run: 0.9)]
    (choice,) = choose("tiny", searching, [*searched(searching, "ewc", lambda run: 0.2), *old])
    assert set(choice.accuracy.values()) == {0.2}


def test_a_strength_that_no_search_has_chosen_is_asked_for(searching):
    with pytest.raises(MissingRecords, match=r"^strength\.ewc\.class = 'tuned'.*--set strength\.ewc\.class=100 "):
        resolve(searching, "class", "ewc", [])
    assert resolve(searching, "class", "mas", [])[1] == searching.strength["mas"]["class"]


def test_the_command_prints_what_a_protocol_file_needs_and_run_uses_it(protocol_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    performed = []

    def best_at_10_in_class_and_100_elsewhere(run: Run, store, conditions) -> RunRecord:
        performed.append(run)
        record = outcome(run, float(run.strength == (10.0 if run.scenario == "class" else 100.0)))
        store.write(record)
        return record

    monkeypatch.setattr("study.campaign.carry_out.perform_and_store", best_at_10_in_class_and_100_elsewhere)
    result = CliRunner().invoke(app, ["tune", str(protocol_file), "--methods", "ewc,online_ewc", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    toml = result.stdout[result.stdout.index("[strength]") :]
    expected = {"task": 100, "domain": 100, "class": 10}
    assert tomllib.loads(toml) == {"strength": {"ewc": expected, "online_ewc": expected}}
    assert len(list(Path("runs/tiny-tuning").glob("*.json"))) == len(performed)
    *edges, following = result.stderr.splitlines()[-3:]
    assert following == f"next: clreg-study run {protocol_file}"
    for line, method in zip(edges, ("ewc", "online_ewc"), strict=True):
        assert line.startswith(f"λ = 10 of {method} (class) is at the edge of its grid; a smaller one may be better")
        assert f"add some to tuning.grid.{method}.strength" in line

    performed.clear()
    arguments = ["run", str(protocol_file), "--methods", "ewc", "--seeds", "1", "--jobs", "1", "--wandb", "disabled"]
    tuned = [f'--set=strength.ewc.{scenario}="tuned"' for scenario in ("task", "domain", "class")]
    result = CliRunner().invoke(app, [*arguments, *tuned])
    assert result.exit_code == 0, result.output
    assert {run.scenario: run.strength for run in performed} == expected
    assert {run.evaluated_on for run in performed} == {"test"}
