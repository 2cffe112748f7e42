"""What must hold for a history base before a day's samples are built on it?"""

from datetime import date
from typing import Any

from longreel.contracts.schemas import HISTORY, schema_text
from longreel.lake.home import Home
from longreel.spark_jobs.array_checks import BROKEN_HISTORY, Facts
from longreel.spark_jobs.quality import Between, Check, Equal, check
from longreel.spark_jobs.row_counts import reasons
from longreel.spark_jobs.validate import log_day_bounds_ms


def check_base(home: Home, through: date, found: Facts, counts: dict[str, int]) -> dict[str, Any]:
    """Run a staged base's checkpoint on what was found when its files were read back; returns the quality summary.

    Raises:
        QualityError: a check failed.
    """
    names = ("users", "history_events", "max_history", "min_history_ms", "max_history_ms", *BROKEN_HISTORY)
    facts: Facts = {"schema": schema_text(HISTORY)} | dict.fromkeys(names, 0) | found
    _, end_ms = log_day_bounds_ms(through, home.config.source)
    checks: list[Check] = [
        Equal("schema", schema_text(HISTORY), "columns and types"),
        Equal("users", counts["users"], "one row a user"),
        Equal("history_events", counts["history_events"], "behaviours read back are those written"),
        Between("max_history", 0, counts["max_history"], "no history is longer than max_history"),
        Between("min_history_ms", 0, end_ms - 1, "earliest behaviour since 1970"),
        Between("max_history_ms", 0, end_ms - 1, "latest behaviour before the base ends"),
        *(Equal(name, 0, meaning) for name, meaning in BROKEN_HISTORY.items()),
    ]
    if "input_rows" in counts:  # an archive, with a row account of its own
        distinct = counts["events"] + counts["quarantined"]
        facts["quarantined_share"] = counts["quarantined"] / distinct if distinct else 0.0
        most = home.config.source.max_quarantined_share
        checks.append(Between("users", 1, None, "the archive holds behaviour"))
        checks.append(Between("quarantined_share", 0, most, f"share of rows quarantined{reasons(counts)}"))
        checks.append(Between("behaviours", counts["history_events"], None, "behaviours kept are some of those read"))
        facts["behaviours"] = counts["behaviours"]
    facts = {name: value for name, value in facts.items() if not name.startswith("digest_")}
    return check(home.reports, through, "history", facts, checks)
