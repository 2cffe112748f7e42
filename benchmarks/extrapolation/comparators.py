"""Comparators: DIN, a SASRec-style Transformer, HSTU and mean pooling in place of STCA.

Yardsticks: each takes the tensors that STCA takes and gives what STCA gives, so embeddings, RankMixer, heads, batches,
optimiser and metrics are the product's own. Nothing of the product imports this file.

    din     one layer of target attention (arXiv 1706.06978): weights from an MLP on [t, x, t - x, t * x], no softmax
    sasrec  M causal pre-norm Transformer layers (arXiv 1808.09781); targets come last and read every layer's events
    hstu    M causal layers of pointwise SiLU attention with gating (arXiv 2402.17152); targets likewise
    mean    the mean of the history beside the target: what reading without matching gives

Time and position reach all of them as they reach STCA: through the events' embeddings.

With `match`, which is on by default, equal ids of target and event (`match = true`) reach each of them as
they reach STCA, since without it attention hardly learns to recognise them: DIN as inputs of its MLP, the Transformers
as a learned addition to the targets' scores; and how much weight fell on equal ids is handed on beside the output.
Otherwise the table would measure that trick and not the architectures.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.extrapolation.groups import Group, Packed
from benchmarks.extrapolation.silu_attention import silu_attention
from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import LogSchema
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.encodings import Encodings
from longreel.model.nn.attention import Requests
from longreel.model.nn.id_match import IdMatchBias
from longreel.model.nn.ranker import Ranker

Reads = tuple[Tensor, Tensor]
PAIR_BLOCK = 1 << 21  # target-event pairs that DIN's MLP takes at a time


def signed_log(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): sums over histories of any length, on one scale."""
    return x.sign() * x.abs().log1p()


class MeanPooling(nn.Module):
    """[mean of the history, x_t] -> z."""

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__()
        d = config.width
        self.mlp = nn.Sequential(nn.Linear(2 * d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def pool(self, history: Tensor, history_offsets: Tensor) -> Tensor:
        """[H, D] -> means [B, D], zeros without history."""
        lengths = history_offsets.diff()
        total = history.new_zeros(len(lengths), history.shape[1], dtype=torch.float32)
        total = total.index_add(0, segment_ids(history_offsets, history.shape[0]), history.float())
        return total / lengths.clamp(min=1)[:, None]

    def forward(
        self, target: Tensor, history: Tensor, target_offsets: Tensor, history_offsets: Tensor, packed: Packed
    ) -> Tensor:
        """x_t [T, D], X [H, D] -> z [T, D]."""
        pooled = self.pool(history, history_offsets)[segment_ids(target_offsets, target.shape[0])]
        out: Tensor = self.mlp(torch.cat([pooled.to(target.dtype), target], dim=-1))
        return out


class DIN(nn.Module):
    """sum_e a(x_t, e) e / L with an MLP for a and no softmax, as in the paper but for L: the paper's sum grows with the
    history, and read at ten times the length of training it means nothing. Then [that, x_t] -> z."""

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__()
        d = config.width
        hidden = max(16, d // 2)
        self.target_part, self.event_part = nn.Linear(2 * d, hidden), nn.Linear(2 * d, hidden, bias=False)
        self.product_part = nn.Linear(d, hidden, bias=False)
        self.match_part = nn.Linear(fields, hidden, bias=False) if fields else None
        self.score = nn.Linear(hidden, 1)
        nn.init.ones_(
            self.score.bias
        )  # begins as the plain mean, and as a count of equal ids; from 0 it learned neither
        self.mlp = nn.Sequential(nn.Linear(2 * d + fields, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(
        self, target: Tensor, history: Tensor, target_offsets: Tensor, history_offsets: Tensor, packed: Packed
    ) -> Tensor:
        """x_t [T, D], X [H, D] -> z [T, D]."""
        reads = []
        for group in packed.groups:
            events, equal = history[group.events], group.equal if self.match_part is not None else None
            step, parts = max(1, PAIR_BLOCK // max(1, group.events.numel())), []
            for at in range(0, group.targets.shape[1], step):
                some = slice(at, at + step)
                some_equal = None if equal is None else equal[:, :, some]
                queries = target[group.targets[:, some]]
                parts.append(checkpoint(self._read, queries, events, some_equal, group, use_reentrant=False))
            reads.append(torch.cat(parts, 1))
        read = packed.joined(reads, of_targets=True)
        out: Tensor = self.mlp(torch.cat([read.to(target.dtype), target], dim=-1))
        return out

    def _read(self, t: Tensor, e: Tensor, equal: Tensor | None, group: Group) -> Tensor:
        """x_t [B, m, D], events [B, L, D], equal [fields, B, m, L] or None -> [B, m, D or D + fields]."""
        # the MLP's first layer on [t, e, t - e, t * e], without writing the concatenation: t and e parts are shared
        hidden = self.target_part(torch.cat([t, t], -1))[:, :, None] + self.event_part(torch.cat([e, -e], -1))[:, None]
        hidden = hidden + self.product_part(t[:, :, None] * e[:, None])
        if self.match_part is not None and equal is not None:
            hidden = hidden + self.match_part(equal.movedim(0, -1).to(hidden.dtype))
        weight = self.score(F.silu(hidden)).squeeze(-1) * group.there[:, None]
        read = weight @ e / group.lengths[:, None, None]
        if equal is None:
            return read
        match_weight = signed_log(torch.einsum("bml,fbml->bmf", weight.float(), equal.float()))
        return torch.cat([read, match_weight.to(read.dtype)], dim=-1)


class CausalLayer(nn.Module):
    """What SASRec's and HSTU's layers share: events read earlier events and themselves, targets read all events."""

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        ours = IdMatchBias(config, fields)  # heads are shared among the fields, and begin sharp and gentle, as STCA's
        self.register_buffer("head_channel", ours.head_channel.long(), persistent=False)
        self.head_channel: Tensor
        self.scale = nn.Parameter(ours.scale[0].detach().clone()) if fields else None

    def among_events(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        """[H, N, Dh] each -> [H, N, Dh]: every event reads those of its request up to itself."""
        raise NotImplementedError

    def weights(self, scores: Tensor, group: Group) -> Tensor:
        """What the targets' scores [B, N, m, L] weigh events with; nothing on padding."""
        raise NotImplementedError

    def by_targets(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Reads:
        """A group: q [B, m, N, Dh], k and v [B, L, N, Dh] -> read [B, m, N, Dh], the weight on equal ids [B, m, N]."""
        scores = torch.einsum("bmnd,blnd->bnml", q, k) / math.sqrt(q.shape[-1])
        if self.scale is None or group.equal is None:
            read = torch.einsum("bnml,blnd->bmnd", self.weights(scores, group).to(v.dtype), v)
            return read, v.new_zeros(read.shape[:-1])
        mine = group.equal[self.head_channel].movedim(0, 1).float()
        weights = self.weights(scores.float() + self.scale[:, None, None] * mine, group)
        match_weights = signed_log((weights * mine).sum(-1).movedim(1, 2) * self.match_scale(group)[:, None, None])
        return torch.einsum("bnml,blnd->bmnd", weights.to(v.dtype), v), match_weights.to(v.dtype)

    def match_scale(self, group: Group) -> Tensor:
        """What brings the weight on equal ids to a scale that does not depend on the history's length: [B]."""
        return torch.ones_like(group.lengths)


class SASRecLayer(CausalLayer):
    """Pre-norm self-attention and a GELU network, each with a residual path."""

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__(config, fields)
        d, r = config.width, config.expansion
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ffn = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * r * d), nn.GELU(), nn.Linear(2 * r * d, d))

    def forward(self, target: Tensor, history: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] and [H, D] -> the same, a layer further; and the targets' weight on equal ids [T, N]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(self.norm(history)).chunk(3, dim=-1))
        queries = self.qkv(self.norm(target)).chunk(3, dim=-1)[0].unflatten(-1, (self.heads, -1))
        own, read, match_weights = attend_all(self, packed, q, k, v, queries)
        history = history + self.dropout(self.out(own))
        target = target + self.dropout(self.out(read))
        return target + self.dropout(self.ffn(target)), history + self.dropout(self.ffn(history)), match_weights

    def among_events(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        """Softmax attention to the past, by PyTorch's fused kernel; padding comes last, so no event reads it."""
        read = []
        for group in packed.groups:
            parts = [part[group.events].transpose(1, 2) for part in (q, k, v)]
            attended = F.scaled_dot_product_attention(*parts, is_causal=True) if parts[0].numel() else parts[2]
            read.append(attended.transpose(1, 2))
        return packed.joined(read, of_targets=False)

    def weights(self, scores: Tensor, group: Group) -> Tensor:
        """Softmax."""
        there = group.there[:, None, None]
        return scores.float().masked_fill(~there, -1e30).softmax(-1) * there  # zeros where there is no event at all


class HSTULayer(CausalLayer):
    """u, q, k, v = SiLU(W LN(x)); x + W_o (LN(SiLU(q k^T / sqrt(Dh)) v / n) * u), n the number of events read."""

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__(config, fields)
        d = config.width
        self.uqkv, self.out = nn.Linear(d, 4 * d), nn.Linear(d, d)
        self.read_norm = nn.LayerNorm(d)

    def forward(self, target: Tensor, history: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] and [H, D] -> the same, a layer further; and the targets' weight on equal ids [T, N]."""
        u, q, k, v = F.silu(self.uqkv(self.norm(history))).chunk(4, dim=-1)
        tu, tq, _, _ = F.silu(self.uqkv(self.norm(target))).chunk(4, dim=-1)
        q, k, v, tq = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v, tq))
        own, read, match_weights = attend_all(self, packed, q, k, v, tq)
        history = history + self.dropout(self.out(self.read_norm(own) * u))
        return target + self.dropout(self.out(self.read_norm(read) * tu)), history, match_weights

    def among_events(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        """Pointwise attention to the past."""
        parts = (part.movedim(1, 0) for part in (q, k, v))
        return silu_attention(*parts, packed.history_offsets, packed.longest).movedim(0, 1)

    def weights(self, scores: Tensor, group: Group) -> Tensor:
        """SiLU over the number of events."""
        return F.silu(scores) * group.there[:, None, None] / group.lengths[:, None, None, None]

    def match_scale(self, group: Group) -> Tensor:
        """Counts of equal ids, not shares of the history."""
        return group.lengths


def attend_all(
    layer: CausalLayer, packed: Packed, q: Tensor, k: Tensor, v: Tensor, queries: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention: events among themselves [H, D], targets [T, D], their weight on equal ids [T, N]."""
    own, read, match_weights = layer.among_events(q, k, v, packed), [], []
    for group in packed.groups:
        one, match_weight = layer.by_targets(queries[group.targets], k[group.events], v[group.events], group)
        read.append(one)
        match_weights.append(match_weight)
    return (
        own.flatten(1),
        packed.joined(read, of_targets=True).flatten(1),
        packed.joined(match_weights, of_targets=True),
    )


class CausalStack(nn.Module):
    """M causal layers, then a LayerNorm on the targets, beside the layers' weights on equal ids."""

    layer: type[CausalLayer]

    def __init__(self, config: ModelConfig, fields: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer(config, fields) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        num_weights = config.layers * config.heads if fields else 0
        self.out = nn.Linear(config.width + num_weights, config.width) if num_weights else nn.Identity()

    def states(self, target: Tensor, history: Tensor, packed: Packed) -> tuple[Tensor, Tensor, list[Tensor]]:
        """x_t [T, D], X [H, D] -> the last layer's targets and events, and each layer's weights on equal ids [T, N]."""
        match_weights = []
        for layer in self.layers:
            target, history, match_weight = layer(target, history, packed)
            match_weights.append(match_weight)
        return target, history, match_weights

    def forward(
        self, target: Tensor, history: Tensor, target_offsets: Tensor, history_offsets: Tensor, packed: Packed
    ) -> Tensor:
        """x_t [T, D], X [H, D] -> z [T, D]."""
        last, _, match_weights = self.states(target, history, packed)
        normed = self.norm(last)
        out: Tensor = self.out(
            normed if packed.ids is None else torch.cat([normed, *(h.to(normed.dtype) for h in match_weights)], -1)
        )
        return out


class SASRec(CausalStack):
    """Transformer layers."""

    layer = SASRecLayer


class HSTU(CausalStack):
    """HSTU layers."""

    layer = HSTULayer


# of the model's settings and the number of ids that are compared
COMPARATORS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "din": DIN,
    "sasrec": SASRec,
    "hstu": HSTU,
    "mean": MeanPooling,
}


class InPlaceOfSTCA(nn.Module):
    """A comparator with STCA's call."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.reader = reader
        self.ids: tuple[Tensor, Tensor] | None = None  # of the batch that is being read

    def forward(self, target: Tensor, history: Tensor, requests: Requests, *_: object) -> Tensor:
        """As STCA's; compared ids and attention backends are STCA's own."""
        packed = Packed(requests.target_offsets, requests.history_offsets, self.ids)
        out: Tensor = self.reader(target, history, requests.target_offsets, requests.history_offsets, packed)
        return out


class ComparatorRanker(Ranker):
    """The product's ranker with another reader of the history."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        tasks: tuple[str, ...],
        log_schema: LogSchema,
        encodings: Encodings,
        match: bool = True,
    ) -> None:
        super().__init__(config, tasks, log_schema, encodings)
        self.matched = log_schema.match_fields if match else ()
        self.stca = InPlaceOfSTCA(COMPARATORS[name](config, len(self.matched)))  # type: ignore[assignment]

    def forward(self, batch: RequestBatch, backend: str = "auto") -> Tensor:
        """Logits [T, tasks]."""
        if self.matched:
            target_ids, event_ids = (
                torch.stack([fields[name].long() for name in self.matched], dim=1)
                for fields in (batch.target, batch.history)
            )
            self.stca.ids = (target_ids, event_ids)
        try:
            return super().forward(batch, backend)
        finally:
            self.stca.ids = None
