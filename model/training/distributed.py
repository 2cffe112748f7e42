"""How do several processes train one model? Each takes its share of every batch; gradients are summed; all step alike.

Started by torchrun, which tells each process its rank. Dense gradients are summed in one buffer. A table's gradient is
a few of its rows: ranks exchange those rows and add them in the order of ranks, so that all get the same bits.
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
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def together(self, *numbers: int) -> list[list[int]]:
        """Every rank's numbers, by rank: over the host's network, so that no device is waited for."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        return [each.tolist() for each in every]

    def tell(self, value: Any = None) -> Any:
        """The first rank's value on all ranks; it must be JSON. Others' is not looked at."""
        if self.size == 1:
            return value
        told = json.dumps(value).encode() if self.is_first else b""
        (length, *_) = self.together(len(told))[0]
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(told), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.tolist()))

    def wait(self) -> None:
        """Return once every rank is here."""
        self.together(0)

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
            if p.grad is None:  # nothing of this rank's share reached it
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
        cut = [each[:size] for each, size in zip(all_rows, sizes, strict=True)]
        unique, places = torch.unique(torch.cat(cut), return_inverse=True)
        total = torch.zeros(len(unique), table.shape[1], device=device)
        for place, part in zip(places.split(sizes), all_values, strict=True):
            total.index_copy_(0, place, total[place] + part[: len(place)])  # a rank's rows are distinct
        table.grad = row_gradient(unique, total, table.shape)

    def merge(self, low: Tensor, high: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Smallest, largest and summed values over ranks."""
        low, high, counts = low.clone(), high.clone(), counts.clone()
        if self.size > 1:
            for each, how in ((low, dist.ReduceOp.MIN), (high, dist.ReduceOp.MAX), (counts, dist.ReduceOp.SUM)):
                dist.all_reduce(each, op=how)
        return low, high, counts


def row_counts(tables: Sequence[nn.Parameter]) -> list[int]:
    """Rows in the gradient of each table."""
    return [0 if p.grad is None else p.grad._values().shape[0] for p in tables]


def local_device(device: torch.device) -> torch.device:
    """The device of this process among those of its machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """This process's place among those that torchrun started; alone where it started none.

    Raises:
        LongreelError: there are more processes than CUDA devices on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        here, have = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > have:
            raise LongreelError(f"{here} processes on a machine with {have} CUDA devices; start at most one a device")
        torch.cuda.set_device(local_device(device))
    began = not dist.is_initialized()
    if began:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if began:
            dist.destroy_process_group()
