"""Statistics are those of a plain loop; a peer that fails is skipped; differences are paired by user."""

import json
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from benchmarks.fields.__main__ import PRESET, part_of
from benchmarks.peers import prepare
from benchmarks.peers.__main__ import REQUIREMENTS, fit
from benchmarks.peers.compare import compare, markdown
from benchmarks.peers.peer_data import Split, auc
from benchmarks.peers.running_sums import RunningSums
from benchmarks.peers.statistics import statistics
from longreel.contracts.config import parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import offsets_of
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.statistics import SMOOTHING
from longreel.model.data.samples import SampleRows

FIELDS = Path(__file__).resolve().parents[2] / "benchmarks" / "fields" / "kuairand.toml"
ZONE = "Asia/Shanghai"
DAY = date(2026, 1, 8)


def some_impressions(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(rows)
    start = int(datetime(2026, 1, 5, tzinfo=ZoneInfo(ZONE)).timestamp() * 1000)
    times = start + rng.integers(0, 4 * 24, rows) * 3_600_000  # whole hours: some are at the same time, or at midnight
    user, item, click = rng.integers(0, 4, rows), rng.integers(0, 3, rows), rng.integers(0, 2, rows)
    return pd.DataFrame({"time_ms": times, "user_id": user, "item_id": item, "click": click})


@pytest.mark.parametrize("streaming", [False, True])
def test_statistics_are_those_of_a_plain_loop(streaming: bool) -> None:
    events, targets = some_impressions(300), some_impressions(80)
    keys: list[tuple[str, ...]] = [("user_id",), ("user_id", "item_id")]
    table = statistics(events, targets, keys, ["click"], ZONE, streaming)
    prefix = "streaming_" if streaming else ""
    for at, target in targets.iterrows():
        moment = datetime.fromtimestamp(target["time_ms"] / 1000, ZoneInfo(ZONE))
        midnight = datetime(moment.year, moment.month, moment.day, tzinfo=ZoneInfo(ZONE))
        stop = target["time_ms"] if streaming else midnight.timestamp() * 1000
        for key in keys:
            for days in (1, 7, 28):
                start = (midnight - timedelta(days=days)).timestamp() * 1000
                everything = events[(events["time_ms"] >= start) & (events["time_ms"] < stop)]
                own = everything[(everything[list(key)] == target[list(key)]).all(axis=1)]
                name = prefix + "_".join(key)
                assert table.loc[at, f"{name}_impressions_{days}d"] == len(own)
                rate = table.loc[at, f"{name}_click_rate_{days}d"]
                if len(own):
                    expected = (own["click"].sum() + SMOOTHING * everything["click"].mean()) / (len(own) + SMOOTHING)
                    assert rate == pytest.approx(expected, rel=1e-5)
                else:
                    assert np.isnan(rate)


def test_sums_of_an_empty_range_are_zero() -> None:
    sums = RunningSums(np.array([0, 0, 1]), np.array([5, 7, 6]), np.ones((3, 1)))
    start, stop = np.array([-3, 7, 6, 5]), np.array([6, 3, 100, 8])
    assert sums.between(np.array([0, 0, 1, 1]), start, stop)[:, 0].tolist() == [1, 0, 1, 1]


def some_rows(log: LogSchema) -> SampleRows:
    """Three user-days of 0, 40 and 7 events."""
    rng = np.random.default_rng(0)
    lengths, row, counts = np.array([0, 40, 7]), np.array([0, 1, 1, 1, 2, 2]), np.array([2, 1, 3, 2, 1, 4])
    starts = offsets_of(lengths)
    history = {column.name: rng.integers(0, 4, lengths.sum()) for column in log.event_columns}
    history["time_ms"] = np.concatenate([np.sort(rng.integers(0, 10**9, n)) for n in lengths])
    history["play_ratio"] = np.where(rng.random(lengths.sum()) < 0.2, np.nan, 9 * rng.random(lengths.sum()))
    history["actions"] = rng.integers(0, 1 << len(log.actions), lengths.sum())
    return SampleRows(
        log_schema=log,
        user_id=np.array([7, 8, 9]),
        user={column.name: np.arange(3) for column in log.user_columns},
        history=history,
        target={c.name: rng.integers(0, 4, (counts.sum(), c.size)).squeeze() for c in log.target_columns},
        labels=rng.integers(0, 8, counts.sum()),
        binary_labels=log.binary_labels,
        number_labels={},
        request_row=row,
        request_time_ms=np.full(6, 2 * 10**9),
        history_start=starts[row],
        history_stop=starts[row] + np.array([0, 12, 33, 40, 3, 7]),
        target_offsets=offsets_of(counts),
    )


def test_features_of_a_view_have_no_outcome_of_the_target() -> None:
    log = parse_config(FIELDS.read_text()).log_schema
    preset_log = part_of(log, lambda field: field.name in PRESET)
    rows = some_rows(log)
    table = prepare._targets(rows, preset_log, ["click", "like"], start=1_000)
    features = prepare._features(table, log, preset_log)
    assert {"user_id", "onehot_feat3", "tags_1"} <= {name for name, f in features.items() if f["views"] == ["B", "S"]}
    assert {"item_id", "surface", "follow_user_num_range"} <= {n for n, f in features.items() if "A" in f["views"]}
    assert not {"play_ratio", "click", "label_click", "time_ms", "day"} & set(features)
    assert features["surface"]["kind"] == features["tags_1"]["kind"] == "category"
    assert features["duration_ms"]["kind"] == "number"
    request = np.repeat(np.arange(6), rows.target_counts)
    assert table["user_id"].tolist() == (rows.request_row[request] + 7).tolist()
    assert table["label_like"].tolist() == (rows.labels >> 2 & 1).tolist()
    for at, one in enumerate(request):
        own = np.arange(rows.history_start[one], rows.history_stop[one])
        assert table["history_start"][at] == 1_000 + rows.history_start[one]
        assert table["history_stop"][at] - table["history_start"][at] == len(own)
        same = own[rows.history["tag"][own] == rows.target["tag"][at]]
        played = np.clip(np.nan_to_num(rows.history["play_ratio"][same]), 0, 5)
        liked = rows.history["actions"][same] & log.action_bit("like") > 0
        for name, values in (("play_ratio", played), ("like", liked)):
            mean = table[f"history tag mean {name}"][at]
            assert mean == pytest.approx(values.mean()) if len(same) else np.isnan(mean)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Tables of two days, of which the second is scored by longreel and by a peer that has the labels."""
    rng = np.random.default_rng(1)
    rows = 400
    table = pd.DataFrame({"user_id": rng.integers(0, 40, rows), "label_click": rng.integers(0, 2, rows)})
    table["day"] = np.where(np.arange(rows) < rows // 2, (DAY - timedelta(days=1)).isoformat(), DAY.isoformat())
    table = table.assign(time_ms=0, history_start=0, history_stop=0, age=rng.random(rows), surface=1)
    table.to_parquet(tmp_path / "targets.parquet")
    features = {"age": {"kind": "number", "views": ["A", "B"]}, "surface": {"kind": "category", "views": ["B"]}}
    (tmp_path / "features.json").write_text(json.dumps(features))
    labels = table.loc[table["day"] == DAY.isoformat(), "label_click"].to_numpy()
    write_scores(tmp_path, "longreel.A.click.0", rng.random(len(labels)))
    write_scores(tmp_path, "oracle.B.click.0", 0.1 + 0.8 * labels)
    return tmp_path


def write_scores(out: Path, name: str, scores: np.ndarray) -> None:
    path = out / "scores" / DAY.isoformat() / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"score": scores}).to_parquet(path)
    path.with_suffix(".json").write_text(json.dumps({"seconds": 1.0}))


def test_split_has_the_days_before_and_the_features_of_the_view(out: Path) -> None:
    split = Split.of(out, "A", "click", DAY)
    assert list(split.features) == ["age"]
    assert set(split.train["day"]) == {(DAY - timedelta(days=1)).isoformat()}
    assert set(split.test["day"]) == {DAY.isoformat()}
    assert auc(split.test["label_click"].to_numpy(), split.labels[1]) == 1


def test_differences_are_to_longreel_and_skipped_peers_keep_their_reason(out: Path) -> None:
    fit(out, "lightgbm", "B", [], DAY, Path(sys.executable).with_name("no-python-here"))
    rows = {row["peer"]: row for row in compare(out, DAY, "longreel.A")}
    ours, oracle = rows["longreel.A"], rows["oracle.B"]
    assert oracle["auc"]["value"] == oracle["gauc"]["value"] == 1
    assert "minus" not in ours["auc"]
    assert oracle["auc"]["minus"] == pytest.approx(1 - ours["auc"]["value"])
    assert oracle["auc"]["low"] < oracle["auc"]["minus"] < oracle["auc"]["high"]
    assert oracle["log_loss"]["value"] == pytest.approx(-np.log(0.9))
    text = markdown(list(rows.values()))
    assert text.index("| oracle | B | 1.0000 |") < text.index("| longreel | A |")
    assert "lightgbm.B: skipped, no environment at" in text


def test_a_peer_that_cannot_be_imported_is_skipped(out: Path) -> None:
    fit(
        out,
        "lightgbm",
        "A",
        ["--tune-day", "2026-01-07", "--tasks", "click", "--seeds", "0"],
        DAY,
        Path(sys.executable),
    )
    reason = (out / "scores" / DAY.isoformat() / "lightgbm.A.skipped").read_text()
    assert "No module named 'lightgbm'" in reason


def test_scores_of_other_targets_are_refused(out: Path) -> None:
    write_scores(out, "oracle.B.click.0", np.ones(3))
    with pytest.raises(LongreelError, match="expected 200 scores, got 3"):
        compare(out, DAY, "longreel.A")
    write_scores(out, "oracle.B.click.0", np.ones(200))
    with pytest.raises(LongreelError, match=r"no scores of oracle\.A"):
        compare(out, DAY, "oracle.A")


def test_every_peer_is_pinned() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all("==" in word for line in lines for word in line.split())
