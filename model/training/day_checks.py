"""Checks of the days that a training is to read, from their manifests, before it reads them."""

from collections.abc import Sequence

from longreel.contracts.config import Config
from longreel.contracts.definitions import conflicts
from longreel.contracts.errors import LongreelError
from longreel.lake.manifest import Manifest

REBUILD = (
    "`longreel data stale` lists the days to rebuild; "
    "`longreel data ingest --date DAY` and `longreel data build-samples --date DAY` rebuild one"
)


def check_training_days(config: Config, manifests: Sequence[Manifest]) -> None:
    """Check the manifests of samples.

    Raises:
        LongreelError: days were built by other definitions than the configuration's, or every target of all days has
            the same value of a task's binary label.
    """
    _check_definitions(config, manifests)
    for task in config.tasks:
        if not config.log_schema.label(task).is_number:
            _check_label(task, manifests)


def _check_definitions(config: Config, manifests: Sequence[Manifest]) -> None:
    days_by_change: dict[str, list[str]] = {}
    for manifest in manifests:
        if definitions := manifest.details.get("definitions"):
            for change in conflicts(definitions, config):
                days_by_change.setdefault(change, []).append(manifest.date)
    if days_by_change:
        listed = "; ".join(f"{change} ({_span(days)})" for change, days in days_by_change.items())
        raise LongreelError(
            f"days to train on were built by other definitions than the configuration's: {listed}. {REBUILD}"
        )


def _check_label(task: str, manifests: Sequence[Manifest]) -> None:
    count = f"label_{task}"
    if not all(count in manifest.counts and "targets" in manifest.counts for manifest in manifests):
        return
    positives, targets = (sum(manifest.counts[name] for manifest in manifests) for name in (count, "targets"))
    days = _span([manifest.date for manifest in manifests])
    if targets and positives == targets:
        raise LongreelError(
            f"all {targets:,} targets of {days} have {task}: expected some without it, to tell them apart from. "
            "If the log holds positives only, log the impressions that were passed over too, or sample negatives; "
            "see docs/log-schema.md#a-log-of-positives-only"
        )
    if targets and not positives:
        raise LongreelError(
            f"none of the {targets:,} targets of {days} has {task}: expected some. Check [labels] {task} and the "
            f"columns that it names, or leave {task} out of tasks"
        )


def _span(days: Sequence[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} .. {days[-1]}, {len(days)} days"
