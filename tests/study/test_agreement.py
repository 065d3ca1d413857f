"""The comparison of importances: on a network that is trained, with the file that it writes, and in a report."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from clreg_plugins import fisher_diagonal
from study import agreement as module
from study.agreement import measure_agreement
from study.alike import AGREEMENT, parse_agreement, write_agreement
from study.batches import InMemoryLoader, columns_of
from study.cli import app
from study.conditions import Conditions
from study.protocol import ProtocolError, load_protocol
from study.settings import OnlineEWC

FISHERS = {
    "exact": {"kind": "online_ewc", "fisher": "exact"},
    "few": {"kind": "online_ewc", "fisher": "exact", "n_samples": 50},
    "empirical": {"kind": "ewc", "fisher": "empirical"},
    "batched": {"kind": "ewc", "fisher": "batched", "batch_size": 32},
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

    def recorded(model: nn.Module, columns: list, settings: OnlineEWC, seed: int) -> dict:
        found = importance(model, columns, settings, seed)
        if settings == fishers.methods["empirical"]:
            networks.append((model, columns, found, importance(model, columns, fishers.methods["exact"], seed)))
        return found

    monkeypatch.setattr(module, "_importance", recorded)
    rows = list(measure_agreement("tiny", fishers, "class", 0, Conditions(Path())))
    assert [(r.experience, r.method) for r in rows] == [(k, method) for k in (0, 1) for method in FISHERS]
    for r in rows:
        assert r.seconds > 0
        assert r.epochs > 0
        if r.method == "exact":
            assert (r.spearman, r.pearson, r.cosine, r.ratio) == pytest.approx((1, 1, 1, 1))
        else:
            assert r.spearman < 1
    (empirical,) = [r for r in rows if (r.experience, r.method) == (1, "empirical")]
    _, _, a, b = networks[-1]
    a, b = (torch.cat([value.flatten() for value in side.values()]).double() for side in (a, b))
    both = (a != 0) | (b != 0)
    assert empirical.entries == int(both.sum()) < len(a)
    assert empirical.ratio == pytest.approx(float(a.sum() / b.sum()))
    assert empirical.pearson == pytest.approx(float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1]))


def test_data_in_memory_gives_the_same_importance_as_the_dataset():
    dataset = torch.utils.data.TensorDataset(torch.randn(70, 3), torch.randint(0, 2, (70,)))
    model = nn.Linear(3, 2)
    ours = fisher_diagonal(model, InMemoryLoader(columns_of(dataset, torch.device("cpu")), 32), variant="batched")
    expected = fisher_diagonal(model, dataset, variant="batched", batch_size=32)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("without", "missing"), [("naive", "kind 'naive'"), ("exact", "exact Fisher on all samples")])
def test_a_protocol_without_what_it_takes_is_refused(fishers, without, missing):
    methods = {name: method for name, method in fishers.methods.items() if name != without}
    with pytest.raises(ProtocolError, match=f"mine has no importances to compare: it needs .*{missing}"):
        list(measure_agreement("mine", fishers.model_copy(update={"methods": methods}), "class", 0, Conditions(Path())))


def test_the_command_writes_a_file_that_reads_back(tmp_path, protocol_file):
    result = CliRunner().invoke(
        app, ["agreement", str(protocol_file), "--seeds", "1", "--scenario", "class", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    rows = parse_agreement((tmp_path / AGREEMENT).read_bytes(), tmp_path / AGREEMENT)
    assert {r.method for r in rows} == {"ewc", "online_ewc"}
    write_agreement(rows, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / AGREEMENT).read_bytes()


def test_the_fisher_protocol_has_what_it_takes():
    assert module._methods("x", load_protocol("fisher-split-mnist-task"))[1:] == (
        ["exact", "exact-n500", "sample", "predicted", "empirical", "batched"],
        "exact",
    )
