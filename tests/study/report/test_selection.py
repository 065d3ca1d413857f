"""A report is about the runs that its protocol means now, each once, and says what it left out."""

from collections.abc import Sequence

import pytest

from study.campaign.strength_search import choose
from study.errors import MissingRecords
from study.protocol.load import load_protocol, parse_protocol
from study.records.run_record import RunRecord
from study.report.provenance import protocol_text
from study.report.selection import OLDER, OTHER_SETTINGS, OUTSIDE_GRID, VALIDATION, ReportError, select
from study.report.write_report import write_report
from study.run.specification import Run
from tests.study.report.synthetic import TEXT, all_records, record, search_records, toy, written

TUNED = TEXT.replace("ewc = { task = 100, class = 100 }", 'ewc = { task = 100, class = "tuned" }')
assert TUNED != TEXT


def test_records_are_in_the_order_of_scenario_method_and_seed():
    protocol = toy()
    selection = select("toy", protocol, all_records(protocol, 2)[::-1], [])
    found = [(r.run.scenario, r.run.label, r.run.seed) for r in selection.records]
    methods = list(protocol.methods)
    assert found == [(s, m, seed) for s in ("task", "class") for m in methods for seed in (0, 1)]
    assert selection.left_out == {}
    assert selection.left_out_sentence == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strength": 50.0}, OTHER_SETTINGS),
        ({"scenario": "domain"}, OTHER_SETTINGS),
        ({"training": toy().training.model_copy(update={"epochs": 2})}, OTHER_SETTINGS),
        ({"method": toy().methods["ewc"].model_copy(update={"fisher": "sample"})}, OTHER_SETTINGS),
        ({"evaluated_on": "validation", "validation_fraction": 0.2}, VALIDATION),
        ({"seed": 1000}, "seeds of the search"),
    ],
)
def test_what_the_protocol_does_not_mean_is_left_out_and_counted_by_reason(change, reason):
    protocol = toy()
    other = record(protocol, "ewc", run=change)
    selection = select("toy", protocol, [other, record(protocol, "naive")], [])
    assert [r.run.label for r in selection.records] == ["naive"]
    assert selection.left_out == {reason: 1}
    assert selection.left_out_sentence == f"1 record left out: 1 {reason}."


def test_names_decide_nothing_the_content_does():
    protocol = toy()
    renamed = record(protocol, "ewc", run={"label": "fisher", "protocol": "old"})
    [runs] = select("toy", protocol, [renamed], []).results
    assert (runs.method, runs.records) == ("ewc", (renamed,))


def test_two_methods_with_the_same_settings_share_their_runs():
    protocol = toy(TEXT.replace("joint = { kind", 'again = { kind = "naive" }\njoint = { kind'))
    selection = select("toy", protocol, [record(protocol, "naive")], [])
    assert [runs.method for runs in selection.results] == ["naive", "again"]
    assert len(selection.records) == 1


def again(method: str = "ewc", seed: int = 0, **changes: object) -> RunRecord:
    """A later record of a run, with other versions."""
    changes = {"id": "0123456789abcdef", "ended": "2026-04-01T00:00:00+00:00"} | changes
    return record(toy(), method, seed=seed, **changes)


def test_of_several_records_of_one_seed_the_latest_counts():
    old, new = record(toy(), "ewc"), again()
    for records in ([old, new], [new, old]):
        selection = select("toy", toy(), records, [])
        assert selection.records == [new]
        assert selection.left_out == {OLDER: 1}


@pytest.mark.parametrize(
    ("earlier", "later", "counts"),
    [
        ("finished", "failed", "finished"),
        ("diverged", "failed", "diverged"),
        ("failed", "finished", "finished"),
        ("finished", "diverged", "diverged"),
        ("diverged", "finished", "finished"),
        ("failed", "failed", "failed"),
    ],
)
def test_a_failure_hides_nothing_that_a_run_came_to(earlier, later, counts):
    records = [record(toy(), "ewc", outcome=earlier), again(outcome=later)]
    [used] = select("toy", toy(), records, []).records
    assert used.outcome == counts
    assert used.ended == max(r.ended for r in records if r.outcome == counts)


def test_a_later_failure_in_the_search_does_not_undo_its_choice():
    protocol = toy()
    searched = search_records(protocol)
    failures = [
        r.model_copy(update={"outcome": "failed", "id": f"{i:016}", "ended": "2027"}) for i, r in enumerate(searched)
    ]
    for records in ([*searched, *failures], [*failures, *searched]):
        assert len(choose("toy", protocol, records)) == 4
        selection = select("toy", protocol, all_records(protocol), records)
        assert {choice.method: choice.strength for choice in selection.choices} == {"ewc": 10.0, "online_ewc": 1.0}
        assert selection.left_out == {OLDER: len(searched)}


def on(device: str, method: str, seeds: Sequence[int], outcome: str = "finished") -> list[RunRecord]:
    found = [record(toy(), method, seed=seed, run={"device": device}, outcome=outcome) for seed in seeds]
    return [each.model_copy(update={"id": each.run.id}) for each in found]


@pytest.mark.parametrize(
    ("cpu", "cuda", "taken"),
    [((0, 1), (1, 2), "cpu"), ((0,), (0, 1), "cuda"), ((0, 1, 2), (0, 1), "cpu"), ((), (0,), "cuda")],
)
def test_a_mean_is_over_the_runs_of_one_device_and_the_others_are_counted(cpu, cuda, taken):
    records = [*on("cuda", "ewc", cuda), *on("cpu", "ewc", cpu)]
    [runs] = select("toy", toy(), records, []).results
    assert [(r.run.device, r.run.seed) for r in runs.records] == [
        (taken, seed) for seed in {"cpu": cpu, "cuda": cuda}[taken]
    ]
    left_out = len(cuda if taken == "cpu" else cpu)
    assert select("toy", toy(), records, []).left_out == ({OLDER: left_out} if left_out else {})


def test_what_finished_decides_which_device_is_taken_for_each_method_by_itself():
    records = [*on("cpu", "ewc", (0, 1, 2), "failed"), *on("cuda", "ewc", (0, 1)), *on("cpu", "naive", (0, 1))]
    ewc, naive = sorted(select("toy", toy(), records, []).results, key=lambda runs: runs.method)
    assert {r.run.device for r in ewc.records} == {"cuda"}
    assert {r.run.device for r in naive.records} == {"cpu"}


def test_a_strength_that_is_tuned_is_that_of_the_search():
    protocol = toy(TUNED)
    searched = search_records(protocol)
    chosen = record(protocol, "ewc", run={"strength": 10.0})
    other = record(protocol, "ewc", seed=1, run={"strength": 100.0})
    selection = select("toy", protocol, [chosen, other], searched)
    assert selection.records == [chosen]
    assert selection.results[0].strength == 10.0
    assert selection.left_out == {OTHER_SETTINGS: 1}


def test_options_that_the_search_chose_count_too():
    protocol = toy(TEXT.replace("class = 1e6", 'class = "tuned"'))
    method = protocol.methods["online_ewc"].model_copy(update={"gamma": 0.5})
    chosen = record(protocol, "online_ewc", run={"strength": 1.0, "method": method})
    selection = select("toy", protocol, [chosen], search_records(protocol))
    assert selection.results[0].settings.gamma == 0.5


def test_a_tuned_strength_without_the_search_is_an_error_if_it_was_run():
    protocol = toy(TUNED)
    chosen = record(protocol, "ewc", run={"strength": 10.0})
    partly = [found for found in search_records(protocol) if (found.run.scenario, found.run.seed) != ("class", 1000)]
    with pytest.raises(MissingRecords, match=r"class-incremental ewc, seed 0 is there, but strength\.ewc\.class"):
        select("toy", protocol, [chosen, record(protocol, "naive")], partly)
    assert len(select("toy", protocol, [record(protocol, "naive")], []).results) == 1


def test_records_of_another_search_are_left_out():
    protocol = toy()
    mine = search_records(protocol)
    other = mine[0].model_copy(update={"run": mine[0].run.model_copy(update={"strength": 3.0})})
    selection = select("toy", protocol, all_records(protocol), [other, *mine])
    assert list(selection.tuning) == mine
    assert selection.left_out == {OUTSIDE_GRID: 1}
    assert {choice.method: choice.strength for choice in selection.choices} == {"ewc": 10.0, "online_ewc": 1.0}


def test_where_none_belongs_the_error_says_what_differs():
    protocol = toy()
    other = record(protocol, "ewc", run={"strength": 50.0})
    with pytest.raises(ReportError, match=r"none of the 1 record given .* differs in strength \(50, .* 100\)"):
        select("toy", protocol, [other], [])


def test_the_report_says_what_was_left_out(tmp_path, without_figures):
    protocol = toy()
    written(tmp_path, [record(protocol, "naive"), record(protocol, "ewc", run={"strength": 50.0})])
    for file in ("README.md", "index.html"):
        assert "1 record left out: 1 other settings than the protocol's" in (tmp_path / file).read_text().replace(
            "&#39;", "'"
        )


def test_the_report_says_which_seeds_of_the_search_are_not_the_packages(tmp_path, without_figures):
    protocol = load_protocol("digits", ["tuning.seeds=[1000, 1001]", "strength.ewc.task=100"])
    run = Run.of("digits", protocol, "task", "none", 0)
    found = record(toy(), "naive").model_copy(update={"run": run, "id": run.id})
    write_report("digits", protocol, [found], [], tmp_path)
    expected = "tuning.seeds ([1000, 1001, 1002, 1003, 1004], here [1000, 1001])"
    assert expected in (tmp_path / "README.md").read_text()


# ------------------------------------------------------------------------------- the protocol as text


@pytest.mark.parametrize("overrides", [(), ("training.epochs=3",)])
def test_a_protocol_as_text_is_the_same_protocol(overrides):
    for protocol in (toy(), load_protocol("digits", overrides)):
        assert parse_protocol(protocol_text("other", protocol), "written.toml") == protocol
