"""Training spec of a candidate: training days, start and identity."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.config import Config
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.training_identity import training_identity
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from longreel.components.registry.versions import Version

TRIGGERS = ("freshness", "manual", "backfill", "correction")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained and registered version."""

    version: int
    run_id: str
    model_digest: str
    evaluation_day: str
    train_first_day: str
    train_last_day: str


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """What a candidate is trained from. Two with the same `name` are the same candidate."""

    name: str  # the evaluated day and the training's identity
    manifests: list[Manifest]  # of the training days
    init_from: "Version | None"  # the champion that training starts from; None: from scratch

    def folder(self, home: Home) -> Path:
        """The candidate's working folder."""
        return home.work / "train" / self.name


def training_days(published: list[date], day: date, config: Config) -> list[date]:
    """The training days of a candidate for `day`: the newest `training.window_days` published ones before it.

    Raises:
        DataNotReadyError: fewer than `retrain.min_train_days` are published.
    """
    before = sorted(d for d in published if d < day)
    if len(before) < config.retrain.min_train_days:
        have = f"{before[0]} .. {before[-1]} ({len(before)})" if before else "none"
        raise DataNotReadyError(
            f"training for {day} needs samples of at least {config.retrain.min_train_days} days before it, "
            f"published are {have}; build samples first (`longreel data build-samples`)"
        )
    return before[-config.training.window_days :]


def training_spec(home: Home, day: date) -> TrainingSpec:
    """The spec of the candidate for `day`, from the settings, samples and champion of now.

    Raises:
        DataNotReadyError: there are too few days of samples before `day`.
        LongreelError: with a warm start, the champion was trained on all of these days; or a training would learn
            nothing of a task, or could not be decided upon (`day_checks`).
    """
    from longreel.model.training.day_checks import check_evaluation_day, check_training_days  # imports no torch

    config, lake = home.config, home.lake
    days = training_days(list(lake.days("samples")), day, config)
    init_from, days = _warm_start(home, config, day, days)
    manifests = [lake.require("samples", d) for d in days]
    check_training_days(config, lake, manifests)
    if (evaluated := lake.manifest("samples", day)) is not None:
        check_evaluation_day(config, lake, evaluated, home.policy.task)
    data = {m.date: m.digest for m in manifests}
    identity = training_identity(config, data, None if init_from is None else init_from.model_digest)
    return TrainingSpec(name=f"{day}-{identity}", manifests=manifests, init_from=init_from)


def _warm_start(home: Home, config: Config, day: date, days: list[date]) -> tuple["Version | None", list[date]]:
    """The champion to start from and the days after its training days; (None, all days) where there is none."""
    if not config.training.warm_start:
        return None, days
    from longreel.components.registry.ledger import Ledger

    champion = Ledger(home).champion()
    if champion is None:
        return None, days
    new = [d for d in days if d > champion.data_watermark]
    if not new:
        raise LongreelError(
            f"a warm start for {day} found no new day: the champion (version {champion.version}) was trained through "
            f"{champion.data_watermark}; take a later day, or set [training] warm_start = false"
        )
    return champion, new
