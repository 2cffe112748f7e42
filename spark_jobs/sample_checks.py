"""Checks of a day's samples before they are published; above all, no request sees its own time or later."""

from datetime import date
from typing import Any

from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import schema_text
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.spark_jobs.array_checks import COST_COUNTS, SAMPLE_VIOLATIONS, Stats
from longreel.spark_jobs.drift import sample_drift
from longreel.spark_jobs.quality import Between, Check, Equal, check

COUNTS = ("users", "requests", "targets", "history_events", "max_history", "max_request_targets", *COST_COUNTS)


def check_samples(
    home: Home, day: date, events: Manifest, built: Stats, *, accept_drift: bool = False, brief: bool = False
) -> tuple[dict[str, Any], dict[str, int]]:
    """Run the checkpoint of a day's staged samples on `built`, the stats of their files, read back; see
    `quality.check` for `brief`.

    Returns:
        The quality summary, and the counts for the manifest.

    Raises:
        QualityError: a check failed, or the day is unlike the days before it and that is not accepted.
    """
    log, expected = home.config.log_schema, schema_text(home.lake.schemas.samples)
    stats = {"schema": expected} | dict.fromkeys((*count_names(log), *SAMPLE_VIOLATIONS), 0) | built
    checks: list[Check] = [
        Equal("schema", expected, "columns and types"),
        Equal("users", events.counts["users"], "one row for every user of the day's events"),
        _targets(events.rows, home.config.samples.sampled_negatives * int(stats["requests"])),
        Between("max_request_targets", 0, home.config.samples.max_targets, "targets of a request"),
        *(Equal(name, 0, meaning) for name, meaning in SAMPLE_VIOLATIONS.items()),
    ]
    stats = {name: value for name, value in stats.items() if not name.startswith("digest_")}
    counts = counts_of(stats, log)
    drift = sample_drift(home, day, counts, accepted=accept_drift)
    summary = check(home.reports, day, "samples", stats | drift.stats, [*checks, *drift.checks], brief=brief)
    return summary, counts


def _targets(events: int, negatives: int) -> Check:
    if negatives:
        return Between("targets", events, events + negatives, "targets are the day's events and sampled negatives")
    return Equal("targets", events, "targets add up to the day's events")


def count_names(log: LogSchema) -> tuple[str, ...]:
    """The counts of a samples manifest."""
    return (*COUNTS, *(f"label_{name}" for name in log.binary_labels))


def counts_of(stats: Stats, log: LogSchema) -> dict[str, int]:
    """The manifest's counts, from the stats of the files; {} stands for no samples."""
    return {name: int(stats.get(name, 0)) for name in count_names(log)}
