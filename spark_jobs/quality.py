"""Great Expectations checkpoints of staged partitions, over scalars computed from them.

Great Expectations reads the data once per expectation and cannot read lists, so Spark reduces the partition to one row
of scalars in one pass, and the expectations check that row. Data Docs and a JSON summary are written to the reports.

A failed check of level `stop` stops the day. A failed check of level `warn` is printed and recorded, and so is one of
level `accepted`, which would have stopped the day without `--accept-drift`.
"""

import importlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from longreel.contracts.errors import QualityError
from longreel.contracts.local_files import write_text_atomic

Level = Literal["stop", "warn", "accepted"]
SEVERITY: dict[Level, str] = {"stop": "critical", "warn": "warning", "accepted": "info"}  # Great Expectations' words


@dataclass(frozen=True)
class Between:
    """A scalar must lie in [low, high]; None leaves a side open. `meaning` is what a reader of the report sees,
    `remedy` what to do when the check fails."""

    column: str
    low: float | None
    high: float | None
    meaning: str
    level: Level = "stop"
    remedy: str = ""


@dataclass(frozen=True)
class Equal:
    """A scalar or text must be exactly this."""

    column: str
    value: str | int
    meaning: str
    level: Level = "stop"
    remedy: str = ""


Check = Between | Equal


def preload_great_expectations() -> threading.Thread:
    """Start importing Great Expectations, which takes seconds, while Spark works."""
    _quiet()
    thread = threading.Thread(target=importlib.import_module, args=("great_expectations",), daemon=True)
    thread.start()
    return thread


def _quiet() -> None:
    """No telemetry, and none of the hundreds of lines that the import logs."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the second has its own level
        logging.getLogger(name).setLevel(logging.WARNING)


def holds(check: Check, value: Any) -> bool:
    """Whether a scalar passes a check."""
    if isinstance(check, Equal):
        return bool(value == check.value)
    return (check.low is None or value >= check.low) and (check.high is None or value <= check.high)


def check(
    reports: Path, day: date, dataset: str, stats: Mapping[str, Any], checks: list[Check], *, brief: bool = False
) -> dict[str, Any]:
    """Run a dataset's checks for a day.

    Args:
        stats: one value for each checked column.
        brief: no Data Docs for a day that is not stopped; a checkpoint takes half a second, and a range has many days.

    Returns:
        The summary that is written to `<reports>/<day>/quality-<dataset>.json`: a sentence for each
        failed check of level `stop` in `failures`, and in `warnings` for each column that failed one of another level.

    Raises:
        QualityError: a check of level `stop` failed; nothing of the day may be published.
    """
    unknown = [check.column for check in checks if stats[check.column] is None]
    if unknown:  # Great Expectations lets nulls pass
        raise ValueError(f"no value to check for {', '.join(unknown)}")
    folder = reports / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    docs = folder / "data-docs" / dataset
    passed = [holds(check, stats[check.column]) for check in checks]
    if not brief or any(check.level == "stop" and not ok for check, ok in zip(checks, passed, strict=True)):
        passed = _run_checkpoint(dataset, day, stats, checks, docs)
    results = [_result(check, stats[check.column], ok) for check, ok in zip(checks, passed, strict=True)]
    failed = [result for result in results if not result["success"] and result["level"] == "stop"]
    failures = [_sentence(result) for result in failed]
    summary = {
        "dataset": dataset,
        "date": day.isoformat(),
        "success": not failed,
        "failures": failures,
        "warnings": _warnings(results),
        "checks": results,
        "stats": dict(stats),
    }
    write_text_atomic(folder / f"quality-{dataset}.json", json.dumps(summary, indent=1))
    if failed:
        remedies = {check.remedy for check, result in zip(checks, results, strict=True) if result in failed}
        raise QualityError(
            f"{dataset} of {day} failed {len(failed)} of {len(results)} checks; nothing of it was published\n"
            + "".join(f"  {line}\n" for line in [*failures, *sorted(remedies - {""})])
            + f"  details: {docs / 'index.html'}"
        )
    return summary


def verdict(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest's details keep of a passed checkpoint: `quality`, and `warnings` if there are any."""
    passed = f"{sum(result['success'] for result in summary['checks'])} checks passed"
    warnings = summary["warnings"]
    return {"quality": f"{passed}, {len(warnings)} warned", "warnings": warnings} if warnings else {"quality": passed}


def _sentence(result: Mapping[str, Any]) -> str:
    return f"{result['meaning']}: expected {result['expected']}, got {result['observed']}"


def _warnings(results: list[dict[str, Any]]) -> list[str]:
    """One line a column: an accepted check replaces the narrower one that warns."""
    lines: dict[str, str] = {}
    for level, prefix in (("warn", ""), ("accepted", "accepted: ")):
        failed = (result for result in results if result["level"] == level and not result["success"])
        lines |= {result["column"]: f"{prefix}{_sentence(result)}" for result in failed}
    return list(lines.values())


def _result(check: Check, observed: Any, success: bool) -> dict[str, Any]:
    """A check as the summary keeps it."""
    return {
        "column": check.column,
        "meaning": check.meaning,
        "expected": _expected(check),
        "observed": observed,
        "level": check.level,
        "success": success,
    }


def _run_checkpoint(dataset: str, day: date, stats: Mapping[str, Any], checks: list[Check], docs: Path) -> list[bool]:
    """Whether each check passed, by Great Expectations; writes its Data Docs."""
    _quiet()
    import great_expectations as gx
    import pandas as pd
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    _quiet()  # again: the import sets its own level
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    page = {"module_name": "longreel.spark_jobs.data_docs", "class_name": "NamedValidationPage"}
    sections = {"validations": {"renderer": page}}
    site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
    context.add_data_docs_site("local", site | {"site_section_builders": sections})  # type: ignore[arg-type]
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset(f"{dataset}-{day}")
    batch = asset.add_batch_definition_whole_dataframe("day")
    expectations = [_expectation(gx, number, check) for number, check in enumerate(checks)]
    suite = context.suites.add(gx.ExpectationSuite(name=dataset, expectations=expectations))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=dataset, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=dataset,
            validation_definitions=[validation],
            actions=[UpdateDataDocsAction(name="docs", site_names=["local"])],
            result_format="COMPLETE",
        )
    )
    frame = {"dataframe": pd.DataFrame([dict(stats)])}
    outcome = checkpoint.run(batch_parameters=frame, run_id=RunIdentifier(run_name=day.isoformat()))
    (run,) = outcome.run_results.values()
    success: dict[int, bool] = {}
    for result in run.results:
        assert result.expectation_config is not None
        success[result.expectation_config.meta["check"]] = bool(result.success)
    return [success[number] for number in range(len(checks))]


def _expectation(gx: Any, number: int, check: Check) -> Any:
    """A check as an expectation. Two of one column differ in level, and results come in any order: `meta`
    identifies them. Data Docs show a description but no severity, so it begins with the level unless that is `stop`."""
    common = {
        "column": check.column,
        "description": check.meaning if check.level == "stop" else f"[{check.level}] {check.meaning}",
        "severity": SEVERITY[check.level],
        "meta": {"check": number},
    }
    if isinstance(check, Equal):
        return gx.expectations.ExpectColumnValuesToBeInSet(value_set=[check.value], **common)
    return gx.expectations.ExpectColumnValuesToBeBetween(min_value=check.low, max_value=check.high, **common)


def _expected(check: Check) -> str:
    if isinstance(check, Equal):
        return str(check.value)
    if check.low is None:
        return f"at most {check.high:,}"
    return f"at least {check.low:,}" if check.high is None else f"{check.low:,} .. {check.high:,}"
