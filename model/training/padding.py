"""Which shapes do batches have? Few, where it matters: a batch is filled up with requests that nobody made.

A CUDA graph (cuda_graphs.py) replays one shape. Extra requests at the end own the extra events and targets, so that
nothing that reads a batch need know of them; their weight in the loss is 0, hence every gradient is the batch's own.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.model.data.batch import RequestBatch
from longreel.model.data.lookup import BatchRows
from longreel.model.data.reader import Largest

NOTHING_LARGER = Largest()
FINE, COARSE = 8, 1  # sizes an octave: events are the work; what else there is costs little, so powers of two do


def round_up(count: int, steps: int) -> int:
    """The next of `steps` evenly spaced sizes within each power of two: at most a `steps`-th more than asked."""
    step = max(1, (1 << max(0, count - 1).bit_length()) // (2 * steps))
    return -(-count // step) * step


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All that a launch depends on. A function of the batch alone, so that a resumed run takes the same one."""

    requests: int
    events: int
    targets: int
    rows: int
    user_rows: int
    max_history: int
    max_targets: int

    @staticmethod
    def of(batch: RequestBatch, largest: Largest) -> "Shape":
        """The shape that a batch with its rows is filled up to: as large as any of the epoch, but in events and rows,
        which are the work.
        """
        rows = found_rows(batch)
        events, targets = round_up(batch.num_events, FINE), round_up(max(batch.num_targets, largest.targets), COARSE)
        longest, most = (
            1 << max(4, n - 1).bit_length()
            for n in (max(batch.max_history, largest.max_history), max(batch.max_targets, largest.max_targets))
        )
        extra = max(1, -(-(events - batch.num_events) // longest), -(-(targets - batch.num_targets) // most))
        return Shape(
            requests=round_up(max(batch.num_requests, largest.requests) + extra, COARSE),
            events=events,
            targets=targets,
            rows=round_up(rows.num_unique, COARSE),
            user_rows=round_up(rows.num_user_unique, COARSE),
            max_history=longest,
            max_targets=most,
        )


def found_rows(batch: RequestBatch) -> BatchRows:
    """The batch's rows, which somebody must have found."""
    assert batch.rows is not None, "fill up batches whose rows are found (model/training/device_loader.py)"
    return batch.rows


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A batch filled up to a shape, with no more of it than the model reads once rows are found."""

    shape: Shape
    batch: RequestBatch
    weights: Tensor  # [targets]: 1 over the number of targets that the loss is a mean of; 0 for those of nobody

    def tensors(self) -> list[Tensor]:
        """Every tensor, always in the same order."""
        found: list[Tensor] = [self.weights]
        self.batch.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


def fill_up(
    batch: RequestBatch, compared: tuple[str, ...], loss_targets: int, largest: Largest = NOTHING_LARGER
) -> Filled:
    """Fill a batch with its rows up to `Shape.of` it.

    Args:
        compared: the fields whose ids the model compares, see model/nn/id_match.py.
        loss_targets: how many targets the loss is a mean of, on all ranks.
        largest: of the epoch's batches; without, shapes are the batch's own and many.
    """
    shape, rows = Shape.of(batch, largest), found_rows(batch)
    kept = {"item_id", *compared}
    filled = replace(
        batch,
        history={name: grow(batch.history[name], shape.events) for name in sorted(kept)},
        history_offsets=_more_offsets(batch.history_offsets, batch.num_events, shape.events, shape.requests),
        history_total=grow(batch.history_total, shape.requests),
        target={name: grow(batch.target[name], shape.targets) for name in sorted(kept)},
        target_offsets=_more_offsets(batch.target_offsets, batch.num_targets, shape.targets, shape.requests),
        labels=grow(batch.labels, shape.targets),
        request_time_ms=grow(batch.request_time_ms, shape.requests),
        user_features=grow(batch.user_features, shape.requests),
        user_id=grow(batch.user_id, shape.requests),
        request_index=grow(batch.request_index, shape.requests),
        max_history=shape.max_history,
        max_targets=shape.max_targets,
        rows=BatchRows(
            history=grow(rows.history, shape.events),
            target=grow(rows.target, shape.targets),
            user=grow(rows.user, shape.requests),
            history_context=grow(rows.history_context, shape.events),
            target_context=grow(rows.target_context, shape.targets),
            match_counts=None if rows.match_counts is None else grow(rows.match_counts, shape.targets),
            unique=None if rows.unique is None else grow(rows.unique, shape.rows),
            user_unique=None if rows.user_unique is None else grow(rows.user_unique, shape.user_rows),
        ),
    )
    real = torch.arange(shape.targets, device=batch.labels.device) < batch.num_targets
    return Filled(shape=shape, batch=filled, weights=real / max(1, loss_targets))


def grow(x: Tensor, length: int) -> Tensor:
    """[n, ...] -> [length, ...], with zeros behind."""
    return F.pad(x, [0, 0] * (x.ndim - 1) + [0, length - x.shape[0]])


def _more_offsets(offsets: Tensor, total: int, new_total: int, requests: int) -> Tensor:
    """[B+1] -> [requests+1]: what lies behind `total` is dealt evenly to the requests behind."""
    extra = requests + 1 - offsets.shape[0]
    dealt = torch.arange(1, extra + 1, device=offsets.device) * (new_total - total) // extra
    return torch.cat([offsets, total + dealt])
