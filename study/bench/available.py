"""How much memory there is to be had."""

import math

import torch

from study.run.instruments import system_bytes


def available_bytes(device: torch.device) -> float:
    """Of the device, or of the machine; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    available = system_bytes("meminfo", "MemAvailable")
    return math.inf if available is None else float(available)
