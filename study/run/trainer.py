"""Trains one run and returns its result."""

import gc
import secrets
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.utils import concat_datasets
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Cumulative, Naive
from torch import nn

from clreg_plugins import RegularizationPlugin
from study.protocol.own_code import resolve
from study.protocol.settings import Joint
from study.protocol.table import Own
from study.run.baselines import ReplayMemory
from study.run.batches import InMemoryBatches
from study.run.benchmarks import build_benchmark
from study.run.checkpoint import Checkpoint, State
from study.run.data import Encoding
from study.run.instruments import Held, Instruments, held_bytes, peak_memory, reset_peak_memory
from study.run.methods import build_optimizer, build_plugin, build_strategy
from study.run.metrics import average_accuracy
from study.run.models import build_model
from study.run.own_benchmark import build_own_benchmark
from study.run.result import Outcome, RunResult
from study.run.run_environment import RunEnvironment
from study.run.seeds import derived_seed, generator_states, restore_generators, seed_globally
from study.run.specification import Run
from study.run.system import git_commit, versions
from study.run.threads import torch_threads
from study.run.tracking import WandbLogger

EVAL_BATCH_SIZE = 1024  # the accuracy does not depend on it


def perform(run: Run, environment: RunEnvironment) -> RunResult:
    """Train and evaluate, resuming from a checkpoint if there is one. The same run gives the same matrix to the bit.

    Args:
        run: all that determines the result.
        environment: all that does not.

    Returns:
        The result, also of a run that fails or diverges.

    Raises:
        OSError: a checkpoint cannot be written; the previous one is kept.
    """
    gc.freeze()  # what is collected at the end is of this run; to visit all of torch takes as long as a short run
    try:
        with torch_threads(1), torch.random.fork_rng(devices=[0] if run.device == "cuda" else []):
            return _performed(run, environment)
    except RuntimeError:  # the GPU cannot be used at all; what happens later is caught within
        return RunResult(outcome="failed", error=traceback.format_exc())
    finally:
        gc.collect()
        gc.unfreeze()


def _performed(run: Run, environment: RunEnvironment) -> RunResult:
    learner: Learner | None = None
    outcome: Outcome = "finished"
    error = None
    try:
        try:
            learner = Learner(run, environment)
            learner.learn_all()
        except FloatingPointError:
            outcome, error = "diverged", traceback.format_exc()
        except OSError:
            raise  # of the machine, not of the run
        except Exception:  # whatever a method or model does wrong ends this run, not the study
            outcome, error = "failed", traceback.format_exc()
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
        self.benchmark = self._benchmark(environment.data_root)
        # joint training is one training call on the whole stream
        self.calls = [self.benchmark.train_stream] if self._joint else list(self.benchmark.train_stream)
        self.checkpoint = Checkpoint(environment.checkpoints, run)
        for table, key in run.own_code:
            resolve(table, key, self.folder)  # a checkpoint holds objects of its classes
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
            self._go_on()

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint holds the whole state; a strategy of the user's own may have more."""
        return self.method_plugin is not None or not isinstance(self.run.method, Own)

    @property
    def _joint(self) -> bool:
        return isinstance(self.run.method, Joint)

    @property
    def _method(self) -> dict[str, Any]:
        """What builds the method."""
        seed = derived_seed(self.run.seed, "importance")
        named = {"method": self.run.method, "key": f"methods.{self.run.label}", "strength": self.run.strength}
        return {**named, "seed": seed, "folder": self.folder}

    @property
    def method_plugin(self) -> Any:
        """The method's plugin; None if it has none."""
        return self.state.plugins[2] if len(self.state.plugins) > 2 else None

    # ------------------------------------------------------------------- beginning, or going on

    def _benchmark(self, data_root: Path) -> CLScenario:
        run = self.run
        if isinstance(run.benchmark, Own):
            seed_globally(derived_seed(run.seed, "benchmark"))
            return build_own_benchmark(
                run.benchmark, run.scenario, run.seed, data_root, self.folder, run.validation_fraction
            )
        permutations = torch.Generator().manual_seed(derived_seed(run.seed, "permutations"))
        return build_benchmark(
            run.benchmark, run.scenario, data_root, permutations, run.evaluated_on, run.validation_fraction
        )

    def _begin(self) -> State:
        run = self.run
        seed_globally(derived_seed(run.seed, "initialisation"))
        model = build_model(run.model, run.scenario, self.benchmark, self.folder).to(self.device)
        iterations = run.training.iterations
        if iterations is not None and self._joint:
            iterations *= len(self.benchmark.train_stream)
        encoding = None if isinstance(run.benchmark, Own) else Encoding.of(run.benchmark)
        batches = InMemoryBatches(derived_seed(run.seed, "order"), iterations, encoding)
        plugin = build_plugin(**self._method, model=model, batches=batches, encoding=encoding)
        return State(
            model,
            [Instruments(), batches, *([plugin] if plugin else [])],
            tracked_as=f"{run.id}-{secrets.token_hex(4)}",  # repeated with --force, it is another run to W&B
        )

    def _strategy(self) -> Naive:
        run, model = self.run, self.state.model
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No loggers specified")  # where nothing is tracked
            metrics = (f(experience=True, stream=True) for f in (accuracy_metrics, loss_metrics))
            evaluator = EvaluationPlugin(*metrics, loggers=[self.logger])
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

    def _go_on(self) -> None:
        """Restore the strategy from the checkpoint."""
        state = self.state
        state.resumed += 1
        self.strategy.make_optimizer(reset_optimizer_state=True)  # else the strategy would, at its first experience
        self.strategy.optimizer.load_state_dict(state.optimizer)
        self.strategy.clock.train_exp_counter = len(state.accuracy)  # Avalanche's EWC goes by it
        if isinstance(self.strategy, Cumulative):
            past = self.calls[: len(state.accuracy)]
            self.strategy.dataset = concat_datasets([experience.dataset for experience in past])
        restore_generators(state.random)

    # ------------------------------------------------------------------- learning

    def learn_all(self) -> None:
        """Train on the remaining experiences, evaluating after each."""
        done = len(self.state.accuracy)
        self.checkpoint.report(done, len(self.calls), self._accuracy_so_far())
        for index in range(done, len(self.calls)):
            self.learn(index)

    def learn(self, index: int) -> None:
        state, run = self.state, self.run
        began = self._now()
        # Adam's state of a past experience moves the heads of past tasks for some steps if a penalty gives them a
        # gradient, even 0. "reset" avoids that; most published code does "keep".
        reset = run.training.optimizer_state == "reset"
        self.strategy.train(self.calls[index], eval_streams=[], reset_optimizer_state=reset)
        consolidated = self._now()
        accuracy, loss = self._evaluate()
        evaluated = self._now()
        instruments = state.plugins[0]
        state.seconds.training.append(instruments.last_step - began)
        state.seconds.consolidation.append(consolidated - instruments.last_step)
        state.seconds.evaluation.append(evaluated - consolidated)
        state.training_loss.append(instruments.training_loss)
        state.accuracy.append(accuracy)
        state.loss.append(loss)
        state.optimizer = self.strategy.optimizer.state_dict()
        state.random = generator_states()
        plugin = self.method_plugin
        self.logger.after_experience(
            len(accuracy) - 1 if self._joint else index,
            accuracy=accuracy,
            loss=loss,
            training_loss=instruments.training_loss,
            seconds={name: values[-1] for name, values in state.seconds},
            importance=plugin.importance if isinstance(plugin, RegularizationPlugin) else None,
        )
        if index + 1 < len(self.calls) and self.resumable:
            self.checkpoint.save(state)
        self.checkpoint.report(index + 1, len(self.calls), self._accuracy_so_far())

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _evaluate(self) -> tuple[list[float], list[float]]:
        """Accuracy and mean loss on each experience of the test stream, in order."""
        metrics = self.strategy.eval(self.benchmark.test_stream)
        rows = []
        for metric in ("Top1_Acc_Exp", "Loss_Exp"):
            by_experience = {
                int(name.rpartition("/Exp")[2]): float(value)
                for name, value in metrics.items()
                if name.startswith(f"{metric}/eval_phase/test_stream/")
            }
            rows.append([by_experience[i] for i in range(len(self.benchmark.test_stream))])
        return rows[0], rows[1]

    def _accuracy_so_far(self) -> float | None:
        if not self.state.accuracy:
            return None
        latest = self.state.accuracy[-1]
        seen = latest if self._joint else latest[: len(self.state.accuracy)]
        return sum(seen) / len(seen)

    # ------------------------------------------------------------------- the result

    def result(self, outcome: Outcome, error: str | None) -> RunResult:
        """The result of the run, also sent to W&B."""
        state, plugin = self.state, self.method_plugin
        held = Held(0, 0) if plugin is None else held_bytes(plugin, state.model)
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        result = RunResult(
            outcome=outcome,
            error=error,
            accuracy=state.accuracy,
            loss=state.loss,
            training_loss=state.training_loss,
            seconds=state.seconds,
            peak_memory=peak_memory(self.device),
            plugin_memory=held.state,
            plugin_scratch=held.scratch,
            memory_examples=plugin.capacity if isinstance(plugin, ReplayMemory) else None,
            resumed=state.resumed,
            gpu=gpu,
        )
        summary = {} if outcome != "finished" else {"average_accuracy": average_accuracy(result.accuracy)}
        summary |= {key: getattr(result, key) for key in ("peak_memory", "plugin_memory", "resumed")}
        self.logger.finish(outcome=outcome, accuracy=result.accuracy, summary=summary)
        return result
