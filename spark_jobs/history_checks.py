"""Checks of a history snapshot before it is published."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from longreel.contracts.schemas import schema_text
from longreel.lake.home import Home
from longreel.spark_jobs.array_checks import HISTORY_VIOLATIONS, Stats
from longreel.spark_jobs.day_bounds import EARLIEST_MS, log_day_bounds_ms
from longreel.spark_jobs.quality import Between, Check, Equal, check
from longreel.spark_jobs.rejected_rows import explained
from longreel.spark_jobs.row_counts import Rejected, format_reasons, quarantined_share


def check_snapshot(
    home: Home, through: date, stats: Stats, counts: dict[str, int], rejected: Mapping[str, Rejected] | None = None
) -> dict[str, Any]:
    """Run a snapshot's checkpoint on the stats of its files, read back; returns the quality summary.

    Args:
        rejected: the quarantined rows by reason, of a bootstrap snapshot.

    Raises:
        QualityError: a check failed.
    """
    names = ("users", "history_events", "max_older", "min_history_ms", "max_history_ms", *HISTORY_VIOLATIONS)
    expected, log = schema_text(home.lake.schemas.history), home.config.log_schema
    checked: Stats = {"schema": expected} | dict.fromkeys(names, 0) | stats
    _, end_ms = log_day_bounds_ms(through, home.config.source)
    latest_ms = None if log.timed_actions else end_ms - 1  # timed actions may happen on later days
    checks: list[Check] = [
        Equal("schema", expected, "columns and types"),
        Equal("users", counts["users"], "one row a user"),
        Equal("history_events", counts["history_events"], "history events read back are those written"),
        Between("max_older", 0, counts["max_history"], "events of a user that later requests may all see"),
        Between("min_history_ms", 0, latest_ms, "earliest history event since 1970"),
        Between("max_history_ms", 0, latest_ms, "latest history event before the snapshot ends"),
        *(Equal(name, 0, meaning) for name, meaning in HISTORY_VIOLATIONS.items()),
    ]
    if "input_rows" in counts:  # a bootstrap snapshot, made from raw rows
        checked["quarantined_share"] = quarantined_share(counts)
        checked["history_events_read"] = counts["history_events_read"]
        limit = home.config.source.max_quarantined_share
        checks += [
            Between("users", 1, None, "the imported log has history events"),
            Between(
                "quarantined_share",
                0,
                limit,
                f"share of rows quarantined{format_reasons(counts)}",
                remedy=explained(home.config, (EARLIEST_MS, end_ms), rejected or {}),
            ),
            Between(
                "history_events_read", counts["history_events"], None, "history events kept are some of those read"
            ),
        ]
    checked = {name: value for name, value in checked.items() if not name.startswith("digest_")}
    return check(home.reports, through, "history", checked, checks)
