"""The history before a log day: a compacted snapshot, and the daily increments after it.

The history is the same whatever the snapshot: for a row on D the newest `max_history` history events of the log days
before D that its first request may see, and all newer ones, ordered by time and then by every other field, so that ties
fall the same way in any build.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from longreel.contracts.config import Config
from longreel.contracts.definitions import Change
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.lake.lineage import history_changes, is_imported
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.bootstrap_snapshot import bootstrap_input, find_bootstrap


@dataclass(frozen=True)
class HistorySource:
    """Where the history before a log day comes from: a snapshot (or None) and the events of the days after it, in
    order."""

    snapshot: Manifest | None
    increments: tuple[Manifest, ...]

    def inputs(self) -> dict[str, str]:
        """Every log day in the history with its events' digest, and the bootstrap snapshot if there is one: the same
        for any compacted snapshot."""
        days = {f"events/{increment.date}": increment.digest for increment in self.increments}
        return (_snapshot_inputs(self.snapshot) if self.snapshot else {}) | days

    def max_events(self, log: LogSchema) -> int:
        """Upper bound of the history events read."""
        stored = self.snapshot.counts["history_events"] if self.snapshot else 0
        return stored + sum(max_history_events(increment, log) for increment in self.increments)

    def size_bytes(self) -> int:
        """Size of the files read."""
        return sum(partition_bytes(manifest) for manifest in (self.snapshot, *self.increments) if manifest)


def max_history_events(events: Manifest, log: LogSchema) -> int:
    """Upper bound of the history events of a day's events: its impressions, and those timed actions that happened."""
    return events.rows + sum(events.counts.get(f"action_{name}", 0) for name in log.timed_actions)


def partition_bytes(manifest: Manifest) -> int:
    """Size of a partition's files."""
    return sum(item.size_bytes for item in manifest.files)


def _snapshot_inputs(snapshot: Manifest) -> dict[str, str]:
    """What a snapshot stands for: the events of log days, and the bootstrap snapshot (which stands for itself)."""
    if is_imported(snapshot):
        return bootstrap_input(snapshot)
    return {name: value for name, value in snapshot.inputs.items() if name.startswith(("events/", "history/"))}


def find_history(lake: Lake, config: Config, day: date) -> HistorySource:
    """The newest usable snapshot before a log day, and the increments since.

    A snapshot is usable while it was compacted from the events and the bootstrap snapshot that are published now, by
    the present definitions of history events, and keeps at least `max_history` events a user.

    Raises:
        DataNotReadyError: a log day between the snapshot, or the first published day, and `day` is not published.
        LongreelError: there is a bootstrap snapshot, but not for these settings; samples would lack it. Or the events
            of such a day were made by other definitions of history events.
    """
    snapshot, first, manifests = _find_snapshot(lake, config, day)
    increments = _increments(first, day, manifests)
    for events in increments:
        require_definitions(events, history_changes(events, config))
    return HistorySource(snapshot, increments)


def require_definitions(events: Manifest, changes: Sequence[Change]) -> None:
    """Raises LongreelError where some changes are conflicts: samples would mix two meanings of a value."""
    texts = [change.text for change in changes if change.is_conflict]
    if texts:
        raise LongreelError(
            f"events of {events.date} were made by other definitions: {'; '.join(texts)}; run "
            f"`longreel data ingest --date {events.date}`, or `longreel data stale` for every such day"
        )


def missing_days(lake: Lake, config: Config, day: date) -> list[date]:
    """The log days before a day whose events its samples need and that are not published, oldest first.

    They lie between the snapshot, or the first published day, and `day`. Days before the first published one are not
    among them: that one is where the lake's log begins.

    Raises:
        LongreelError: as `find_history`.
    """
    _, first, manifests = _find_snapshot(lake, config, day)
    return [needed for needed in _days_between(first, day) if needed not in manifests]


def _find_snapshot(lake: Lake, config: Config, day: date) -> tuple[Manifest | None, date, dict[date, Manifest]]:
    """The newest usable snapshot before a log day, the first day that is read after it, and all published days before
    the log day."""
    manifests = {d: lake.require("events", d) for d in lake.days("events") if d < day}
    bootstrap = find_bootstrap(lake, before=day)
    inputs = {f"events/{d}": m.digest for d, m in manifests.items()} | (bootstrap_input(bootstrap) if bootstrap else {})
    for snapshot_day in sorted((d for d in lake.days("history") if d < day), reverse=True):
        snapshot = lake.require("history", snapshot_day)
        if not history_changes(snapshot, config) and _is_current(snapshot, inputs):
            return snapshot, snapshot_day + timedelta(days=1), manifests
    if bootstrap:
        changes = "; ".join(change.text for change in history_changes(bootstrap, config))
        reason = changes or "the lake has events of its days"
        raise LongreelError(
            f"the bootstrap snapshot through {bootstrap.date} cannot be used: {reason}; "
            f"run `longreel data import-history --through {bootstrap.date}` again"
        )
    return None, min(manifests, default=day), manifests


def _is_current(snapshot: Manifest, inputs: Mapping[str, str]) -> bool:
    """Whether a snapshot was compacted from what is published now.

    Days older than the snapshot may have been removed from the lake; those that are there must be the ones compacted,
    and none may have arrived since. `inputs` are named `<dataset>/<day>`, so days of a name compare as text.
    """
    compacted = _snapshot_inputs(snapshot)
    older = {name: value for name, value in inputs.items() if name.split("/")[1] <= snapshot.date}
    return all(compacted.get(name) == value for name, value in older.items())


def _days_between(first: date, day: date) -> list[date]:
    """The log days from the first up to and without `day`."""
    return [first + timedelta(days=number) for number in range((day - first).days)]


def _increments(first: date, day: date, manifests: dict[date, Manifest]) -> tuple[Manifest, ...]:
    """The events of every log day from the first up to and without `day`."""
    increments = []
    for needed in _days_between(first, day):
        if needed not in manifests:
            raise DataNotReadyError(
                f"samples of {day} need events of every log day before it, but {needed} is not published; "
                f"run `longreel data ingest --date {needed}`, or build with --ingest-missing once its raw log arrived"
            )
        increments.append(manifests[needed])
    return tuple(increments)
