"""Is every raw row accounted for? input rows = events + quarantined rows + exact repeats + suppressed rows."""

from datetime import date
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUPPRESSED = "suppressed"  # the `reason` of rows of suppressed users, events or not; the quarantine has none of them


def account_of(judged: "DataFrame") -> dict[str, int]:
    """The row account: input_rows, events, quarantined (also by reason), exact_repeats, suppressed."""
    from pyspark.sql import functions as F

    groups = judged.groupBy("reason").agg(F.count(F.lit(1)).alias("rows"), F.sum("copies").alias("copies")).collect()
    refused = {group["reason"]: group["rows"] for group in groups if group["reason"] is not None}
    suppressed = refused.pop(SUPPRESSED, 0)
    kept, copies = sum(group["rows"] for group in groups), sum(group["copies"] for group in groups)
    return {
        "input_rows": copies,
        "events": kept - sum(refused.values()) - suppressed,
        "quarantined": sum(refused.values()),
        "exact_repeats": copies - kept,
        "suppressed": suppressed,
        **{f"quarantined_{reason}": rows for reason, rows in sorted(refused.items())},
    }


def require_closed(counts: dict[str, int], events_written: int, quarantined_written: int, day: date) -> None:
    """Raises LongreelError where what was written does not add up to what was read."""
    accounted = events_written + quarantined_written + counts["exact_repeats"] + counts["suppressed"]
    if accounted != counts["input_rows"]:
        raise LongreelError(
            f"row account of {day} does not close: {counts['input_rows']} rows read, but {events_written} events + "
            f"{quarantined_written} quarantined + {counts['exact_repeats']} repeats + "
            f"{counts['suppressed']} suppressed; nothing was published"
        )


def told(counts: dict[str, int]) -> str:
    """The row account as a sentence."""
    account = f"{counts['input_rows']:,} rows = {counts['events']:,} events + {counts['quarantined']:,} quarantined"
    suppressed = f" + {counts['suppressed']:,} suppressed" if counts["suppressed"] else ""
    return f"{account} + {counts['exact_repeats']:,} repeats{suppressed}"


def reasons(counts: dict[str, int]) -> str:
    """Why rows were refused, the most frequent reason first: of a day that is stopped no quarantine is published."""
    prefix = "quarantined_"
    known = {name.removeprefix(prefix): rows for name, rows in counts.items() if name.startswith(prefix)}
    told = [f"{rows:,} {reason}" for reason, rows in sorted(known.items(), key=lambda item: -item[1])]
    hint = "; times are milliseconds since 1970 UTC" if {"stale_time", "future_time"} & set(known) else ""
    return f" ({', '.join(told)}{hint})" if told else ""


def account_after(counts: dict[str, int], events: int, quarantine: Manifest | None) -> dict[str, int]:
    """A manifest's counts once rows of suppressed users have been removed, so that `events` are left: what is missing
    of the input rows now is what was forgotten. Counts without a row account stay without one."""
    if "input_rows" not in counts or quarantine is None:
        return counts
    rest = {name: value for name, value in counts.items() if not name.startswith("quarantined_")}
    rest |= {"events": events, "quarantined": quarantine.rows}
    rest["suppressed"] = counts["input_rows"] - events - quarantine.rows - counts["exact_repeats"]
    return rest | {name: n for name, n in quarantine.counts.items() if name.startswith("quarantined_")}
