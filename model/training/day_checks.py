"""Checks of the days that a training is to read and to be evaluated on, before it reads them.

From their manifests; number labels are read until two values differ, which is one row group as a rule.
"""

from collections.abc import Iterator, Sequence

import pyarrow.compute as pc

from longreel.contracts.config import Config
from longreel.contracts.definitions import conflicts
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import list_values
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake

REBUILD = (
    "`longreel data stale` lists the days to rebuild; "
    "`longreel data ingest --date DAY` and `longreel data build-samples --date DAY` rebuild one"
)


def check_training_days(config: Config, lake: Lake, manifests: Sequence[Manifest]) -> None:
    """Check the manifests of samples.

    Raises:
        LongreelError: days were built by other definitions than the configuration's, or every target of all days has
            the same value of a task's label. The message names each such task with its counts.
    """
    _check_definitions(config, manifests)
    days = _span([manifest.date for manifest in manifests])
    problems = [problem for task in config.tasks for problem in _label_problems(config, lake, task, manifests, days)]
    if problems:
        raise LongreelError(f"nothing to learn from: {'; '.join(problems)}")


def check_evaluation_day(config: Config, lake: Lake, manifest: Manifest, task: str) -> None:
    """Check the samples of the day that a candidate is to be evaluated on.

    Args:
        task: the gate task, by which a candidate is decided upon; other tasks may have labels of one class.

    Raises:
        LongreelError: every target of the day has the same value of the task's label.
    """
    if task in config.tasks and (problems := list(_label_problems(config, lake, task, [manifest], manifest.date))):
        raise LongreelError(
            f"{'; '.join(problems)}. A candidate is evaluated on that day, and decided upon by {task}: take another "
            "--date, or correct that day and build it again"
        )


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


def _label_problems(config: Config, lake: Lake, task: str, manifests: Sequence[Manifest], days: str) -> Iterator[str]:
    """Why a task's label tells no target of some days from another; nothing where it does."""
    if config.log_schema.label(task).is_number:
        yield from _number_problems(lake, task, manifests, days)
        return
    count = f"label_{task}"
    if not all(count in manifest.counts and "targets" in manifest.counts for manifest in manifests):
        return
    positives, targets = (sum(manifest.counts[name] for manifest in manifests) for name in (count, "targets"))
    if targets and positives == targets:
        yield (
            f"all {targets:,} targets of {days} have {task}: expected some without it, to tell them apart from. "
            "If the log holds positives only, log the impressions that were passed over too, or set [samples] "
            "sampled_negatives; see docs/log-schema.md#a-log-of-positives-only"
        )
    if targets and not positives:
        yield (
            f"none of the {targets:,} targets of {days} has {task}: expected some. Check the SQL of [labels] {task} "
            f"and of the actions that it names, or leave {task} out of tasks"
        )


def _number_problems(lake: Lake, task: str, manifests: Sequence[Manifest], days: str) -> Iterator[str]:
    targets, low, high = 0, float("inf"), float("-inf")
    for count, group_low, group_high in _number_ranges(lake, task, manifests):
        targets, low, high = targets + count, min(low, group_low), max(high, group_high)
        if low < high:
            return
    advice = f"Check the SQL of [labels] {task}, or leave {task} out of tasks"
    if targets and low > high:
        yield f"none of the {targets:,} targets of {days} has a value of {task}: expected some. {advice}"
    elif targets:
        yield f"every value of {task} in {targets:,} targets of {days} is {low:g}: expected several. {advice}"


def _number_ranges(lake: Lake, task: str, manifests: Sequence[Manifest]) -> Iterator[tuple[int, float, float]]:
    """Targets, lowest and highest finite value of each row group's number label; inf, -inf where none has a value."""
    name = f"target_label_{task}"
    for manifest in manifests:
        for file in lake.files(manifest):
            with lake.open_parquet(file) as parquet:
                if name not in parquet.schema_arrow.names:
                    continue
                for index in range(parquet.num_row_groups):
                    values, _ = list_values(parquet.read_row_group(index, columns=[name]), name)
                    finite = values.filter(pc.is_finite(values))
                    low, high = (pc.min_max(finite)[end].as_py() for end in ("min", "max"))
                    yield len(values), float("inf") if low is None else low, float("-inf") if high is None else high


def _span(days: Sequence[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} .. {days[-1]}, {len(days)} days"
