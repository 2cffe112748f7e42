"""History events stored and decoded with one history per target, request, or user-day, counted from samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from longreel.contracts.jagged import Ints, list_values
from longreel.lake.table import Lake


@dataclass(frozen=True, kw_only=True)
class RequestLists:
    """The requests [R] of rows [U] of samples: whose they are, what they see of the row's history, their targets."""

    row: Ints  # [R]
    history_end: Ints  # [R] events of the row's history that the request may see
    targets: Ints  # [R]
    first: Ints  # [U] the row's first request

    @staticmethod
    def of(table: pa.Table) -> "RequestLists":
        """Every row has a request, as the samples checkpoint holds."""
        ends, offsets = list_values(table, "request_history_end")
        stops = np.asarray(list_values(table, "request_target_end")[0], np.int64)
        before = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
        before[offsets[:-1]] = 0  # each row counts its targets from 0
        return RequestLists(
            row=np.repeat(np.arange(table.num_rows), np.diff(offsets)),
            history_end=np.asarray(ends, np.int64),
            targets=stops - before,
            first=offsets[:-1],
        )


def history_counts(lake: Lake, days: Sequence[date], windows: Sequence[int]) -> dict[str, dict[str, int]]:
    """By window: history events with a copy for each target, for each request, and once a user-day, which holds the
    window before the day's first request and the day's own history events."""
    total = {str(window): {"target": 0, "request": 0, "user_day": 0} for window in windows}
    columns = ["history_time_ms", "request_history_end", "request_target_end"]
    for day in days:
        table = lake.read(lake.require("samples", day), columns)
        if not table.num_rows:
            continue
        requests, length = RequestLists.of(table), np.diff(list_values(table, "history_time_ms")[1])
        past = requests.history_end[requests.first]
        for window in windows:
            visible, events = np.minimum(requests.history_end, window), total[str(window)]
            events["target"] += int(visible @ requests.targets)
            events["request"] += int(visible.sum())
            events["user_day"] += int((length - past + np.minimum(past, window)).sum())
    return total
