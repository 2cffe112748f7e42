"""Optimisers: row-wise Adagrad on the hashed tables, AdamW on everything else.

A step reads and writes only the table rows that its batch looked up: its cost does not depend on the tables' sizes. The
accumulator is one number per row (as in FBGEMM's exact row-wise Adagrad; Duchi et al. 2011 with the mean over
a row's width), so that optimiser state is a small share of a table.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from longreel.contracts.config import TrainingConfig
from longreel.model.nn.ranker import Ranker

EPS = 1e-8
CONTEXT_RATE_FACTOR = 10.0  # over the other weights' rate: a row of the context table learns from a part of the events
FINAL_LR_SHARE = 0.05  # where the cosine ends


def learning_rate(step: int, total: int, warmup_share: float) -> float:
    """Factor of the configured rate at `step` (0 ..): linear warmup, then a cosine down to FINAL_LR_SHARE."""
    warmup = max(1, round(warmup_share * total))
    done = max(0, step - warmup) / max(1, total - warmup)
    cosine = FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
    return cosine if step >= warmup else warm_up(step, total, warmup_share)


def warm_up(step: int, total: int, warmup_share: float) -> float:
    """Factor of Adagrad's rate at `step` (0 ..): the warmup alone; its accumulators lower the rate by themselves."""
    return min(1.0, (step + 1) / max(1, round(warmup_share * total)))


class RowwiseAdagrad(torch.optim.Optimizer):
    """s_r += mean(g_r^2);  w_r -= lr g_r / (sqrt(s_r) + eps), for the rows r that have a gradient.

    The rows of a sparse gradient must be distinct, as model/data/lookup.py makes them. A dense gradient gives the same
    weights, slowly: a row of zeros moves nothing.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"] = torch.zeros(p.shape[0], device=p.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                total: Tensor = self.state[p]["sum"]
                if not p.grad.is_sparse:
                    total += p.grad.square().mean(dim=1)
                    p.sub_((group["lr"] / (total.sqrt() + EPS))[:, None] * p.grad)
                    continue
                rows, values = p.grad._indices()[0], p.grad._values()
                touched = total[rows] + values.square().mean(dim=1)
                total.index_copy_(0, rows, touched)
                p.index_copy_(0, rows, p[rows] - (group["lr"] / (touched.sqrt() + EPS))[:, None] * values)


class Optimizers:
    """The optimisers of tables and of all other weights as one."""

    def __init__(self, ranker: Ranker, config: TrainingConfig, total_steps: int) -> None:
        self.tables, self.rest = list(ranker.table_parameters()), list(ranker.dense_parameters())
        self._rates = (config.table_learning_rate, config.learning_rate)
        self._dense_tables = config.table_optimizer == "adamw"
        schedules = (learning_rate if self._dense_tables else warm_up, learning_rate)
        self._schedules = [
            partial(schedule, total=total_steps, warmup_share=config.warmup_share) for schedule in schedules
        ]
        on_tables: torch.optim.Optimizer = (
            torch.optim.AdamW(self.tables, lr=config.table_learning_rate, weight_decay=0.0, fused=True)
            if self._dense_tables
            else RowwiseAdagrad(self.tables, config.table_learning_rate)
        )
        context = ranker.embeddings.context
        others = [p for p in self.rest if p is not context]
        groups = [
            {"params": others, "rate_factor": 1.0, "weight_decay": config.weight_decay},
            {"params": [context], "rate_factor": CONTEXT_RATE_FACTOR, "weight_decay": 0.0},
        ]
        on_rest = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self._both = (on_tables, on_rest)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters: tables first."""
        return [*self.tables, *self.rest]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self, step: int) -> None:
        """Take step `step` (0 ..) at its scheduled rates."""
        if self._dense_tables:
            for p in self.tables:
                if p.grad is not None and p.grad.is_sparse:
                    p.grad = p.grad.to_dense()
        for optimizer, rate, schedule in zip(self._both, self._rates, self._schedules, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = schedule(step) * rate * group.get("rate_factor", 1.0)
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        named: dict[str, Tensor] = {}
        for name, optimizer in zip(("tables", "rest"), self._both, strict=True):
            for index, state in optimizer.state_dict()["state"].items():
                named |= {f"{name}.{index}.{slot}": value for slot, value in state.items()}
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for name, optimizer in zip(("tables", "rest"), self._both, strict=True):
            state = optimizer.state_dict()
            state["state"] = {}
            for key, value in tensors.items():
                owner, index, slot = key.split(".", 2)
                if owner == name:
                    state["state"].setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict(state)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients, sparse ones too, to a global norm of at most `max_norm`; returns the norm before.

    The norm stays on the device: the host does not wait for it.
    """
    parts = [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))
    torch._foreach_mul_(parts, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
