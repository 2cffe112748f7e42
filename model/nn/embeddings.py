"""Embeddings of history events, targets and users, from the fields that a log declares.

`find_rows` turns a batch's values into rows of tables, ahead of the step; `target`, `history` and `user` gather and
fuse them. Nothing here has a table over absolute positions: time since the event and position from the newest event are
logarithmic buckets, so that they are defined, and mean the same, at any window.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import Field, LogSchema
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.encodings import Encodings
from longreel.model.data.field_rows import HASHED, FieldRows, VectorColumns, num_rows
from longreel.model.data.lookup import BatchRows, HashedTable, row_starts
from longreel.model.nn.context import CHUNK, action_chunks, context_sum
from longreel.model.nn.match_counts import MatchCounts

# Features of every history event, beside its fields; no field has such a name.
AGE, POSITION = "event age", "event position"
AGE_ROWS, POSITION_ROWS = 96, 48


def log_bucket(values: Tensor, per_octave: float, size: int) -> Tensor:
    """floor(per_octave * log2(1 + x)) for x >= 0, at most size - 1. Any shape -> the same shape, int32."""
    return (per_octave * torch.log2(1 + values.clamp(min=0).to(torch.float32))).int().clamp(max=size - 1)


def age_bucket(age_ms: Tensor) -> Tensor:
    """Time since the event, three buckets an octave of seconds: an hour is 35, a day 49, a year 74."""
    return log_bucket(age_ms / 1_000, 3, AGE_ROWS)


def position_bucket(position: Tensor) -> Tensor:
    """Position counted from the newest event (0), three buckets an octave: 10,239 is 39."""
    return log_bucket(position, 3, POSITION_ROWS)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The table rows of one step: places of `BatchRows` index them."""

    rows: BatchRows
    ids: Tensor  # [U, e], in the type that the step computes in
    user: Tensor  # [V, D]


class TokenFields(nn.Module):
    """The fields that events have, or targets: their rows in the id table and the context table, and their vectors."""

    def __init__(
        self,
        fields: Sequence[Field],
        id_starts: Mapping[str, int],
        context_starts: Mapping[str, int],
        encodings: Encodings,
    ) -> None:
        super().__init__()
        self.ids = FieldRows([f for f in fields if f.kind in HASHED], id_starts, encodings)
        self.context = FieldRows([f for f in fields if f.kind not in HASHED], context_starts, encodings)
        self.vectors = VectorColumns(fields, encodings)

    def width(self, embedding_width: int) -> int:
        """Components of what `gather` gives."""
        return (len(self.ids.ids) + len(self.ids.multis)) * embedding_width + self.vectors.width

    def gather(self, table: Tensor, places: Tensor, weights: Tensor | None, vectors: Tensor | None) -> Tensor:
        """Rows of the ids, means of the multis, and vectors side by side: places [E, columns] -> [E, width].

        Ids are one gather, without a copy where nothing else is declared.
        """
        ids = len(self.ids.ids)
        parts = [F.embedding(places[:, :ids], table).flatten(1)] if ids else []
        if weights is not None:
            shares = self._of_multis(weights.to(table.dtype))
            for multi, share in zip(self._of_multis(places[:, ids:]), shares, strict=True):
                parts.append(F.embedding_bag(multi, table, mode="sum", per_sample_weights=share))
        if vectors is not None:
            parts.append(vectors.to(table.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _of_multis(self, columns: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = columns.split([f.size for f in self.ids.multis], dim=1)
        return parts


class Embeddings(nn.Module):
    """x_t of targets, X of history events, and the user token, all of the model's width."""

    def __init__(self, config: ModelConfig, log_schema: LogSchema, encodings: Encodings) -> None:
        super().__init__()
        d, e = config.width, config.embedding_width
        shown, outcomes = log_schema.of_place("item", "request"), log_schema.of_place("event")
        targets = log_schema.target_fields
        sizes = {f.name: num_rows(f, encodings) for f in (*targets, *outcomes)}
        hashed = {f.name for f in (*targets, *outcomes) if f.kind in HASHED}
        self.ids = HashedTable({name: size for name, size in sizes.items() if name in hashed}, e)
        small = {name: size for name, size in sizes.items() if name not in hashed}
        self.context_sizes = small | {AGE: AGE_ROWS, POSITION: POSITION_ROWS}
        self.context_starts = row_starts(self.context_sizes)
        self.context = nn.Parameter(torch.zeros(sum(self.context_sizes.values()), d))  # an untrained row adds nothing
        self.history_fields, self.target_fields = (
            TokenFields(fields, self.ids.starts, self.context_starts, encodings)
            for fields in ((*shown, *outcomes), targets)
        )
        self.user_fields = log_schema.user_fields
        self.users = HashedTable({f.name: num_rows(f, encodings) for f in self.user_fields}, d)
        self.user_rows = FieldRows(self.user_fields, self.users.starts, encodings)
        self.user_vectors = VectorColumns(self.user_fields, encodings)
        self.user_fuse = nn.Linear(self.user_vectors.width, d) if self.user_vectors.width else None
        self.history_fuse = nn.Linear(self.history_fields.width(e), d)
        self.target_fuse = nn.Linear(self.target_fields.width(e), d)
        self.num_actions = len(log_schema.actions)
        self.actions = nn.Linear(self.num_actions, d, bias=False) if self.num_actions else None
        self.history_norm = nn.LayerNorm(d)
        self.target_norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.match_counts = MatchCounts(config, log_schema) if config.match_counts else None

    def table_parameters(self) -> Iterator[nn.Parameter]:
        """The hashed tables, of which one step touches few rows."""
        return iter((self.ids.weight, self.users.weight))

    def find_rows(self, batch: RequestBatch) -> BatchRows:
        """Rows of the whole tables that a batch reads. No gradient, no weight is read."""
        history, target, user = self.history_fields, self.target_fields, self.user_rows
        request = segment_ids(batch.target_offsets, batch.num_targets)
        request_time_ms = batch.request_time_ms[request]
        return BatchRows(
            history=history.ids.rows(batch.history, batch.history["time_ms"]),
            target=target.ids.rows(batch.target, request_time_ms),
            user=user.rows(batch.user, batch.request_time_ms),
            history_context=self._history_context(batch),
            target_context=target.context.rows(batch.target, request_time_ms),
            history_weights=history.ids.weights(batch.history),
            target_weights=target.ids.weights(batch.target),
            user_weights=self._user_weights(batch.user),
            history_vectors=history.vectors(batch.history),
            target_vectors=target.vectors(batch.target),
            user_vectors=self.user_vectors(batch.user),
            match_counts=None if self.match_counts is None else self.match_counts.numbers(batch),
        )

    def _history_context(self, batch: RequestBatch) -> Tensor:
        """[H, features + chunks] int32: a row per field, one of the age and the position, then the action bits."""
        total, lengths = batch.num_events, batch.history_offsets.diff()
        time_ms = batch.history["time_ms"]
        newest, request_time_ms = (
            torch.repeat_interleave(values, lengths, output_size=total)
            for values in (batch.history_offsets[1:] - 1, batch.request_time_ms)
        )
        age = age_bucket(request_time_ms - time_ms)
        position = position_bucket(newest - torch.arange(total, device=newest.device))
        starts = self.context_starts
        placed = torch.stack([starts[AGE] + age, starts[POSITION] + position], dim=1)
        fields = self.history_fields.context.rows(batch.history, time_ms)
        return torch.cat([fields, placed.int(), action_chunks(batch.history["actions"], self.num_actions)], dim=1)

    def _user_weights(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The weight of every row in a user's sum, of a multi's ids their share: [B, columns], None without multis."""
        multis = self.user_rows.weights(values)
        if multis is None:
            return None
        before, after = len(self.user_rows.ids), len(self.user_rows.others)
        ones = (multis.new_ones(len(multis), columns) for columns in (before, after))
        return torch.cat([next(ones), multis, next(ones)], dim=1)

    def gather(self, batch: RequestBatch) -> Gathered:
        """The table rows that a batch reads, once for its history and targets; finds its rows if need be."""
        rows = batch.rows if batch.rows is not None else self.find_rows(batch)
        ids = self.ids.gather(rows.unique)
        if rows.unique is not None:  # fewer than the lookups: narrowed here once, not at every lookup
            ids = ids.to(_compute_type(ids))
        return Gathered(rows=rows, ids=ids, user=self.users.gather(rows.user_unique))

    def history(self, gathered: Gathered) -> Tensor:
        """X: [H, D]."""
        rows = gathered.rows
        values = self.history_fields.gather(gathered.ids, rows.history, rows.history_weights, rows.history_vectors)
        return self.fuse_history(values, rows.history_context)

    def fuse_history(self, values: Tensor, context: Tensor) -> Tensor:
        """What `TokenFields.gather` gives, context rows and action bits [H, features + chunks] -> X [H, D]."""
        features = context.shape[1] - ceil(self.num_actions / CHUNK)
        weight = None if self.actions is None else self.actions.weight
        summed = context_sum(self.context, context[:, :features], weight, context[:, features:])
        out: Tensor = self.history_norm(self.history_fuse(self.dropout(values)) + summed)
        return out.to(_compute_type(out))

    def target(self, gathered: Gathered) -> Tensor:
        """x_t: [T, D]. Event fields, actions and labels of a target are outcomes and never come here."""
        rows = gathered.rows
        values = self.target_fields.gather(gathered.ids, rows.target, rows.target_weights, rows.target_vectors)
        return self.fuse_target(values, rows.target_context)

    def fuse_target(self, values: Tensor, context: Tensor) -> Tensor:
        """What `TokenFields.gather` gives, context rows [T, features] -> x_t [T, D]."""
        fused = self.target_fuse(self.dropout(values))
        out: Tensor = self.target_norm(fused + context_sum(self.context, context) if context.shape[1] else fused)
        return out.to(_compute_type(out))

    def user(self, gathered: Gathered) -> Tensor:
        """One token per request: [B, D]; zeros where no field of the user is declared."""
        rows, table = gathered.rows, gathered.user
        if not self.user_fields:
            return table.new_zeros(rows.user.shape[0], table.shape[1])
        weights = None if rows.user_weights is None else rows.user_weights.to(table.dtype)
        out = F.embedding_bag(rows.user, table, mode="sum", per_sample_weights=weights)
        if self.user_fuse is not None and rows.user_vectors is not None:
            out = out + self.user_fuse(rows.user_vectors.to(table.dtype))
        return F.layer_norm(out / len(self.user_fields) ** 0.5, out.shape[-1:])

    def counts(self, gathered: Gathered) -> Tensor:
        """The match counts' token of every target: [T, D]; of a model with `match_counts`."""
        numbers = gathered.rows.match_counts
        assert self.match_counts is not None
        assert numbers is not None
        out: Tensor = self.match_counts(numbers)
        return out


def _compute_type(like: Tensor) -> torch.dtype:
    """What a linear layer would compute in: bf16 under autocast, else the tensor's own type."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
