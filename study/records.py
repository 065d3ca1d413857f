"""What determines a run, and what came of it."""

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from study.protocol import Protocol
from study.settings import Benchmark, Method, Model, Scenario, Training

PACKAGES_THAT_DECIDE = ("clreg", "torch", "torchvision", "avalanche-lib", "numpy", "scikit-learn")

RECORD_NAME = re.compile(r"(task|domain|class)-.+-seed\d+-[0-9a-f]{16}\.json")
"""Of the file of a record: see :meth:`Run.file_name_with`."""

Matrix = list[list[float]]
Outcome = Literal["finished", "diverged", "failed"]


class Frozen(BaseModel):
    """A value: immutable, nothing unknown in it, NaN and infinity kept as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Run(Frozen):
    """One training run, with all that determines its result.

    Attributes:
        protocol, label: names for people; they determine nothing.
        benchmark, model, training: as in the protocol.
        scenario: "task", "domain" or "class".
        method: its kind and options.
        strength: λ; None for a method that has none.
        seed: of initialisation, data order and permutations, each from a generator of its own.
        device: "cpu" or "cuda"; their numbers differ in the last bits.
        evaluated_on: "test", or "validation": a part of the training data that is then not trained on.
        validation_fraction: the share that is taken; None when evaluated on "test".
    """

    protocol: str
    label: str
    benchmark: Benchmark
    model: Model
    training: Training
    scenario: Scenario
    method: Method
    strength: float | None
    seed: int
    device: Literal["cpu", "cuda"] = "cpu"
    evaluated_on: Literal["test", "validation"] = "test"
    validation_fraction: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        protocol: Protocol,
        scenario: Scenario,
        method: str,
        seed: int,
        *,
        settings: Method | None = None,
        strength: float | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> Self:
        """The run that a protocol means by a scenario, a method and a seed.

        Args:
            name: the protocol's.
            protocol: with the settings.
            scenario, method, seed: which run.
            settings, strength: in place of the protocol's, where a search chose them.
            device: "cpu" or "cuda".
        """
        return cls(
            protocol=name,
            label=method,
            benchmark=protocol.benchmark,
            model=protocol.model,
            training=protocol.training,
            scenario=scenario,
            method=protocol.methods[method] if settings is None else settings,
            strength=protocol.strength_of(method, scenario) if settings is None else strength,
            seed=seed,
            device=device,
        )

    @property
    def content(self) -> str:
        """What determines the result, but for the packages' versions, as JSON."""
        return json.dumps(self.model_dump(mode="json", exclude={"protocol", "label"}), sort_keys=True)

    @property
    def id(self) -> str:
        """Hash of what determines the result, the packages' versions included: 16 hexadecimal digits."""
        return hashlib.sha256((self.content + json.dumps(versions(), sort_keys=True)).encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """Where the record of this run goes: a folder's listing says what is in it."""
        return self.file_name_with(self.id)

    def file_name_with(self, identity: str) -> str:
        """Scenario, method, seed and an id, which is another one if it ran with other versions."""
        return f"{self.scenario}-{self.label}-seed{self.seed}-{identity}.json"

    def __str__(self) -> str:
        strength = "" if self.evaluated_on == "test" or self.strength is None else f", λ = {self.strength:g}"
        return f"{self.scenario}-incremental {self.label}{strength}, seed {self.seed}"


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers."""
    return {name: version(name) for name in PACKAGES_THAT_DECIDE}


@cache
def git_commit() -> str | None:
    """The commit that the code is at, with "+" behind it if files differ from it; None outside its own checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed copy may lie in somebody else's checkout, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", ".", "../clreg_plugins"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" if changed.strip() else commit


class Hardware(Frozen):
    """The machine that a run ran on.

    Attributes:
        system: operating system and processor architecture.
        processor: the CPU's model.
        gpu: the GPU's model; None for a run on the CPU.
    """

    system: str
    processor: str
    gpu: str | None = None


class Seconds(Frozen):
    """Wall-clock time of a run, an entry an experience.

    Attributes:
        training: reading the data and the training steps.
        consolidation: measuring importance and all else that plugins do after the last step.
        evaluation: on all experiences.
    """

    training: list[float] = []
    consolidation: list[float] = []
    evaluation: list[float] = []

    @property
    def total(self) -> float:
        """The sum of all."""
        return sum(self.training) + sum(self.consolidation) + sum(self.evaluation)


class RunRecord(Frozen):
    """What came of a run.

    Attributes:
        id: of the run, with the versions that it ran with.
        run: what was asked for.
        outcome: "finished"; "diverged" (NaN or infinity in loss, parameters or importance); or "failed".
        accuracy: shape (K, T), in [0, 1]: row k holds the accuracy on each of T experiences after the k-th training
            call. K = T, or 1 for joint training; fewer rows if the run did not finish.
        loss: mean cross-entropy on each experience's test data, of the same shape.
        training_loss: mean over the steps of each experience, penalty not included.
        seconds: see :class:`Seconds`.
        peak_memory: bytes, the largest that the process (on a GPU: PyTorch there) held in the run.
        plugin_memory: bytes that the method has to keep from one experience to the next: importance and anchor, stored
            examples, a copy of the model.
        plugin_scratch: bytes that its plugin holds beside, only to be fast.
        memory_examples: of replay: how many examples its memory holds in full.
        resumed: how often the run was continued from a checkpoint.
        error: of a run that did not finish: the traceback.
        ended: when, UTC, ISO 8601.
        versions, hardware, commit: what it ran with.
    """

    id: str
    run: Run
    outcome: Outcome
    accuracy: Matrix
    loss: Matrix
    training_loss: list[float]
    seconds: Seconds
    peak_memory: int | None = None
    plugin_memory: int = 0
    plugin_scratch: int = 0
    memory_examples: int | None = None
    resumed: int = 0
    error: str | None = None
    ended: str
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.outcome == "finished"

    @property
    def last_line(self) -> str:
        """The last line of the error: what happened, without the traceback."""
        return (self.error or "").strip().rpartition("\n")[2]


def record_of(
    run: Run,
    outcome: Outcome,
    *,
    accuracy: Matrix = (),
    loss: Matrix = (),
    training_loss: Sequence[float] = (),
    seconds: Seconds | None = None,
    gpu: str | None = None,
    **more: object,
) -> RunRecord:
    """The record of a run that has just ended on this machine, with these versions."""
    return RunRecord(
        id=run.id,
        run=run,
        outcome=outcome,
        accuracy=accuracy,
        loss=loss,
        training_loss=training_loss,
        seconds=seconds or Seconds(),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        hardware=Hardware(system=f"{platform.system()} {platform.machine()}", processor=processor(), gpu=gpu),
        commit=git_commit(),
        **more,
    )


@cache
def processor() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
