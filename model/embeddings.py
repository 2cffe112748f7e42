"""How do ids, times and outcomes become vectors? History events, targets and users, from hashed tables.

Nothing here has a table over absolute positions: time since the event and position from the newest event are
logarithmic buckets, so that they are defined, and mean the same, at any window.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.actions import ACTIONS
from contracts.config import ModelConfig
from contracts.errors import LongreelError
from model.batch import RequestBatch, segment_ids
from model.hashing import bucket, mix64

# Small features share one table of vectors of the model's width; a feature owns `size` rows from its start on.
CONTEXT_SIZES = {"surface": 64, "duration": 32, "play_ratio": 32, "age": 96, "position": 48}
CONTEXT_STARTS = dict(zip(CONTEXT_SIZES, torch.tensor([0, *CONTEXT_SIZES.values()]).cumsum(0).tolist(), strict=False))


def log_bucket(values: Tensor, per_octave: float, size: int) -> Tensor:
    """floor(per_octave * log2(1 + x)) for x >= 0, at most size - 1. Any shape -> the same shape, int64."""
    return (per_octave * torch.log2(1 + values.clamp(min=0).to(torch.float32))).long().clamp(max=size - 1)


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


class Embeddings(nn.Module):
    """x_t of targets, X of history events, and the user token, all of the model's width."""

    def __init__(self, config: ModelConfig, num_user_features: int) -> None:
        super().__init__()
        d, e = config.width, config.embedding_width
        self.item = nn.Embedding(config.item_buckets, e)
        self.author = nn.Embedding(config.author_buckets, e)
        self.tag = nn.Embedding(config.tag_buckets, e)
        self.context = nn.EmbeddingBag(sum(CONTEXT_SIZES.values()), d, mode="sum")
        self.user_feature = nn.EmbeddingBag(config.user_feature_buckets, d, mode="sum")
        for table in (self.item, self.author, self.tag, self.user_feature):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.context.weight)  # a bucket never trained then says nothing
        self.history_fuse = nn.Linear(3 * e, d)
        self.target_fuse = nn.Linear(3 * e, d)
        self.actions = nn.Linear(len(ACTIONS), d, bias=False)
        self.history_norm = nn.LayerNorm(d)
        self.target_norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.num_user_features = num_user_features
        self.register_buffer("action_bits", torch.tensor(list(ACTIONS.values())), persistent=False)
        self.action_bits: Tensor

    def table_parameters(self) -> Iterator[Tensor]:
        """The tables, of which one step touches few rows."""
        tables = (self.item, self.author, self.tag, self.context, self.user_feature)
        return (table.weight for table in tables)

    def _identity(self, fields: dict[str, Tensor]) -> Tensor:
        """Item, author and tag rows side by side: [E, 3 e]."""
        tables = ((self.item, "item_id"), (self.author, "author_id"), (self.tag, "tag"))
        rows = [table(bucket(fields[field], table.num_embeddings)) for table, field in tables]
        out: Tensor = self.dropout(torch.cat(rows, dim=-1))
        return out

    def _context(self, features: dict[str, Tensor]) -> Tensor:
        """Sum of the rows of small features: each [E] -> [E, D]."""
        rows = torch.stack([CONTEXT_STARTS[name] + row for name, row in features.items()], dim=1)
        out: Tensor = self.context(rows)
        return out

    def history(self, batch: RequestBatch) -> Tensor:
        """X: [H, D]."""
        fields = batch.history
        request = segment_ids(batch.history_offsets, batch.num_events)
        newest = batch.history_offsets[1:][request] - 1
        context = self._context(
            {
                "surface": bucket(fields["surface"], CONTEXT_SIZES["surface"]),
                "duration": duration_bucket(fields["duration_ms"]),
                "play_ratio": play_ratio_bucket(fields["play_ms"], fields["duration_ms"]),
                "age": age_bucket(batch.request_time_ms[request] - fields["time_ms"]),
                "position": position_bucket(newest - torch.arange(batch.num_events, device=newest.device)),
            }
        )
        bits = ((fields["actions"][:, None] & self.action_bits) != 0).to(context.dtype)
        out: Tensor = self.history_norm(self.history_fuse(self._identity(fields)) + self.actions(bits) + context)
        return out

    def target(self, batch: RequestBatch) -> Tensor:
        """x_t: [T, D]. Labels, actions and play time of a target are outcomes and never come here."""
        fields = batch.target
        context = self._context(
            {
                "surface": bucket(fields["surface"], CONTEXT_SIZES["surface"]),
                "duration": duration_bucket(fields["duration_ms"]),
            }
        )
        out: Tensor = self.target_norm(self.target_fuse(self._identity(fields)) + context)
        return out

    def user(self, batch: RequestBatch) -> Tensor:
        """One token per request: [B, D]; zeros where the source has no user features."""
        table, came = self.user_feature, batch.user_features.shape[1]
        if came != self.num_user_features:
            raise LongreelError(
                f"user_features: the model was built for {self.num_user_features} a user, got {came}; "
                "rebuild the samples with the features of its training, or train a new model"
            )
        if self.num_user_features == 0:
            return table.weight.new_zeros(batch.num_requests, table.embedding_dim)
        field = torch.arange(self.num_user_features, device=batch.user_features.device)
        rows = bucket(mix64(batch.user_features) ^ mix64(field), table.num_embeddings)
        out: Tensor = table(rows) / self.num_user_features**0.5
        return F.layer_norm(out, out.shape[-1:])
