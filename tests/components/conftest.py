"""A small home with a few published days of samples, written by pyarrow through the lake's own commit protocol."""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longreel.components.registry import registration, store
from longreel.components.registry.versions import Version
from longreel.contracts.decision import Decision, GateResult
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.digests import digest_of
from longreel.contracts.report import EvaluationReport
from longreel.lake.home import CONFIG_FILE, POLICY_FILE, Home
from tests.components.reports import make_report
from tests.kfp_server import kfp  # noqa: F401  # a fixture
from tests.short_video import SHORT_VIDEO_TOML

FIRST_DAY = date(2026, 1, 1)
USERS, REQUESTS, TARGETS, TAGS = 60, 3, 6, 6

TOML = """
name = "{name}"
tasks = ["click", "like"]
{log}
[model]
width = 16
heads = 2
layers = 1
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
[retrain]
replay = true
min_train_days = 2
"""
LOG_TOML = f"""
{SHORT_VIDEO_TOML}
[fields.user]
taste = {{kind = "category"}}
constant = {{kind = "category"}}
"""

# Sixty users prove little: wide limits, so that the cycle's tests see promotions.
POLICY = """
min_users = 20
calibration = [0.2, 5.0]
max_ece = 0.5
max_window_loss = 0.1
protected_slices = []
"""


def samples_table(day: date, seed: int, schema: pa.Schema) -> pa.Table:
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
        row = {"user_id": 100 + user, "user_taste": taste, "user_constant": 7}
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
        row |= {f"history_{name}": values.astype(np.int64).tolist() for name, values in old.items()}
        row |= {f"target_{name}": values.astype(np.int64).tolist() for name, values in new.items()}
        row |= {
            "request_id": [f"{day}-{user}-{r}" for r in range(REQUESTS)],
            "request_time_ms": [midnight + 60_000 * (r + 1) for r in range(REQUESTS)],
            "request_history_end": [length] * REQUESTS,
            "request_target_end": [TARGETS * (r + 1) for r in range(REQUESTS)],
            "target_labels": (clicked * 1 + liked * 2).astype(np.int64).tolist(),
        }
        row |= {name: (5 + 3 * clicked).tolist() for name in schema.names if name.startswith("target_label_")}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def publish(home: Home, day: date, seed: int = 0) -> None:
    """Publish one day of samples."""
    writer = home.lake.writer("samples", day)
    table = samples_table(day, seed, home.lake.schemas.samples)
    pq.write_table(table, f"{writer.path}/part-0.parquet")
    writer.commit(
        digest=digest_of(table.to_pylist()),
        inputs={},
        counts={"users": USERS},
        details={"definitions": sample_definitions(home.config)},
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with its tables and nothing in them; a copy of it saves every test the migrations."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Callable[..., Home]:
    """Makes a home with the first `days` days published; settings of the template can be given."""
    for variable in ("MLFLOW_TRACKING_URI", "LONGREEL_LAKE", "LONGREEL_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def make(days: int = 0, *, name: str = "tiny", epochs: int = 3, warm_start: str = "false") -> Home:
        home = Home(tmp_path / name)
        home.path.mkdir()
        text = TOML.format(name=name, epochs=epochs, warm_start=warm_start, log=LOG_TOML)
        (home.path / CONFIG_FILE).write_text(text)
        (home.path / POLICY_FILE).write_text(POLICY)
        (home.path / "mlflow").mkdir()
        shutil.copyfile(empty_store, home.path / "mlflow" / "mlflow.db")
        for i in range(days):
            publish(home, FIRST_DAY + timedelta(days=i))
        return home

    return make


@pytest.fixture
def report() -> Callable[..., EvaluationReport]:
    """`make_report`, for tests."""
    return make_report


def save_tiny_model(home: Home, folder: Path, seed: int = 0, watermark: str = "2026-01-02") -> str:
    """Write an untrained ranker of the home's sizes; returns its digest."""
    import torch

    from longreel.model.data.encodings import Encodings
    from longreel.model.nn.ranker import Ranker
    from longreel.model.training.checkpoint import save_model

    torch.manual_seed(seed)
    ranker = Ranker(home.config.model, home.config.tasks, home.config.log_schema, Encodings())
    return save_model(folder, ranker, {"data_watermark": watermark, "training_mean_window": 16})


def register_tiny_model(home: Home, seed: int = 0, day: str = "2026-01-03", watermark: str = "2026-01-02") -> Version:
    """An untrained ranker as a registered version, as training would leave it."""
    client = store.open_store(home)
    folder = home.work / f"model-{seed}"
    save_tiny_model(home, folder, seed, watermark)
    run = client.create_run(store.experiment_id(home, client), run_name=f"{day} train 2 days")
    tags = {"evaluation_day": day, "data_watermark": watermark, "train_first_day": "2026-01-01"}
    tags |= {"train_last_day": watermark, "run_name": f"{day} train 2 days"}
    version = registration.register_version(
        home, client, folder, run_id=run.info.run_id, tasks=home.config.tasks, tags=tags
    )
    assert mlflow.active_run() is None
    return version


def promotion(candidate: Version, champion: Version | None) -> Decision:
    """A decision to promote one over the other."""
    return Decision(
        outcome="promote",
        gates=(GateResult(name="champion/auc", verdict="pass", reason="It is better."),),
        date="2026-01-03",
        candidate_digest=candidate.model_digest,
        champion_digest=None if champion is None else champion.model_digest,
        data_digest="data",
        policy_version="1",
        policy_digest="policy",
        evaluation_days=1,
        candidate_report="report",
        champion_report=None,
    )


@pytest.fixture
def register() -> Callable[..., Version]:
    """`register_tiny_model`, for tests."""
    return register_tiny_model


@pytest.fixture(name="promotion")
def promotion_fixture() -> Callable[..., Decision]:
    """`promotion`, for tests."""
    return promotion


@pytest.fixture
def save_model() -> Callable[..., str]:
    """`save_tiny_model`, for tests."""
    return save_tiny_model


@pytest.fixture(name="publish")
def publish_fixture() -> Callable[..., None]:
    """`publish`, for tests."""
    return publish
