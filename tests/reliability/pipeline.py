"""Homes of the reliability runs, and the checks of lake, registry and ledger at their end.

The world is small: 150 users, days of some thousand rows, a training of about half a minute. What a run without faults
gives is made once, by hand and without Airflow; every faulty run must end with the same digests.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient

from longreel.airflow_settings import airflow_environment
from longreel.components.registry import versions
from longreel.components.registry.ledger import Ledger
from longreel.contracts.schemas import DATASETS
from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions
from longreel.lake.table import Lake
from tests.short_video import SHORT_VIDEO_TOML

FIRST = date(2026, 1, 5)
SMALL = ["--users", "150", "--items", "600"]
CONFIG = """
name = "reliability"
tasks = ["click", "like"]
[source]
kind = "simulated"
log = "raw"
max_quarantined_share = 0.05
[model]
width = 32
heads = 2
layers = 1
[training]
window_days = 7
epochs = {epochs}
batch_tokens = 4096
window_min = 16
window_mean = 64
window_max = 512
checkpoint_every = 50
[evaluation]
windows = [32, 512]
bootstrap_draws = 60
[retrain]
min_train_days = 3
every_new_days = {every}
"""
# So few users prove little: limits that let a first champion pass.
POLICY = """
min_users = 20
calibration = [0.2, 5.0]
max_ece = 0.5
max_window_loss = 0.1
protected_slices = []
hold_on_data_warning = false
"""


def step(home: Home, *words: str, **variables: str) -> str:
    """`longreel WORDS` for a home, by hand; its output."""
    command = [sys.executable, "-m", "longreel", *words[0].split(), "--home", str(home.path), *words[1:]]
    environment = airflow_environment(home, 0, variables)  # threads and libraries as under Airflow: the same bits
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout


def new_home(path: Path, days: int, *, epochs: int = 6, every: int = 1) -> Home:
    """A home with a raw log of so many days, and nothing else."""
    home = Home(path)
    path.mkdir(parents=True)
    (path / "longreel.toml").write_text(CONFIG.format(epochs=epochs, every=every) + SHORT_VIDEO_TOML)
    (path / "gates.toml").write_text(POLICY)
    step(home, "simulate", "--days", str(days), *SMALL)
    return home


def raw_file(home: Home, day: date) -> Path:
    """The raw log of a day."""
    return home.log / f"date={day}" / "log.parquet"


def spoil(home: Home, day: date) -> bytes:
    """A raw day with every tenth row broken, more than the quality limit allows; returns the right file."""
    path = raw_file(home, day)
    right, table = path.read_bytes(), pq.read_table(path, partitioning=None)
    broken = [None if number % 10 == 0 else value for number, value in enumerate(table["item_id"].to_pylist())]
    at = table.schema.get_field_index("item_id")
    pq.write_table(table.set_column(at, "item_id", pa.array(broken, table["item_id"].type)), path)
    return right


def correct(home: Home, day: date) -> None:
    """A corrected raw day: its last twenty rows never were."""
    path = raw_file(home, day)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(0, table.num_rows - 20), path.with_suffix(".draft"))
    path.with_suffix(".draft").replace(path)


@dataclass(frozen=True)
class World:
    """Three published days and the raw log of a fourth, on which faults fall; `expected` is what the fourth must give:
    the digests of its events and samples and of the model trained for it."""

    template: Path
    day: date
    expected: dict[str, str]

    def home(self, path: Path, *, trains: bool = True) -> Home:
        """A copy to break; one that does not train says that a training is never due."""
        shutil.copytree(self.template, path)
        if not trains:
            config = path / "longreel.toml"
            config.write_text(config.read_text().replace("min_train_days = 3", "min_train_days = 99"))
        return Home(path)


@dataclass(frozen=True)
class Case:
    """One row of docs/reliability.md: what is done, what is checked at the end, and the function that does both and
    returns what happened, in words and measured seconds."""

    name: str
    done: str
    checked: str
    run: Callable[[World, Path], str]


def make_world(folder: Path) -> World:
    """Make the world, or find it in `folder`."""
    template, facts, day = folder / "template", folder / "expected.json", FIRST + timedelta(days=3)
    if not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        home = new_home(folder / "whole", 4, epochs=12)  # a training outlasts the 30 s that a takeover takes
        for name in ("data ingest", "data build-samples"):
            step(home, name, "--start", str(FIRST), "--end", str(day))
        step(home, "model train", "--date", str(day))
        expected = {dataset: home.lake.require(dataset, day).digest for dataset in ("events", "samples")}
        (version,) = versions.list_versions(client_of(home), versions.model_name(home.config))
        shutil.copytree(home.path, template, ignore=shutil.ignore_patterns("mlflow", "work", "reports", f"date={day}"))
        shutil.copytree(home.log / f"date={day}", template / "raw" / f"date={day}")
        facts.write_text(json.dumps(expected | {"model": version.model_digest}))
    return World(template, day, json.loads(facts.read_text()))


def client_of(home: Home, tracking: str | None = None) -> MlflowClient:
    """A client of the home's own store, or of the one named; leaves the environment alone."""
    uri = tracking or f"sqlite:///{home.path / 'mlflow' / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def require_whole(home: Home) -> None:
    """Every visible file is there, every row counted, and no samples are stale. (A history snapshot of events that were
    corrected since stays, and is not read.)"""
    lake = home.lake
    for dataset in DATASETS:
        for day in lake.days(dataset):
            manifest = lake.require(dataset, day)
            assert lake.read(manifest).num_rows == manifest.rows, f"{dataset} of {day} is not whole"
    assert stale_partitions(lake, home.config, ("samples",)) == []


def unpublished(lake: Lake) -> int:
    """How many build folders lie about that no manifest names."""
    count = 0
    for dataset in DATASETS:
        for day in lake.folders(dataset):
            manifest = lake.manifest(dataset, day)
            live = {item.path.split("/")[0] for item in manifest.files} if manifest else set()
            folder = Path(lake.root) / dataset / f"date={day}"
            count += sum(build.is_dir() and build.name not in live for build in folder.iterdir())
    return count


def require_published(world: World, home: Home) -> None:
    """The world's fourth day is published with the rows of a run without faults, and the lake is whole."""
    require_whole(home)
    for dataset in ("events", "samples"):
        assert home.lake.require(dataset, world.day).digest == world.expected[dataset]


def require_promoted_once(home: Home, tracking: str | None = None, model: str | None = None) -> str:
    """One version, evaluated, promoted by one entry that counts, which the alias follows, out of one finished run; its
    files those of a run without faults where `model` names them. Returns the run's id."""
    client = client_of(home, tracking)
    ledger = Ledger(home, client)
    (version,) = versions.list_versions(client, ledger.model)
    (entry,) = [entry for entry in ledger.entries() if not entry.superseded]
    assert (entry.action, entry.from_version, entry.to_version) == ("promote", None, version.version)
    assert int(client.get_model_version_by_alias(ledger.model, "champion").version) == version.version
    assert version.decision == "promote"
    if model is not None:
        assert version.model_digest == model, "the model differs from one trained without faults"
    assert run_states(home, client) == {version.run_id: "FINISHED"}
    summary = json.loads((home.reports / str(version.evaluation_day) / "summary.json").read_text())
    assert (summary["version"], summary["outcome"]) == (version.version, "promote")
    return version.run_id


def run_states(home: Home, client: MlflowClient) -> dict[str, str]:
    """Every MLflow run of the pipeline, with its state."""
    experiment = client.get_experiment_by_name(f"longreel/{home.config.name}")
    assert experiment is not None
    return {run.info.run_id: run.info.status for run in client.search_runs([experiment.experiment_id])}


def log_of(home: Home, dag: str, run_id: str, task: str) -> str:
    """What all tries of a task logged."""
    folder = home.airflow / "logs" / f"dag_id={dag}" / f"run_id={run_id}" / f"task_id={task}"
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("attempt=*.log")))


def stages_of(lake: Lake, dataset: str, day: date) -> list[Path]:
    """The files that builds of a partition hold, published or not."""
    return [path for path in (Path(lake.root) / dataset / f"date={day}").glob("build-*/[!_]*") if path.is_file()]


os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
