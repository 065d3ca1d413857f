"""Trains one run and returns its result."""

import gc
import math
import secrets
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.utils import concat_datasets
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.supervised import Cumulative, Naive
from torch import Tensor, nn

from clreg_plugins import RegularizationPlugin
from study.protocol.own_code import resolve
from study.protocol.table import Own
from study.run.baselines import ReplayMemory
from study.run.batches import InMemoryBatches
from study.run.benchmarks import build_benchmark
from study.run.checkpoint import Checkpoint, CheckpointError, State
from study.run.data import DataError, Encoding
from study.run.instruments import (
    Evaluator,
    Held,
    Instruments,
    held_bytes,
    peak_memory,
    reset_peak_memory,
    sum_of_importance,
)
from study.run.methods import build_optimizer, build_plugin, build_strategy
from study.run.metrics import average_accuracy
from study.run.models import build_model
from study.run.own_benchmark import build_own_benchmark
from study.run.result import Outcome, Progress, RunResult
from study.run.run_environment import RunEnvironment
from study.run.seeds import derived_seed, generator_states, restore_generators, seed_globally
from study.run.specification import Run
from study.run.system import git_commit, versions
from study.run.tracking import WandbLogger

EVAL_BATCH_SIZE = 1024  # the accuracy does not depend on it


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Use this many CPU threads in PyTorch: one in runs, since the number decides the last bits of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perform(run: Run, environment: RunEnvironment) -> RunResult:
    """Train and evaluate, resuming from a checkpoint if there is one. The same run gives the same matrix to the bit.

    Args:
        run: all that determines the result.
        environment: all that does not.

    Returns:
        The result, also of a run that fails or diverges.

    Raises:
        OSError: a checkpoint cannot be written; the previous one is kept. Or what is read first cannot be.
        DataError: the data is missing or damaged.
    """
    gc.freeze()  # so that the collection at the end visits this run and not all of torch, for as long as a short run
    try:
        return _performed(run, environment)
    finally:
        gc.collect()
        gc.unfreeze()


def _performed(run: Run, environment: RunEnvironment) -> RunResult:
    learner: Learner | None = None
    outcome: Outcome = "finished"
    error = None
    try:
        try:
            with torch_threads(1), torch.random.fork_rng(devices=[0] if run.device == "cuda" else []):
                learner = Learner(run, environment)
                learner.learn_all()
        except Exception as problem:
            of_machine = DataError | OSError if learner is None else CheckpointError
            if isinstance(problem, of_machine):
                raise  # it ends the study; what a method, a model or the GPU raises ends this run
            outcome = "diverged" if isinstance(problem, FloatingPointError) else "failed"
            error = traceback.format_exc().encode(errors="backslashreplace").decode()  # lone surrogates are no UTF-8
        return learner.result(outcome, error) if learner else RunResult(outcome=outcome, error=error)
    finally:
        if learner is not None:
            learner.logger.close()  # interrupted: W&B's run can go on later


class Learner:
    """An unfinished run: an Avalanche strategy and its results so far.

    Raises:
        DataError: the data is missing or damaged.
    """

    def __init__(self, run: Run, environment: RunEnvironment) -> None:
        self.run = run
        self.device = torch.device(run.device)
        reset_peak_memory(self.device)
        self.folder = environment.code_folder
        self.joint = run.method.kind == "joint"
        self.benchmark = self._benchmark(environment.data_root)
        # joint training is one training call on the whole stream
        self.calls = [self.benchmark.train_stream] if self.joint else list(self.benchmark.train_stream)
        own = [resolve(table, key, self.folder) for table, key in run.own_code]  # a checkpoint holds their objects
        packages = frozenset(target.__module__.partition(".")[0] for target in own)
        self.checkpoint = Checkpoint(environment.checkpoints, run, packages)
        state = self.checkpoint.load()
        self.state = self._begin() if state is None else state
        self.logger = WandbLogger(
            environment.tracking,
            run_id=self.state.tracked_as,
            name=str(run),
            group=run.protocol,
            job_type=run.label,
            config=run.model_dump(mode="json") | {"versions": versions(), "commit": git_commit()},
        )
        self.strategy = self._strategy()
        if state is None:
            # draws in training (dropout) must not depend on how many numbers the initialisation took
            seed_globally(derived_seed(run.seed, "training"))
        else:
            self._resume()

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint holds the whole state; a strategy of the user's own may have more."""
        return self.method_plugin is not None or not isinstance(self.run.method, Own)

    @property
    def method_plugin(self) -> Any:
        """The method's plugin; None if it has none."""
        return self.state.plugins[2] if len(self.state.plugins) > 2 else None

    @property
    def _method(self) -> dict[str, Any]:
        """What builds the method."""
        run = self.run
        named = {"method": run.method, "key": f"methods.{run.label}", "strength": run.strength}
        return {**named, "seed": derived_seed(run.seed, "importance"), "folder": self.folder}

    def _benchmark(self, data_root: Path) -> CLScenario:
        run, fraction = self.run, self.run.validation_fraction
        if isinstance(run.benchmark, Own):
            seed_globally(derived_seed(run.seed, "benchmark"))
            return build_own_benchmark(run.benchmark, run.scenario, run.seed, data_root, self.folder, fraction)
        permutations = torch.Generator().manual_seed(derived_seed(run.seed, "permutations"))
        return build_benchmark(run.benchmark, run.scenario, data_root, permutations, run.evaluated_on, fraction)

    def _begin(self) -> State:
        run = self.run
        seed_globally(derived_seed(run.seed, "initialisation"))
        model = build_model(run.model, run.scenario, self.benchmark, self.folder).to(self.device)
        iterations = run.training.iterations
        if iterations is not None and self.joint:
            iterations *= len(self.benchmark.train_stream)
        encoding = None if isinstance(run.benchmark, Own) else Encoding.of(run.benchmark)
        batches = InMemoryBatches(derived_seed(run.seed, "order"), iterations, encoding)
        plugin = build_plugin(**self._method, model=model, batches=batches, encoding=encoding)
        return State(
            model=model,
            plugins=[Instruments(), batches, *([plugin] if plugin else [])],
            tracked_as=f"{run.id}-{secrets.token_hex(4)}",  # repeated with --force, it is another run to W&B
        )

    def _strategy(self) -> Naive:
        run, model = self.run, self.state.model
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No loggers specified")  # where nothing is tracked
            metrics = (f(experience=True, stream=True) for f in (accuracy_metrics, loss_metrics))
            evaluator = Evaluator(*metrics, loggers=[self.logger])
        return build_strategy(
            **self._method,
            model=model,
            optimizer=build_optimizer(run.training, model),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=run.training.batch_size,
            train_epochs=run.training.epochs or 1,
            eval_mb_size=EVAL_BATCH_SIZE,
            device=self.device,
            plugins=list(self.state.plugins),
            evaluator=evaluator,
        )

    def _resume(self) -> None:
        """Restore the strategy from the checkpoint."""
        state = self.state
        state.resumed += 1
        self.strategy.make_optimizer(reset_optimizer_state=True)  # else the strategy would, at its first experience
        self.strategy.optimizer.load_state_dict(state.optimizer)
        self.strategy.clock.train_exp_counter = len(state.accuracy)  # Avalanche's EWC reads it
        if isinstance(self.strategy, Cumulative):
            past = self.calls[: len(state.accuracy)]
            self.strategy.dataset = concat_datasets([experience.dataset for experience in past])
        self._track(self._importance())  # once more: a kill may have taken wandb's service before it wrote the row
        restore_generators(state.random)

    def learn_all(self) -> None:
        """Train on the remaining experiences, evaluating after each."""
        done = len(self.state.accuracy)
        self.checkpoint.report(done, len(self.calls), self._accuracy_so_far())
        for index in range(done, len(self.calls)):
            self.learn(index)

    def learn(self, index: int) -> None:
        state, instruments = self.state, self.state.plugins[0]
        began = self._now()
        # Adam's state of a past experience moves the heads of past tasks for some steps if a penalty gives them a
        # gradient, even 0. "reset" avoids that; most published code does "keep".
        reset = self.run.training.optimizer_state == "reset"
        self.strategy.train(self.calls[index], eval_streams=[], reset_optimizer_state=reset)
        consolidated = self._now()
        metrics = self.strategy.eval(self.benchmark.test_stream)
        evaluated = self._now()
        accuracy, loss = _by_experience(metrics, "Top1_Acc_Exp"), _by_experience(metrics, "Loss_Exp")
        trained = max(began, instruments.last_step)  # a strategy of the user's own may not tell the instruments
        importance = self._importance()
        size = sum_of_importance(importance or {})
        if not math.isfinite(size):  # of a plugin of the user's own; ours check what they consolidate
            raise FloatingPointError(f"{self.run.label}'s importance is NaN or infinite; it must stay finite")
        # together, since a record has one entry of each for an experience
        state.seconds.training.append(trained - began)
        state.seconds.consolidation.append(consolidated - trained)
        state.seconds.evaluation.append(evaluated - consolidated)
        state.training_loss.append(instruments.training_loss)
        state.accuracy.append(accuracy)
        state.loss.append(loss)
        if importance is not None:
            state.importance.append(size)
        state.optimizer = self.strategy.optimizer.state_dict()
        state.random = generator_states()
        self._track(importance)
        if index + 1 < len(self.calls) and self.resumable:
            self.checkpoint.save(state)
        self.checkpoint.report(index + 1, len(self.calls), self._accuracy_so_far())

    def _track(self, importance: dict[str, Tensor] | None) -> None:
        """Write the latest experience's row of W&B."""
        state = self.state
        self.logger.after_experience(
            len(self.benchmark.train_stream if self.joint else state.accuracy) - 1,
            accuracy=state.accuracy[-1],
            loss=state.loss[-1],
            training_loss=state.training_loss[-1],
            seconds={name: values[-1] for name, values in state.seconds},
            importance=importance,
        )

    def _importance(self) -> dict[str, Tensor] | None:
        plugin = self.method_plugin
        return plugin.importance if isinstance(plugin, RegularizationPlugin) else None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _accuracy_so_far(self) -> float | None:
        if not self.state.accuracy:
            return None
        latest = self.state.accuracy[-1]
        seen = latest if self.joint else latest[: len(self.state.accuracy)]
        return sum(seen) / len(seen)

    def result(self, outcome: Outcome, error: str | None) -> RunResult:
        """The result of the run, also sent to W&B."""
        state, plugin = self.state, self.method_plugin
        held = Held(0, 0) if plugin is None else held_bytes(plugin, state.model)
        result = RunResult(
            **{each.name: getattr(state, each.name) for each in fields(Progress)},
            outcome=outcome,
            error=error,
            peak_memory=peak_memory(self.device),
            plugin_memory=held.state,
            plugin_scratch=held.scratch,
            memory_examples=plugin.capacity if isinstance(plugin, ReplayMemory) else None,
            gpu=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
        )
        summary = {} if outcome != "finished" else {"average_accuracy": average_accuracy(result.accuracy)}
        summary |= {key: getattr(result, key) for key in ("peak_memory", "plugin_memory", "resumed")}
        self.logger.finish(outcome=outcome, accuracy=result.accuracy, summary=summary)
        return result


def _by_experience(metrics: dict[str, Any], name: str) -> list[float]:
    """A metric of Avalanche's on each experience of the test stream, in order."""
    found = {key: value for key, value in metrics.items() if key.startswith(f"{name}/eval_phase/test_stream/")}
    return [float(found[key]) for key in sorted(found, key=lambda key: int(key.rpartition("/Exp")[2]))]
