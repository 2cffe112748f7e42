"""Training step: forward, backward, gradients of all ranks summed and clipped, both optimisers.

Nothing here waits for the device, except for what ranks exchange.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.config import TrainingConfig
from longreel.model.data.reader import RankBatch
from longreel.model.nn.ranker import Ranker
from longreel.model.training.collisions import CollisionCounter, Collisions
from longreel.model.training.cuda_graphs import GraphedBackward, wants_graphs
from longreel.model.training.device_loader import DeviceBatch
from longreel.model.training.distributed import DistContext, row_counts
from longreel.model.training.flops import training_flops
from longreel.model.training.optimizer import Optimizers, clip_gradients

_OPTIMIZERS, _COLLISIONS = "optimizers.", "collisions."


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """A step that was given to the device. Reading its loss or gradient norm waits until the device has them."""

    step: int  # 1 ..
    rank_batch: RankBatch
    flops: float  # of all ranks
    stop_requested: bool  # whether any rank was asked to stop
    save_requested: bool  # whether any rank asks for a checkpoint
    values: Tensor  # [2] on the host: loss and gradient norm
    ready: torch.cuda.Event | None  # recorded once `values` is filled; None where that is already so

    @staticmethod
    def of(
        *,
        step: int,
        rank_batch: RankBatch,
        flops: float,
        stop_requested: bool,
        save_requested: bool,
        loss: Tensor,
        gradient_norm: Tensor,
    ) -> "StepResult":
        """A result whose loss and gradient norm are copied to the host without waiting."""
        values, ready = torch.stack([loss.detach().float(), gradient_norm.detach().float()]), None
        if values.is_cuda:
            values = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return StepResult(
            step=step,
            rank_batch=rank_batch,
            flops=flops,
            stop_requested=stop_requested,
            save_requested=save_requested,
            values=values,
            ready=ready,
        )

    @property
    def loss(self) -> float:
        """Mean loss of the whole batch."""
        return self._value(0)

    @property
    def gradient_norm(self) -> float:
        """Norm of all gradients before clipping."""
        return self._value(1)

    def _value(self, place: int) -> float:
        if self.ready is not None:
            self.ready.synchronize()
        return float(self.values[place])


def dropout_seed(seed: int, rank: int, step: int) -> int:
    """The seed of a rank's dropout at a step, which depends on nothing else: exact resume.

    The CPU's generator uses only the low 32 bits, CUDA's all of them: the run's seed is in both halves.
    """
    return (seed << 32) + (((rank << 24) + step + 1) ^ (seed * 0x9E3779B1 & 0xFFFFFFFF))


class TrainStep:
    """A ranker, its optimisers, and the step that trains it."""

    def __init__(
        self, ranker: Ranker, config: TrainingConfig, total_steps: int, ranks: DistContext, device: torch.device
    ) -> None:
        self.ranker, self._config, self._ranks, self._device = ranker, config, ranks, device
        self._optimizers = Optimizers(ranker, config, total_steps)
        self._collisions = CollisionCounter(ranker.embeddings, device)
        graphed = wants_graphs(config, device)
        self._graphed = GraphedBackward(ranker, self._optimizers.parameters) if graphed else None

    @property
    def pad_fields(self) -> tuple[str, ...] | None:
        """The id fields that padded batches keep, where steps need padded batches (device_loader.py); else None."""
        return None if self._graphed is None else self.ranker.log_schema.match_fields

    def run(
        self, device_batch: DeviceBatch, step: int, requests: Callable[[], tuple[bool, bool]] = lambda: (False, False)
    ) -> StepResult:
        """Give step `step` (0 ..) to the device. `requests`, called late in it: whether this rank is to stop, and to
        save, after the step."""
        loss = self._backward(device_batch, step)
        counts = self._ranks.all_gather_ints(*row_counts(self._optimizers.tables), *map(int, requests()))
        table_rows = [rank_counts[:-2] for rank_counts in counts]
        loss = self._ranks.sum_gradients(self._optimizers.tables, self._optimizers.rest, table_rows, loss)
        norm = clip_gradients(self._optimizers.parameters, self._config.clip_norm)
        self._optimizers.step(step)
        batch = device_batch.rank_batch
        flops = training_flops(
            self.ranker.config,
            self.ranker.log_schema,
            requests=batch.num_requests,
            events=batch.num_events,
            targets=batch.num_targets,
            pairs=batch.num_pairs,
            tasks=len(self.ranker.tasks),
        )
        return StepResult.of(
            step=step + 1,
            rank_batch=batch,
            flops=flops,
            stop_requested=any(rank_counts[-2] for rank_counts in counts),
            save_requested=any(rank_counts[-1] for rank_counts in counts),
            loss=loss,
            gradient_norm=norm,
        )

    def _backward(self, device_batch: DeviceBatch, step: int) -> Tensor:
        """Compute the gradients of this rank's batch; returns its part of the loss."""
        seed = dropout_seed(self._config.seed, self._ranks.rank, step)
        torch.manual_seed(seed)
        self._optimizers.zero_grad()
        batch = device_batch.on_current_stream()
        if not batch.num_targets:
            return torch.zeros((), device=self._device)
        self._collisions.count(batch)
        if self._graphed is not None and device_batch.padded is not None and batch.rows is not None:
            return self._graphed(device_batch.padded, batch.rows, seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self.ranker(batch)
        loss = self.ranker.loss(logits, batch.labels, device_batch.rank_batch.num_targets)
        loss.backward()
        return loss.detach()

    def collisions(self) -> list[Collisions]:
        """Collisions over all ranks' lookups so far, by feature."""
        return self._merged_collisions().report()

    def _merged_collisions(self) -> CollisionCounter:
        merged = CollisionCounter(self.ranker.embeddings, self._device)
        low, high, lookups = self._ranks.reduce_min_max_sum(*self._collisions.tensors().values())
        merged.load({"low": low, "high": high, "lookups": lookups})
        return merged

    def tensors(self) -> dict[str, Tensor]:
        """All state besides the weights, merged over ranks, by name."""
        named = {_OPTIMIZERS + name: value for name, value in self._optimizers.tensors().items()}
        return named | {_COLLISIONS + name: value for name, value in self._merged_collisions().tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave, on any number of ranks."""
        parts: dict[str, dict[str, Tensor]] = {_OPTIMIZERS: {}, _COLLISIONS: {}}
        for name, value in tensors.items():
            prefix = next(p for p in parts if name.startswith(p))
            parts[prefix][name.removeprefix(prefix)] = value
        self._optimizers.load(parts[_OPTIMIZERS])
        if self._ranks.is_main:  # counts are merged over ranks: one rank holds those of before the resume
            self._collisions.load(parts[_COLLISIONS])
