"""Where is what each user had done before a log day? In a compacted base and the daily deltas after it.

What is there is the same whatever the base: history of a row on D = newest `max_history` behaviours of the log days
before D, ordered by time and then by every other field, so that ties fall the same way in any build.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from longreel.contracts.config import Config
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.lake.lineage import is_imported
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.bootstrap_snapshot import archive_input, imported_archive


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
    base, first, manifests = _beginning(lake, config, day)
    return HistorySource(base, _every_day(first, day, manifests))


def missing_days(lake: Lake, config: Config, day: date) -> list[date]:
    """The log days before a day whose events its samples need and that are not published, oldest first.

    They lie between the base, or the first published day, and `day`. Days before the first published one are none of
    them: that one is where the lake's log begins.

    Raises:
        LongreelError: as `find_history`.
    """
    _, first, manifests = _beginning(lake, config, day)
    return [wanted for wanted in _days_between(first, day) if wanted not in manifests]


def _beginning(lake: Lake, config: Config, day: date) -> tuple[Manifest | None, date, dict[date, Manifest]]:
    """The newest usable base before a log day, the first day that is read after it, and all published days before."""
    manifests = {d: lake.require("events", d) for d in lake.days("events") if d < day}
    archive = imported_archive(lake, before=day)
    inputs = {f"events/{d}": m.digest for d, m in manifests.items()} | (archive_input(archive) if archive else {})
    for base_day in sorted((d for d in lake.days("history") if d < day), reverse=True):
        base = lake.require("history", base_day)
        if not _misfit(base, config) and _is_current(base, inputs):
            return base, base_day + timedelta(days=1), manifests
    if archive:
        why = _misfit(archive, config) or "the lake has events of its days"
        raise LongreelError(
            f"the archive imported through {archive.date} cannot be used: {why}; "
            f"run `longreel data import-history --through {archive.date}` again"
        )
    return None, min(manifests, default=day), manifests


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


def _days_between(first: date, day: date) -> list[date]:
    """The log days from the first up to and without `day`."""
    return [first + timedelta(days=number) for number in range((day - first).days)]


def _every_day(first: date, day: date, manifests: dict[date, Manifest]) -> tuple[Manifest, ...]:
    found = []
    for wanted in _days_between(first, day):
        if wanted not in manifests:
            raise DataNotReadyError(
                f"samples of {day} need events of every log day before it, but {wanted} is not published; "
                f"run `longreel data ingest --date {wanted}`, or build with --ingest-missing once its raw log arrived"
            )
        found.append(manifests[wanted])
    return tuple(found)
