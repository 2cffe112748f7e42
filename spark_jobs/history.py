"""What had each user done before a log day? The newest behaviours from a compacted base and the daily deltas after it.

The answer is the same whatever the base: history of a row on D = newest `max_history` behaviours of the log days
before D, ordered by time and then by every other field, so that ties fall the same way in any build.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from contracts.config import Config
from contracts.errors import DataNotReadyError, LongreelError
from contracts.lake import Lake, Manifest
from contracts.schemas import HISTORY_FIELDS
from spark_jobs.archive import archive_input, imported_archive, is_imported
from spark_jobs.tables import read_partitions

EVENT = "event"  # a behaviour as a struct of HISTORY_FIELDS: comparing two compares time first, then every field


@dataclass(frozen=True)
class HistorySource:
    """Where the history before a log day comes from: `base` (or None) and the events of the days after it, in order."""

    base: Manifest | None
    deltas: tuple[Manifest, ...]

    def days(self) -> dict[str, str]:
        """Every log day that the history is made of, with its events' digest, and the imported archive where there is
        one: the same for any compacted base."""
        return (_folded(self.base) if self.base else {}) | {
            f"events/{manifest.date}": manifest.digest for manifest in self.deltas
        }

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


def _folded(base: Manifest) -> dict[str, str]:
    """What a base stands for: the events of log days, and the imported archive (which stands for itself)."""
    if is_imported(base):
        return archive_input(base)
    return {name: value for name, value in base.inputs.items() if name.startswith(("events/", "history/"))}


def history_settings(config: Config) -> dict[str, str]:
    """What a history base depends on besides events."""
    return {"behaviour": ",".join(sorted(config.source.behaviour))}


def find_history(lake: Lake, config: Config, day: date) -> HistorySource:
    """The newest usable base before a log day, and the deltas between.

    A base is usable while it was folded from the events and the archive that are published now, for the same
    behaviours, and keeps at least `max_history` of them.

    Raises:
        DataNotReadyError: a log day between the base, or the first published day, and `day` is not published.
        LongreelError: there is an imported archive, but not for these settings; without it samples would lack it.
    """
    manifests = {d: lake.require("events", d) for d in lake.days("events") if d < day}
    archive = imported_archive(lake, before=day)
    inputs = {f"events/{d}": m.digest for d, m in manifests.items()} | (archive_input(archive) if archive else {})
    for base_day in sorted((d for d in lake.days("history") if d < day), reverse=True):
        base = lake.require("history", base_day)
        if not _misfit(base, config) and _is_current(base, inputs):
            return HistorySource(base, _every_day(base_day + timedelta(days=1), day, manifests))
    if archive:
        why = _misfit(archive, config) or "the lake has events of its days"
        raise LongreelError(
            f"the archive imported through {archive.date} cannot be used: {why}; "
            f"run `longreel import-history --through {archive.date}` again"
        )
    first = min(manifests, default=day)
    return HistorySource(None, _every_day(first, day, manifests))


def _misfit(base: Manifest, config: Config) -> str | None:
    """Why a base does not fit the settings, or None."""
    wanted, came = history_settings(config), base.details["settings"]
    if came != wanted:
        return f"it holds behaviour {came['behaviour']}, the settings ask for {wanted['behaviour']}"
    kept, most = base.counts["max_history"], config.samples.max_history
    return f"it keeps {kept:,} behaviours a user, max_history asks for {most:,}" if kept < most else None


def _is_current(base: Manifest, inputs: Mapping[str, str]) -> bool:
    """Whether a base was folded from what is published now.

    Days older than the base may have been removed from the lake; those that are there must be the ones folded, and
    none may have arrived since. `inputs` are named `<dataset>/<day>`, so days of a name compare as text.
    """
    folded = _folded(base)
    return all(folded.get(name) == value for name, value in inputs.items() if name.split("/")[1] <= base.date)


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
