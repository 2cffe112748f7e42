"""The longest history that fits: memory of one request's events, with activations kept or recomputed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.config import ModelConfig
from longreel.model.data.batch import RequestBatch
from longreel.model.nn.ranker import Ranker, ranking_loss
from longreel.model.training.compile import checkpoint_activations
from longreel.model.training.device_loader import RowLookup


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One request of 16 targets, forward and backward."""

    activation_checkpointing: bool
    bytes_per_event: float
    longest: int | None  # events that fit on the device; None on a CPU
    tried: int | None  # events that were trained once to check `longest`; None where memory ran out


def one_request(events: int, targets: int, device: torch.device) -> RequestBatch:
    """A request with an artificial history."""
    rng = torch.Generator().manual_seed(0)

    def fields(size: int) -> dict[str, Tensor]:
        random_ids = {
            name: torch.randint(0, 50_000, (size,), generator=rng) for name in ("item_id", "author_id", "duration_ms")
        }
        return random_ids | {name: torch.randint(0, 4, (size,), generator=rng) for name in ("tag", "surface")}

    history = fields(events) | {
        "time_ms": torch.arange(events) * 1_000,
        "actions": torch.ones(events, dtype=torch.int32),
        "play_ms": torch.randint(0, 50_000, (events,), generator=rng),
    }
    return RequestBatch(
        history=history,
        history_offsets=torch.tensor([0, events]),
        target=fields(targets),
        target_offsets=torch.tensor([0, targets]),
        labels=torch.zeros(targets, 1),
        request_time_ms=torch.tensor([events * 1_000]),
        user_features=torch.zeros(1, 0, dtype=torch.int64),
        user_id=torch.zeros(1, dtype=torch.int64),
        request_index=torch.zeros(1, dtype=torch.int64),
        max_history=events,
        max_targets=targets,
    ).to(device)


def _peak_bytes(ranker: Ranker, lookup: RowLookup, events: int, device: torch.device) -> float:
    """Peak on CUDA; on a CPU what the forward pass keeps, which is most of the peak."""
    ranker.zero_grad()
    batch = lookup(one_request(events, 16, device))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    if device.type != "cuda":
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = ranking_loss(ranker(batch), batch.labels)
        return float(sum(kept.values())) if loss.requires_grad else 0.0
    torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast("cuda", torch.bfloat16):
        logits = ranker(batch)
    ranking_loss(logits, batch.labels).backward()
    return float(torch.cuda.max_memory_allocated(device))


def longest(sizes: ModelConfig, device: torch.device, *, activation_checkpointing: bool, share: float = 0.92) -> Memory:
    """Memory an event, from two lengths; on CUDA what then fits in `share` of the card, tried once."""
    ranker = Ranker(sizes, ("click",), 0).to(device).train()
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
