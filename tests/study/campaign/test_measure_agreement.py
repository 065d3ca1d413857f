"""The comparison of importances: on a network that is trained, with the file that it writes, and in a report."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from study.campaign import measure_agreement as module
from study.campaign.measure_agreement import measure_agreement
from study.cli.app import app
from study.errors import ProtocolError
from study.protocol.load import load_protocol
from study.protocol.settings import EWC, MAS, OnlineEWC
from study.records.importance_agreement import AGREEMENT_FILE, read_agreement, write_agreement
from study.run.batches import columns_of
from study.run.methods import build_plugin
from study.run.run_environment import RunEnvironment
from study.run.seeds import derived_seed
from study.run.specification import Run
from study.run.trainer import Learner

FISHERS = {
    "exact": {"kind": "online_ewc", "fisher": "exact"},
    "few": {"kind": "online_ewc", "fisher": "exact", "n_samples": 50},
    "sample": {"kind": "ewc", "fisher": "sample"},
    "sample-3": {"kind": "ewc", "fisher": "sample", "draws": 3},
    "empirical": {"kind": "ewc", "fisher": "empirical"},
    "batched": {"kind": "ewc", "fisher": "batched"},
}


@pytest.fixture
def fishers(protocol):
    methods = {
        name: OnlineEWC if of["kind"] == "online_ewc" else type(protocol.methods["ewc"]) for name, of in FISHERS.items()
    }
    methods = {name: kind.model_validate(FISHERS[name]) for name, kind in methods.items()}
    return protocol.model_copy(update={"methods": {"naive": protocol.methods["naive"], **methods}})


def test_every_importance_is_measured_on_every_experience_of_one_network(fishers, monkeypatch):
    networks = []
    importance = module._importance

    def recorded(learner: Learner, columns: list, settings: OnlineEWC, experience: int) -> dict:
        found = importance(learner, columns, settings, experience)
        if settings == fishers.methods["empirical"]:
            networks.append((found, importance(learner, columns, fishers.methods["exact"], experience)))
        return found

    monkeypatch.setattr(module, "_importance", recorded)
    rows = [row for rows in measure_agreement("tiny", fishers, "class", 0, RunEnvironment(Path())) for row in rows]
    assert [(r.experience, r.method) for r in rows] == [(k, method) for k in (0, 1) for method in FISHERS]
    for r in rows:
        assert r.seconds > 0
        assert r.epochs > 0
        if r.method == "exact":
            assert (r.spearman, r.pearson, r.cosine, r.ratio) == pytest.approx((1, 1, 1, 1))
        else:
            assert r.spearman < 1
    (empirical,) = [r for r in rows if (r.experience, r.method) == (1, "empirical")]
    a, b = (torch.cat([value.flatten() for value in side.values()]).double() for side in networks[-1])
    both = (a != 0) | (b != 0)
    assert empirical.entries == int(both.sum()) < len(a)
    assert empirical.ratio == pytest.approx(float(a.sum() / b.sum()))
    assert empirical.trace == pytest.approx(float(a.sum()))
    assert empirical.pearson == pytest.approx(float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1]))


@pytest.mark.parametrize("method", ["exact", "few", "sample", "sample-3", "batched"])
def test_it_is_the_importance_that_the_plugin_measures(fishers, method):
    """Its draws and its batches included, in an experience that is not the first."""
    settings = fishers.methods[method]
    learner = Learner(Run.of("tiny", fishers, "class", "naive", 3), RunEnvironment(Path()))
    plugin = build_plugin(
        settings, 1.0, derived_seed(3, "importance"), model=learner.state.model, batches=None, encoding=None
    )
    learner.strategy.plugins.append(plugin)
    plugin.penalty.n_terms = 1
    learner.learn(0)
    columns = columns_of(learner.benchmark.train_stream[0].dataset, torch.device("cpu"))
    ours = module._importance(learner, columns, settings, 1)
    assert plugin.importance
    for name, value in plugin.importance.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "at_a_time"),
    [
        (EWC(kind="ewc"), 256),
        (EWC(kind="ewc", batch_size=64), 64),
        (OnlineEWC(kind="online_ewc", fisher="empirical"), 256),
        (EWC(kind="ewc", fisher="batched"), None),
        (MAS(kind="mas"), 256),
        (MAS(kind="mas", per_sample=False), None),
    ],
    ids=str,
)
def test_a_pass_takes_as_many_samples_at_a_time_as_in_earlier_records(settings, at_a_time):
    """None: as many as in a training step."""
    plugin = build_plugin(settings, 1.0, 0, model=torch.nn.Linear(1, 1), batches=None, encoding=None)
    assert plugin.reading.options["batch_size"] == at_a_time


def test_what_is_known_is_not_measured_again(fishers):
    def measured(known: list) -> list:
        return list(measure_agreement("tiny", fishers, "class", 0, RunEnvironment(Path()), known))

    first, second = measured([])
    others = fishers.model_copy(update={"training": fishers.training.model_copy(update={"learning_rate": 0.5})})
    assert measured(first)[0] == first
    assert measured(first)[1] != second  # measured again: the times say so
    again = measured(first[1:])
    assert [row.method for row in again[0]] == [row.method for row in first]
    of_0_1 = [row.model_copy(update={"trace": None}) for row in first]
    assert [row.trace for row in measured(of_0_1)[0]] == [row.trace for row in first]
    assert next(measure_agreement("tiny", others, "class", 0, RunEnvironment(Path()), first)) != first


@pytest.mark.parametrize(("without", "missing"), [("naive", "kind 'naive'"), ("exact", "exact Fisher on all samples")])
def test_a_protocol_without_what_it_takes_is_refused(fishers, without, missing):
    methods = {name: method for name, method in fishers.methods.items() if name != without}
    with pytest.raises(ProtocolError, match=f"mine has no importances to compare: it needs .*{missing}"):
        list(
            measure_agreement(
                "mine", fishers.model_copy(update={"methods": methods}), "class", 0, RunEnvironment(Path())
            )
        )


def test_a_network_with_a_head_for_each_task_is_measured_like_its_training(fishers):
    for rows in measure_agreement("tiny", fishers, "task", 0, RunEnvironment(Path())):
        assert [row.method for row in rows] == [*FISHERS]
        assert all(row.spearman > 0 for row in rows)


def test_the_command_writes_a_file_that_reads_back(tmp_path, protocol_file):
    command = ["agreement", str(protocol_file), "--seeds", "1", "--scenario", "class", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = read_agreement(tmp_path / AGREEMENT_FILE)
    assert {r.method for r in rows} == {"ewc", "online_ewc"}
    assert all(
        r.torch == torch.__version__ and r.processor and r.belongs_to(load_protocol(str(protocol_file))) for r in rows
    )
    write_agreement(rows, tmp_path / "again.csv")
    before = (tmp_path / AGREEMENT_FILE).read_bytes()
    assert (tmp_path / "again.csv").read_bytes() == before
    write_agreement(rows[:2], tmp_path / AGREEMENT_FILE)  # as an interrupt would have left it
    assert CliRunner().invoke(app, command).exit_code == 0
    again = read_agreement(tmp_path / AGREEMENT_FILE)
    assert again[:2] == rows[:2]
    assert [(r.where, r.spearman) for r in again] == [(r.where, r.spearman) for r in rows]


def test_the_fisher_protocol_has_what_it_takes():
    assert module._methods("x", load_protocol("fisher-split-mnist"))[1:] == (
        ["exact", "exact-n500", "sample", "sample-10", "predicted", "empirical", "batched"],
        "exact",
    )
