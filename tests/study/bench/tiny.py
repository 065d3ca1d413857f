"""Models so small that measuring them takes no time."""

import torch

from study.bench.workloads import Workload, mlp


def build(classes: int) -> torch.nn.Module:
    """Named, so that another process can be sent it."""
    return mlp(4, classes)


CPU = torch.device("cpu")
TINY = Workload("tiny", build, (784,), batch=8, samples=64, sizes=(16, 32), is_mlp=True)
