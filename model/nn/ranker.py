"""The ranker: embeddings, STCA over the history, RankMixer, one logit per task."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.nn.attention import Requests
from longreel.model.nn.embeddings import Embeddings
from longreel.model.nn.id_match import compared_ids
from longreel.model.nn.rankmixer import RankMixer
from longreel.model.nn.stca import STCA


class Ranker(nn.Module):
    """Scores the targets of a RequestBatch. A request's history is encoded once, for all its targets."""

    def __init__(self, config: ModelConfig, tasks: Sequence[str], num_user_features: int) -> None:
        super().__init__()
        self.config, self.tasks, self.num_user_features = config, tuple(tasks), num_user_features
        self.embeddings = Embeddings(config, num_user_features)
        self.stca = STCA(config)
        self.dropout = nn.Dropout(config.dropout)
        self.mixer = RankMixer(config, inputs=3 + config.match_counts)
        self.head = nn.Linear(config.width, len(self.tasks))

    def forward(self, batch: RequestBatch, backend: str = "auto") -> Tensor:
        """Logits [T, tasks], in the order of the batch's targets and of `tasks`."""
        gathered = self.embeddings.gather(batch)
        target, history = self.embeddings.target(gathered), self.embeddings.history(gathered)
        names = self.config.id_match_fields
        ids = compared_ids(batch.target, batch.history, names) if names else None
        requests = Requests(batch.target_offsets, batch.history_offsets, batch.max_targets, batch.max_history)
        z = self.stca(target, history, requests, ids, backend)
        user = self.embeddings.user(gathered)[segment_ids(batch.target_offsets, batch.num_targets)]
        counts = [self.embeddings.counts(gathered)] if self.config.match_counts else []
        mixed = self.mixer(self.dropout(z), user, target, *counts)
        with torch.autocast(mixed.device.type, enabled=False):  # a logit of 5 is rounded by .02 in half precision
            logits: Tensor = self.head(mixed.to(self.head.weight.dtype))
        return logits

    def set_prior(self, rates: Tensor) -> None:
        """Start the logits at the observed rates [tasks], so that the first steps are not spent on finding them."""
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(rates.clamp(1e-4, 1 - 1e-4)))

    def table_parameters(self) -> Iterator[nn.Parameter]:
        """Hashed tables, of which one step touches few rows."""
        return self.embeddings.table_parameters()

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        tables = {id(p) for p in self.table_parameters()}
        return (p for p in self.parameters() if id(p) not in tables)


def ranking_loss(logits: Tensor, labels: Tensor, targets: int | None = None) -> Tensor:
    """Binary cross-entropy summed over targets and tasks, over the number of targets. Both [T, tasks].

    `targets` is that number where these are only a part of a batch's targets.
    """
    total = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
    return total / max(1, labels.shape[0] if targets is None else targets)
