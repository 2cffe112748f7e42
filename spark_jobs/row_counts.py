"""Row counts of a raw day: input rows = events + quarantined + exact duplicates + suppressed + filtered rows."""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUPPRESSED = "suppressed"  # the `reason` of rows of erased users, events or not; the quarantine has none of them
FILTERED = "filtered"  # the `reason` of rows for which [source] where does not hold; the quarantine has none of them
QUARANTINED = "quarantined_"  # prefix of the counts by reason


@dataclass(frozen=True)
class Rejected:
    """The rows of a day that were rejected for one reason."""

    rows: int
    value: str | None  # the smallest that could not be read
    first_ms: int | None  # of their times, where they have some
    last_ms: int | None


def count_rows(validated: "DataFrame") -> tuple[dict[str, int], dict[str, Rejected]]:
    """The row counts: input_rows, events, quarantined (also by reason), exact_duplicates, suppressed, filtered_rows;
    and the sums over events of columns `_dropped_<field>`, as dropped_<field>. And the quarantined rows by reason."""
    from pyspark.sql import functions as F

    dropped = [name for name in validated.columns if name.startswith("_dropped_")]
    sums = (F.sum(name).alias(name) for name in dropped)
    by_reason = validated.groupBy("reason")
    extremes = (F.min("unreadable_value"), F.min("time_ms"), F.max("time_ms"))
    groups = by_reason.agg(F.count(F.lit(1)).alias("rows"), F.sum("copies").alias("copies"), *extremes, *sums).collect()
    by_name = {group["reason"]: Rejected(group["rows"], *group[3:6]) for group in groups if group["reason"] is not None}
    none = Rejected(0, None, None, None)
    suppressed, filtered = by_name.pop(SUPPRESSED, none).rows, by_name.pop(FILTERED, none).rows
    rejected = {name: group.rows for name, group in by_name.items()}
    distinct, copies = sum(group["rows"] for group in groups), sum(group["copies"] for group in groups)
    counts = {
        "input_rows": copies,
        "events": distinct - sum(rejected.values()) - suppressed - filtered,
        "quarantined": sum(rejected.values()),
        "exact_duplicates": copies - distinct,
        "suppressed": suppressed,
        "filtered_rows": filtered,
        **{f"{QUARANTINED}{reason}": rows for reason, rows in sorted(rejected.items())},
        **{name[1:]: sum(group[name] or 0 for group in groups if group["reason"] is None) for name in dropped},
    }
    return counts, by_name


def check_balanced(counts: dict[str, int], events_written: int, quarantined_written: int, day: date) -> None:
    """Raises LongreelError where what was written does not add up to what was read."""
    left_out = counts["exact_duplicates"] + counts["suppressed"] + counts["filtered_rows"]
    total = events_written + quarantined_written + left_out
    if total != counts["input_rows"]:
        raise LongreelError(
            f"row counts of {day} do not add up: {counts['input_rows']} rows read, but {events_written} events + "
            f"{quarantined_written} quarantined + {counts['exact_duplicates']} exact duplicates + "
            f"{counts['suppressed']} suppressed + {counts['filtered_rows']} filtered; nothing was published"
        )


def format_counts(counts: dict[str, int]) -> str:
    """The row counts as a sentence."""
    total = f"{counts['input_rows']:,} rows = {counts['events']:,} events + {counts['quarantined']:,} quarantined"
    suppressed = f" + {counts['suppressed']:,} suppressed" if counts["suppressed"] else ""
    filtered = f" + {counts['filtered_rows']:,} filtered" if counts.get("filtered_rows") else ""
    return f"{total} + {counts['exact_duplicates']:,} exact duplicates{suppressed}{filtered}"


def format_reasons(counts: dict[str, int]) -> str:
    """Why rows were rejected, the most frequent reason first."""
    by_reason = {name.removeprefix(QUARANTINED): rows for name, rows in counts.items() if name.startswith(QUARANTINED)}
    parts = [f"{rows:,} {reason}" for reason, rows in sorted(by_reason.items(), key=lambda item: -item[1])]
    return f" ({', '.join(parts)})" if parts else ""


def quarantined_share(counts: dict[str, int]) -> float:
    """Share of the distinct rows that are quarantined, suppressed rows left out."""
    distinct = counts["events"] + counts["quarantined"]
    return counts["quarantined"] / distinct if distinct else 0.0


def counts_after_erasure(counts: dict[str, int], events: int, quarantine: Manifest | None) -> dict[str, int]:
    """A manifest's counts once rows of erased users have been removed, so that `events` are left: what is missing of
    the input rows now counts as suppressed. Counts without input rows stay without them."""
    if "input_rows" not in counts or quarantine is None:
        return counts
    rest = {name: value for name, value in counts.items() if not name.startswith((QUARANTINED, "dropped_"))}
    rest |= {"events": events, "quarantined": quarantine.rows}
    left_out = counts["exact_duplicates"] + counts["filtered_rows"]
    rest[SUPPRESSED] = counts["input_rows"] - events - quarantine.rows - left_out
    return rest | {name: n for name, n in quarantine.counts.items() if name.startswith(QUARANTINED)}
