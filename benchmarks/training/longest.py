"""The longest history that fits: memory of one request's events, with activations kept or recomputed."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import Column, LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import Encodings
from longreel.model.data.row_groups import TORCH_TYPES
from longreel.model.nn.ranker import Ranker
from longreel.model.training.compile import checkpoint_activations
from longreel.model.training.device_loader import RowLookup


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One request of 16 targets, forward and backward."""

    activation_checkpointing: bool
    bytes_per_event: float
    longest: int | None  # events that fit on the device; None on a CPU
    tried: int | None  # events that were trained once to check `longest`; None where memory ran out


def one_request(log_schema: LogSchema, events: int, targets: int, device: torch.device) -> RequestBatch:
    """A request with an artificial history."""
    rng = torch.Generator().manual_seed(0)

    def columns(some: Sequence[Column], number: int) -> dict[str, Tensor]:
        return {column.name: _random(column, number, rng) for column in some}

    history = columns(log_schema.event_columns, events) | {"time_ms": torch.arange(events) * 1_000}
    return RequestBatch(
        history=history,
        history_offsets=torch.tensor([0, events]),
        target=columns(log_schema.target_columns, targets),
        target_offsets=torch.tensor([0, targets]),
        user=columns(log_schema.user_columns, 1),
        labels=torch.zeros(targets, 1),
        request_time_ms=torch.tensor([events * 1_000]),
        user_id=torch.zeros(1, dtype=torch.int64),
        request_index=torch.zeros(1, dtype=torch.int64),
        max_history=events,
        max_targets=targets,
    ).to(device)


def _random(column: Column, number: int, rng: torch.Generator) -> Tensor:
    shape = (number,) if column.size == 1 else (number, column.size)
    if pa.types.is_floating(column.type):
        return torch.rand(shape, generator=rng)
    most = 1 if column.name == "actions" else 50_000 if column.field is None or column.field.kind == "id" else 4
    return torch.randint(0, most + 1, shape, generator=rng).to(TORCH_TYPES[column.type])


def _peak_bytes(ranker: Ranker, lookup: RowLookup, events: int, device: torch.device) -> float:
    """Peak on CUDA; on a CPU what the forward pass keeps, which is most of the peak."""
    ranker.zero_grad()
    batch = lookup(one_request(ranker.log_schema, events, 16, device))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    if device.type != "cuda":
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = ranker.loss(ranker(batch), batch.labels)
        return float(sum(kept.values())) if loss.requires_grad else 0.0
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast("cuda", torch.bfloat16):
        logits = ranker(batch)
    ranker.loss(logits, batch.labels).backward()
    return float(torch.cuda.max_memory_allocated(device))


def longest(
    sizes: ModelConfig,
    log_schema: LogSchema,
    device: torch.device,
    *,
    activation_checkpointing: bool,
    share: float = 0.92,
) -> Memory:
    """Memory an event, from two lengths; on CUDA what then fits in `share` of the card, tried once."""
    ranker = Ranker(sizes, ("click",), log_schema, Encodings()).to(device).train()
    lookup = RowLookup(ranker.embeddings, device)
    if activation_checkpointing:
        checkpoint_activations(ranker)
    short, long = (65_536, 262_144) if device.type == "cuda" else (2_048, 8_192)
    _peak_bytes(ranker, lookup, short, device)  # allocations that are made once
    low, high = (_peak_bytes(ranker, lookup, n, device) for n in (short, long))
    per_event = (high - low) / (long - short)
    if device.type != "cuda":
        return Memory(
            activation_checkpointing=activation_checkpointing, bytes_per_event=per_event, longest=None, tried=None
        )
    total = torch.cuda.get_device_properties(device).total_memory
    fits = int((share * total - (low - per_event * short)) / per_event) // 1_024 * 1_024
    try:
        _peak_bytes(ranker, lookup, fits, device)
        tried: int | None = fits
    except torch.OutOfMemoryError:
        tried = None
    torch.cuda.empty_cache()
    return Memory(
        activation_checkpointing=activation_checkpointing, bytes_per_event=per_event, longest=fits, tried=tried
    )
