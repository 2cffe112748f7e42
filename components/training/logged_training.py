"""Training of a candidate within its MLflow run, which ends with a registered version."""

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from longreel.components.registry import metrics, registration, tracking, versions
from longreel.components.reports.plots import PLOTS, training_windows
from longreel.components.training.spec import Candidate, TrainingSpec
from longreel.contracts.digests import digest_of
from longreel.contracts.log_schema import summary
from longreel.lake.home import Home
from longreel.model.training.checkpoint import load_encodings
from longreel.model.training.device import select_device
from longreel.model.training.numerics import Numerics
from longreel.model.training.train import TrainResult, train

if TYPE_CHECKING:
    from longreel.model.training.distributed import DistContext

TOTALS = ("steps", "targets", "history_tokens", "final_loss", "seconds")
LOG_SCHEMA, ENCODINGS = "log_schema.json", "encodings.json"  # artifacts of a run
COLLISION_COUNTS = ("table_rows", "rows_used", "ids", "shared_ids", "shared_lookups")


def train_and_register(
    home: Home, client: MlflowClient, day: date, spec: TrainingSpec, trigger: str, ranks: "DistContext | None"
) -> Candidate:
    """Train by a spec, log the training and register the model. `ranks`: the processes of a distributed training."""
    config, folder = home.config, spec.folder(home)
    tags = _tags(home, day, spec, trigger)
    name = f"{day} train {len(spec.manifests)} days"
    with tracking.training_run(home, client, name=name, candidate=spec.name) as run_id:
        source = {"mlflow.source.name": f"longreel model train --date {day}"}
        numerics = Numerics.of_process(select_device(config.training.device), 1 if ranks is None else ranks.size)
        settings = config.to_dict() | {"log_schema": summary(config.log_schema), "numerics": asdict(numerics)}
        tracking.log_settings(client, run_id, settings, tags | source)
        client.log_dict(run_id, config.log_schema.to_dict(), LOG_SCHEMA)
        tracking.log_datasets(client, run_id, home.lake, spec.manifests, "training")
        tracking.log_quality(client, run_id, home.lake, spec.manifests)
        days = [date.fromisoformat(m.date) for m in spec.manifests]
        start = spec.init_from
        init_from = None if start is None else versions.download(client, versions.model_name(config), start)
        print(
            f"training on {days[0]} .. {days[-1]} ({len(days)} days), to be evaluated on {day}; MLflow run {run_id}",
            flush=True,
        )
        if ranks is not None:
            start_workers(ranks, days, folder, init_from)
        curves = metrics.TrainingCurves(client, run_id)
        result = train(
            config, home.lake, days, folder / "checkpoints", folder / "model", init_from=init_from, on_step=curves
        )
        curves.flush()
        _log_result(client, run_id, result, config.training.window_means)
        version = registration.register_version(
            home, client, result.model_dir, run_id=run_id, tasks=config.tasks, tags=tags | {"run_name": name}
        )
    return Candidate(
        version=version.version,
        run_id=run_id,
        model_digest=version.model_digest,
        evaluation_day=str(day),
        train_first_day=spec.manifests[0].date,
        train_last_day=spec.manifests[-1].date,
    )


def start_workers(ranks: "DistContext", days: list[date], folder: Path, init_from: Path | None) -> None:
    """Send rank 0's training to the other ranks, which wait for it in `worker_train`."""
    paths = [str(folder / "checkpoints"), str(folder / "model"), None if init_from is None else str(init_from)]
    ranks.broadcast([[str(day) for day in days], *paths])


def worker_train(home: Home, ranks: "DistContext") -> None:
    """Take part in rank 0's trainings until it sends None."""
    while (message := ranks.broadcast()) is not None:
        days, checkpoints, model, init_from = message
        train(
            home.config,
            home.lake,
            [date.fromisoformat(day) for day in days],
            Path(checkpoints),
            Path(model),
            init_from=None if init_from is None else Path(init_from),
        )


def _tags(home: Home, day: date, spec: TrainingSpec, trigger: str) -> dict[str, str]:
    """Tags of the run and the version."""
    first, last = spec.manifests[0].date, spec.manifests[-1].date
    return {
        "evaluation_day": str(day),
        "data_watermark": last,
        "train_first_day": first,
        "train_last_day": last,
        "train_days": str(len(spec.manifests)),
        "samples_digest": digest_of({m.date: m.digest for m in spec.manifests}),
        "config_digest": home.config.digest(),
        "log_schema": home.config.log_schema.digest(),
        "git_sha": tracking.git_sha(),
        "trigger": trigger,
        "warm_start_from": "scratch" if spec.init_from is None else f"version {spec.init_from.version}",
        **tracking.airflow_run(),
    }


def _log_result(client: MlflowClient, run_id: str, result: TrainResult, window_means: tuple[float, ...]) -> None:
    """Totals, collisions of hashed ids, the windows drawn, and the encodings that training learned of the log."""
    for total in TOTALS:
        client.log_metric(run_id, f"train_total/{total}", float(getattr(result, total)))
    for table in result.collisions:
        for count in COLLISION_COUNTS:
            client.log_metric(run_id, f"collisions/{table.feature}/{count}", float(getattr(table, count)))
    client.log_figure(run_id, training_windows(result.windows, window_means), f"{PLOTS}/training_windows.png")
    client.log_dict(run_id, load_encodings(result.model_dir).to_dict(), ENCODINGS)
