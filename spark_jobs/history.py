"""What had each user done before a log day? The newest behaviours from a compacted base and the daily deltas after it.

The answer is the same whatever the base: history of a row on D = newest `max_history` behaviours of the log days
before D, ordered by time and then by every other field, so that ties fall the same way in any build.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from contracts.config import Config
from contracts.errors import DataNotReadyError
from contracts.lake import Lake, Manifest
from contracts.schemas import HISTORY_FIELDS
from spark_jobs.tables import read_partitions

EVENT = "event"  # a behaviour as a struct of HISTORY_FIELDS: comparing two compares time first, then every field


@dataclass(frozen=True)
class HistorySource:
    """Where the history before a log day comes from: `base` (or None) and the events of the days after it, in order."""

    base: Manifest | None
    deltas: tuple[Manifest, ...]

    def days(self) -> dict[str, str]:
        """Every log day that the history is made of, with its events' digest: the same with and without a base."""
        folded = {name: value for name, value in self.base.inputs.items() if _is_events(name)} if self.base else {}
        return folded | {f"events/{manifest.date}": manifest.digest for manifest in self.deltas}

    @property
    def span(self) -> int:
        """Log days read one by one."""
        return len(self.deltas)

    def most_events(self) -> int:
        """Behaviours read, at most."""
        return (self.base.counts["history_events"] if self.base else 0) + sum(delta.rows for delta in self.deltas)

    def bytes(self) -> int:
        """Size of the files read."""
        return sum(bytes_of(manifest) for manifest in (self.base, *self.deltas) if manifest)


def bytes_of(manifest: Manifest) -> int:
    """Size of a partition's files."""
    return sum(item.bytes for item in manifest.files)


def _is_events(name: str) -> bool:
    return name.startswith("events/")


def history_settings(config: Config) -> dict[str, str]:
    """What a history base depends on besides events."""
    return {"behaviour": ",".join(sorted(config.source.behaviour))}


def find_history(lake: Lake, config: Config, day: date) -> HistorySource:
    """The newest usable base before a log day, and the deltas between.

    A base is usable while it was folded from the events that are published now, for the same behaviours, and keeps at
    least `max_history` of them.

    Raises:
        DataNotReadyError: a log day between the base, or the first published day, and `day` is not published.
    """
    published = list(lake.days("events"))
    earlier = [d for d in published if d < day]
    manifests = {d: lake.require("events", d) for d in earlier}
    for base_day in sorted((d for d in lake.days("history") if d < day), reverse=True):
        base = lake.require("history", base_day)
        if _is_usable(base, config, manifests):
            return HistorySource(base, _every_day(base_day + timedelta(days=1), day, manifests))
    first = min(earlier, default=day)
    return HistorySource(None, _every_day(first, day, manifests))


def _is_usable(base: Manifest, config: Config, events: dict[date, Manifest]) -> bool:
    if base.details["settings"] != history_settings(config):
        return False
    if base.counts["max_history"] < config.samples.max_history:
        return False
    # Days older than the base may have been removed from the lake; those that are there must be the ones folded, and
    # none may have arrived since.
    folded = {name: digest for name, digest in base.inputs.items() if _is_events(name)}
    base_day = date.fromisoformat(base.date)
    return all(folded.get(f"events/{d}") == m.digest for d, m in events.items() if d <= base_day)


def _every_day(first: date, day: date, manifests: dict[date, Manifest]) -> tuple[Manifest, ...]:
    found = []
    for number in range((day - first).days):
        wanted = first + timedelta(days=number)
        if wanted not in manifests:
            raise DataNotReadyError(
                f"samples of {day} need events of every log day before it, but {wanted} is not published; "
                f"run `longreel ingest --date {wanted}` first"
            )
        found.append(manifests[wanted])
    return tuple(found)


def event_struct() -> Column:
    """A row's HISTORY_FIELDS as one comparable struct."""
    return F.struct(*(F.col(name) for name in HISTORY_FIELDS))


def behaviours(events: DataFrame, mask: int) -> DataFrame:
    """`user_id, event` of the rows that are behaviour: any of the actions in `mask`."""
    return events.where(F.col("actions").bitwiseAND(F.lit(mask)) != 0).select("user_id", event_struct().alias(EVENT))


def newest(events: Column, most: int) -> Column:
    """The last `most` elements of an ordered array, or all of them."""
    return F.slice(events, F.greatest(F.size(events) - most, F.lit(0)) + 1, F.lit(most))


def merge(base: DataFrame, deltas: DataFrame, most: int) -> DataFrame:
    """Base rows (schema HISTORY) and delta behaviours (`user_id, event`) -> `user_id, history`, an ordered array of
    event structs with the newest `most`."""
    zipped = F.arrays_zip(*(F.col(f"history_{name}") for name in HISTORY_FIELDS))
    # A cast between structs goes by position: it renames history_time_ms to time_ms and so on.
    old = base.select("user_id", zipped.cast(_array_type()).alias("old"))
    recent = deltas.groupBy("user_id").agg(F.sort_array(F.collect_list(EVENT)).alias("recent"))
    both = old.join(recent, "user_id", "full_outer")
    together = F.concat(*(F.coalesce(name, empty_events()) for name in ("old", "recent")))
    return both.select("user_id", newest(F.sort_array(together), most).alias("history"))


def empty_events() -> Column:
    """No behaviours."""
    return F.array().cast(_array_type())


def _array_type() -> str:
    kinds = {"int64": "bigint", "int32": "int"}
    inner = ",".join(f"{name}:{kinds[str(kind)]}" for name, kind in HISTORY_FIELDS.items())
    return f"array<struct<{inner}>>"


def read_history(
    spark: SparkSession, lake: Lake, source: HistorySource, config: Config, mask: int, only: DataFrame | None = None
) -> DataFrame:
    """`user_id, history` from a base and its deltas, of every user or of those in `only` (a frame of `user_id`)."""
    base = read_partitions(spark, lake, "history", [source.base] if source.base else [])
    deltas = behaviours(read_partitions(spark, lake, "events", source.deltas), mask)
    if only is not None:
        base, deltas = (frame.join(only, "user_id", "left_semi") for frame in (base, deltas))
    return merge(base, deltas, config.samples.max_history)


def as_lists(events: Column, prefix: str = "history") -> list[Column]:
    """An array of event structs as parallel list columns `<prefix>_<field>`."""
    return [events.getField(name).alias(f"{prefix}_{name}") for name in HISTORY_FIELDS]
