"""How does a step run without the host? Forward and backward as one CUDA graph for each shape, replayed.

A step is hundreds of launches, most of them small, which cost the host more than the device. A graph is recorded at the
first batch of a shape and replayed for the others: only their values are copied in. Batches come filled up to few
shapes (model/training/padding.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import TrainingConfig
from longreel.model.data.lookup import BatchRows, row_gradient
from longreel.model.nn.ranker import Ranker
from longreel.model.training.padding import Filled, Shape

MAX_GRAPHS = 96  # of a run; each keeps its own inputs, all share what lies between and the gradients
WARM_UP = 1  # passes before a recording, in which kernels of this shape are compiled, chosen and loaded


def wants_graphs(config: TrainingConfig, device: torch.device) -> bool:
    """Only on CUDA, and where nothing is recomputed, which keeps random states that a graph cannot."""
    return config.graphs and device.type == "cuda" and not config.recompute


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy summed over tasks, each target with its weight: `ranking_loss` where weights are 1 / T."""
    each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (each.sum(-1) * weights).sum()


def loss_and_gradients(
    ranker: Ranker, parameters: Sequence[nn.Parameter], filled: Filled
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of a filled batch, and the gradient of each parameter (None where the loss does not depend on it)."""
    device = filled.weights.device
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(filled.batch)
    loss = weighted_loss(logits, filled.batch.labels, filled.weights)
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    gradients: list[Tensor | None]  # of tables, the values of their rows


class GraphedBackward:
    """Gradients of filled batches; the first batch of a shape records."""

    def __init__(self, ranker: Ranker, parameters: Sequence[nn.Parameter]) -> None:
        self._ranker, self._parameters = ranker, list(parameters)
        self._tables = {id(p) for p in ranker.table_parameters()}
        self._recorded: dict[Shape, _Recorded] = {}
        self._results: dict[tuple[int, torch.Size], Tensor] = {}  # where all graphs of a shape leave a gradient
        self._loss: Tensor | None = None
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # memory for what lies between inputs and gradients

    def __call__(self, filled: Filled, rows: BatchRows, seed: int) -> Tensor:
        """Set every parameter's gradient, those of tables cut back to the batch's own `rows`; dropout follows `seed`.

        Returns the loss; it and the gradients stay valid until the next call.
        """
        recorded = self._recorded.get(filled.shape)
        if recorded is None and len(self._recorded) < MAX_GRAPHS:
            recorded = self._recorded[filled.shape] = self._record(filled)
        torch.manual_seed(seed)  # after recording, whose passes draw numbers too
        if recorded is None or self._loss is None:  # more shapes than expected: nothing is lost but speed
            loss, found = loss_and_gradients(self._ranker, self._parameters, filled)
            gradients = [None if v is None else v.contiguous() for v in _values(found)]
        else:
            _copy(recorded.inputs, filled.tensors())
            recorded.graph.replay()
            loss, gradients = self._loss, recorded.gradients
        own = iter((rows.unique, rows.user_unique))
        for p, gradient in zip(self._parameters, gradients, strict=True):
            unique = next(own) if id(p) in self._tables else None
            if unique is None or gradient is None:
                p.grad = gradient
            else:
                p.grad = row_gradient(unique, gradient[: len(unique)], p.shape)
        return loss

    def _record(self, filled: Filled) -> _Recorded:
        static = Filled(shape=filled.shape, batch=filled.batch.map(torch.clone), weights=filled.weights.clone())
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                self._leave(static)
            self._stream.synchronize()
            # As torch.cuda.graph does, but for emptying the allocators' caches at each of dozens of shapes. Only this
            # thread is held to what a recording allows: another one reads ahead.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                gradients = self._leave(static)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return _Recorded(graph, static.tensors(), gradients)

    def _leave(self, static: Filled) -> list[Tensor | None]:
        """Run a batch and leave loss and gradients where they do not move."""
        loss, found = loss_and_gradients(self._ranker, self._parameters, static)
        values = _values(found)
        kept = [None if v is None else self._result(i, v) for i, v in enumerate(values)]
        torch._foreach_copy_([k for k in kept if k is not None], [v for v in values if v is not None])
        if self._loss is None:
            self._loss = torch.empty_like(loss)
        self._loss.copy_(loss)
        return kept

    def _result(self, parameter: int, like: Tensor) -> Tensor:
        key = (parameter, like.shape)
        if key not in self._results:
            # Contiguous as parameters are, whatever the gradient's strides: the fused optimiser takes no others.
            self._results[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._results[key]


def _values(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients, of tables the values of their rows."""
    return [None if g is None else g._values() if g.is_sparse else g for g in gradients]


def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    """Copy tensors pairwise, one launch or two for each type."""
    for kind in {tensor.dtype for tensor in into}:
        pairs = [(a, b) for a, b in zip(into, values, strict=True) if a.dtype == kind]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
