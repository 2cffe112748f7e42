"""CUDA graphs: forward and backward captured once per batch shape, then replayed.

A step is hundreds of launches, most of them small, which cost the host more than the device. A graph is captured at the
first batch of a shape and replayed for the others: only their values are copied in. Batches come padded to few shapes
(model/training/padding.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longreel.contracts.config import TrainingConfig
from longreel.model.data.lookup import BatchRows, row_gradient
from longreel.model.nn.ranker import Ranker
from longreel.model.training.padding import PaddedBatch, Shape

MAX_GRAPHS = 96  # of a run; each keeps its own inputs, all share activations and gradients
WARM_UP = 1  # passes before a capture, in which kernels of this shape are compiled, chosen and loaded


def wants_graphs(config: TrainingConfig, device: torch.device) -> bool:
    """Only on CUDA, and without activation checkpointing, which keeps random states that a graph cannot."""
    return config.cuda_graphs and device.type == "cuda" and not config.activation_checkpointing


def loss_and_gradients(
    ranker: Ranker, parameters: Sequence[nn.Parameter], padded: PaddedBatch
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of a padded batch, and the gradient of each parameter (None where the loss does not depend on it)."""
    device = padded.weights.device
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(padded.batch)
    loss = (ranker.losses(logits, padded.batch.labels) * padded.weights).sum()  # `Ranker.loss` of weights 1 / T
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


@dataclass(frozen=True)
class _CapturedGraph:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    gradients: list[Tensor | None]  # of tables: the values of their rows


class GraphedBackward:
    """Gradients of padded batches; the first batch of a shape captures a graph."""

    def __init__(self, ranker: Ranker, parameters: Sequence[nn.Parameter]) -> None:
        self._ranker, self._parameters = ranker, list(parameters)
        self._tables = {id(p) for p in ranker.table_parameters()}
        self._graphs: dict[Shape, _CapturedGraph] = {}
        self._gradient_buffers: dict[tuple[int, torch.Size], Tensor] = {}  # shared by all graphs
        self._loss: Tensor | None = None
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()  # memory of activations

    def __call__(self, padded: PaddedBatch, rows: BatchRows, seed: int) -> Tensor:
        """Set every parameter's gradient, those of tables without the padding behind `rows`; dropout follows `seed`.

        Returns the loss; it and the gradients stay valid until the next call.
        """
        captured = self._graphs.get(padded.shape)
        if captured is None and len(self._graphs) < MAX_GRAPHS:
            captured = self._graphs[padded.shape] = self._capture(padded)
        torch.manual_seed(seed)  # after the capture, whose passes draw numbers too
        if captured is None or self._loss is None:  # more shapes than expected: nothing is lost but speed
            loss, computed = loss_and_gradients(self._ranker, self._parameters, padded)
            gradients = [None if v is None else v.contiguous() for v in _values(computed)]
        else:
            _copy(captured.inputs, padded.tensors())
            captured.graph.replay()
            loss, gradients = self._loss, captured.gradients
        table_rows = iter((rows.unique, rows.user_unique))
        for p, gradient in zip(self._parameters, gradients, strict=True):
            unique = next(table_rows) if id(p) in self._tables else None
            if unique is None or gradient is None:
                p.grad = gradient
            else:
                p.grad = row_gradient(unique, gradient[: len(unique)], p.shape)
        return loss

    def _capture(self, padded: PaddedBatch) -> _CapturedGraph:
        static = PaddedBatch(shape=padded.shape, batch=padded.batch.map(torch.clone), weights=padded.weights.clone())
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                self._run_into_buffers(static)
            self._stream.synchronize()
            # As torch.cuda.graph does, but for emptying the allocators' caches at each of dozens of shapes. Only this
            # thread is restricted during the capture: another one reads ahead.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                gradients = self._run_into_buffers(static)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return _CapturedGraph(graph, static.tensors(), gradients)

    def _run_into_buffers(self, static: PaddedBatch) -> list[Tensor | None]:
        """Run a batch and copy its loss and gradients into buffers whose addresses do not change."""
        loss, gradients = loss_and_gradients(self._ranker, self._parameters, static)
        values = _values(gradients)
        kept = [None if v is None else self._gradient_buffer(i, v) for i, v in enumerate(values)]
        torch._foreach_copy_([k for k in kept if k is not None], [v for v in values if v is not None])
        if self._loss is None:
            self._loss = torch.empty_like(loss)
        self._loss.copy_(loss)
        return kept

    def _gradient_buffer(self, parameter: int, like: Tensor) -> Tensor:
        key = (parameter, like.shape)
        if key not in self._gradient_buffers:
            # Contiguous as parameters are, whatever the gradient's strides: the fused optimiser takes no others.
            self._gradient_buffers[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._gradient_buffers[key]


def _values(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients, of tables the values of their rows."""
    return [None if g is None else g._values() if g.is_sparse else g for g in gradients]


def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    """Copy tensors pairwise, one launch or two for each type."""
    for kind in {tensor.dtype for tensor in into}:
        pairs = [(a, b) for a, b in zip(into, values, strict=True) if a.dtype == kind]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
