"""Compact samples of many log days: two partitions, train and test, each with a user's history stored once.

`longreel data build-samples` writes a partition a day, and a user's history with each.
An experiment over years of log
days reads the same requests from one row per user and period: history_end still says what each request sees. The rows
keep the samples contract, so the product's own reader takes them; tests hold that every request is packed the same.

    python -m benchmarks.extrapolation.sample_sets HOME OUT --split 2025-11-01     from a home whose days are ingested
    python -m benchmarks.extrapolation.sample_sets --simulate OUT --users 400 ...  from a simulated world, with truth/
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import at_least, calendar_day, number_between
from longreel.contracts.config import SamplesConfig, parse_config
from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import list_values
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.presets import preset
from longreel.contracts.schemas import dataset_schemas
from longreel.contracts.serialization import read_json
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.spark_jobs.array_digest import digest_from_sums, digest_sums
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.history_events import history_columns
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, sample_tables, segments_by_user
from longreel.spark_jobs.simulated_day import Impressions, simulate_day, truth_rows
from longreel.spark_jobs.simulated_world import World, WorldSettings, make_world, mix, user_columns
from longreel.spark_jobs.user_histories import UserHistories

ABOUT = "set.json"  # what a set was made from, next to its lake
TRUTH = "truth.parquet"
SIMULATED = parse_config(preset("simulated")).log_schema


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Where a pair of sets lies, and the dates that name them."""

    lake: Lake
    folder: Path
    train: date
    test: date
    tasks: tuple[str, ...]

    @staticmethod
    def open(folder: Path) -> "Sets":
        """Sets written by this program."""
        if not (folder / ABOUT).is_file():
            raise LongreelError(f"no sample set in {folder}: expected {ABOUT} and a lake; write one with sample_sets")
        description = read_json(folder / ABOUT, "write the set again")
        dates = {name: parse_day(description[name]) for name in ("train", "test")}
        lake = Lake(folder / "lake", LogSchema.from_dict(description["log_schema"]))
        return Sets(lake=lake, folder=folder, tasks=tuple(description["tasks"]), **dates)


def publish_period(
    lake: Lake,
    day: date,
    events: pa.Table,
    histories: UserHistories,
    fields: UserFields,
    settings: SamplesConfig,
) -> None:
    """Samples of a whole period as the partition of its last day; `histories` then hold the period's history events."""
    writer = lake.writer("samples", day)
    path = write_bucket(writer, 0, sample_tables(DayEvents.of(events, lake.log_schema), histories, fields, settings))
    rows = pq.read_metadata(path).num_rows if path else 0
    times = events.column("time_ms").to_numpy()
    writer.commit(
        digest=content_digest(path),
        inputs={},
        counts={"users": rows, "targets": events.num_rows},
        min_time_ms=int(times.min()),
        max_time_ms=int(times.max()),
    )


def load_bootstrap(lake: Lake, day: date, histories: UserHistories) -> None:
    """A history snapshot as the first history events."""
    table = lake.read(lake.require("history", day))
    users = table.column("user_id").to_numpy()
    _, offsets = list_values(table, "history_time_ms")
    events = {}
    for column in history_columns(lake.log_schema):
        values = list_values(table, f"history_{column.name}")[0].to_numpy()
        events[column.name] = values if column.size == 1 else values.reshape(-1, column.size)
    segments = segments_by_user(np.repeat(users, np.diff(offsets)), histories.store(events))
    histories.load(segments.take(np.argsort(segments.owner, kind="stable")))


def from_home(home: Home, out: Path, split: date, last: date | None = None) -> Sets:
    """Train and test sets of a home's ingested days, with its bootstrap snapshot where it has one.

    Raises:
        DataNotReadyError: days are missing.
    """
    lake, config = home.lake, home.config
    days = [day for day in lake.days("events") if last is None or day <= last]
    if split not in days[1:]:
        span = f"{days[1]} .. {days[-1]}" if len(days) > 1 else "none: ingest at least two days"
        raise LongreelError(f"--split: expected the first day of the test set, one of {span}, got {split}")
    histories = UserHistories(config.samples.max_history, config.log_schema)
    archive = next(lake.days("history"), None)
    if archive is not None and archive < days[0]:
        load_bootstrap(lake, archive, histories)
    fields = _newest_fields(lake, days)
    description = {"home": home.config.name}
    sets = _begin(out, days[days.index(split) - 1], days[-1], config.tasks, config.log_schema, description)
    for part, upto in (([d for d in days if d < split], sets.train), ([d for d in days if d >= split], sets.test)):
        tables = [lake.read(lake.require("events", day)) for day in track(part, description=f"events to {upto}")]
        publish_period(sets.lake, upto, pa.concat_tables(tables), histories, fields, config.samples)
    return sets


def _newest_fields(lake: Lake, days: list[date]) -> UserFields:
    """Each user's fields as of the newest day that has them."""
    tables = [lake.read(lake.require("users", day)) for day in reversed(days)]
    every = UserFields.of(pa.concat_tables(tables), lake.log_schema)
    ids, first = np.unique(every.user_id, return_index=True)
    columns = {name: values[first] for name, values in every.columns.items()}
    return UserFields(log=lake.log_schema, user_id=ids, columns=columns)


def events_of(world: World, impressions: Impressions) -> pa.Table:
    """Simulated impressions as ingest publishes them, without what a raw log loses on the way."""
    acted, rows = impressions.acted, np.arange(len(impressions.item))
    item, numbers = impressions.item, pa.array(impressions.request).cast(pa.string())
    play_ratio = impressions.play_ms / world.item_duration_ms[item]
    labels = [play_ratio >= 1 if name == "finish" else acted[name] for name in SIMULATED.binary_labels]
    columns = {
        "user_id": impressions.user,
        "time_ms": impressions.time_ms,
        "request_id": pa.compute.binary_join_element_wise(pa.scalar(f"{impressions.day:%y%m%d}"), numbers, "-"),
        "item_id": item,
        "author_id": world.item_author[item],
        "tag": world.item_tag[item],
        "duration_ms": world.item_duration_ms[item].astype(np.float32),
        "surface": impressions.surface.astype(np.int32),
        "play_ratio": play_ratio.astype(np.float32),
        "actions": _bitmask([acted[name] for name in SIMULATED.action_names]),
        **impressions.action_times(rows),
        "history": _bitmask([np.ones(len(rows), bool), *(acted[name] for name in SIMULATED.timed_actions)]),
        "labels": _bitmask(labels),
    }
    return pa.table(columns, schema=dataset_schemas(SIMULATED).events)


def _bitmask(bits: Sequence[NDArray[np.bool_]]) -> NDArray[np.int32]:
    return np.asarray(sum(taken.astype(np.int32) << bit for bit, taken in enumerate(bits)), np.int32)


def from_world(
    settings: WorldSettings,
    out: Path,
    *,
    archive_days: int,
    train_days: int,
    test_days: int,
    tasks: tuple[str, ...] = ("click",),
    max_history: int = 10_240,
    request_share: float = 1.0,
) -> Sets:
    """Train and test sets of a simulated world without a pipeline in between, and the truth of the test set.

    Args:
        archive_days: days before the training ones that are history only.
        request_share: share of the requests, by hash, that become samples; the others are history all the same. With
            long histories few requests teach enough, and a set stays small.
    """
    world = make_world(settings)
    first = parse_day(settings.start)
    days = day_range(first - timedelta(days=archive_days), first + timedelta(days=train_days + test_days - 1))
    histories, fields = UserHistories(max_history, SIMULATED), _simulated_fields(world)
    config = SamplesConfig(max_history=max_history)
    description = {"world": asdict(settings), "archive_days": archive_days, "request_share": request_share}
    sets = _begin(out, first + timedelta(days=train_days - 1), days[-1], tasks, SIMULATED, description)
    events: list[pa.Table] = []
    truth: list[pa.Table] = []
    for day in track(days, description=f"simulating into {out.name}"):
        impressions = simulate_day(world, day)
        if day < first:
            add_day(histories, DayEvents.of(events_of(world, impressions), SIMULATED))
            continue
        events.append(events_of(world, impressions))
        if day > sets.train:
            truth.append(truth_rows(impressions, np.arange(len(impressions.user))))
        if day in (sets.train, sets.test):
            publish_period(sets.lake, day, pa.concat_tables(events), histories, fields, config)
            if request_share < 1:
                keep_requests(sets.lake, day, request_share, settings.seed)
            events = []
    pq.write_table(pa.concat_tables(truth), out / TRUTH, compression="zstd")
    return sets


def keep_requests(lake: Lake, day: date, share: float, seed: int) -> None:
    """Keep only a share of a partition's requests, chosen by hash of user and time; histories stay as they are."""
    table = lake.read(lake.require("samples", day))
    writer = lake.writer("samples", day)
    path = write_bucket(writer, 0, _thinned(table, share, seed))
    rows = pq.read_metadata(path).num_rows if path else 0
    writer.commit(digest=content_digest(path), inputs={}, counts={"users": rows})


def content_digest(path: str | None) -> str:
    """The digest of a samples file's rows, of every column; a set is named by it. None stands for no rows."""
    sums: dict[str, int] = {}
    if path is not None:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                for name, value in digest_sums(file.read_row_group(index)).items():
                    sums[name] = sums.get(name, 0) + value
    return digest_from_sums(sums)


def _thinned(table: pa.Table, share: float, seed: int) -> Iterator[pa.Table]:
    times, offsets = list_values(table, "request_time_ms")
    user = np.repeat(table.column("user_id").to_numpy(), np.diff(offsets))
    draw = mix(seed, 31, user, times.to_numpy()) >> np.uint64(11)
    keep = draw.astype(np.float64) * 2.0**-53 < share
    row = np.repeat(np.arange(table.num_rows), np.diff(offsets))
    ends = np.asarray(list_values(table, "request_target_end")[0], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = 0
    counts = ends - starts
    keep_target = np.repeat(keep, counts)
    kept_targets = np.bincount(row, counts * keep, table.num_rows).astype(np.int64)
    kept_requests = np.bincount(row, keep, table.num_rows).astype(np.int64)
    columns = {}
    for field in table.schema:
        if field.name.startswith(("request_", "target_")):
            mask, lengths = (keep, kept_requests) if field.name.startswith("request_") else (keep_target, kept_targets)
            values = list_values(table, field.name)[0].filter(pa.array(mask))
            if field.name == "request_target_end":
                upto = np.cumsum(counts[keep])
                values = pa.array((upto - (np.cumsum(kept_targets) - kept_targets)[row[keep]]).astype(np.int32))
            columns[field.name] = pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values
            )
        else:
            columns[field.name] = table.column(field.name)
    thinned = pa.table(columns, schema=table.schema).filter(pa.array(kept_requests > 0))
    step = max(1, (1 << 20) * thinned.num_rows // max(1, len(list_values(thinned, "history_item_id")[0])))
    for at in range(0, thinned.num_rows, step):
        yield thinned.slice(at, step).combine_chunks()


def _simulated_fields(world: World) -> UserFields:
    columns = user_columns(world)
    ids = np.asarray(columns.pop("user_id"))
    codes = {name: np.unique(np.asarray(values), return_inverse=True)[1] for name, values in columns.items()}
    return UserFields(
        log=SIMULATED, user_id=ids, columns={name: values.astype(np.int32) for name, values in codes.items()}
    )


def _begin(
    out: Path, train: date, test: date, tasks: tuple[str, ...], log_schema: LogSchema, description: dict[str, object]
) -> Sets:
    out.mkdir(parents=True, exist_ok=True)
    content = {"train": str(train), "test": str(test), "tasks": tasks, "log_schema": log_schema.to_dict()} | description
    (out / ABOUT).write_text(json.dumps(content, indent=1) + "\n")
    return Sets.open(out)


def main() -> None:
    """Write a pair of sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", nargs="?", help="home folder with ingested days")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", type=calendar_day, help="first day of the test set")
    parser.add_argument("--last", type=calendar_day, help="last day of it (default: the newest)")
    parser.add_argument("--simulate", action="store_true", help="from a simulated world instead of a home")
    for name, default in (("archive-days", 60), ("train-days", 7), ("test-days", 1), ("max-history", 10_240)):
        parser.add_argument(f"--{name}", type=at_least(1), default=default)
    for name in ("users", "items", "seed", "activity", "interests"):
        parser.add_argument(f"--{name}", type=at_least(0), default=getattr(WorldSettings(), name))
    parser.add_argument("--request-share", type=number_between(0, 1, open_low=True), default=1.0)
    parser.add_argument("--no-long-range", action="store_true")
    args = parser.parse_args()
    if args.simulate and args.home:
        parser.error(f"--simulate takes OUT alone, got the home {args.home!r} too")
    if not args.simulate:
        if args.home is None or args.split is None:
            parser.error("expected HOME OUT --split YYYY-MM-DD, or --simulate OUT")
        try:
            home = Home(existing_home(args.home))
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        sets = from_home(home, args.out, args.split, args.last)
    else:
        named = {name: getattr(args, name) for name in ("users", "items", "seed", "activity", "interests")}
        sets = from_world(
            WorldSettings(**named, long_range=not args.no_long_range, user_growth=0.0),
            args.out,
            archive_days=args.archive_days,
            train_days=args.train_days,
            test_days=args.test_days,
            max_history=args.max_history,
            request_share=args.request_share,
        )
    size = sum(path.stat().st_size for path in args.out.rglob("*.parquet")) / 2**20
    print(f"{args.out}: train to {sets.train}, test to {sets.test}, {size:.1f} MiB")


if __name__ == "__main__":
    run_main(main)
