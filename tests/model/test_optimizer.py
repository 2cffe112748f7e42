"""Row-wise Adagrad moves what its formula says and touches nothing else; clipping counts sparse gradients too."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from longreel.contracts.config import Config
from longreel.model.data.lookup import row_gradient
from longreel.model.nn.ranker import Ranker
from longreel.model.training.optimizer import EPS, Optimizers, RowwiseAdagrad, clip_gradients, learning_rate, warm_up

ROWS, WIDTH = 40, 3


def gradients(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(steps):
        rows = torch.randperm(ROWS, generator=generator)[:7].sort().values
        batches.append((rows, torch.randn(7, WIDTH, generator=generator)))
    return batches


def test_steps_equal_the_formula_row_by_row() -> None:
    table = nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)))
    expected, total = table.detach().double().clone(), [0.0] * ROWS
    optimizer = RowwiseAdagrad([table], lr=0.3)
    for rows, values in gradients(6):
        table.grad = row_gradient(rows, values, table.shape)
        optimizer.step()
        for row, value in zip(rows.tolist(), values.double(), strict=True):
            total[row] += float((value**2).sum() / WIDTH)
            expected[row] -= 0.3 * value / (total[row] ** 0.5 + EPS)
    torch.testing.assert_close(table.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_sparse_steps_equal_dense_ones_and_leave_other_rows_alone() -> None:
    start = torch.randn(ROWS, WIDTH)
    sparse, dense = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    on_sparse, on_dense = RowwiseAdagrad([sparse], lr=0.1), RowwiseAdagrad([dense], lr=0.1)
    touched = set()
    for rows, values in gradients(5):
        sparse.grad = row_gradient(rows, values, sparse.shape)
        dense.grad = sparse.grad.to_dense()
        on_sparse.step()
        on_dense.step()
        touched |= set(rows.tolist())
    torch.testing.assert_close(sparse, dense)
    rest = sorted(set(range(ROWS)) - touched)
    assert rest
    assert torch.equal(sparse[rest], start[rest])
    assert on_sparse.state[sparse]["sum"].shape == (ROWS,)


def test_clipping_takes_the_norm_over_sparse_and_dense_gradients() -> None:
    table, dense = nn.Parameter(torch.zeros(ROWS, WIDTH)), nn.Parameter(torch.zeros(5))
    rows, values = gradients(1)[0]
    for limit in (0.5, 1e6):
        table.grad, dense.grad = row_gradient(rows, values.clone(), table.shape), torch.arange(5.0)
        copies = [nn.Parameter(torch.zeros_like(p)) for p in (table, dense)]
        copies[0].grad, copies[1].grad = table.grad.to_dense().clone(), dense.grad.clone()
        expected = nn.utils.clip_grad_norm_(copies, limit)
        torch.testing.assert_close(clip_gradients([table, dense, nn.Parameter(torch.zeros(1))], limit), expected)
        torch.testing.assert_close(table.grad.to_dense(), copies[0].grad)
        torch.testing.assert_close(dense.grad, copies[1].grad)


def test_adagrad_is_warmed_up_and_then_left_to_lower_its_rate_itself() -> None:
    assert [warm_up(step, 100, 0.1) for step in range(10)] == [learning_rate(step, 100, 0.1) for step in range(10)]
    assert {warm_up(step, 100, 0.1) for step in range(9, 100)} == {1.0}


@pytest.mark.parametrize("tables", ["rowwise_adagrad", "adamw"])
def test_state_put_away_and_taken_up_again_goes_on_to_the_same_bits(
    config: Config, make_ranker: Callable[..., Ranker], tables: str
) -> None:
    training = replace(config.training, table_optimizer=tables)
    rankers = [make_ranker(config.model) for _ in range(2)]
    rankers[1].load_state_dict(rankers[0].state_dict())
    first, second = (Optimizers(ranker, training, 100) for ranker in rankers)

    def step(optimizers: Optimizers, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in optimizers.rest:
            p.grad = torch.randn(p.shape, generator=generator)
        for p in optimizers.tables:
            rows = torch.tensor([1, 5, 9 + seed])
            p.grad = row_gradient(rows, torch.randn(3, p.shape[1], generator=generator), p.shape)
        optimizers.step(seed)

    step(first, 0)
    second.load({name: value.clone() for name, value in first.tensors().items()})
    rankers[1].load_state_dict(rankers[0].state_dict())
    for optimizers in (first, second):
        step(optimizers, 1)
    state = rankers[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in rankers[1].state_dict().items())
    kept = sum(t.numel() for name, t in first.tensors().items() if name.startswith("tables"))
    entries = sum(p.numel() for p in first.tables)
    assert (kept < entries / 4) == (tables == "rowwise_adagrad")  # one number a row against two an entry
