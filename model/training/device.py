"""Which device computes, how much memory has it used, and does it repeat itself?"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from longreel.contracts.errors import LongreelError


def pick_device(name: str) -> torch.device:
    """auto | cpu | cuda -> a device.

    Raises:
        LongreelError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise LongreelError('[training] device is "cuda", but no CUDA device is there; set it to "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def peak_memory_mib(device: torch.device) -> float:
    """MiB: allocated on CUDA, else the process's resident peak, which holds everything it ever did."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


@contextmanager
def repeatable() -> Iterator[None]:
    """The same data and seed give the same model on one device: kernels that add in any order are left out."""
    debugging: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), debugging.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    debugging.fill_uninitialized_memory = False  # it would write every new tensor twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        debugging.fill_uninitialized_memory = fill
