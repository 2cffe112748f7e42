"""Rejected rows of a day that is stopped: what is wrong with them in words, and a file of examples."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as pads

from longreel.contracts.config import Config
from longreel.contracts.errors import QualityError
from longreel.contracts.local_files import write_text_atomic
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.row_counts import Rejected

EXAMPLES_FILE = "rejected-rows.jsonl"  # in a day's reports, as long as the day is stopped
EXAMPLES = 20  # rows of a reason
HOUR_MS = 3_600_000
UNITS = {"seconds": 1e3, "microseconds": 1e-3, "nanoseconds": 1e-6}  # and what makes milliseconds of them
CONVERSIONS = {"seconds": "{} * 1000", "microseconds": "{} DIV 1000", "nanoseconds": "{} DIV 1000000"}
EXPECTED = {"number": "a number", "vector": "a list of {} numbers"}


def explained(config: Config, bounds_ms: tuple[int, int], rejected: Mapping[str, Rejected]) -> str:
    """A line for each reason that a setting can change, the most frequent first.

    Args:
        bounds_ms: the times that rows may have, [first, last).
    """
    ordered = sorted(rejected.items(), key=lambda item: (-item[1].rows, item[0]))
    return "\n  ".join(line for reason, group in ordered for line in _lines(config, bounds_ms, reason, group))


def _lines(config: Config, bounds_ms: tuple[int, int], reason: str, group: Rejected) -> Iterator[str]:
    source, rows = config.source, f"{group.rows:,} {reason}"
    if reason in ("future_time", "stale_time"):
        yield f"{rows}: {_off(config, bounds_ms, reason, group)}"
    elif reason == "unparsable_time_ms":
        expected = "milliseconds since 1970 UTC or a timestamp"
        yield f"{rows}: [source] time_ms = {source.time_ms!r} gives {group.value!r}, expected {expected}"
    elif reason.startswith("unparsable_"):
        field = next(f for f in config.log_schema.fields if f.name == reason.removeprefix("unparsable_"))
        setting = f"[fields.{field.place}] {field.name} = {field.source or field.name!r}"
        yield f"{rows}: {setting} gives {group.value!r}, expected {EXPECTED[field.kind].format(field.size)}"
    else:
        for action in config.log_schema.actions:
            if reason == f"bad_{action.name}":
                setting = f"[actions] {action.name} = {action.when or action.name!r}"
                yield f"{rows}: {setting} gives {group.value!r}, expected true/false or 1/0; give a condition"


def _off(config: Config, bounds_ms: tuple[int, int], reason: str, group: Rejected) -> str:
    """How far times are from their day, and which setting may be wrong."""
    first_ms, last_ms = group.first_ms or 0, group.last_ms or 0
    oldest_ms, end_ms = bounds_ms
    source = config.source
    for unit, factor in UNITS.items():
        if oldest_ms <= first_ms * factor and last_ms * factor < end_ms:
            is_column = re.fullmatch(r"\w+", source.time_ms)
            sql = CONVERSIONS[unit].format(source.time_ms if is_column else f"({source.time_ms})")
            return f"read as {unit} since 1970 they are of the day: set [source] time_ms = {sql!r}"
    if reason == "future_time":
        nearest, farthest, edge = first_ms - end_ms, last_ms - end_ms, "after the log day ended"
    else:
        nearest, farthest, edge = oldest_ms - last_ms, oldest_ms - first_ms, "older than a day's rows may be"
    return (
        f"they are {nearest / HOUR_MS:,.1f} to {farthest / HOUR_MS:,.1f} h {edge}, by [source] time_zone = "
        f"{source.time_zone!r} and max_lateness_hours = {source.max_lateness_hours:g}; does a log day end at midnight "
        "there, and is time_ms milliseconds since 1970 UTC?"
    )


@contextmanager
def examples_of_stopped(folder: Path, quarantine: PartitionWriter, rejected: Mapping[str, Rejected]) -> Iterator[None]:
    """Where a block's checks stop the day, keep rejected rows of each reason in `folder`, and say so.

    Args:
        folder: the day's reports.
        quarantine: the staged quarantine, which is not published of a day that is stopped.
    """
    path = folder / EXAMPLES_FILE
    path.unlink(missing_ok=True)
    try:
        yield
    except QualityError as error:
        if not rejected:
            raise
        _write_examples(path, quarantine, rejected)
        raise QualityError(f"{error}\n  rejected rows, up to {EXAMPLES} of each reason: {path}") from error


def _write_examples(path: Path, quarantine: PartitionWriter, rejected: Mapping[str, Rejected]) -> None:
    """One JSON object a line: reason, file and raw row."""
    staged = pads.dataset(quarantine.path, filesystem=quarantine.lake.filesystem, format="parquet")
    lines = []
    for reason in rejected:
        rows = staged.head(EXAMPLES, filter=pads.field("reason") == reason)
        for row in rows.select(["reason", "source_file", "row"]).to_pylist():
            lines.append(json.dumps(row | {"row": json.loads(row["row"])}, ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))
