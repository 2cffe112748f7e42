"""Command `data verify`: reads published partitions to their end, and compares their rows with their content digests.

Each page is checked against its checksum first, without Spark. Then the digest of each partition is computed from what
its files hold and compared with its manifest's. Nothing is changed; the last lines name what is damaged and the remedy.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

from longreel.contracts.argument_types import at_least
from longreel.contracts.dates import day_number, parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import DATASETS
from longreel.lake.files import verify_pages
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.days import LazySession

ROW_DATASETS = ("events", "users", "quarantine")  # digests of rows by Spark; the others are of arrays
THREADS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data verify`."""
    parser.add_argument("--since", default="", help="first day to verify, YYYY-MM-DD (default: all days)")
    parser.add_argument("--part-of", type=at_least(1), default=1, metavar="N", help=PART_OF)


PART_OF = "verify today's part alone: of N, the days whose turn it is, so that N daily runs verify every day once"


def run(args: argparse.Namespace, home: Home) -> int:
    """Verify partitions; prints what each dataset has, and names every damaged partition.

    Raises:
        LongreelError: a partition is damaged.
    """
    since = parse_day(args.since) if args.since else date.min
    turn = day_number(datetime.now(UTC).date()) % args.part_of
    damaged: list[str] = []
    session = LazySession("verify")
    for dataset in DATASETS:
        started = time.monotonic()
        days = [day for day in home.lake.days(dataset) if day >= since and day_number(day) % args.part_of == turn]
        partitions, faults = _read(home.lake, dataset, days)
        faults += _digest_faults(session, home.lake, dataset, partitions)
        size = sum(file.size_bytes for manifest in partitions for file in manifest.files)
        print(
            f"{dataset}: {len(days)} days, {size / 1e6:,.1f} MB, {len(faults)} damaged, "
            f"{time.monotonic() - started:.1f} s",
            flush=True,
        )
        damaged += faults
    for fault in damaged:
        print(fault, flush=True)
    if damaged:
        raise LongreelError(f"{len(damaged)} partitions are damaged, as the lines above say with what to do")
    return 0


def _read(lake: Lake, dataset: str, days: Sequence[date]) -> tuple[list[Manifest], list[str]]:
    """The partitions whose manifests and files can be read to their end, and what is wrong with the others."""

    def read(day: date) -> Manifest | str:
        try:
            manifest = lake.require(dataset, day)
            for file in lake.files(manifest):
                verify_pages(lake.filesystem, file)
        except LongreelError as error:
            return str(error)
        return manifest

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(read, days))
    return [r for r in results if isinstance(r, Manifest)], [r for r in results if isinstance(r, str)]


def _digest_faults(session: LazySession, lake: Lake, dataset: str, partitions: list[Manifest]) -> list[str]:
    """Partitions whose rows have another digest than their manifest says."""
    partitions = [manifest for manifest in partitions if manifest.files]
    if not partitions:
        return []
    digests = _row_digests(session, lake, partitions) if dataset in ROW_DATASETS else _array_digests(lake, partitions)
    return [
        f"{lake.manifest_path(dataset, date.fromisoformat(manifest.date))} says digest {manifest.digest}, the rows of "
        f"its files have {digest}; remove it and run the step of that day again"
        for manifest, digest in digests
        if manifest.digest != digest
    ]


def _row_digests(session: LazySession, lake: Lake, partitions: list[Manifest]) -> Iterator[tuple[Manifest, str]]:
    from longreel.spark_jobs.row_digest import digest_columns, digest_from_aggregates
    from longreel.spark_jobs.stored_columns import by_columns
    from longreel.spark_jobs.tables import day_of_file, read_partitions

    for stored, manifests in by_columns(lake, partitions):
        input_bytes = sum(file.size_bytes for manifest in manifests for file in manifest.files)
        rows = read_partitions(session(input_bytes), stored, manifests[0].dataset, manifests)
        by_day = rows.withColumn("_day", day_of_file()).groupBy("_day").agg(*digest_columns(rows))
        digests = {row["_day"]: digest_from_aggregates(row.asDict()) for row in by_day.collect()}
        yield from ((manifest, digests[manifest.date]) for manifest in manifests)


def _array_digests(lake: Lake, partitions: list[Manifest]) -> Iterator[tuple[Manifest, str]]:
    from longreel.spark_jobs.array_checks import combine
    from longreel.spark_jobs.array_digest import digest_from_sums, digest_sums

    for manifest in partitions:
        sums = []
        for file in lake.files(manifest):
            with lake.open_parquet(file) as parquet:
                sums += [digest_sums(parquet.read_row_group(number)) for number in range(parquet.num_row_groups)]
        yield manifest, digest_from_sums(combine(sums))
