"""Data-parallel training over torchrun's processes: gradients of all ranks summed, the same bits on every rank.

Each rank takes its part of every batch. Dense gradients are summed in one buffer. A table's gradient is a few of its
rows: ranks exchange those rows and add them in the order of ranks, so that all get the same bits.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from longreel.contracts.errors import LongreelError
from longreel.model.data.lookup import row_gradient


@dataclass(frozen=True)
class DistContext:
    """This process's rank, and collectives over all ranks."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs: rank 0."""
        return self.rank == 0

    def all_gather_ints(self, *numbers: int) -> list[list[int]]:
        """Every rank's numbers, by rank: over the host's network, without waiting for a device."""
        if self.size == 1:
            return [list(numbers)]
        local = torch.tensor(numbers)
        gathered = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(gathered, local)
        return [tensor.tolist() for tensor in gathered]

    def broadcast(self, value: Any = None) -> Any:
        """The main rank's value on all ranks; it must be JSON. Other ranks' values are ignored."""
        if self.size == 1:
            return value
        message = json.dumps(value).encode() if self.is_main else b""
        (length, *_) = self.all_gather_ints(len(message))[0]
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.is_main:
            buffer.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.tolist()))

    def barrier(self) -> None:
        """Return once every rank has called this."""
        self.all_gather_ints(0)

    def sum_gradients(
        self, tables: Sequence[nn.Parameter], rest: Sequence[nn.Parameter], counts: list[list[int]], loss: Tensor
    ) -> Tensor:
        """Replace every gradient by its sum over ranks; returns the sum of the losses.

        Args:
            counts: every rank's number of rows in the gradient of each table, see `row_counts`.
        """
        if self.size == 1:
            return loss
        for p in rest:
            if p.grad is None:  # nothing of this rank's batch reached it
                p.grad = torch.zeros_like(p)
        flat = torch.cat([*(p.grad.flatten() for p in rest if p.grad is not None), loss.view(1)])
        dist.all_reduce(flat)
        *parts, loss = flat.split([*(p.numel() for p in rest), 1])
        for p, part in zip(rest, parts, strict=True):
            p.grad = part.view_as(p)
        for table, sizes in zip(tables, zip(*counts, strict=True), strict=True):
            self._sum_rows(table, list(sizes))
        return loss[0]

    def _sum_rows(self, table: nn.Parameter, sizes: list[int]) -> None:
        longest, device = max(sizes), table.device
        rows = torch.zeros(longest, dtype=torch.int64, device=device)
        values = torch.zeros(longest, table.shape[1], device=device)
        if table.grad is not None:
            rows[: sizes[self.rank]] = table.grad._indices()[0]
            values[: sizes[self.rank]] = table.grad._values()
        all_rows, all_values = ([torch.empty_like(t) for _ in range(self.size)] for t in (rows, values))
        dist.all_gather(all_rows, rows)
        dist.all_gather(all_values, values)
        own_rows = [padded[:size] for padded, size in zip(all_rows, sizes, strict=True)]
        unique, places = torch.unique(torch.cat(own_rows), return_inverse=True)
        total = torch.zeros(len(unique), table.shape[1], device=device)
        for place, part in zip(places.split(sizes), all_values, strict=True):
            total.index_copy_(0, place, total[place] + part[: len(place)])  # a rank's rows are distinct
        table.grad = row_gradient(unique, total, table.shape)

    def reduce_min_max_sum(self, low: Tensor, high: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The smallest of `low`, the largest of `high` and the sum of `counts` over ranks, elementwise."""
        low, high, counts = low.clone(), high.clone(), counts.clone()
        if self.size > 1:
            for tensor, op in ((low, dist.ReduceOp.MIN), (high, dist.ReduceOp.MAX), (counts, dist.ReduceOp.SUM)):
                dist.all_reduce(tensor, op=op)
        return low, high, counts


def row_counts(tables: Sequence[nn.Parameter]) -> list[int]:
    """Rows in the gradient of each table."""
    return [0 if p.grad is None else p.grad._values().shape[0] for p in tables]


def local_device(device: torch.device) -> torch.device:
    """The device of this process among those of its machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device


@contextmanager
def init_process_group(device: torch.device) -> Iterator[DistContext]:
    """Join the processes that torchrun started, or be the only rank; leaves the group at the end of the block.

    Raises:
        LongreelError: there are more processes than CUDA devices on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistContext()
        return
    if device.type == "cuda":
        processes, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if processes > devices:
            raise LongreelError(
                f"{processes} processes on a machine with {devices} CUDA devices; start at most one per device"
            )
        torch.cuda.set_device(local_device(device))
    is_owner = not dist.is_initialized()
    if is_owner:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield DistContext(dist.get_rank(), dist.get_world_size())
    finally:
        if is_owner:
            dist.destroy_process_group()
