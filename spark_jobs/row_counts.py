"""Row counts of a raw day: input rows = events + quarantined + exact duplicates + suppressed rows."""

from datetime import date
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUPPRESSED = "suppressed"  # the `reason` of rows of erased users, events or not; the quarantine has none of them
QUARANTINED = "quarantined_"  # prefix of the counts by reason


def count_rows(validated: "DataFrame") -> dict[str, int]:
    """The row counts: input_rows, events, quarantined (also by reason), exact_duplicates, suppressed."""
    from pyspark.sql import functions as F

    groups = validated.groupBy("reason").agg(F.count(F.lit(1)).alias("rows"), F.sum("copies").alias("copies")).collect()
    rejected = {group["reason"]: group["rows"] for group in groups if group["reason"] is not None}
    suppressed = rejected.pop(SUPPRESSED, 0)
    distinct, copies = sum(group["rows"] for group in groups), sum(group["copies"] for group in groups)
    return {
        "input_rows": copies,
        "events": distinct - sum(rejected.values()) - suppressed,
        "quarantined": sum(rejected.values()),
        "exact_duplicates": copies - distinct,
        "suppressed": suppressed,
        **{f"{QUARANTINED}{reason}": rows for reason, rows in sorted(rejected.items())},
    }


def check_balanced(counts: dict[str, int], events_written: int, quarantined_written: int, day: date) -> None:
    """Raises LongreelError where what was written does not add up to what was read."""
    total = events_written + quarantined_written + counts["exact_duplicates"] + counts["suppressed"]
    if total != counts["input_rows"]:
        raise LongreelError(
            f"row counts of {day} do not add up: {counts['input_rows']} rows read, but {events_written} events + "
            f"{quarantined_written} quarantined + {counts['exact_duplicates']} exact duplicates + "
            f"{counts['suppressed']} suppressed; nothing was published"
        )


def format_counts(counts: dict[str, int]) -> str:
    """The row counts as a sentence."""
    total = f"{counts['input_rows']:,} rows = {counts['events']:,} events + {counts['quarantined']:,} quarantined"
    suppressed = f" + {counts['suppressed']:,} suppressed" if counts["suppressed"] else ""
    return f"{total} + {counts['exact_duplicates']:,} exact duplicates{suppressed}"


def format_reasons(counts: dict[str, int]) -> str:
    """Why rows were rejected, the most frequent reason first: no quarantine is published of a day that is stopped."""
    by_reason = {name.removeprefix(QUARANTINED): rows for name, rows in counts.items() if name.startswith(QUARANTINED)}
    parts = [f"{rows:,} {reason}" for reason, rows in sorted(by_reason.items(), key=lambda item: -item[1])]
    hint = "; times are milliseconds since 1970 UTC" if {"stale_time", "future_time"} & set(by_reason) else ""
    return f" ({', '.join(parts)}{hint})" if parts else ""


def quarantined_share(counts: dict[str, int]) -> float:
    """Share of the distinct rows that are quarantined, suppressed rows left out."""
    distinct = counts["events"] + counts["quarantined"]
    return counts["quarantined"] / distinct if distinct else 0.0


def counts_after_erasure(counts: dict[str, int], events: int, quarantine: Manifest | None) -> dict[str, int]:
    """A manifest's counts once rows of erased users have been removed, so that `events` are left: what is missing of
    the input rows now counts as suppressed. Counts without input rows stay without them."""
    if "input_rows" not in counts or quarantine is None:
        return counts
    rest = {name: value for name, value in counts.items() if not name.startswith(QUARANTINED)}
    rest |= {"events": events, "quarantined": quarantine.rows}
    rest[SUPPRESSED] = counts["input_rows"] - events - quarantine.rows - counts["exact_duplicates"]
    return rest | {name: n for name, n in quarantine.counts.items() if name.startswith(QUARANTINED)}
