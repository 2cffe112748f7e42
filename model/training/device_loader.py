"""How do batches reach the step? Packed on its device and looked up, in the thread that reads ahead.

On CUDA that thread has a stream of its own: the gathering, the hashing and the one wait for the number of distinct
rows run beside the step before, and the step's stream is only told to start after them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from longreel.model.data.batch import RequestBatch
from longreel.model.data.lookup import RowFinder
from longreel.model.data.reader import Share
from longreel.model.nn.embeddings import Embeddings
from longreel.model.training.padding import Filled, fill_up


class RowFinders:
    """Finds the rows of batches: each distinct row of both hashed tables once, and where lookups stand in them."""

    def __init__(self, embeddings: Embeddings, device: torch.device) -> None:
        self._embeddings = embeddings
        self._ids = RowFinder(embeddings.ids.num_rows, device)
        self._users = RowFinder(embeddings.user_features.num_rows, device)

    @torch.no_grad()
    def __call__(self, batch: RequestBatch) -> RequestBatch:
        """The same batch with its rows, on the device where it is."""
        rows = self._embeddings.find_rows(batch)
        unique, (history, target) = self._ids(rows.history, rows.target)
        user_unique, (user,) = self._users(rows.user)
        places = torch.cat([history.flatten(), target.flatten()])
        counts = torch.bincount(places, minlength=len(unique))  # here, as it waits for the device
        found = replace(
            rows, history=history, target=target, user=user, unique=unique, counts=counts, user_unique=user_unique
        )
        return replace(batch, rows=found)


@dataclass(frozen=True, kw_only=True)
class Fed:
    """One rank's share of a batch on its device, and what is known of it without asking the device."""

    share: Share  # as it was read
    batch: RequestBatch
    ready: torch.cuda.Event | None
    filled: Filled | None = None  # the batch filled up to a shape, where that was asked for

    def take(self) -> RequestBatch:
        """The batch, for the current stream to use."""
        if self.ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.ready)
            self.batch.record_stream(stream)
            if self.filled is not None:
                for tensor in self.filled.tensors():
                    tensor.record_stream(stream)
        return self.batch


def feed(
    shares: Iterator[Share], embeddings: Embeddings, device: torch.device, fill: tuple[str, ...] | None = None
) -> Iterator[Fed]:
    """Shares that lie on `device`, with their rows; to be iterated in the thread that reads ahead.

    `fill`: fill them up to few shapes, for a model that compares these ids (padding.py); None: leave them.
    """
    on_cuda = device.type == "cuda"
    if on_cuda and device.index is not None:
        torch.cuda.set_device(device)  # this thread's too
    # Before the step's kernels, where both wait for room: dozens of small ones would each wait for a large one.
    stream = torch.cuda.Stream(device, priority=-1) if on_cuda else None

    def on_stream() -> AbstractContextManager[object]:
        return torch.cuda.stream(stream) if stream is not None else nullcontext()

    with on_stream():
        finders = RowFinders(embeddings, device)
    while True:
        with on_stream():
            share = next(shares, None)
            if share is None:
                return
            batch = finders(share.batch)
            filled = None
            if fill is not None and batch.num_targets:
                filled = fill_up(batch, fill, share.num_targets, share.largest)
            ready = stream.record_event() if stream is not None else None
        yield Fed(share=share, batch=batch, ready=ready, filled=filled)
