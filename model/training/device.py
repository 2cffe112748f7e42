"""The computing device: its choice, its peak memory, and deterministic kernels."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from longreel.contracts.errors import LongreelError


def select_device(name: str) -> torch.device:
    """auto | cpu | cuda -> a device.

    Raises:
        LongreelError: `name` is cuda and this machine has no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise LongreelError('[training] device is "cuda", but no CUDA device is available; set it to "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def peak_memory_mib(device: torch.device) -> float:
    """MiB: allocated on CUDA, else the process's resident peak since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


@contextmanager
def deterministic() -> Iterator[None]:
    """Only kernels with a fixed order of additions: the same data and seed give the same model on one device."""
    settings: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # it would write every new tensor twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill
