"""Embeddings of history events, targets and users, from hashed tables.

`find_rows` turns a batch's integers into rows of tables, ahead of the step; `target`, `history` and `user` gather and
fuse them. Nothing here has a table over absolute positions: time since the event and position from the newest event are
logarithmic buckets, so that they are defined, and mean the same, at any window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.actions import ACTIONS
from longreel.contracts.config import ModelConfig
from longreel.contracts.errors import LongreelError
from longreel.model.data.batch import RequestBatch
from longreel.model.data.hashing import bucket
from longreel.model.data.lookup import BatchRows, HashedTable
from longreel.model.nn.context import context_sum
from longreel.model.nn.match_counts import MatchCounts

# Small features share one table of vectors of the model's width; a feature owns so many of its rows, in this order.
CONTEXT_SIZES = {"surface": 64, "duration": 32, "play_ratio": 32, "age": 96, "position": 48}
CONTEXT_ROWS = sum(CONTEXT_SIZES.values())
CONTEXT_STARTS = dict(zip(CONTEXT_SIZES, accumulate(CONTEXT_SIZES.values(), initial=0), strict=False))


def log_bucket(values: Tensor, per_octave: float, size: int) -> Tensor:
    """floor(per_octave * log2(1 + x)) for x >= 0, at most size - 1. Any shape -> the same shape, int32."""
    return (per_octave * torch.log2(1 + values.clamp(min=0).to(torch.float32))).int().clamp(max=size - 1)


def duration_bucket(duration_ms: Tensor) -> Tensor:
    """0 where unknown, else 1 + logarithm of the seconds, two buckets an octave."""
    size = CONTEXT_SIZES["duration"]
    return torch.where(duration_ms > 0, 1 + log_bucket(duration_ms / 1_000, 2, size - 1), 0)


def play_ratio_bucket(play_ms: Tensor, duration_ms: Tensor) -> Tensor:
    """0 where the duration is unknown, else 1 + log bucket of play over duration: finest near 0, 5 and over alike."""
    size = CONTEXT_SIZES["play_ratio"]
    ratio = play_ms / duration_ms.clamp(min=1)
    return torch.where(duration_ms > 0, 1 + log_bucket(15 * ratio, 5, size - 1), 0)


def age_bucket(age_ms: Tensor) -> Tensor:
    """Time since the event, three buckets an octave of seconds: an hour is 35, a day 49, a year 74."""
    return log_bucket(age_ms / 1_000, 3, CONTEXT_SIZES["age"])


def position_bucket(position: Tensor) -> Tensor:
    """Position counted from the newest event (0), three buckets an octave: 10,239 is 39."""
    return log_bucket(position, 3, CONTEXT_SIZES["position"])


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The table rows of one step: places of `BatchRows` index them."""

    rows: BatchRows
    ids: Tensor  # [U, e], in the type that the step computes in
    user: Tensor  # [V, D]


class Embeddings(nn.Module):
    """x_t of targets, X of history events, and the user token, all of the model's width."""

    def __init__(self, config: ModelConfig, num_user_features: int) -> None:
        super().__init__()
        d, e = config.width, config.embedding_width
        sizes = {"item_id": config.item_buckets, "author_id": config.author_buckets, "tag": config.tag_buckets}
        self.ids = HashedTable(sizes, e)
        self.user_features = HashedTable({"user_feature": config.user_feature_buckets}, d)
        self.context = nn.Parameter(torch.zeros(CONTEXT_ROWS, d))  # an untrained bucket adds nothing
        self.history_fuse = nn.Linear(len(sizes) * e, d)
        self.target_fuse = nn.Linear(len(sizes) * e, d)
        self.actions = nn.Linear(len(ACTIONS), d, bias=False)
        self.history_norm = nn.LayerNorm(d)
        self.target_norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.num_user_features = num_user_features
        self.match_counts = MatchCounts(config) if config.match_counts else None

    def table_parameters(self) -> Iterator[nn.Parameter]:
        """The hashed tables, of which one step touches few rows."""
        return iter((self.ids.weight, self.user_features.weight))

    def find_rows(self, batch: RequestBatch) -> BatchRows:
        """Rows of the whole tables that a batch reads. Integers only; no gradient, no weight is read."""
        num_features = batch.user_features.shape[1]
        if num_features != self.num_user_features:
            raise LongreelError(
                f"user_features: the model was built for {self.num_user_features} a user, got {num_features}; "
                "rebuild the samples with the features of its training, or train a new model"
            )
        return BatchRows(
            history=self.ids.rows(batch.history),
            target=self.ids.rows(batch.target),
            user=self.user_features.field_rows(batch.user_features),
            history_context=_history_context(batch),
            target_context=_target_context(batch.target),
            match_counts=None if self.match_counts is None else self.match_counts.numbers(batch),
        )

    def gather(self, batch: RequestBatch) -> Gathered:
        """The table rows that a batch reads, once for its history and targets; finds its rows if need be."""
        rows = batch.rows if batch.rows is not None else self.find_rows(batch)
        ids = self.ids.gather(rows.unique)
        if rows.unique is not None:  # fewer than the lookups: narrowed here once, not at every lookup
            ids = ids.to(_compute_type(ids))
        return Gathered(rows=rows, ids=ids, user=self.user_features.gather(rows.user_unique))

    def history(self, gathered: Gathered) -> Tensor:
        """X: [H, D]."""
        return self.fuse_history(side_by_side(gathered.ids, gathered.rows.history), gathered.rows.history_context)

    def fuse_history(self, ids: Tensor, context: Tensor) -> Tensor:
        """ids [H, 3 e], context rows and action bits [H, features + 1] -> X [H, D]."""
        rows, actions = context[:, :-1], context[:, -1]
        summed = context_sum(self.context, rows, self.actions.weight, actions)
        out: Tensor = self.history_norm(self.history_fuse(self.dropout(ids)) + summed)
        return out.to(_compute_type(out))

    def target(self, gathered: Gathered) -> Tensor:
        """x_t: [T, D]. Labels, actions and play time of a target are outcomes and never come here."""
        return self.fuse_target(side_by_side(gathered.ids, gathered.rows.target), gathered.rows.target_context)

    def fuse_target(self, ids: Tensor, context: Tensor) -> Tensor:
        """ids [T, 3 e], context rows [T, 2] -> x_t [T, D]."""
        out: Tensor = self.target_norm(self.target_fuse(self.dropout(ids)) + context_sum(self.context, context))
        return out.to(_compute_type(out))

    def user(self, gathered: Gathered) -> Tensor:
        """One token per request: [B, D]; zeros where the source has no user features."""
        if self.num_user_features == 0:
            return gathered.user.new_zeros(gathered.rows.user.shape[0], gathered.user.shape[1])
        out = F.embedding_bag(gathered.rows.user, gathered.user, mode="sum") / self.num_user_features**0.5
        return F.layer_norm(out, out.shape[-1:])

    def counts(self, gathered: Gathered) -> Tensor:
        """The match counts' token of every target: [T, D]; of a model with `match_counts`."""
        numbers = gathered.rows.match_counts
        assert self.match_counts is not None
        assert numbers is not None
        out: Tensor = self.match_counts(numbers)
        return out


def side_by_side(table: Tensor, places: Tensor) -> Tensor:
    """Item, author and tag rows side by side, in one gather without a copy: places [E, 3] -> [E, 3 e]."""
    return F.embedding(places, table).flatten(1)


def _compute_type(like: Tensor) -> torch.dtype:
    """What a linear layer would compute in: bf16 under autocast, else the tensor's own type."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


def _context_rows(features: dict[str, Tensor]) -> Tensor:
    """Rows of the context table: features of [E] each -> [E, features] int32."""
    return torch.stack([CONTEXT_STARTS[name] + row for name, row in features.items()], dim=1).int()


def _history_context(batch: RequestBatch) -> Tensor:
    """[H, features + 1] int32: a row per context feature, in their order, then the event's action bits."""
    fields, total = batch.history, batch.num_events
    lengths = batch.history_offsets.diff()
    newest, request_time_ms = (
        torch.repeat_interleave(values, lengths, output_size=total)
        for values in (batch.history_offsets[1:] - 1, batch.request_time_ms)
    )
    features = {
        "surface": bucket(fields["surface"], CONTEXT_SIZES["surface"]),
        "duration": duration_bucket(fields["duration_ms"]),
        "play_ratio": play_ratio_bucket(fields["play_ms"], fields["duration_ms"]),
        "age": age_bucket(request_time_ms - fields["time_ms"]),
        "position": position_bucket(newest - torch.arange(total, device=newest.device)),
    }
    return torch.cat([_context_rows(features), fields["actions"][:, None].int()], dim=1)


def _target_context(fields: dict[str, Tensor]) -> Tensor:
    """[T, features] int32."""
    features = {
        "surface": bucket(fields["surface"], CONTEXT_SIZES["surface"]),
        "duration": duration_bucket(fields["duration_ms"]),
    }
    return _context_rows(features)
