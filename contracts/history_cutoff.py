"""History cutoff: the time from which on a request sees no history event, after `[history] known_after`."""

from longreel.contracts.clock import local_day, midnight_ms
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
