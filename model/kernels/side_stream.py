"""A second CUDA stream for the targets' small kernels, beside the encoding of the history.

In inference the query of layer i + 1 and the encoding of layer i + 1 do not depend on each other. One fills the card,
the other is a chain of small kernels: side by side the chain costs next to nothing.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MAX_EVENTS = 1 << 18  # of a batch: in a larger one the small kernels do not matter


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)


class SideStream:
    """Kernels launched inside `work` go to the second stream, after all that is queued so far; `join` makes the first
    stream wait for it.

    If it is off, impossible (no CUDA) or unsafe (autograd), everything stays on one stream.
    """

    def __init__(self, events: Tensor, enabled: bool) -> None:
        useful = enabled and events.is_cuda and events.shape[0] <= MAX_EVENTS
        safe = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self.stream = _stream(events.device) if useful and safe else None
        self.held: list[Tensor] = []

    @contextmanager
    def work(self) -> Iterator[None]:
        """Queue what follows on the second stream."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield

    def hold(self, *tensors: Tensor | None) -> None:
        """Keep what passes from stream to stream until all is done: the allocator knows only where it came from."""
        if self.stream is not None:
            self.held += [tensor for tensor in tensors if tensor is not None]

    def join(self) -> None:
        """What follows on the first stream comes after all work on the second."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
