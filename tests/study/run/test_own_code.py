"""A method, a model and a benchmark of the user's own are trained like those of the study."""

from pathlib import Path

import pytest
import torch

from study.errors import ProtocolError
from study.protocol.load import load_protocol
from study.protocol.own_code import source_hash
from study.protocol.settings import Model, OwnMethod, OwnModel
from study.run.dry_run import check_own_code
from study.run.methods import PASS_BATCH
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.tracking import Tracking
from study.run.trainer import Learner, perform
from tests.study.own import CODE, PROTOCOL
from tests.study.run.test_checkpoint import numbers_of, stop_before

HERE = RunEnvironment(Path())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "my.toml").write_text(PROTOCOL, encoding="utf-8")
    return tmp_path


def own_run(folder: Path, *overrides: str, method: str = "noise", scenario: str = "class", seed: int = 0) -> Run:
    return Run.of("my", load_protocol(str(folder / "my.toml"), overrides), scenario, method, seed)


def of_package(kind: str, **options: object) -> OwnMethod:
    return OwnMethod(kind=kind, source_hash=source_hash(kind, Path()), **options)


# ------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize(
    ("built_in", "own"),
    [
        ("ewc", {"kind": "clreg_plugins:EWCPlugin", "batch_size": PASS_BATCH, "strength_argument": "reg_lambda"}),
        ("lwf", {"kind": "avalanche.training.plugins:LwFPlugin", "strength_argument": "alpha"}),
        ("lwf", {"kind": "avalanche.training.supervised:LwF", "strength_argument": "alpha", "temperature": 2.0}),
        ("naive", {"kind": "avalanche.training.supervised:Naive"}),
    ],
)
def test_a_class_by_its_name_gives_what_the_built_in_method_gives(run_of, built_in, own):
    """Plugins and strategies, with λ and the seed of the draws."""
    expected, run = perform(run_of(built_in), HERE), run_of(built_in, method=of_package(**own))
    found = perform(run, HERE)
    assert found.finished, found.error
    assert (found.accuracy, found.loss) == (expected.accuracy, expected.loss)


def test_a_model_of_the_users_gives_what_the_same_built_in_one_gives(run_of, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(width, num_classes):\n"
        "    trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())\n"
        "    return nn.Sequential(trunk, nn.Linear(width, num_classes))\n"
    )
    kind = "./net.py:net"
    model = OwnModel(kind=kind, source_hash=source_hash(kind, tmp_path), width=100)
    found = perform(run_of("ewc", "domain", model=model), RunEnvironment(Path(), code_folder=tmp_path))
    assert found.finished, found.error
    assert found.loss == perform(run_of("ewc", "domain"), HERE).loss


# ------------------------------------------------------------------------------- one's own


def test_the_same_run_gives_the_same_numbers_whichever_generator_the_method_draws_from(folder):
    environment = RunEnvironment(Path(), code_folder=folder)
    first, second = (perform(own_run(folder), environment) for _ in range(2))
    assert first.finished, first.error
    assert numbers_of(first) == numbers_of(second)
    assert perform(own_run(folder, seed=1), environment).loss != first.loss
    assert perform(own_run(folder, "methods.noise.size=0.1"), environment).loss != first.loss
    assert (
        perform(own_run(folder, "strength.noise.class=0"), environment).loss
        == perform(own_run(folder, method="none"), environment).loss
    )
    assert first.plugin_memory == 3 * 4, "its tensor of three draws"


def test_an_importance_of_another_kind_is_not_sent_to_wandb(run_of, tmp_path):
    """That of Avalanche's MAS is of objects of its own."""
    mas = of_package("avalanche.training.plugins:MASPlugin", strength_argument="lambda_reg")
    record = perform(
        run_of("naive", method=mas, strength=1.0), RunEnvironment(Path(), tracking=Tracking("offline", tmp_path))
    )
    assert record.finished, record.error


def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path, monkeypatch):
    run, environment = own_run(folder), RunEnvironment(Path(), tmp_path / "kept", code_folder=folder)
    stop_before(2, run, environment, monkeypatch)
    resumed, whole = perform(run, environment), perform(run, RunEnvironment(Path(), code_folder=folder))
    assert numbers_of(resumed) == numbers_of(whole)
    assert resumed.resumed == 1


def test_a_strategy_of_the_users_starts_again_rather_than_lose_its_state(run_of, tmp_path, monkeypatch):
    run = run_of("naive", method=of_package("avalanche.training.supervised:Cumulative"))
    environment = RunEnvironment(Path(), tmp_path)
    stop_before(1, run, environment, monkeypatch)
    resumed = perform(run, environment)
    assert resumed.resumed == 0
    assert resumed.accuracy == perform(run_of("cumulative"), HERE).accuracy


def test_an_edit_is_another_run_and_a_run_of_the_old_code_fails(folder):
    before = own_run(folder)
    (folder / "mine.py").write_text(CODE + "\n# edited\n", encoding="utf-8")
    after = own_run(folder)
    assert before.id != after.id
    assert perform(after, RunEnvironment(Path(), code_folder=folder)).finished
    failed = perform(before, RunEnvironment(Path(), code_folder=folder))
    assert failed.outcome == "failed"
    assert "mine.py has changed, it has the hash" in failed.error


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_validation_data_is_a_stratified_part_of_each_experience(folder, scenario):
    def inputs(fraction: float | None) -> list[list[tuple[bytes, int, int]]]:
        run = own_run(folder, method="none").model_copy(
            update={"scenario": scenario, "validation_fraction": fraction, "model": run_model(scenario)}
        )
        benchmark = Learner(run, RunEnvironment(Path(), code_folder=folder)).benchmark
        return [
            [(x.numpy().tobytes(), int(y), int(t)) for x, y, t in experience.dataset]
            for stream in (benchmark.train_stream, benchmark.test_stream)
            for experience in stream
        ]

    whole, split = inputs(None), inputs(0.25)
    for index in range(3):
        train, held_out = split[index], split[index + 3]
        assert sorted(train + held_out) == sorted(whole[index])
        assert len(held_out) == 10
        assert [label for _, label, _ in held_out].count(2 * index) == 5
        assert {task for _, _, task in train} == {index if scenario == "task" else 0}


def run_model(scenario: str) -> object:
    """The study's own model, which has a head for each task."""
    return Model(name="mlp", hidden=[4])


# ------------------------------------------------------------------------------- errors before training


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["methods.noise.sise=1"],
            "kind = './mine.py:Noise': unknown key methods.noise.sise; did you mean 'size'[?] allowed: size",
        ),
        (["model.widht=4", "model.width="], "unknown key model.widht; did you mean 'width'[?] allowed: width"),
        (["methods.noise.strength_argument=alpha"], "missing a required argument: 'reg_lambda'; allowed: reg_lambda, "),
        (["strength.noise=", "tuning="], "λ goes to None, see strength and strength_argument"),
        (["methods.noise.kind=./mine.py:Nose"], "mine.py has no class or function 'Nose'; did you mean 'Noise'?"),
        (["methods.noise.kind=./yours.py:Noise"], "there is no file .*yours.py; allowed: package.module:Name or"),
        (["methods.noise.kind=no.such:Noise"], "there is no module no.such that has a file"),
        (
            [
                "methods.noise={kind='./mine.py:one_output'}",
                "strength.noise=",
                "tuning=",
            ],
            "methods.noise.kind = './mine.py:one_output': it gives a Linear; allowed: a plugin or a strategy",
        ),
        (
            ["methods.noise={kind='avalanche.training.supervised:JointTraining'}", "strength.noise=", "tuning="],
            "kind = 'joint' trains jointly",
        ),
        (
            ["methods.noise={kind='./mine.py:Unpicklable'}", "strength.noise=", "tuning="],
            "methods.noise: its state cannot be pickled, as checkpoints need",
        ),
        (["model.width=wide"], r"model.kind = './mine.py:Network': TypeError: .* \(mine.py, line \d+\)"),
        (
            ["model={kind='./mine.py:one_output'}"],
            r"for 2 samples it gives \(2, 1\); allowed: logits of shape \(N, 6\)",
        ),
        (["model={name='./mine.py:stream'}"], "model.kind = './mine.py:stream': missing a required argument"),
        (["benchmark.samples="], "benchmark.kind = './mine.py:clouds': missing a required argument: 'samples'"),
        (
            ["benchmark={kind='./mine.py:one_output'}"],
            "allowed: a benchmark as from avalanche.benchmarks.benchmark_from",
        ),
        (["benchmark.offset=1"], r"targets are \[1, 2, 3, 4, 5, 6\]; allowed: 0, 1, 2, … without gaps"),
        (["benchmark.tests=2"], r"experiences to train and to test on: \[3, 2\]; allowed: as many, at least 2"),
        (["benchmark.augmented=true"], "a sample differs each time it is read, as with random augmentation"),
    ],
)
def test_what_cannot_be_run_is_an_error_that_names_key_and_what_is_allowed(folder, overrides, said):
    run = own_run(folder, *overrides)
    with pytest.raises(ProtocolError, match=said):
        check_own_code([run], RunEnvironment(Path(), code_folder=folder))


def test_in_the_task_incremental_scenario_a_model_takes_task_labels(folder):
    run = own_run(folder, "scenarios=['task']", "strength.noise.task=1", "strength.noise.class=", scenario="task")
    with pytest.raises(ProtocolError, match=r"allowed: an Avalanche MultiTaskModule, as"):
        check_own_code([run], RunEnvironment(Path(), code_folder=folder))


def test_the_check_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(3)
    check_own_code([own_run(folder)], RunEnvironment(Path(), code_folder=folder))
    assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(3)))
