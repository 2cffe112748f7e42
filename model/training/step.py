"""What is one step of training? Forward, backward, gradients of all ranks summed and clipped, both optimisers.

Nothing here waits for the device, save for what ranks exchange.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.config import TrainingConfig
from longreel.model.nn.ranker import Ranker, ranking_loss
from longreel.model.training.collisions import Collisions, RowCensus
from longreel.model.training.cuda_graphs import GraphedBackward, wants_graphs
from longreel.model.training.device_loader import Fed
from longreel.model.training.distributed import Ranks, row_counts
from longreel.model.training.flops import training_flops
from longreel.model.training.optimizer import Optimizers, clip_gradients

_OPTIMIZERS, _CENSUS = "optimizers.", "census."


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A step that was given to the device."""

    loss: Tensor  # of the whole batch, on the device
    gradient_norm: Tensor  # before clipping, on the device
    flops: float  # of all ranks
    stop: bool  # whether any rank was asked to stop


def dropout_seed(seed: int, rank: int, step: int) -> int:
    """What a rank's dropout depends on at a step, and on nothing else: exact resume.

    The CPU's generator heeds only the low 32 bits, CUDA's all of them: the run's seed is in both halves.
    """
    return (seed << 32) + (((rank << 24) + step + 1) ^ (seed * 0x9E3779B1 & 0xFFFFFFFF))


class Stepper:
    """A ranker in training."""

    def __init__(
        self, ranker: Ranker, config: TrainingConfig, total_steps: int, ranks: Ranks, device: torch.device
    ) -> None:
        self.ranker, self._config, self._ranks, self._device = ranker, config, ranks, device
        self._optimizers = Optimizers(ranker, config, total_steps)
        self._census = RowCensus(ranker.embeddings.ids, device)
        graphed = wants_graphs(config, device)
        self._graphed = GraphedBackward(ranker, self._optimizers.parameters) if graphed else None

    @property
    def fill(self) -> tuple[str, ...] | None:
        """What `longreel.model.training.device_loader.feed` is to fill batches up for."""
        return None if self._graphed is None else self.ranker.config.identity

    def take(self, fed: Fed, step: int, stop: bool = False) -> Outcome:
        """Take step `step` (0 ..); `stop` where this rank was asked to."""
        loss = self._backward(fed, step)
        counts = self._ranks.together(*row_counts(self._optimizers.tables), int(stop))
        rows = [each[:-1] for each in counts]
        loss = self._ranks.sum_gradients(self._optimizers.tables, self._optimizers.rest, rows, loss)
        norm = clip_gradients(self._optimizers.parameters, self._config.clip_norm)
        self._optimizers.step(step)
        share = fed.share
        flops = training_flops(
            self.ranker.config,
            requests=share.num_requests,
            events=share.num_events,
            targets=share.num_targets,
            pairs=share.num_pairs,
            tasks=len(self.ranker.tasks),
        )
        return Outcome(loss=loss, gradient_norm=norm, flops=flops, stop=any(each[-1] for each in counts))

    def _backward(self, fed: Fed, step: int) -> Tensor:
        """Gradients of this rank's share; its part of the loss."""
        seed = dropout_seed(self._config.seed, self._ranks.rank, step)
        torch.manual_seed(seed)
        self._optimizers.zero_grad()
        batch = fed.take()
        if not batch.num_targets:
            return torch.zeros((), device=self._device)
        self._census.count(batch)
        if self._graphed is not None and fed.filled is not None and batch.rows is not None:
            return self._graphed(fed.filled, batch.rows, seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self.ranker(batch)
        loss = ranking_loss(logits, batch.labels, fed.share.num_targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def collisions(self) -> list[Collisions]:
        """What all ranks' lookups shared so far."""
        return self._merged().report()

    def _merged(self) -> RowCensus:
        census = RowCensus(self.ranker.embeddings.ids, self._device)
        census.load(dict(zip(census.tensors(), self._ranks.merge(*self._census.tensors().values()), strict=True)))
        return census

    def tensors(self) -> dict[str, Tensor]:
        """All state besides the weights, of all ranks together."""
        named = {_OPTIMIZERS + name: value for name, value in self._optimizers.tensors().items()}
        return named | {_CENSUS + name: value for name, value in self._merged().tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave, on any number of ranks."""
        parts: dict[str, dict[str, Tensor]] = {_OPTIMIZERS: {}, _CENSUS: {}}
        for name, value in tensors.items():
            prefix = next(p for p in parts if name.startswith(p))
            parts[prefix][name.removeprefix(prefix)] = value
        self._optimizers.load(parts[_OPTIMIZERS])
        if self._ranks.is_first:  # it speaks for all that was counted so far
            self._census.load(parts[_CENSUS])
