"""Small samples partitions, written row by row in plain Python and published as any job would."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from longreel.contracts.config import Config, EvaluationConfig, ModelConfig, TrainingConfig
from longreel.contracts.digests import digest_of
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import Encodings, learn_encodings
from longreel.model.data.samples import SampleRows
from tests.short_video import SHORT_VIDEO

if not torch.cuda.is_available():  # before anything imports Triton: kernels then run in its interpreter, on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

FIRST_DAY = date(2026, 1, 5)
HOUR = 3_600_000
USER_FIELDS = (Field(name="country", place="user", kind="category"), Field(name="age", place="user", kind="number"))
LOG = replace(SHORT_VIDEO, fields=(*SHORT_VIDEO.fields, *USER_FIELDS))
SAMPLES = dataset_schemas(LOG).samples


def make_rows(seed: int, users: int = 24, longest: int = 60, first_user: int = 100) -> list[dict[str, object]]:
    """User-days with jagged requests; among the first are users with no history and with one event.

    A target is clicked, mostly, where its author is among the history's authors.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(users):
        events = [0, 1, 2][u] if u < 3 else int(rng.integers(0, longest + 1))
        start = 1_700_000_000_000 + int(rng.integers(0, HOUR))
        times = np.sort(start + rng.integers(0, 50 * HOUR, events))
        authors = rng.choice(40, size=6, replace=False) + 1_000
        durations = rng.integers(0, 60_000, events) * (rng.random(events) < 0.9)
        history = {
            "time_ms": times,
            "item_id": rng.integers(0, 500, events),
            "author_id": rng.choice(authors, events) if events else np.zeros(0, np.int64),
            "tag": rng.integers(-1, 12, events),
            "surface": rng.integers(0, 3, events),
            "actions": rng.integers(1, 256, events),
            "play_ms": rng.integers(0, 60_000, events).astype(float),
            "duration_ms": durations.astype(float),
        }
        requests = sorted({int(t) for t in rng.integers(start, start + 60 * HOUR, int(rng.integers(1, 5)))})
        if events and rng.random() < 0.5:
            requests = sorted({*requests, int(times[-1])})  # a request at an event's very time must not see it
        ends = [int((times < t).sum()) for t in requests]
        counts = rng.integers(1, 6, len(requests))
        total = int(counts.sum())
        target_authors = np.where(
            rng.random(total) < 0.5, rng.choice(authors, total), rng.integers(1_000, 1_040, total)
        )
        past_authors = [
            set(history["author_id"][:end].tolist())
            for end, count in zip(ends, counts, strict=True)
            for _ in range(count)
        ]
        clicked = np.array(
            [author in past for author, past in zip(target_authors.tolist(), past_authors, strict=True)], bool
        )
        clicked ^= rng.random(total) < 0.1
        labels = clicked * LOG.label_bit("click") + (rng.random(total) < 0.3) * LOG.label_bit("like")
        row = {"user_id": first_user + u, "user_country": int(rng.integers(0, 9)), "user_age": float(rng.normal(40, 9))}
        row |= {f"history_{name}": values.tolist() for name, values in history.items()}
        row |= {
            "request_id": [f"u{u}r{i}" for i in range(len(requests))],
            "request_time_ms": requests,
            "request_history_end": ends,
            "request_target_end": np.cumsum(counts).tolist(),
        }
        target = {
            "item_id": rng.integers(0, 500, total),
            "author_id": target_authors,
            "tag": rng.integers(-1, 12, total),
            "surface": rng.integers(0, 3, total),
            "duration_ms": rng.integers(0, 60_000, total).astype(float),
        }
        row |= {f"target_{name}": values.tolist() for name, values in target.items()}
        row["target_labels"] = labels.tolist()
        rows.append(row)
    return rows


def publish(
    lake: Lake,
    day: date,
    rows: list[dict[str, object]],
    files: int = 2,
    row_group_size: int = 7,
) -> None:
    """Publish rows as a samples partition of several files and row groups."""
    writer = lake.writer("samples", day)
    for part in range(files):
        table = pa.Table.from_pylist(rows[part::files], schema=lake.schemas.samples)
        pq.write_table(table, f"{writer.path}/part-{part}.parquet", row_group_size=row_group_size)
    writer.commit(digest=digest_of(rows), inputs={"events": "0" * 16})


@pytest.fixture
def rows() -> Callable[..., list[dict[str, object]]]:
    """Makes plain rows from a seed."""
    return make_rows


@pytest.fixture(scope="session")
def log_schema() -> LogSchema:
    """The log schema of `lake`: a short-video app with two columns of users."""
    return LOG


@pytest.fixture
def table() -> Callable[..., pa.Table]:
    """Makes a samples table from a seed."""
    return lambda *args, **kwargs: pa.Table.from_pylist(make_rows(*args, **kwargs), schema=SAMPLES)


@pytest.fixture
def sample_rows(table: Callable[..., pa.Table]) -> Callable[..., SampleRows]:
    """Makes flat sample rows from a seed."""
    return lambda *args, **kwargs: SampleRows.from_arrow(table(*args, **kwargs), LOG)


@pytest.fixture
def batch(sample_rows: Callable[..., SampleRows]) -> RequestBatch:
    """Every request of some rows, with two tasks."""
    rows = sample_rows(3)
    return rows.pack(np.arange(rows.num_requests), 48, ("click", "like"))


@pytest.fixture(scope="session")
def encodings() -> Encodings:
    """The encodings of some rows."""
    return learn_encodings(LOG, SampleRows.from_arrow(pa.Table.from_pylist(make_rows(3), schema=SAMPLES), LOG))


@pytest.fixture
def make_ranker(encodings: Encodings) -> Callable[..., torch.nn.Module]:
    """Makes a ranker with the settings, tasks and log schema given."""
    from longreel.model.nn.ranker import Ranker  # which imports Triton

    return lambda model, tasks=("click", "like"), log=LOG: Ranker(model, tasks, log, encodings)


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with four days of samples from FIRST_DAY on, which all tests share: to be read only."""
    shared = Lake(tmp_path_factory.mktemp("lake"), LOG)
    for offset in range(4):
        publish(shared, FIRST_DAY + timedelta(days=offset), make_rows(offset, users=30))
    return shared


@pytest.fixture
def own_lake(lake: Lake, tmp_path: Path) -> Lake:
    """A copy of `lake` that a test may write to."""
    return Lake(shutil.copytree(lake.root, tmp_path / "lake"), LOG)


@pytest.fixture(scope="session")
def publish_rows() -> Callable[..., None]:
    """Publishes rows as a samples partition."""
    return publish


@pytest.fixture(scope="session")
def days() -> list[date]:
    """The days of `lake`."""
    return [FIRST_DAY + timedelta(days=offset) for offset in range(4)]


@pytest.fixture(scope="session")
def config() -> Config:
    """Sizes that train in seconds."""
    return Config(
        tasks=("click", "like"),
        log_schema=LOG,
        model=ModelConfig(width=16, heads=2, layers=2, embedding_width=8, mixer_tokens=4),
        training=TrainingConfig(
            batch_tokens=600, window_min=8, window_mean=24, window_max=64, epochs=2, checkpoint_every=5, device="cpu"
        ),
        evaluation=EvaluationConfig(windows=(8, 32, 64, 128), bootstrap_draws=20),
    )


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # small tensors; two threads would wait for each other on a busy machine


@pytest.fixture(autouse=True)
def _seeded(_one_thread: None) -> None:
    torch.manual_seed(0)
