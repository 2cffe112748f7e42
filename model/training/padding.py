"""Padding of batches to a few shapes, with dummy requests.

A CUDA graph (cuda_graphs.py) replays one shape. Dummy requests at the end own the padding events and targets, so that
the model needs no mask for them; their weight in the loss is 0, so every gradient is that of the batch without them.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.model.data.batch import RequestBatch
from longreel.model.data.lookup import BatchRows
from longreel.model.data.reader import ShapeLimits

NO_LIMITS = ShapeLimits()
FINE, COARSE = 8, 1  # bucket sizes per power of two: fine for events, most of the work; coarse for the rest


def round_up(count: int, steps: int) -> int:
    """The next of `steps` evenly spaced sizes within each power of two: at most 1 / `steps` more than `count`."""
    step = max(1, (1 << max(0, count - 1).bit_length()) // (2 * steps))
    return -(-count // step) * step


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes that kernel launches depend on. A function of the batch alone, so that a resumed run pads alike."""

    requests: int
    events: int
    targets: int
    rows: int
    user_rows: int
    max_history: int
    max_targets: int

    @staticmethod
    def of(batch: RequestBatch, limits: ShapeLimits) -> "Shape":
        """The shape that a batch with its rows is padded to: its own bucket of events and rows, which are the work, and
        the limits' bucket of everything else.
        """
        rows = require_rows(batch)
        events, targets = round_up(batch.num_events, FINE), round_up(max(batch.num_targets, limits.targets), COARSE)
        max_history, max_targets = (
            1 << max(4, n - 1).bit_length()
            for n in (max(batch.max_history, limits.max_history), max(batch.max_targets, limits.max_targets))
        )
        dummies = max(
            1, -(-(events - batch.num_events) // max_history), -(-(targets - batch.num_targets) // max_targets)
        )
        return Shape(
            requests=round_up(max(batch.num_requests, limits.requests) + dummies, COARSE),
            events=events,
            targets=targets,
            rows=round_up(rows.num_unique, COARSE),
            user_rows=round_up(rows.num_user_unique, COARSE),
            max_history=max_history,
            max_targets=max_targets,
        )


def require_rows(batch: RequestBatch) -> BatchRows:
    """The batch's embedding rows, which `device_loader.RowLookup` has looked up."""
    assert batch.rows is not None, "pad batches whose rows were looked up (model/training/device_loader.py)"
    return batch.rows


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """A batch padded to a shape, with only those fields that the model reads once rows are looked up."""

    shape: Shape
    batch: RequestBatch
    weights: Tensor  # [targets]: 1 over the number of targets that the loss is a mean of; 0 for dummies

    def tensors(self) -> list[Tensor]:
        """Every tensor, always in the same order."""
        collected: list[Tensor] = [self.weights]

        def collect(tensor: Tensor) -> Tensor:
            collected.append(tensor)
            return tensor

        self.batch.map(collect)
        return collected


def pad_to_bucket(
    batch: RequestBatch, id_fields: tuple[str, ...], loss_targets: int, limits: ShapeLimits = NO_LIMITS
) -> PaddedBatch:
    """Pad a batch with its rows to `Shape.of` it.

    Args:
        id_fields: the fields whose ids the model matches, see model/nn/id_match.py.
        loss_targets: the number of targets that the loss is a mean of, on all ranks.
        limits: of the epoch's batches; without, shapes are each batch's own and many.
    """
    shape, rows = Shape.of(batch, limits), require_rows(batch)
    kept = {"item_id", *id_fields}
    padded = replace(
        batch,
        history={name: pad_rows(batch.history[name], shape.events) for name in sorted(kept)},
        history_offsets=_pad_offsets(batch.history_offsets, batch.num_events, shape.events, shape.requests),
        target={name: pad_rows(batch.target[name], shape.targets) for name in sorted(kept)},
        target_offsets=_pad_offsets(batch.target_offsets, batch.num_targets, shape.targets, shape.requests),
        labels=pad_rows(batch.labels, shape.targets),
        request_time_ms=pad_rows(batch.request_time_ms, shape.requests),
        user={},
        user_id=pad_rows(batch.user_id, shape.requests),
        request_index=pad_rows(batch.request_index, shape.requests),
        max_history=shape.max_history,
        max_targets=shape.max_targets,
        rows=rows.resized(
            pad_rows,
            {
                "history": shape.events,
                "target": shape.targets,
                "user": shape.requests,
                "unique": shape.rows,
                "user_unique": shape.user_rows,
            },
        ),
    )
    real = torch.arange(shape.targets, device=batch.labels.device) < batch.num_targets
    return PaddedBatch(shape=shape, batch=padded, weights=real / max(1, loss_targets))


def pad_rows(x: Tensor, length: int) -> Tensor:
    """[n, ...] -> [length, ...], with zeros at the end."""
    return F.pad(x, [0, 0] * (x.ndim - 1) + [0, length - x.shape[0]])


def _pad_offsets(offsets: Tensor, total: int, new_total: int, requests: int) -> Tensor:
    """[B+1] -> [requests+1]: the elements from `total` to `new_total` are spread evenly over the dummy requests."""
    dummies = requests + 1 - offsets.shape[0]
    ends = torch.arange(1, dummies + 1, device=offsets.device) * (new_total - total) // dummies
    return torch.cat([offsets, total + ends])
