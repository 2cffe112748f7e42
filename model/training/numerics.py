"""Numerics of a training's process: what its bits depend on besides data, settings and code.

Threads and vector instructions decide in which order a sum's parts are added. Measured on a CPU, the bits change with
the number of intra-op threads, the vector instructions, and the variables in KERNEL_VARIABLES; they do not change with
inter-op threads, the cores that a process may use, or OpenMP's and MKL's other settings.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

# Environment variables that choose other kernels in MKL and oneDNN; that of torch's own shows in `cpu_capability`.
KERNEL_VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")
NAMES = {
    "cpu_capability": "vector instructions",
    "torch_version": "torch version",
    "cpu": "CPU",
    "variables": "variables",
}
CPU_ONLY = ("threads", "cpu", "cpu_capability", "variables")  # on CUDA the CPU computes no gradient


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Equal numerics give equal bits."""

    device: str  # cpu, or the GPU's name
    ranks: int
    torch_version: str
    threads: int  # intra-op, of each rank; see `intra_op_threads`
    cpu: str  # model
    cpu_capability: str  # vector instructions of torch's kernels, such as AVX512
    variables: dict[str, str] = field(default_factory=dict)  # those of KERNEL_VARIABLES that are set

    @staticmethod
    def of_process(device: torch.device, ranks: int) -> "Numerics":
        """The numerics of this process now."""
        return Numerics(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            ranks=ranks,
            torch_version=torch.__version__,
            threads=torch.get_num_threads(),
            cpu=_cpu_model(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            variables={name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ},
        )

    def changes(self, now: "Numerics") -> list[str]:
        """What may change the bits, a phrase each: its value here and in `now`."""
        on_cpu = self.device == now.device == "cpu"
        names = [name for name in asdict(self) if on_cpu or name not in CPU_ONLY]
        pairs = [(NAMES.get(name, name), getattr(self, name), getattr(now, name)) for name in names]
        return [f"{name}: {_text(then)} then, {_text(here)} now" for name, then, here in pairs if then != here]


@contextmanager
def intra_op_threads(threads: int | None) -> Iterator[None]:
    """Compute with this number of threads, whatever the number of cores; None: torch's choice. Restored at the end."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return " ".join(f"{name}={setting}" for name, setting in value.items()) or "none"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
