"""Device loader: batches packed on their device with their embedding rows, in the thread that reads ahead.

On CUDA that thread has its own stream: the gathering, the hashing and the one wait for the number of distinct rows run
during the step before, and the step's stream only waits for their end.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from longreel.model.data.batch import RequestBatch
from longreel.model.data.lookup import RowDeduplicator
from longreel.model.data.reader import RankBatch
from longreel.model.nn.embeddings import Embeddings
from longreel.model.training.padding import PaddedBatch, pad_to_bucket


class RowLookup:
    """Embedding rows of batches: the distinct rows of both hashed tables, and each lookup as a place among them."""

    def __init__(self, embeddings: Embeddings, device: torch.device) -> None:
        self._embeddings = embeddings
        self._ids = RowDeduplicator(embeddings.ids.num_rows, device)
        self._users = RowDeduplicator(embeddings.users.num_rows, device)

    @torch.no_grad()
    def __call__(self, batch: RequestBatch) -> RequestBatch:
        """The same batch with its rows, on the device where it is."""
        rows = self._embeddings.find_rows(batch)
        unique, (history, target) = self._ids(rows.history, rows.target)
        user_unique, (user,) = self._users(rows.user)
        places = torch.cat([history.flatten(), target.flatten()])
        counts = torch.bincount(places, minlength=len(unique))  # here, as it waits for the device
        distinct = replace(
            rows, history=history, target=target, user=user, unique=unique, counts=counts, user_unique=user_unique
        )
        return replace(batch, rows=distinct)


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """One rank's part of a batch on its device."""

    rank_batch: RankBatch  # as it was read
    batch: RequestBatch
    ready: torch.cuda.Event | None
    padded: PaddedBatch | None = None  # where the loader pads

    def on_current_stream(self) -> RequestBatch:
        """The batch, for the current stream to use."""
        if self.ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.ready)
            self.batch.record_stream(stream)
            if self.padded is not None:
                for tensor in self.padded.tensors():
                    tensor.record_stream(stream)
        return self.batch


class DeviceLoader:
    """Batches on `device`, with their rows; to be iterated in the thread that reads ahead.

    `pad_fields`: pad batches to few shapes, for a model that matches these id fields (padding.py); None: leave them.
    """

    def __init__(
        self,
        batches: Iterator[RankBatch],
        embeddings: Embeddings,
        device: torch.device,
        pad_fields: tuple[str, ...] | None = None,
    ) -> None:
        self._batches, self._embeddings, self._device, self._pad_fields = batches, embeddings, device, pad_fields

    def __iter__(self) -> Iterator[DeviceBatch]:
        on_cuda = self._device.type == "cuda"
        if on_cuda and self._device.index is not None:
            torch.cuda.set_device(self._device)  # this thread's too
        # Before the step's kernels, where both wait for the GPU: dozens of small ones would each wait for a large one.
        stream = torch.cuda.Stream(self._device, priority=-1) if on_cuda else None

        def on_stream() -> AbstractContextManager[object]:
            return torch.cuda.stream(stream) if stream is not None else nullcontext()

        with on_stream():
            lookup = RowLookup(self._embeddings, self._device)
        while True:
            with on_stream():
                rank_batch = next(self._batches, None)
                if rank_batch is None:
                    return
                batch = lookup(rank_batch.batch)
                padded = self._pad(rank_batch, batch)
                ready = stream.record_event() if stream is not None else None
            yield DeviceBatch(rank_batch=rank_batch, batch=batch, ready=ready, padded=padded)

    def _pad(self, rank_batch: RankBatch, batch: RequestBatch) -> PaddedBatch | None:
        if self._pad_fields is None or not batch.num_targets:
            return None
        return pad_to_bucket(batch, self._pad_fields, rank_batch.num_targets, rank_batch.limits)
