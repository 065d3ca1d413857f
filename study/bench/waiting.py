"""Proof that no step on a GPU waits for it."""

from collections.abc import Callable, Iterator

import torch

from study.bench.plugins import KINDS, strategy_stub
from study.bench.record import BenchError, Measurement
from study.bench.steps import prepared_step
from study.bench.workloads import Workload

QUANTITY = "steps that wait for the GPU, of 10"
STEPS = 10


def waits(step: Callable[[], None]) -> str | None:
    """What PyTorch says when a step waits for the GPU, or None if it does not.

    Raises:
        BenchError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise BenchError("whether a step waits for the GPU can only be told on one; allowed here: --device cpu")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchroniz" not in str(error).lower():
            raise
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def measure_waiting(workload: Workload, device: torch.device, experience: int = 2) -> Iterator[Measurement]:
    """How many of ten steps wait, of every plugin."""
    images = workload.images(workload.batch, 10, device)
    for kind, factories in KINDS.items():
        for method, make in factories.items():
            step = prepared_step(make(), strategy_stub(workload.model(10, device)), images, experience)
            step()  # the first one allocates
            said = [waits(step) for _ in range(STEPS)]
            yield Measurement(
                part="waiting",
                model=workload.name,
                mode=f"{method}, {kind}",
                setting=f"experience {experience}",
                quantity=QUANTITY,
                values=(float(sum(message is not None for message in said)),),
                ours=kind.startswith("ours"),
                note=next((message for message in said if message), ""),
            )
