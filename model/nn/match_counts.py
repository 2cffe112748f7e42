"""Match counts: how many events of the window have each of the target item's ids, and how recent the newest is.

Softmax attention reads a mean over events: twice as many of them alike give the same mean. So what a longer window
adds, that something occurred forty times and not four, hardly passes it (docs/method.md). Here it is counted.
In a history of impressions, matches that led to an action are counted beside all of them. So are all events, whatever
their ids, and those with each action: how often the user was shown something, and what became of it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import ALL_IMPRESSIONS, UNKNOWN, LogSchema
from longreel.model.data.batch import RequestBatch, segment_ids

HORIZONS_MS = (3_600_000, 86_400_000, 604_800_000)  # an hour, a day, a week before the request
LONGEST_MS = 1 << 41  # 70 years: older events are that old where ages are compared
COUNTS = 1 + len(HORIZONS_MS)  # in the window, and within each horizon
FIELD_NUMBERS = COUNTS + 3  # of matches, and three of the newest match


def counted_fields(log_schema: LogSchema) -> tuple[str, ...]:
    """The fields whose matches are counted: the ids of an item."""
    return tuple(field.name for field in log_schema.of_place("item") if field.kind == "id")


def counts_actions(log_schema: LogSchema) -> bool:
    """Whether events with an action are counted apart: where the history has the impressions without one too."""
    return log_schema.history == ALL_IMPRESSIONS and bool(log_schema.actions)


def num_numbers(log_schema: LogSchema) -> int:
    """Numbers of a target."""
    matches = FIELD_NUMBERS * len(counted_fields(log_schema))
    return 2 * matches + COUNTS * (1 + len(log_schema.actions)) if counts_actions(log_schema) else matches


class MatchCounts(nn.Module):
    """A token made from a target's numbers: linear, GELU, linear.

    For each id of an item they are: matches in the window and within each horizon; whether there is one; and of the
    newest its age in seconds and how many events came after it. Logarithms, scaled to about one; 0 where there is none.
    In a history of impressions then the same of the events with an action; and how many events, and events with each
    action, the window and each horizon have.

    Not rows of a table by log buckets, as events' times are: targets are few to learn every bucket from, and with
    buckets a trial (benchmarks/extrapolation) lost what these numbers win.
    """

    def __init__(self, config: ModelConfig, log_schema: LogSchema) -> None:
        super().__init__()
        hidden = config.expansion * config.width
        self.fields = counted_fields(log_schema)
        self.num_actions = len(log_schema.actions) if counts_actions(log_schema) else 0
        self.up, self.down = nn.Linear(num_numbers(log_schema), hidden), nn.Linear(hidden, config.width)
        self.register_buffer("horizons_ms", torch.tensor(HORIZONS_MS), persistent=False)
        self.horizons_ms: Tensor

    def numbers(self, batch: RequestBatch) -> Tensor:
        """[T, numbers] float32, about -2 .. 3, from a batch's integers alone; nothing waits for the device."""
        request = segment_ids(batch.target_offsets, batch.num_targets)
        first, stop = batch.history_offsets[:-1][request], batch.history_offsets[1:][request]  # [T]
        starts = torch.cat([first[:, None], horizon_starts(batch, self.horizons_ms)[request]], dim=1)  # [T, COUNTS]
        now = batch.request_time_ms[request]
        times = torch.cat([batch.history["time_ms"], now])  # has an element also where there is no event
        history, target = (
            torch.stack([fields[name].long() for name in self.fields]) for fields in (batch.history, batch.target)
        )
        actions = batch.history["actions"]
        chosen = [None, actions != 0] if self.num_actions else [None]
        parts = []
        for counts, newest in matches(history, target, starts, stop, chosen):
            any_match = (counts[..., 0] > 0).float()
            age = log2p1((now - times[newest]) / 1_000) / 8 - 2
            after = log2p1(stop - 1 - newest) / 4 - 1
            newest_match = torch.stack([any_match, any_match * age, any_match * after], dim=-1)
            by_field = torch.cat([log2p1(counts) / 4, newest_match], dim=-1)
            parts.append(by_field.transpose(0, 1).flatten(1))
        if self.num_actions:
            of_action = (actions >> bit & 1 for bit in range(self.num_actions))
            counted = torch.stack([torch.ones_like(actions), *of_action])
            before = F.pad(counted.long().cumsum(1), (1, 0))  # [1 + actions, H + 1]
            totals = before[:, stop][..., None] - before[:, starts]  # [1 + actions, T, COUNTS]
            parts.append(log2p1(totals).transpose(0, 1).flatten(1) / 4)
        return torch.cat(parts, dim=1)

    def forward(self, numbers: Tensor) -> Tensor:
        """[T, numbers] -> [T, D]."""
        out: Tensor = self.down(F.gelu(self.up(numbers.to(self.up.weight.dtype))))
        return out


def log2p1(values: Tensor) -> Tensor:
    """log2(1 + x), 0 for x < 0. Any shape and type -> the same shape, float32."""
    return torch.log2(1 + values.clamp(min=0).to(torch.float32))


def horizon_starts(batch: RequestBatch, horizons_ms: Tensor) -> Tensor:
    """The place of each request's first event that is no older than each horizon, its stop where none is: [B, K]."""
    request = segment_ids(batch.history_offsets, batch.num_events)
    age = (batch.request_time_ms[request] - batch.history["time_ms"]).clamp(0, LONGEST_MS)
    keys = request * (LONGEST_MS + 1) - age  # increasing, as a request's events are oldest first
    zero_age = torch.arange(batch.num_requests, device=keys.device)[:, None] * (LONGEST_MS + 1)
    return torch.searchsorted(keys, zero_age - horizons_ms)


def matches(
    history: Tensor, target: Tensor, starts: Tensor, stop: Tensor, chosen: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """The number of events between places that have a target's id, and the newest of them, for several fields.

    Sorted by (id, place), the events of one id between two places lie behind one another: two binary searches find
    them, whatever their number. Running sums and maxima over that order count the chosen ones among them, and find
    their newest. O((H + T) log(H + T)) a field.

    Args:
        history: ids [F, H] int64. target: ids [F, T] int64, of which UNKNOWN matches nothing.
        starts, stop: places in the packed history, [T, K] and [T]; events from starts[t, k] to stop[t] - 1 count.
        chosen: which events count, [H] bool each; None: all.

    Returns:
        For each of `chosen`, counts [F, T, K] int64, and the place of the newest match [F, T]. The latter has no
        meaning where counts[f, t, 0] is 0, but is a place in history and targets laid behind one another.
    """
    ids = torch.cat([history, target], dim=1)  # targets lie behind all events: no [start, stop) holds one
    ordered, places = ids.sort(dim=1, stable=True)
    run = F.pad((ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1), (min(1, ids.shape[1]), 0))
    span = ids.shape[1] + 1
    keys = run * span + places  # increasing, exact: runs and places are both smaller than span
    run_start = run.gather(1, torch.searchsorted(ordered, target)) * span
    bounds = torch.cat([starts, stop[:, None]], dim=1)
    shape, is_unknown = (*target.shape, bounds.shape[1]), (target == UNKNOWN)[..., None]
    slots = torch.searchsorted(keys, (run_start[..., None] + bounds).flatten(1)).view(shape)  # [F, T, K + 1]
    last = (slots[..., -1] - 1).clamp(min=0)  # [F, T]
    results = []
    for events in chosen:
        before, newest = slots, last
        if events is not None:
            counted = F.pad(events, (0, target.shape[1]))[places]
            before = F.pad(counted.long().cumsum(1), (1, 0)).gather(1, slots.flatten(1)).view(shape)
            newest = torch.where(counted, torch.arange(ids.shape[1], device=ids.device), 0).cummax(1).values
            newest = newest.gather(1, last)
        counts = (before[..., -1:] - before[..., :-1]).masked_fill(is_unknown, 0)
        results.append((counts, places.gather(1, newest)))
    return results
