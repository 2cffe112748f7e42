"""A small home with a few published days of samples, written by pyarrow through the lake's own commit protocol."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.home import CONFIG_FILE, Home
from contracts.lake import digest_of
from contracts.schemas import HISTORY_FIELDS, SAMPLES, TARGET_FIELDS

FIRST_DAY = date(2026, 1, 1)
USERS, REQUESTS, TARGETS, TAGS = 60, 3, 6, 6

TOML = """
name = "{name}"
tasks = ["click", "like"]
[model]
width = 16
heads = 2
layers = 1
item_buckets = 512
author_buckets = 64
tag_buckets = 32
user_feature_buckets = 64
embedding_width = 8
mixer_tokens = 4
[training]
window_days = 3
epochs = {epochs}
batch_tokens = 1024
window_min = 8
window_mean = 16
window_max = 64
learning_rate = 5e-3
checkpoint_every = 10
warm_start = {warm_start}
[evaluation]
windows = [8, 64]
bootstrap_draws = 40
[gates]
calibration = [0.2, 5.0]
[retrain]
min_train_days = 2
"""


def samples_table(day: date, seed: int) -> pa.Table:
    """User-days in which a user clicks what shares a tag with the history: something to learn in a few steps."""
    rng = np.random.default_rng([seed, day.toordinal()])
    midnight = (day - date(1970, 1, 1)).days * 86_400_000
    rows = []
    for user in range(USERS):
        taste = user % TAGS
        length = int(rng.integers(0, 40)) if user else 0  # the first user has no history
        item_tag = lambda n, like: np.where(rng.random(n) < like, taste, rng.integers(0, TAGS, n))  # noqa: E731, B023
        tags, shown = item_tag(length, 0.9), item_tag(REQUESTS * TARGETS, 0.4)
        clicked = rng.random(len(shown)) < np.where(shown == taste, 0.8, 0.1) + 0.15 * (shown < 2)
        liked = clicked & (rng.random(len(shown)) < 0.4)
        row = {"user_id": 100 + user, "user_features": [taste, 7]}
        old = {
            "time_ms": midnight - 1_000 * np.arange(length, 0, -1),
            "item_id": tags * 50 + rng.integers(0, 50, length),
            "author_id": tags,
            "tag": tags,
            "surface": np.zeros(length),
            "actions": np.ones(length),
            "play_ms": np.full(length, 900),
            "duration_ms": np.full(length, 1_000),
        }
        new = {
            "item_id": shown * 50 + rng.integers(0, 50, len(shown)),
            "author_id": shown,
            "tag": shown,
            "surface": np.zeros(len(shown)),
            "duration_ms": np.full(len(shown), 1_000),
        }
        row |= {f"history_{name}": old[name].astype(np.int64).tolist() for name in HISTORY_FIELDS}
        row |= {f"target_{name}": new[name].astype(np.int64).tolist() for name in TARGET_FIELDS}
        row |= {
            "request_id": [f"{day}-{user}-{r}" for r in range(REQUESTS)],
            "request_time_ms": [midnight + 60_000 * (r + 1) for r in range(REQUESTS)],
            "request_history_end": [length] * REQUESTS,
            "request_target_end": [TARGETS * (r + 1) for r in range(REQUESTS)],
            "target_labels": (clicked * 1 + liked * 2).astype(np.int64).tolist(),
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def publish(home: Home, day: date, seed: int = 0) -> None:
    """Publish one day of samples."""
    stage = home.lake.stage("samples", day)
    table = samples_table(day, seed)
    pq.write_table(table, f"{stage.path}/part-0.parquet")
    stage.publish(digest=digest_of(table.to_pylist()), inputs={}, details={"user_features": ["taste", "constant"]})


@pytest.fixture
def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Home]:
    """Makes a home with the first `days` days published; settings of the template can be given."""
    for variable in ("MLFLOW_TRACKING_URI", "LONGREEL_LAKE", "LONGREEL_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def make(days: int = 0, *, name: str = "tiny", epochs: int = 3, warm_start: str = "false") -> Home:
        home = Home(tmp_path / name)
        home.path.mkdir()
        text = TOML.format(name=name, epochs=epochs, warm_start=warm_start)
        (home.path / CONFIG_FILE).write_text(text)
        for i in range(days):
            publish(home, FIRST_DAY + timedelta(days=i))
        return home

    return make
