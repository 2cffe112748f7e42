"""Compiled parts give the eager model, and batches of other shapes compile nothing again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from longreel.contracts.config import Config
from longreel.contracts.log_schema import LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.compile import checkpoint_activations, compile_blocks, compile_now, wants_compile
from longreel.model.training.device_loader import RowLookup

TASKS = ("click", "like")


@pytest.fixture
def batches(
    config: Config, make_ranker: Callable[..., Ranker], sample_rows: Callable[..., SampleRows]
) -> list[RequestBatch]:
    """Of many shapes: other numbers of requests, events and targets."""
    rows = sample_rows(3)
    lookup = RowLookup(make_ranker(config.model).embeddings, torch.device("cpu"))
    sizes = [(12, 48), (30, 16), (7, 8), (40, 64), (23, 24), (35, 40)]
    return [lookup(rows.pack(np.arange(3, 3 + n), window, TASKS)) for n, window in sizes]


def losses_and_gradients(ranker: Ranker, batches: list[RequestBatch]) -> tuple[list[float], dict[str, Tensor]]:
    ranker.zero_grad()
    losses = []
    for batch in batches:
        loss = ranker.loss(ranker(batch), batch.labels)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad.to_dense() for name, p in ranker.named_parameters() if p.grad is not None}


def assert_like(ranker: Ranker, other: Ranker, batches: list[RequestBatch]) -> None:
    (losses, gradients), (losses_2, gradients_2) = (losses_and_gradients(r, batches) for r in (ranker, other))
    assert losses == pytest.approx(losses_2, rel=1e-5)
    assert gradients.keys() == gradients_2.keys()
    for name in gradients:
        torch.testing.assert_close(gradients[name], gradients_2[name], rtol=1e-4, atol=1e-6)


Pair = Callable[[LogSchema], tuple[Ranker, Ranker]]


@pytest.fixture
def pair(config: Config, make_ranker: Callable[..., Ranker]) -> Pair:
    """Two rankers of a log with the same weights."""

    def make(log: LogSchema) -> tuple[Ranker, Ranker]:
        sizes = replace(config.model, dropout=0.0, layers=3)
        plain, other = (make_ranker(sizes, TASKS, log).train() for _ in range(2))
        other.load_state_dict(plain.state_dict())
        return plain, other

    return make


def test_new_shapes_compile_nothing_again_and_give_the_eager_model(
    log_schema: LogSchema, pair: Pair, batches: list[RequestBatch]
) -> None:
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = pair(log_schema)
    compile_blocks(compiled, backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    losses_and_gradients(compiled, batches[:1])
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 4
    assert_like(compiled, plain, batches)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def test_the_compiler_meets_the_same_sizes_whatever_is_trained(
    log_schema: LogSchema, pair: Pair, sample_rows: Callable[..., SampleRows], batches: list[RequestBatch]
) -> None:
    sizes_met: list[list[int]] = []

    def recorder(module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        sizes = [size for tensor in inputs if isinstance(tensor, Tensor) for size in tensor.shape]
        sizes_met.append([size.node.hint if isinstance(size, torch.SymInt) else size for size in sizes])
        return module.forward

    met_by_data = []
    for data, theirs in ((sample_rows(3), batches[:3]), (sample_rows(4), batches[3:])):
        torch._dynamo.reset()
        sizes_met.clear()
        _, ranker = pair(log_schema)
        compile_blocks(ranker, backend=recorder)
        compile_now(ranker, data, torch.device("cpu"))
        assert all(p.grad is None for p in ranker.parameters())
        met_by_data.append(list(sizes_met))
        losses_and_gradients(ranker, theirs)
        assert sizes_met == met_by_data[-1], "what is compiled again has met other sizes"
    assert met_by_data[0] == met_by_data[1]
    assert max(size for sizes in met_by_data[0] for size in sizes) > 50_000


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_layers_keep_less_and_give_the_same_gradients(
    log_schema: LogSchema, pair: Pair, batches: list[RequestBatch], compiled: bool
) -> None:
    unmatched = replace(log_schema, fields=tuple(replace(field, match=False) for field in log_schema.fields))
    plain, recomputed = pair(unmatched)
    checkpoint_activations(recomputed)
    assert kept_bytes(recomputed, batches[3]) < 0.75 * kept_bytes(plain, batches[3])
    if compiled:
        compile_blocks(recomputed, backend="aot_eager")
    assert_like(recomputed, plain, batches[:3])


def kept_bytes(ranker: Ranker, batch: RequestBatch) -> int:
    """What a forward pass keeps for its backward."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = ranker.loss(ranker(batch), batch.labels)
    assert loss.requires_grad
    return sum(kept.values())


def test_auto_compiles_on_cuda_alone(config: Config) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [wants_compile(config.training, d) for d in (cpu, cuda)] == [False, True]
    for setting, expected in (("on", True), ("off", False)):
        assert wants_compile(replace(config.training, compile=setting), cpu) == expected
