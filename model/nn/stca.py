"""How is a target matched with a long history? Stacked Target-to-history Cross Attention (arXiv 2511.06077).

Cost is linear in the history: targets attend to events, events never to each other. Equations: docs/method.md.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.contracts.schemas import UNKNOWN
from longreel.model.data.batch import segment_ids
from longreel.model.kernels import can_run
from longreel.model.kernels.side_stream import Aside
from longreel.model.nn.attention import HALVES, TILE_WIDTH, ComparedIds, compute_dtype, cross_attention, plan_attention
from longreel.model.nn.id_match import IdentityMatch
from longreel.model.nn.sink import SinkRows, leave_sink, turn_to_sink


class SwiGLU(nn.Module):
    """((x W_u) * Swish(x W_v)) W_o, with W_u and W_v [d_in, r D] and W_o [r D, D]; no biases."""

    def __init__(self, width_in: int, width: int, expansion: int) -> None:
        super().__init__()
        self.up_gate = nn.Linear(width_in, 2 * expansion * width, bias=False)  # W_u and W_v side by side
        self.out = nn.Linear(expansion * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] -> [..., D]."""
        up, gate = self.up_gate(x).chunk(2, dim=-1)
        out: Tensor = self.out(up * F.silu(gate))
        return out


def gelu_width(width: int, expansion: int) -> int:
    """The hidden width that gives GELUNetwork as many weights as SwiGLU has."""
    return 3 * expansion * width // 2


class GELUNetwork(nn.Sequential):
    """What stands in SwiGLU's place where it is switched off: GELU(x W_u) W_o, without the gate; no biases."""

    def __init__(self, width_in: int, width: int, expansion: int) -> None:
        hidden = gelu_width(width, expansion)
        super().__init__(nn.Linear(width_in, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False))


def feed_forward(config: ModelConfig) -> SwiGLU | GELUNetwork:
    """The network d -> d that encodes events, forms queries and gathers what was read."""
    return (SwiGLU if config.swiglu else GELUNetwork)(config.width, config.width, config.expansion)


class Layer(nn.Module):
    """One layer's history encoder and its attention weights.

    The encoded history x^ is LayerNorm's output before its own weight and bias. Both are folded into small matrices:
    the weight into W_K and W_V, the bias into a constant of V: every read adds it once (in a score it cancels out).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.encode = feed_forward(config)
        self.encode_norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)  # W_K and W_V side by side
        matches = config.heads if config.identity else 0  # how much of each head fell on equal ids
        self.out = nn.Linear(d + matches, d, bias=False)  # W_O
        self.sink = nn.Parameter(torch.zeros(config.heads)) if config.sink else None

        self._kept: dict[object, tuple[object, tuple[Tensor, ...]]] = {}

    def _derived(self, name: object, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `make` makes of parameters: anew where gradients are wanted, else kept until one of them changes."""
        if torch.is_grad_enabled() or (parameters := list(self.parameters()))[0].is_inference():
            return make()
        key = [(each._version, each.data_ptr(), each.dtype) for each in parameters]
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = (key, make())
        return self._kept[name][1]

    def folded(self) -> tuple[Tensor, ...]:
        """W_K over W_V [2 D, D] with the norm's weight in it, and what its bias adds to keys and values [2 D]."""
        return self._derived("folded", self._fold)

    def encoder(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What the kernel from events to keys and values takes: SwiGLU's weights, W_K over W_V, and their constant."""
        from longreel.model.kernels.swiglu_layernorm import by_turns

        def make() -> tuple[Tensor, ...]:
            assert isinstance(self.encode, SwiGLU)
            up_gate, out = self.encode.up_gate.weight.to(dtype), self.encode.out.weight.to(dtype)
            weight, constant = self.folded()
            return by_turns(up_gate, out.shape[1]), out, weight.to(dtype), constant

        return self._derived(dtype, make)

    def _fold(self) -> tuple[Tensor, Tensor]:
        weight, scale, shift = self.key_value.weight, self.encode_norm.weight, self.encode_norm.bias
        constant = (weight[len(weight) // 2 :] * shift).sum(-1)
        return weight * scale, torch.cat([torch.zeros_like(constant), constant])

    def keys_values(self, events: Tensor, form: str) -> Tensor:
        """What attention reads of x^ [H, D]: keys and values [H, 2, N, Dh], or (absorbed) the events [H, 1, 1, D]."""
        if form == "absorbed":
            return events[:, None, None]
        made: Tensor = F.linear(events, *self.folded()).unflatten(-1, (2, self.heads, -1))
        return made

    def queries(self, query: Tensor, folded: tuple[Tensor, ...] | None) -> Tensor:
        """query [T, D] -> q [T, N, Dh], or by what is `folded` taken into the events' space, [T, N, D] (absorbed)."""
        q = self.query(query).unflatten(-1, (self.heads, -1))
        if folded is not None:
            w_k = folded[0].unflatten(0, (2, self.heads, -1))[0]
            q, width = torch.einsum("tnd,ndc->tnc", q, w_k), q.shape[-1]
            if self.sink is not None:
                q = turn_to_sink(q, self.sink, width**-0.5)
        out: Tensor = q
        return out

    def gather(self, values: Tensor, hits: Tensor | None, seen: Tensor, folded: tuple[Tensor, ...] | None) -> Tensor:
        """What was read -> o [T, D].

        Args:
            values: [T, N, Dh]; or [T, N, D] in the events' space, from their sinks too if there are any (absorbed).
            hits: the weights on equal ids [T, N].
            seen: [T], 1 where there is history.
            folded: what `folded` gave, where values lie in the events' space.
        """
        if folded is not None:
            weight, constant = folded
            w_v, weight_read = weight.unflatten(0, (2, self.heads, -1))[1], seen[:, None, None]
            if self.sink is not None:
                values, weight_read = leave_sink(values)
            values = torch.einsum("tnc,ndc->tnd", values, w_v)
            values = values + weight_read * constant[len(constant) // 2 :].unflatten(0, (self.heads, -1))
        flat = values.flatten(1)
        out: Tensor = self.out(flat if hits is None else torch.cat([flat, hits.to(flat.dtype)], dim=-1))
        return out


class QueryFusion(nn.Sequential):
    """LN(SwiGLU([o(1) .. o(i), x_t] W_C)): the next query; LN is a switch, since readers of the paper differ."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        d = config.width
        norm = nn.LayerNorm(d) if config.query_fusion_norm else nn.Identity()
        super().__init__(nn.Linear((outputs + 1) * d, d, bias=False), feed_forward(config), norm)


class STCA(nn.Module):
    """M layers. Layer i reads LN(SwiGLU_i(X)), always from the raw history X; the query of layer i + 1 is fused from
    all earlier outputs and the target; there is no residual path and no LayerNorm on the result z.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.fuses = config.query_fusion
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.first_query = feed_forward(config)
        self.first_norm = nn.LayerNorm(d)
        fused = (i + 1 if self.fuses else 0 for i in range(config.layers - 1))
        self.fusions = nn.ModuleList(QueryFusion(config, outputs) for outputs in fused)
        self.collect = nn.Linear((config.layers + 1) * d, d, bias=False)  # W_Z
        self.collect_glu = feed_forward(config)
        self.identity = IdentityMatch(config) if config.identity else None

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        target_offsets: Tensor,
        history_offsets: Tensor,
        ids: tuple[Tensor, Tensor] | None = None,
        max_targets: int | None = None,
        max_history: int | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """target x_t [T, D], history X [H, D], offsets [B+1] each, ids of (targets, events) [T, C] and [H, C] where
        identities are matched -> z [T, D]. `backend`: one of model.attention.BACKENDS.
        """
        requests, layers = max(1, history_offsets.shape[0] - 1), self.all_layers()
        counts, has_sink = (target.shape[0] / requests, history.shape[0] / requests), layers[0].sink is not None
        form, engine = plan_attention(backend, history, *counts, layers[0].heads, has_sink)
        seen = (history_offsets.diff() > 0)[segment_ids(target_offsets, target.shape[0])].to(target.dtype)
        through_norm = form == "absorbed" and engine == "packed" and history.shape[-1] <= TILE_WIDTH
        outputs: list[Tensor] = []
        sinks = None
        if form == "absorbed" and has_sink:
            sinks = SinkRows.behind(history_offsets, history.shape[0])
            history_offsets, max_history = sinks.offsets, None if max_history is None else max_history + 1
            ids = ids and (ids[0], sinks.fill(ids[1], UNKNOWN))
        compared = None if ids is None else ComparedIds(*ids)
        folded = [layer.folded() if form == "absorbed" else None for layer in layers]
        aside = Aside(history, wanted=engine == "packed")
        with aside.work():
            q = layers[0].queries(self.first_norm(self.first_query(target)), folded[0])
        for i, (kv, rstd) in enumerate(self.encode(history, form, through_norm)):
            layer = layers[i]
            if sinks is not None:
                kv, rstd = sinks.fill(kv, 1), None if rstd is None else sinks.fill(rstd, 1)
            aside.join()
            values, hits = cross_attention(
                q,
                kv,
                target_offsets,
                history_offsets,
                None if self.identity is None or compared is None else self.identity(i, compared),
                sink=layer.sink if form == "kv" else None,
                backend=engine,
                softmax_scale=(history.shape[-1] // layer.heads) ** -0.5,
                rstd=rstd,
                max_targets=max_targets,
                max_history=max_history,
            )
            aside.hold(q, values, hits)
            with aside.work():
                outputs.append(layer.gather(values, hits, seen, folded[i]))
                if i < len(self.fusions):
                    fused = torch.cat([*outputs, target], dim=-1) if self.fuses else target
                    q = layers[i + 1].queries(self.fusions[i](fused), folded[i + 1])
        with aside.work():
            z: Tensor = self.collect_glu(self.collect(torch.cat([*outputs, target], dim=-1)))
        aside.join()
        return z

    def all_layers(self) -> list[Layer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def encode(self, history: Tensor, form: str, through_norm: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """X [H, D] -> what attention reads in every layer, with the 1/deviation [H] of x^(i) where attention's kernel
        hands back the gradient `through_norm`, that of LayerNorm's input.
        """
        dtype, layers = compute_dtype(history), self.all_layers()
        encoders = [layer.encode for layer in layers if isinstance(layer.encode, SwiGLU)]
        if not encoders or not can_encode(history, dtype, encoders[0].out.in_features):
            for layer in layers:
                yield layer.keys_values(F.layer_norm(layer.encode(history), history.shape[-1:]), form), None
            return
        x, up_gate, out = history.to(dtype), [e.up_gate.weight for e in encoders], [e.out.weight for e in encoders]
        if torch.is_grad_enabled():
            for layer, (events, rstd) in zip(layers, fused_encode(x, through_norm, up_gate, out), strict=True):
                yield layer.keys_values(events, form), rstd if through_norm else None
            return
        for layer, *weights in zip(layers, up_gate, out, strict=True):
            if form == "kv" and (made := fused_keys_values(x, layer)) is not None:
                yield made, None
            else:
                yield layer.keys_values(fused_layer(x, *weights), form), None


def can_encode(x: Tensor, dtype: torch.dtype, hidden: int) -> bool:
    """Whether the fused encoder takes X [H, D]: half precision on CUDA with Triton, widths a multiple of 16."""
    return can_run(x) and dtype in HALVES and x.shape[0] > 0 and x.shape[1] % 16 == 0 and hidden % 16 == 0


@torch.compiler.disable
def fused_encode(
    x: Tensor, through_norm: bool, up_gate: list[Tensor], out: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """x^ [H, D] and 1/deviation [H] of every layer, by the kernels of model/kernels/swiglu_layernorm.py."""
    from longreel.model.kernels.swiglu_layernorm import EncodeHistory

    made = EncodeHistory.apply(x, through_norm, *up_gate, *out)
    return list(zip(made[: len(out)], made[len(out) :], strict=True))


@torch.compiler.disable
def fused_layer(x: Tensor, up_gate: Tensor, out: Tensor) -> Tensor:
    """x^ [H, D] of one layer, without gradients."""
    from longreel.model.kernels.swiglu_layernorm import encode_layer

    encoded: Tensor = encode_layer(x, up_gate, out)
    return encoded


@torch.compiler.disable
def fused_keys_values(x: Tensor, layer: Layer) -> Tensor | None:
    """Keys and values [H, 2, N, Dh] of one layer, without gradients and without x^; None for rows too wide for it."""
    from longreel.model.kernels.swiglu_layernorm import encode_keys_values, is_narrow

    if not is_narrow(x.shape[1]):
        return None
    made: Tensor = encode_keys_values(x.contiguous(), *layer.encoder(x.dtype)).unflatten(-1, (2, layer.heads, -1))
    return made
