"""A run that is stopped, however and whenever, and goes on, equals one that was not, to the last bit."""

import importlib
import io
import multiprocessing
import os
import random
import time
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from study.campaign.one_run import keep, perform_and_record
from study.protocol.settings import Benchmark
from study.records.store import RunStore
from study.run import trainer as training
from study.run.checkpoint import PACKAGES, Checkpoint, State, _allowed, _function_of_torch, _say
from study.run.data import DataError
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import perform

METHODS = ["naive", "l2", "ewc", "online_ewc", "mas", "si", "lwf", "replay-matched", "cumulative"]


class Stopped(BaseException):
    """As Ctrl-C, or worse."""


def numbers_of(record: RunResult) -> tuple:
    assert record.finished, record.error
    return record.accuracy, record.loss, record.training_loss, record.importance


def stop_before(index: int, run: Run, environment: RunEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perform a run up to an experience."""
    learn = training.Learner.learn

    def stopping(self: training.Learner, at: int) -> None:
        if at == index:
            raise Stopped
        learn(self, at)

    with monkeypatch.context() as patched:
        patched.setattr(training.Learner, "learn", stopping)
        with pytest.raises(Stopped):
            perform(run, environment)


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(run_of, tmp_path, monkeypatch, method, scenario):
    five = run_of().benchmark.model_copy(update={"experiences": 5})
    kept = run_of().training.model_copy(update={"optimizer_state": "keep"})
    run = run_of(method, scenario, benchmark=five, training=kept)
    environment = RunEnvironment(Path(), checkpoints=tmp_path)
    for index in (1, 3):
        stop_before(index, run, environment, monkeypatch)
    resumed = perform(run, environment)
    whole = perform(run, RunEnvironment(Path()))
    assert numbers_of(resumed) == numbers_of(whole)
    assert (resumed.resumed, whole.resumed) == (2, 0)
    assert resumed.memory_examples == whole.memory_examples
    assert [len(times) for _, times in resumed.seconds] == [5, 5, 5]


def test_dropouts_random_numbers_go_on_too(run_of, tmp_path, monkeypatch):
    from torch import nn

    build = training.build_model

    def with_dropout(*arguments: object) -> nn.Module:
        model = build(*arguments)
        return nn.Sequential(model[0], nn.Dropout(0.5), *model[1:])

    monkeypatch.setattr(training, "build_model", with_dropout)
    run, environment = run_of("ewc"), RunEnvironment(Path(), checkpoints=tmp_path)
    stop_before(1, run, environment, monkeypatch)
    assert numbers_of(perform(run, environment)) == numbers_of(perform(run, RunEnvironment(Path())))


class Trap:
    """Shows whether it was unpickled."""

    sprung = False

    def __reduce__(self) -> tuple:
        return setattr, (Trap, "sprung", True)


def test_a_checkpoint_that_cannot_be_used_is_put_aside_and_the_run_starts_afresh(run_of, tmp_path, monkeypatch, capsys):
    run, environment = run_of("ewc"), RunEnvironment(Path(), checkpoints=tmp_path)
    stop_before(1, run, environment, monkeypatch)
    checkpoint = Checkpoint(tmp_path, run)
    whole = checkpoint.path.read_bytes()
    state = torch.load(io.BytesIO(whole.partition(b"\n")[2]), weights_only=False)
    weight = whole.index(state.model[1].weight.detach().numpy())
    a_bit_of_an_exponent = bytearray(whole)
    a_bit_of_an_exponent[weight + 3] ^= 0b01000000
    stop_before(1, run_of("ewc", seed=1), environment, monkeypatch)
    of_another_run = Checkpoint(tmp_path, run_of("ewc", seed=1)).path.read_bytes()
    code = io.BytesIO()
    torch.save(Trap(), code)
    forged = f"{checkpoint._header(code.getvalue())}\n".encode() + code.getvalue()
    expected = numbers_of(perform(run, RunEnvironment(Path())))
    for damaged in (whole[: len(whole) // 2], b"", b"nothing", bytes(a_bit_of_an_exponent), of_another_run, forged):
        checkpoint.path.write_bytes(damaged)
        _say.cache_clear()
        record = perform(run, environment)
        assert record.resumed == 0
        assert numbers_of(record) == expected
        assert f"{checkpoint.path} cannot be used and is now in" in capsys.readouterr().err
        assert (tmp_path / "unusable" / checkpoint.path.name).read_bytes() == damaged
    assert not Trap.sprung


def test_a_state_that_no_checkpoint_can_hold_is_told_and_not_stored(run_of, tmp_path, monkeypatch, capsys):
    begin = training.Learner._begin

    def with_something_else(self: training.Learner) -> State:
        state = begin(self)
        state.plugins[0].other = Trap()
        return state

    monkeypatch.setattr(training.Learner, "_begin", with_something_else)
    assert perform(run_of(), RunEnvironment(Path(), checkpoints=tmp_path)).finished
    assert "naive: after a stop its runs start afresh; no checkpoint can hold" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("torch.nn.modules.linear.Linear", True),
        ("torch.nn.functional.relu", True),
        ("clreg_plugins.ewc.EWCPlugin", True),
        ("torch.nn.functional.handle_torch_function", False),  # calls what it is given
        ("torch.nn.functional.triplet_margin_with_distance_loss", False),
        ("torch.nn.modules.module.functools", False),
        ("study.run.data.Path", False),  # visible there, defined elsewhere
        ("study.run.data.FileLock", False),
        ("torch.fx.graph_module.GraphModule", False),  # a module that runs code
        ("os.system", False),
    ],
)
def test_a_checkpoint_holds_what_is_defined_in_the_packages_of_models_and_methods(name, allowed):
    importlib.import_module(name.rpartition(".")[0])
    assert (_allowed(name, PACKAGES) is not None) == allowed


def test_a_function_of_torch_that_does_more_than_compute_is_refused():
    owner = torch._C._VariableFunctionsClass
    assert _function_of_torch(owner, "relu") is torch.relu
    with pytest.raises(AttributeError, match="from_file is not allowed"):
        _function_of_torch(owner, "from_file")


def test_containers_generators_and_functions_come_back(run_of, tmp_path):
    held = {
        "by default": defaultdict(list, {1: [2.0]}),
        "queue": deque([1, 2], maxlen=3),
        "set": {1, 2},
        "array": np.arange(3.0),
        "function": torch.relu,
        "draws": random.Random(3),
        "generator": torch.Generator().manual_seed(3),
    }
    checkpoint = Checkpoint(tmp_path, run_of())
    checkpoint.save(State(model=torch.nn.ReLU(), plugins=[held], tracked_as=""))
    (found,) = checkpoint.load().plugins
    assert found.keys() == held.keys()
    assert found["by default"] == held["by default"]
    assert found["by default"]["new"] == []
    assert (found["queue"], found["queue"].maxlen) == (held["queue"], 3)
    assert np.array_equal(found["array"], held["array"])
    assert (found["set"], found["function"]) == (held["set"], torch.relu)
    assert found["draws"].random() == random.Random(3).random()
    assert torch.equal(found["generator"].get_state(), held["generator"].get_state())


def test_a_checkpoint_of_other_code_is_not_gone_on_with(run_of, tmp_path, monkeypatch):
    run, environment = run_of("ewc"), RunEnvironment(Path(), checkpoints=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("study.run.checkpoint.code_hash", lambda: "another")
        stop_before(1, run, environment, monkeypatch)
    record = perform(run, environment)
    assert record.resumed == 0
    assert numbers_of(record) == numbers_of(perform(run, RunEnvironment(Path())))


def test_a_missing_file_of_a_method_ends_its_run_and_one_of_the_data_the_study(run_of, tmp_path, monkeypatch):
    def missing(*_: object) -> None:
        raise FileNotFoundError(2, "No such file", "weights.pt")

    with monkeypatch.context() as patched:
        patched.setattr(training.Learner, "learn", missing)
        result = perform(run_of(), RunEnvironment(Path()))
    assert result.outcome == "failed"
    assert "weights.pt" in result.error
    elsewhere = run_of(benchmark=Benchmark(name="split_mnist", experiences=5))
    with pytest.raises(DataError):
        perform(elsewhere, RunEnvironment(tmp_path))


def test_an_error_with_what_is_no_utf8_is_recorded(run_of, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise ValueError("bad name \udcff")

    monkeypatch.setattr(training.Learner, "learn", fails)
    perform_and_keep(run_of(), tmp_path)
    (record,) = RunStore(tmp_path).read_all()
    assert record.last_line == "ValueError: bad name \\udcff"


def test_a_checkpoint_is_kept_where_memory_does_not_suffice_to_read_it(run_of, tmp_path, monkeypatch):
    run, environment = run_of("si"), RunEnvironment(Path(), checkpoints=tmp_path)
    stop_before(1, run, environment, monkeypatch)
    before = Checkpoint(tmp_path, run).path.read_bytes()

    def full(*_: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("study.run.checkpoint.torch.load", full)
        assert perform(run, environment).outcome == "failed"
    assert Checkpoint(tmp_path, run).path.read_bytes() == before
    assert perform(run, environment).resumed == 1


def test_the_row_before_a_stop_is_tracked_once_more(run_of, tmp_path, monkeypatch):
    """Killed with its run, wandb's service may not have written it."""
    rows, run, environment = [], run_of("ewc"), RunEnvironment(Path(), checkpoints=tmp_path)

    def tracked(_: object, experience: int, *, importance: dict[str, torch.Tensor], **row: object) -> None:
        rows.append((experience, row, {name: values.tolist() for name, values in importance.items()}))

    monkeypatch.setattr(training.WandbLogger, "after_experience", tracked)
    stop_before(1, run, environment, monkeypatch)
    assert perform(run, environment).finished
    assert [experience for experience, *_ in rows] == [0, 0, 1]
    assert rows[0] == rows[1]


def test_a_full_disk_ends_the_study_and_not_the_run(run_of, tmp_path, monkeypatch):
    run, environment = run_of("ewc"), RunEnvironment(Path(), checkpoints=tmp_path)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("study.run.checkpoint.write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            perform(run, environment)
    assert perform(run, environment).finished


def perform_and_keep(run: Run, folder: Path) -> None:
    store = RunStore(folder)
    environment = RunEnvironment(Path(), store.under_way)
    keep(perform_and_record(run, environment), store, environment)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_runs_killed_at_ten_random_moments_equal_those_left_alone(run_of, tmp_path):
    longer = run_of().training.model_copy(update={"epochs": 12, "optimizer_state": "keep"})
    five = run_of().benchmark.model_copy(update={"experiences": 5})
    processes = multiprocessing.get_context("forkserver")
    store = RunStore(tmp_path)

    def attempt(run: Run, seconds: float | None) -> bool:
        """Whether it had to be killed."""
        process = processes.Process(target=perform_and_keep, args=(run, tmp_path))
        process.start()
        process.join(seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive or process.exitcode == 0
        return alive

    moments, kills, gone_on_from = random.Random(0), 0, set()
    attempt(run_of(), None)  # which imports what there is to import
    began = time.monotonic()
    attempt(run_of("si", "task", 1000, training=longer, benchmark=five), None)
    whole = time.monotonic() - began  # so that kills come during a run however fast the machine is
    seed = 0
    while kills < 10:
        run = run_of(["si", "ewc", "replay-matched"][seed % 3], "task", seed, training=longer, benchmark=five)
        while store.read(run) is None:
            gone_on_from.add((seed, experiences_done(store, run)))
            kills += attempt(run, moments.uniform(0.1, 0.9) * whole if kills < 10 else None)
        assert numbers_of(store.read(run)) == numbers_of(perform(run, RunEnvironment(Path()))), f"seed {seed}"
        seed += 1
    assert not any(store.under_way.glob("*.pt")), "checkpoints of runs that have ended are left"
    assert any(done > 0 for _, done in gone_on_from), "no run went on from a checkpoint: this shows nothing"


def experiences_done(store: RunStore, run: Run) -> int:
    state = Checkpoint(store.under_way, run).load()
    return 0 if state is None else len(state.accuracy)
