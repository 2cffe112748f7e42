"""The ranker: embeddings, STCA over the history, RankMixer, one output per task."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import LogSchema
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.encodings import Encodings
from longreel.model.nn.attention import Requests
from longreel.model.nn.embeddings import Embeddings
from longreel.model.nn.id_match import compared_ids
from longreel.model.nn.rankmixer import RankMixer
from longreel.model.nn.stca import STCA
from longreel.model.nn.tasks import Tasks


class Ranker(nn.Module):
    """Scores the targets of a RequestBatch. A request's history is encoded once, for all its targets."""

    def __init__(self, config: ModelConfig, tasks: Sequence[str], log_schema: LogSchema, encodings: Encodings) -> None:
        super().__init__()
        self.config, self.tasks = config, tuple(tasks)
        self.log_schema, self.encodings = log_schema, encodings
        self.embeddings = Embeddings(config, log_schema, encodings)
        self.stca = STCA(config, len(log_schema.match_fields))
        self.dropout = nn.Dropout(config.dropout)
        self.mixer = RankMixer(config, inputs=3 + config.match_counts)
        self.head = nn.Linear(config.width, len(self.tasks))
        self.outputs = Tasks(self.tasks, log_schema, encodings)

    def forward(self, batch: RequestBatch, backend: str = "auto") -> Tensor:
        """Logits [T, tasks], in the order of the batch's targets and of `tasks`; see `values`."""
        gathered = self.embeddings.gather(batch)
        target, history = self.embeddings.target(gathered), self.embeddings.history(gathered)
        names = self.log_schema.match_fields
        ids = compared_ids(batch.target, batch.history, names) if names else None
        requests = Requests(batch.target_offsets, batch.history_offsets, batch.max_targets, batch.max_history)
        z = self.stca(target, history, requests, ids, backend)
        user = self.embeddings.user(gathered)[segment_ids(batch.target_offsets, batch.num_targets)]
        counts = [self.embeddings.counts(gathered)] if self.config.match_counts else []
        mixed = self.mixer(self.dropout(z), user, target, *counts)
        with torch.autocast(mixed.device.type, enabled=False):  # a logit of 5 is rounded by .02 in half precision
            logits: Tensor = self.head(mixed.to(self.head.weight.dtype))
        return logits

    def values(self, logits: Tensor) -> Tensor:
        """What logits [T, tasks] predict: probabilities of binary labels, values of number labels."""
        return self.outputs.values(logits)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each target, summed over tasks: [T]; NaN labels [T, tasks] have none."""
        return self.outputs.losses(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor, targets: int | None = None) -> Tensor:
        """`losses` summed, over the number of targets.

        `targets` is that number where these are only a part of a batch's targets.
        """
        return self.losses(logits, labels).sum() / max(1, labels.shape[0] if targets is None else targets)

    def set_prior(self, rates: Tensor) -> None:
        """Start at the observed rates [tasks] of binary labels, and at the mean of number labels, so that the first
        steps are not spent on finding them."""
        with torch.no_grad():
            self.head.bias.copy_(self.outputs.prior(rates))

    def table_parameters(self) -> Iterator[nn.Parameter]:
        """Hashed tables, of which one step touches few rows."""
        return self.embeddings.table_parameters()

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        tables = {id(p) for p in self.table_parameters()}
        return (p for p in self.parameters() if id(p) not in tables)
