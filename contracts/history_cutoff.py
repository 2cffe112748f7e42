"""History cutoff: the time from which on a request sees no history event, after `[history] known_after`."""

from datetime import date

import numpy as np

from longreel.contracts.clock import local_day, midnight_ms
from longreel.contracts.dates import day_number
from longreel.contracts.durations import delay_ms
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import LogSchema


def history_cutoff_ms(request_time_ms: Ints, log: LogSchema) -> Ints:
    """A request at each time [n] sees the history events strictly older than this [n], in UTC milliseconds.

    That is the request's own time, less the delay; with `next day` the local midnight that begins the request's day.
    """
    delay = delay_ms(log.history_known_after, "[history] known_after")
    if delay is None:
        return midnight_ms(local_day(request_time_ms, log.time_zone), log.time_zone)
    return request_time_ms - delay


def snapshot_cutoff_ms(through: date, log: LogSchema, max_lateness_hours: float) -> int:
    """The earliest cutoff of a request of the log days after `through`.

    A snapshot keeps each user's newest `max_history` history events before it, and all events from it on: those are in
    the future of some request, and must not push out what that request sees.
    """
    next_day = np.array([day_number(through) + 1])
    earliest_ms = midnight_ms(next_day, log.time_zone) - round(max_lateness_hours * 3_600_000)
    return int(history_cutoff_ms(earliest_ms, log)[0])
