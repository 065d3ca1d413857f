"""Avalanche's own plugins in the study: what they do on a CPU, and that a run of theirs can be interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import SynapticIntelligencePlugin
from torch import Tensor

from study.errors import ProtocolError
from study.protocol.load import parse_protocol
from study.protocol.settings import AvalancheEWC, AvalancheSI, Benchmark
from study.run.benchmarks import build_benchmark
from study.run.methods import SynapticIntelligenceOnCopies
from study.run.run_environment import RunEnvironment
from study.run.trainer import perform
from tests.study.recording import learner
from tests.study.run.test_checkpoint import numbers_of, stop_before

EPS = 0.1


class PathIntegral(SupervisedPlugin, supports_distributed=False):
    """Σ gradient · step for each parameter, in float64, from the gradients that the optimizer saw."""

    def __init__(self) -> None:
        super().__init__()
        self.of_experience: list[dict[str, Tensor]] = []
        self.anchors: list[dict[str, Tensor]] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        now = snapshot(strategy.model)
        self.anchors.append(now)
        self.of_experience.append({name: torch.zeros_like(value) for name, value in now.items()})

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.before = snapshot(strategy.model)
        self.gradient = {name: p.grad.double().clone() for name, p in strategy.model.named_parameters()}

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        for name, now in snapshot(strategy.model).items():
            self.of_experience[-1][name] += self.gradient[name] * (now - self.before[name])


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


def trained(plugin: SupervisedPlugin) -> tuple[Any, PathIntegral]:
    settings = Benchmark(name="split_digits", experiences=5, test_fraction=0.25)
    benchmark = build_benchmark(settings, "class", Path(), torch.Generator().manual_seed(0))
    path = PathIntegral()
    strategy = learner(benchmark, "class", [plugin, path])
    for experience in list(benchmark.train_stream)[:2]:
        torch.manual_seed(1)
        strategy.train(experience, eval_streams=[])
    return strategy, path


def test_avalanches_si_measures_nothing_on_a_cpu():
    plugin = SynapticIntelligencePlugin(1e4, eps=EPS)
    trained(plugin)
    assert all(not importance.data.any() for importance in plugin.ewc_data[1].values())


def test_on_copies_it_measures_the_path_integral_of_its_definition():
    plugin = SynapticIntelligenceOnCopies(1.0, eps=EPS)
    strategy, path = trained(plugin)
    ends = [path.anchors[1], snapshot(strategy.model)]
    for name in ends[0]:
        total = sum(
            path.of_experience[k][name] / ((ends[k][name] - path.anchors[k][name]) ** 2 + EPS) for k in range(2)
        )
        expected = (-total).clamp(max=1e-3)  # as in its code: bounded above, and not below
        found = plugin.ewc_data[1][name].data.double().reshape(expected.shape)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7), name
    assert any(importance.data.any() for importance in plugin.ewc_data[1].values())


def test_on_copies_its_penalty_holds_the_parameters():
    distances = []
    for strength in (0.0, 1e6):
        strategy, path = trained(SynapticIntelligenceOnCopies(strength, eps=EPS))
        end = snapshot(strategy.model)
        distances.append(sum(float(((end[name] - path.anchors[1][name]) ** 2).sum()) for name in end))
    assert distances[1] < 0.5 * distances[0]


def test_in_the_study_avalanches_si_equals_training_without_a_penalty_on_a_cpu_and_mended_it_does_not(run_of):
    naive = perform(run_of(), RunEnvironment(Path()))
    as_it_is, mended = (
        perform(run_of(method=AvalancheSI(kind="avalanche_si", mended=m), strength=1e5), RunEnvironment(Path()))
        for m in (False, True)
    )
    assert numbers_of(as_it_is)[:2] == numbers_of(naive)[:2]
    assert numbers_of(mended)[:2] != numbers_of(naive)[:2]


@pytest.mark.parametrize(
    ("method", "strength"),
    [
        (AvalancheEWC(kind="avalanche_ewc"), 1e4),
        (AvalancheEWC(kind="avalanche_ewc", mode="online", decay_factor=0.9), 1e4),
        (AvalancheSI(kind="avalanche_si", eps=EPS, mended=True), 1e5),
    ],
)
def test_a_resumed_run_of_theirs_equals_an_uninterrupted_one(run_of, tmp_path, monkeypatch, method, strength):
    five = run_of().benchmark.model_copy(update={"experiences": 5})
    run = run_of(method=method, strength=strength, benchmark=five)
    environment = RunEnvironment(Path(), checkpoints=tmp_path)
    stop_before(2, run, environment, monkeypatch)
    resumed, whole = perform(run, environment), perform(run, RunEnvironment(Path()))
    assert numbers_of(resumed) == numbers_of(whole)
    assert resumed.resumed == 1
    naive = perform(run_of(benchmark=five), RunEnvironment(Path()))
    assert numbers_of(whole) != numbers_of(naive)


@pytest.mark.parametrize("options", ['mode = "online"', "decay_factor = 0.9"])
def test_online_and_a_decay_go_together(text, options):
    broken = text.replace('naive = { kind = "naive" }', f'naive = {{ kind = "avalanche_ewc", {options} }}')
    with pytest.raises(ProtocolError, match="decay_factor is for the mode 'online', which needs it"):
        parse_protocol(broken, "x.toml")
