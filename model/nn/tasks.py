"""Outputs of the ranker as predictions of labels, and their losses.

A binary label has a logit and the cross-entropy. A number label is learned as (label - mean) / deviation with half the
squared error: the negative log-likelihood of a normal distribution, as cross-entropy is of a Bernoulli. Both start at
about half a nat a target, and both have the gradient `prediction - label`, so that equal weights balance them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.log_schema import LogSchema
from longreel.model.data.encodings import Encodings, Moments


class Tasks(nn.Module):
    """The tasks of a ranker, in the order of its outputs."""

    def __init__(self, tasks: Sequence[str], log_schema: LogSchema, encodings: Encodings) -> None:
        super().__init__()
        labels = [log_schema.label(task) for task in tasks]
        moments = [encodings.number_labels.get(label.name, Moments()) for label in labels]
        self.has_numbers = any(label.is_number for label in labels)
        self.has_weights = any(label.weight != 1 for label in labels)
        # Constants that follow from schema and encodings, [tasks] each.
        self.register_buffer("is_number", torch.tensor([label.is_number for label in labels]), persistent=False)
        self.register_buffer("weight", torch.tensor([float(label.weight) for label in labels]), persistent=False)
        self.register_buffer("mean", torch.tensor([m.mean for m in moments]), persistent=False)
        self.register_buffer("deviation", torch.tensor([m.deviation for m in moments]), persistent=False)
        self.is_number: Tensor
        self.weight: Tensor
        self.mean: Tensor
        self.deviation: Tensor

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Both [T, tasks] -> each target's loss, the weighted sum over tasks: [T]. A NaN label adds nothing to it."""
        logits = logits.float()
        if self.has_numbers:
            losses = self._mixed_losses(logits, labels)
        else:
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (losses * self.weight if self.has_weights else losses).sum(-1)

    def _mixed_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[T, tasks]. What a task does not use is computed from zeros: NaN times a gradient of 0 would be NaN."""
        unlabelled = labels.isnan()
        binary = torch.where(self.is_number, 0.0, labels)
        standard = (labels.masked_fill(unlabelled, 0.0) - self.mean) / self.deviation
        error = torch.where(self.is_number & ~unlabelled, logits - standard, 0.0)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, binary, reduction="none")
        return torch.where(self.is_number, error.square() / 2, cross_entropy)

    def values(self, logits: Tensor) -> Tensor:
        """[T, tasks] -> probabilities of binary labels, values of number labels; of float64 logits in float64."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not self.has_numbers:
            return logits.sigmoid()
        return torch.where(self.is_number, self.mean + self.deviation * logits, logits.sigmoid())

    def prior(self, rates: Tensor) -> Tensor:
        """Observed rates [tasks], of which those of number labels are ignored -> the outputs to start at: [tasks]."""
        return torch.where(self.is_number, 0.0, torch.logit(rates.clamp(1e-4, 1 - 1e-4)))
