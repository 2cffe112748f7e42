"""What each group of KuaiRand's columns and statistics brings: the same samples and training, other declared fields.

    mkdir HOME && cp benchmarks/fields/kuairand.toml HOME/longreel.toml      (set `log` in it)
    longreel data build-samples --home HOME --start 2022-04-25 --end 2022-05-08 --ingest-missing
    python -m benchmarks.fields HOME [--day 2022-05-08] [--seeds 0 1 2] [--groups preset "+ hour and weekday"]

Samples are built once with every column. A group is a part of the log schema: a model reads the columns of its fields
and statistics and no others. Each is trained on the ten days before the day and evaluated on it; differences to
`preset` are paired by user and averaged over seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import at_least, calendar_day
from longreel.contracts.config import Config
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.report import EvaluationReport
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.training.train import train

USER_RANGES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
IDS = ("item_id", "author_id", "tag")
PRESET = (*IDS, "duration_ms", "surface", "play_ratio", *USER_RANGES)
VIDEO = ("video_type", "upload_type", "visible_status", "age_days", "tags")
MUSIC = ("music_id", "music_type")
SIZE = ("server_width", "server_height")
CLOCK = ("hour", "weekday")
USER_NUMBERS = ("is_live_streamer", "follow_user_num", "fans_user_num", "friend_user_num", "register_days")


STATISTICS = (
    "user_id",
    "item_id",
    "author_id",
    "tag",
    "music_id",
    "surface",
    "user_id * surface",
    "user_id * author_id",
    "user_id * tag",
    "item_id * surface",
    "author_id * surface",
)


def _onehot(field: Field) -> bool:
    return field.name.startswith("onehot_feat")


GROUPS: dict[str, Callable[[Field], bool]] = {
    "preset": lambda field: field.name in PRESET,
    "without user columns": lambda field: field.name in PRESET and field.place != "user",
    "without duration and play ratio": lambda f: f.name in PRESET and f.name not in ("duration_ms", "play_ratio"),
    "+ video type, upload type, status, age, all tags": lambda field: field.name in (*PRESET, *VIDEO),
    "+ music": lambda field: field.name in (*PRESET, *MUSIC),
    "+ video size": lambda field: field.name in (*PRESET, *SIZE),
    "+ hour and weekday": lambda field: field.name in (*PRESET, *CLOCK),
    "+ user numbers": lambda field: field.name in (*PRESET, *USER_NUMBERS),
    "+ onehot columns": lambda field: field.name in PRESET or _onehot(field),
    "+ all user columns": lambda field: field.name in PRESET or field.place == "user",
    "all": lambda field: bool(field.name),
}
GROUPS |= {f"+ statistics of {key}": lambda field: field.name in PRESET for key in STATISTICS}
GROUPS |= {f"{group}, with all statistics": GROUPS[group] for group in ("preset", "all")}


def statistics_of(group: str) -> tuple[str, ...]:
    """The keys of the statistics that a group has."""
    if group.endswith("all statistics"):
        return STATISTICS
    return tuple(key for key in STATISTICS if group == f"+ statistics of {key}")


def part_of(schema: LogSchema, keep: Callable[[Field], bool], keys: Collection[str] = ()) -> LogSchema:
    """The schema with some of its fields, the statistics of some keys, and the fields that these are of."""
    statistics = tuple(statistic for statistic in schema.statistics if statistic.key in keys)
    needed = {name for statistic in statistics for name in statistic.of}
    fields = tuple(field for field in schema.fields if keep(field) or field.name in needed)
    return replace(schema, fields=fields, statistics=statistics)


def report_of(home: Home, config: Config, day: date, work: Path) -> EvaluationReport:
    """Train on the days before a day and evaluate on it."""
    lake = Lake(home.lake.root, config.log_schema)
    days = [published for published in sorted(lake.days("samples")) if published < day]
    train(config, lake, days[-config.training.window_days :], work / "train", work / "model")
    return evaluate(work / "model", lake, day, config)


def run(home: Home, day: date, groups: list[str], seeds: list[int], out: Path) -> None:
    """Train and evaluate groups with every seed; a line of JSON each, in `out`."""
    config = home.config
    with out.open("w") as stream, tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for number, group in enumerate(groups):
                schema = part_of(config.log_schema, GROUPS[group], statistics_of(group))
                changed = replace(config, log_schema=schema, training=replace(config.training, seed=seed))
                report = report_of(home, changed, day, Path(folder) / f"{seed}-{number}")
                for task in report.tasks:
                    row = report.row(task, report.windows[-1])
                    line = {"group": group, "seed": seed, "task": task, "fields": len(schema.fields)}
                    values = {name: getattr(row, name).value for name in ("auc", "gauc", "log_loss")}
                    stream.write(json.dumps(line | values | {"draws": row.auc.draws}) + "\n")
                stream.flush()
                print(f"seed {seed}: {group}", flush=True)


def table(path: Path) -> str:
    """The result as Markdown: AUC by task, mean over seeds, and the difference to `preset` with its interval."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    rows = [f"| fields | {' | '.join(f'{t} | minus preset' for t in tasks)} |", f"| --- |{' --- | --- |' * len(tasks)}"]
    for group in dict.fromkeys(line["group"] for line in lines):
        cells = []
        for task in tasks:
            ours, base = (
                [line for line in lines if (line["group"], line["task"]) == (name, task)] for name in (group, "preset")
            )
            gaps = [np.subtract(a["draws"], b["draws"]) for a, b in zip(ours, base, strict=True)]
            low, high = np.quantile(np.mean(gaps, axis=0), [0.025, 0.975])
            mean = np.mean([line["auc"] for line in ours])
            gap = mean - np.mean([line["auc"] for line in base])
            cells.append(f"{mean:.4f} | " + ("" if group == "preset" else f"{gap:+.4f} ({low:+.4f} .. {high:+.4f})"))
        rows.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("fields.jsonl"))
    parser.add_argument("--day", type=calendar_day, help="to evaluate on (default: the last)")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    args = parser.parse_args()
    home = Home(args.home.absolute())
    groups = ["preset", *(group for group in args.groups if group != "preset")]
    run(home, args.day or max(home.lake.days("samples")), groups, args.seeds, args.out)
    print(table(args.out))


if __name__ == "__main__":
    run_main(main)
