"""Fused kernels in Triton, imported on first use only; each has a reference implementation that runs without Triton."""

import functools
import importlib.util
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Call = TypeVar("Call", bound=Callable[..., object])


@functools.cache
def has_triton() -> bool:
    """Whether the Triton compiler is installed (PyTorch's CUDA builds bring it, its CPU builds do not)."""
    return importlib.util.find_spec("triton") is not None


def can_run(tensor: Tensor) -> bool:
    """Whether this tensor's kernels can be fused: it is on a CUDA device and Triton is there."""
    return tensor.is_cuda and has_triton()


def uncompiled(call: Call) -> Call:
    """Decorator of a function that calls kernels, which torch.compile must not trace."""
    decorated: Call = torch.compiler.disable(call)
    return decorated
