"""The days that a step works on, its progress lines, and a Spark session that starts on first use."""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeVar

from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.durations import time_left
from longreel.contracts.errors import DataNotReadyError, LongreelError, QualityError
from longreel.contracts.local_files import write_text_atomic
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")


def add_day_arguments(parser: argparse.ArgumentParser) -> None:
    """--date, or --start and --end; --force and --accept-drift."""
    parser.add_argument("--date", help="the log day, YYYY-MM-DD")
    parser.add_argument("--start", help="first log day of a range")
    parser.add_argument("--end", help="last log day of a range, inclusive")
    parser.add_argument("--force", action="store_true", help="build again even where the inputs have not changed")
    parser.add_argument(
        "--accept-drift",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="publish days that are unlike the days before them, and record it",
    )


def requested_days(args: argparse.Namespace) -> list[date]:
    """The days of --date or --start .. --end, oldest first.

    Raises:
        LongreelError: neither or both were given, or they are no days.
    """
    if args.date and not (args.start or args.end):
        return [parse_day(args.date)]
    if args.start and args.end and not args.date:
        return day_range(parse_day(args.start), parse_day(args.end))
    raise LongreelError("name the days: either --date YYYY-MM-DD, or both --start and --end")


def code_version() -> str:
    """The installed version of longreel."""
    try:
        return version("longreel")
    except PackageNotFoundError:
        return "unknown"


def is_unchanged(published: Manifest | None, inputs: Mapping[str, str], force: bool) -> bool:
    """Whether a partition was already made from exactly these inputs, and can be read."""
    return not force and published is not None and published.is_readable and published.inputs == dict(inputs)


@contextmanager
def noted_failure(home: Home, dataset: str, days: Sequence[date]) -> Iterator[None]:
    """Note in `reports/DAY/failed-DATASET.json` why a block ended with an error, until one ends well.

    Not that data have not arrived, nor that a checkpoint stopped the day, which its quality summary says.
    """
    notes = [home.reports / str(day) / f"failed-{dataset}.json" for day in days]
    try:
        yield
    except (DataNotReadyError, QualityError):
        raise
    except Exception as error:
        text = json.dumps(
            {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "error": next(iter(str(error).splitlines()), type(error).__name__),
            }
        )
        with contextlib.suppress(OSError):  # a full disk may be the error
            for note in notes:
                note.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomic(note, text)
        raise
    for note in notes:
        note.unlink(missing_ok=True)


def log_progress(dataset: str, day: date, message: str, started: float | None = None) -> None:
    """Print one line about a day, with the seconds since `started` (a `time.monotonic()`)."""
    seconds = "" if started is None else f" in {time.monotonic() - started:.1f} s"
    print(f"{dataset} {day}: {message}{seconds}", flush=True)


def in_turn(dataset: str, pieces: Sequence[T], size_of: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Pieces of work, of `size_of` days each; between two of them, a line says how long is left."""
    started, total, done = time.monotonic(), sum(map(size_of, pieces)), 0
    for piece in pieces:
        if done:
            left = time_left(time.monotonic() - started, done / total)
            print(f"{dataset}: {done} of {total} days, {left}", flush=True)
        yield piece
        done += size_of(piece)


class LazySession:
    """A Spark session that starts when it is first needed: a run with nothing to do never starts one."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._session: SparkSession | None = None

    def __call__(self, input_bytes: int = 0) -> "SparkSession":
        """The session; the first call starts it, sized for `input_bytes`."""
        if self._session is None:
            from longreel.spark_jobs.quality import preload_great_expectations
            from longreel.spark_jobs.session import spark_session

            preload_great_expectations()
            self._session = spark_session(self._app, input_bytes=input_bytes)
        return self._session
