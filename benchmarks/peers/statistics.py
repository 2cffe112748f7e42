"""Statistics known at a request, computed literally from contracts/statistics.py, without longreel's own build of them.

Nightly: of the days d - w .. d - 1. Streaming: of those and of d up to, and without, the request's own time.
"""

import numpy as np
import pandas as pd

from benchmarks.peers.running_sums import RunningSums, codes
from longreel.contracts.statistics import SMOOTHING, STATISTIC_DAYS


def statistics(
    events: pd.DataFrame,
    targets: pd.DataFrame,
    keys: list[tuple[str, ...]],
    actions: list[str],
    time_zone: str,
    streaming: bool,
) -> pd.DataFrame:
    """Statistics of every target, a column each.

    Args:
        events: impressions: `time_ms`, the columns of `keys`, and a 0/1 column of each action.
        targets: `time_ms` and the columns of `keys`.
    """
    local = pd.to_datetime(targets["time_ms"], unit="ms", utc=True).dt.tz_convert(time_zone).dt.normalize()
    first = int(events["time_ms"].min())
    place = events["time_ms"].to_numpy() - first
    values = np.column_stack([np.ones(len(events)), *(events[action] for action in actions)])
    stop = (targets["time_ms"].to_numpy() if streaming else _ms(local)) - first
    everything = RunningSums(np.zeros(len(events), np.int64), place, values)
    columns = {}
    for key in keys:
        of_events, of_targets = codes(*([table[name].to_numpy() for name in key] for table in (events, targets)))
        own = RunningSums(of_events, place, values)
        for days in STATISTIC_DAYS:
            start = _ms(local - pd.DateOffset(days=days)) - first
            n, *counts = own.between(of_targets, start, stop).T
            all_n, *all_counts = everything.between(np.zeros(len(targets), np.int64), start, stop).T
            name = ("streaming_" if streaming else "") + "_".join(key)
            columns[f"{name}_impressions_{days}d"] = n
            for action, a, all_a in zip(actions, counts, all_counts, strict=True):
                rate = (a + SMOOTHING * all_a / np.maximum(all_n, 1)) / (n + SMOOTHING)
                columns[f"{name}_{action}_rate_{days}d"] = np.where(n > 0, rate, np.nan)
    return pd.DataFrame(columns, dtype=np.float32)


def _ms(times: pd.Series) -> np.ndarray:
    return times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
