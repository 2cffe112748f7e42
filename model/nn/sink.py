"""How may a head read nothing? By a learned score s that stands in its softmax beside the events' scores:

    alpha_e = exp(score_e) / (exp(s) + sum_e' exp(score_e'))        the weights on events add up to less than 1

Attention over keys and values has s as a column more. Attention over the encoded events themselves ("absorbed") needs
no code for it, in no kernel: an event x^ is a LayerNorm's output, whose components add up to 0, so a query may be moved
along the vector of ones without any event noticing. A row of ones behind each request's events is then the sink: the
queries are moved so that it scores s, and of what is read the mean over components is the weight that fell on it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.model.data.batch import segment_ids


@dataclass(frozen=True)
class SinkRows:
    """Packed events with one more row behind those of each request: places [H] of the events, offsets [B+1]."""

    places: Tensor
    offsets: Tensor
    total: int  # H + B

    @staticmethod
    def behind(history_offsets: Tensor, events: int) -> "SinkRows":
        """Room for a row behind each request's events."""
        before = segment_ids(history_offsets, events)  # sinks of earlier requests
        requests = torch.arange(history_offsets.shape[0], device=history_offsets.device)
        places = torch.arange(events, device=before.device) + before
        return SinkRows(places, history_offsets + requests, events + history_offsets.shape[0] - 1)

    def fill(self, packed: Tensor, value: float) -> Tensor:
        """packed [H, ...] -> [H + B, ...] with `value` in the rows between."""
        return packed.new_full((self.total, *packed.shape[1:]), value).index_copy(0, self.places, packed)


def turn_to_sink(queries: Tensor, sink: Tensor, softmax_scale: float) -> Tensor:
    """Queries [T, N, D] in the events' space that score sink [N] with a row of ones, and with events what they did."""
    aside = sink / (softmax_scale * queries.shape[-1])
    return queries - queries.mean(-1, keepdim=True) + aside[:, None]


def leave_sink(values: Tensor) -> tuple[Tensor, Tensor]:
    """What was read [T, N, D] -> the events' part of it, and their weight in all [T, N, 1]."""
    on_sink = values.mean(-1, keepdim=True)
    return values - on_sink, 1 - on_sink
