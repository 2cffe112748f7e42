"""Request batches: requests with their histories and targets, packed without padding.

Legend used in names throughout model/: B requests, H packed history events, T packed targets, D width, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from longreel.model.data.lookup import BatchRows


@dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """B requests. Request b owns history[history_offsets[b] : history_offsets[b+1]], oldest first, every event
    strictly older than request_time_ms[b], and target[target_offsets[b] : target_offsets[b+1]].
    """

    history: dict[str, Tensor]  # LogSchema.event_columns, each [H] or [H, size], of the stored type
    history_offsets: Tensor  # [B+1] int64
    target: dict[str, Tensor]  # LogSchema.target_columns, each [T] or [T, size]
    target_offsets: Tensor  # [B+1] int64
    user: dict[str, Tensor]  # LogSchema.user_columns, each [B] or [B, size]
    labels: Tensor  # [T, tasks] float32, nan where a number label has no value; [T, 0] for scoring
    request_time_ms: Tensor  # [B] int64
    user_id: Tensor  # [B] int64
    request_index: Tensor  # [B] int64, ordinals of the requests in their reader or table
    max_history: int  # longest history in the batch, on the host: no wait for the device
    max_targets: int
    rows: BatchRows | None = None  # its embedding rows, where they were looked up ahead of the step

    @property
    def num_requests(self) -> int:
        """B."""
        return self.request_time_ms.shape[0]

    @property
    def num_events(self) -> int:
        """H."""
        return self.history["item_id"].shape[0]

    @property
    def num_targets(self) -> int:
        """T."""
        return self.target["item_id"].shape[0]

    def map(self, move: Callable[[Tensor], Tensor]) -> "RequestBatch":
        """The same batch, every tensor moved, always in the same order."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                moved[field.name] = {name: move(tensor) for name, tensor in value.items()}
            elif isinstance(value, Tensor):
                moved[field.name] = move(value)
            elif isinstance(value, BatchRows):
                moved[field.name] = value.map(move)
        return replace(self, **moved)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory until the work queued on `stream` so far is done, also if made on another stream."""

        def mark(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self.map(mark)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "RequestBatch":
        """The same batch on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


def segment_ids(offsets: Tensor, total: int) -> Tensor:
    """The segment of each packed element. offsets [S+1] -> [total] int64."""
    lengths = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(lengths.shape[0], device=offsets.device), lengths, output_size=total)


def one_row_per_target(batch: RequestBatch) -> RequestBatch:
    """Reference for request-level batching: each target becomes a request with its own copy of the history.

    The model must give the same logits and gradients for both.
    """
    request = segment_ids(batch.target_offsets, batch.num_targets)
    starts, lengths = batch.history_offsets[:-1][request], batch.history_offsets.diff()[request]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    total = int(offsets[-1])
    row = segment_ids(offsets, total)
    take = starts[row] + torch.arange(total, device=row.device) - offsets[row]
    return replace(
        batch,
        history={name: values[take] for name, values in batch.history.items()},
        history_offsets=offsets,
        target_offsets=torch.arange(batch.num_targets + 1, device=row.device),
        request_time_ms=batch.request_time_ms[request],
        user={name: values[request] for name, values in batch.user.items()},
        user_id=batch.user_id[request],
        request_index=batch.request_index[request],
        max_targets=min(1, batch.num_targets),
        rows=None,
    )
