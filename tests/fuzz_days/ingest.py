"""One random day through the source and the validation of ingest, in this process, against what is expected."""

import math
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.spark_jobs.day_bounds import event_bounds_ms
from longreel.spark_jobs.sources import name_damaged_file, open_source
from tests.fuzz_days.days import Day
from tests.fuzz_days.expected import EVENT, Expected


@dataclass(frozen=True)
class Outcome:
    """What became of a day: events and reasons, or a refusal, or a crash."""

    events: Counter[tuple[Any, ...]] | None = None
    reasons: Counter[str] | None = None
    input_rows: int = 0
    refusal: str = ""
    crash: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether an outcome is right: `fault` names the sort of fault, empty where there is none."""

    fault: str
    detail: str = ""

    @property
    def sort(self) -> tuple[str, str]:
        """What is equal of faults with one cause, perhaps."""
        has_cause = self.fault in ("crash", "refused", "refusal without a name")
        return self.fault, re.sub(r"/\S*|[\w%]*\d[\w.%]*", "", self.detail)[-60:] if has_cause else ""


@contextmanager
def written(day: Day) -> Iterator[Home]:
    """A home with the day's files, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-day-"))
    try:
        home = day.settings.home(folder / "home")
        day.write(folder / "home")
        yield home
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ingest(spark: Any, day: Day, home: Home) -> Outcome:
    """What ingest makes of a day that is written."""
    try:
        return _validated(spark, day, home)
    except LongreelError as error:
        return Outcome(refusal=f"{type(error).__name__}: {error}")
    except Exception:
        return Outcome(crash=traceback.format_exc())


def _validated(spark: Any, day: Day, home: Home) -> Outcome:
    from longreel.spark_jobs.validate import distinct_rows, evaluate_rows, quarantined_rows, validate_rows

    source, date = open_source(home), day.settings.day
    with name_damaged_file(source.files(date)):
        source.digest(date)
        rows = distinct_rows(source.rows(spark, date))
        evaluated = evaluate_rows(rows, home.config, "the rows", with_users=True)
        validated = validate_rows(evaluated, home.config, event_bounds_ms(date, home.config.source), "the rows")
        quarantined_rows(validated).schema  # noqa: B018  # its expressions are checked
        values = validated.withColumnRenamed("_user_country", "country").drop("row").collect()
    events: Counter[tuple[Any, ...]] = Counter()
    reasons: Counter[str] = Counter()
    for value in values:
        row = value.asDict()
        if row["reason"] is None:
            events[tuple(_plain(row.get(name, _absent(name))) for name in EVENT)] += 1
        else:
            reasons[row["reason"]] += 1
    return Outcome(events, reasons, sum(value["copies"] for value in values))


def _absent(name: str) -> Any:
    return {"surface": -1, "price": -1}.get(name)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        numbers = tuple(_plain(one) for one in value)
        return () if numbers and all(number == -1 and type(number) is float for number in numbers) else numbers
    return -1.0 if isinstance(value, float) and math.isnan(value) else value


def verdict(day: Day, expected: Expected, outcome: Outcome) -> Verdict:
    """Whether ingest did the right thing."""
    if outcome.crash:
        lines = [line for line in outcome.crash.strip().splitlines() if "Error" in line or "Exception" in line]
        return Verdict("crash", " | ".join(dict.fromkeys(line.strip()[:300] for line in (lines[0], lines[-1]))))
    reason = day.may_be_refused()
    if outcome.refusal:
        names = [file.name.rpartition("/")[2] for file in day.files] + list(day.settings.names.values())
        if not reason:
            return Verdict("refused", outcome.refusal)
        is_named = any(name.lower() in outcome.refusal.lower() for name in names)
        return Verdict("" if is_named else "refusal without a name", outcome.refusal)
    if day.has_column_twice():
        return Verdict("accepted", "a column twice")
    if any(file.damage in ("cut", "flipped byte") or file.options.get("encoding") for file in day.files):
        return Verdict("")  # a cut text is a shorter text, and a byte more or less may make another value
    if outcome.input_rows != expected.input_rows:
        return Verdict("rows lost", f"{expected.input_rows} rows written, {outcome.input_rows} read")
    if outcome.reasons != expected.reasons:
        return Verdict("reasons", f"expected {dict(expected.reasons)}, got {dict(outcome.reasons or {})}")
    if outcome.events != expected.events:
        missing, more = expected.events - (outcome.events or Counter()), (outcome.events or Counter()) - expected.events
        return Verdict("values", f"of {EVENT} expected {sorted(missing, key=str)}, got {sorted(more, key=str)}")
    return Verdict("")


def run_day(spark: Any, day: Day) -> Verdict:
    """Write a day, ingest it, and compare."""
    with written(day) as home:
        return verdict(day, day.expected(), ingest(spark, day, home))
