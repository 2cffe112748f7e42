"""Stacked Target-to-history Cross Attention (arXiv 2511.06077): a target matched with a long history.

Cost is linear in the history: targets attend to events, events never to each other. Equations: docs/method.md.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.model.nn.attention import AttentionPlan, Requests, plan_attention
from longreel.model.nn.history_encoder import Encoded, encode_history
from longreel.model.nn.id_match import IdMatchBias
from longreel.model.nn.layer import Layer, feed_forward


class QueryFusion(nn.Sequential):
    """LN(SwiGLU([o(1) .. o(i), x_t] W_C)): the next query."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        d = config.width
        super().__init__(nn.Linear((outputs + 1) * d, d, bias=False), feed_forward(config), nn.LayerNorm(d))


class STCA(nn.Module):
    """M layers. Layer i reads LN(SwiGLU_i(X)), always from the raw history X; the query of layer i + 1 is fused from
    all earlier outputs and the target; there is no residual path and no LayerNorm on the result z.

    Args:
        match_fields: the number of ids that attention compares between target and event.
    """

    def __init__(self, config: ModelConfig, match_fields: int) -> None:
        super().__init__()
        d = config.width
        self.layers = nn.ModuleList(Layer(config, match_fields > 0) for _ in range(config.layers))
        self.first_query = feed_forward(config)
        self.first_norm = nn.LayerNorm(d)
        self.fusions = nn.ModuleList(QueryFusion(config, i + 1) for i in range(config.layers - 1))
        self.collect = nn.Linear((config.layers + 1) * d, d, bias=False)  # W_Z
        self.collect_glu = feed_forward(config)
        self.id_match = IdMatchBias(config, match_fields) if match_fields else None

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        requests: Requests,
        ids: tuple[Tensor, Tensor] | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """target x_t [T, D], history X [H, D], ids of (targets, events) [T, C] and [H, C] where ids are matched
        -> z [T, D]. `backend`: one of model.nn.attention.BACKENDS.
        """
        plan = self.plan(target, history, requests, ids, backend)
        layers, outputs = self.all_layers(), list[Tensor]()  # o(1) .. o(i)
        with plan.side_stream.work():
            query = self.first_norm(self.first_query(target))  # q(1)
            q = layers[0].queries(query, plan.folded[0])
        for i, (kv, rstd) in enumerate(self.encode(history, plan)):  # X(i) W_K and X(i) W_V
            values, match_weight = plan.attend(i, q, kv, rstd)
            with plan.side_stream.work():
                outputs.append(layers[i].gather(values, match_weight, plan.has_history, plan.folded[i]))
                if i < len(self.fusions):
                    query = self.fusions[i](torch.cat([*outputs, target], dim=-1))  # q(i+1)
                    q = layers[i + 1].queries(query, plan.folded[i + 1])
        with plan.side_stream.work():
            z: Tensor = self.collect_glu(self.collect(torch.cat([*outputs, target], dim=-1)))
        plan.side_stream.join()
        return z

    def plan(
        self, target: Tensor, history: Tensor, requests: Requests, ids: tuple[Tensor, Tensor] | None, backend: str
    ) -> AttentionPlan:
        """How all layers attend; arguments as in `forward`."""
        layers = self.all_layers()
        matches = [None] * len(layers) if ids is None or self.id_match is None else self.id_match(*ids)
        return plan_attention(
            backend,
            target,
            history,
            requests,
            matches,
            heads=layers[0].heads,
            fold=lambda: [layer.folded() for layer in layers],
        )

    def encode(self, history: Tensor, plan: AttentionPlan) -> Iterator[Encoded]:
        """X [H, D] -> what attention reads in every layer, see `encode_history`."""
        return encode_history(self.all_layers(), history, plan)

    def all_layers(self) -> list[Layer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]
