"""A training step with each plugin over the step without: Naive's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace

import torch
from avalanche.core import SupervisedPlugin

from study.bench.available import available_bytes
from study.bench.plugins import KINDS, NOTES, learn, strategy_stub, training_step
from study.bench.record import Measurement, Skipped
from study.bench.timing import Turn, clock_of, interleave, over, repeated, seconds_of, times_a_turn
from study.bench.workloads import Workload
from study.run.models import parameter_bytes

QUANTITY = "step over Naive's"
GROWTH = "step at the last experience over that at the first"

FEW = 8
"""Images that each earlier experience is learned from, and measured on."""

PATIENCE = 30.0
"""Seconds that all turns of a method on a model should take: slow models have fewer rounds, but ``FEWEST``."""

FEWEST = 5

ONE_TERM = "keeps one term whatever the experience, and is measured at the first of them only"

OTHER_COPIES = 8
"""Copies of the parameters that a mode holds at most, beside the terms of a penalty that grows."""


def measure_steps(
    workload: Workload,
    device: torch.device,
    rounds: int,
    experiences: Sequence[int],
    methods: Iterable[str] = KINDS["ours"],
) -> Iterator[Measurement | Skipped]:
    """Steps with every plugin that there is of every method, at each of the experiences.

    All modes of a method take turns, on one model: what a step takes does not depend on whose anchor is near. Others
    that keep one term are measured at the first of the experiences only.

    Args:
        workload: model and batch.
        device: where.
        rounds: turns of every mode, at most.
        experiences: counted from 1; the penalty has a term for each one before.
        methods: by name.
    """
    for method in methods:
        yield from _measure_method(method, workload, device, rounds, experiences)


def _measure_method(
    method: str, workload: Workload, device: torch.device, rounds: int, experiences: Sequence[int]
) -> Iterator[Measurement | Skipped]:
    clock = clock_of(device)
    model = workload.model(10, device)
    images = workload.images(workload.batch, 10, device)
    naive = training_step(strategy_stub(model), SupervisedPlugin(), *images)
    for _ in range(2):
        naive()
    steps = times_a_turn(naive, clock)
    turns = {"Naive": Turn(repeated(naive, steps), steps)}
    modes: dict[tuple[str, int], str] = {}
    for kind, factories in KINDS.items():
        if method not in factories:
            continue
        for experience in experiences if _everywhere(method, kind) else [min(experiences)]:
            needed = _copies(method, kind, experience) * parameter_bytes(model)
            if needed > 0.4 * available_bytes(device):
                reason = f"its {needed / 2**30:.1f} GiB are more than this machine can spare"
                yield Skipped(
                    part="step",
                    model=workload.name,
                    mode=f"{method}, {kind}",
                    setting=f"experience {experience}",
                    reason=reason,
                )
                continue
            step = prepared_step(factories[method](), strategy_stub(model), images, experience)
            step()  # allocates what it needs
            modes[kind, experience] = name = f"{kind}, {experience}"
            turns[name] = Turn(repeated(step, steps), steps)
    round_of_naive = len(turns) * steps * seconds_of(naive, clock)
    seconds = interleave(turns, min(rounds, max(FEWEST, int(PATIENCE / round_of_naive))), clock)

    for (kind, experience), name in modes.items():
        yield Measurement(
            part="step",
            model=workload.name,
            mode=f"{method}, {kind}",
            setting=f"experience {experience}",
            quantity=QUANTITY,
            values=over(seconds[name], seconds["Naive"]),
            seconds=seconds[name],
            ours=kind.startswith("ours"),
            note="; ".join(filter(None, (NOTES.get((method, kind)), "" if _everywhere(method, kind) else ONE_TERM))),
        )
    first, last = min(experiences), max(experiences)
    for kind in KINDS:
        if first < last and (kind, first) in modes and (kind, last) in modes:
            yield Measurement(
                part="step",
                model=workload.name,
                mode=f"{method}, {kind}",
                setting=f"experience {last} over {first}",
                quantity=GROWTH,
                values=over(seconds[modes[kind, last]], seconds[modes[kind, first]]),
                ours=kind.startswith("ours"),
            )


def prepared_step(
    plugin: SupervisedPlugin, strategy: SimpleNamespace, images: tuple[torch.Tensor, torch.Tensor], experience: int
) -> Callable[[], None]:
    """A step of the given experience, counted from 1, with everything before it learned."""
    inputs, targets = images
    learn(plugin, strategy, (inputs[:FEW], targets[:FEW]), experience - 1)
    return training_step(strategy, plugin, inputs, targets)


def _everywhere(method: str, kind: str) -> bool:
    """Whether a mode is measured at every experience: ours, since targets hold at each, and what grows."""
    return kind.startswith("ours") or _grows(method, kind)


def _grows(method: str, kind: str) -> bool:
    return method == "EWC" and not kind.startswith("ours")


def _copies(method: str, kind: str, experience: int) -> int:
    """Copies of the parameters that a mode holds: others' separate penalties grow."""
    return OTHER_COPIES + (2 * (experience - 1) if _grows(method, kind) else 0)
