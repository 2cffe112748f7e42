"""Evaluation reports whose truth is known."""

from typing import Any

import numpy as np

from longreel.contracts.report import (
    CHECKS,
    ConsistencyCheck,
    DataQuality,
    Estimate,
    EvaluationReport,
    MetricRow,
    ScoringCost,
    interval_of,
)
from longreel.model.evaluation.report_builder import window_gains

SLICES = ("all", "new users", "returning users", "history<32", "history>=32", "surface=0")
SCORING = ScoringCost(
    device="NVIDIA H200",
    events=10_240,
    candidates=128,
    latency_ms=2.0,
    latency_low_ms=1.9,
    latency_high_ms=2.2,
    peak_memory_mib=900.0,
)
CONSISTENCY = tuple(ConsistencyCheck(name=name, logits=100, largest=0.0, tolerance=1e-4) for name in CHECKS)


def make_report(
    gain: float = 0.0,
    *,
    model: str = "candidate",
    tasks: tuple[str, ...] = ("click", "like"),
    windows: tuple[int, ...] = (32, 128, 512),
    by_window: tuple[float, ...] = (0.0, 0.01, 0.02),
    by_slice: dict[str, float] | None = None,
    own_noise: float = 0.001,
    calibration: float = 1.0,
    ece: float = 0.01,
    log_loss: float = 0.5,
    r2: float = 0.3,
    slices: tuple[str, ...] = SLICES,
    number_tasks: tuple[str, ...] = (),
    **overrides: Any,
) -> EvaluationReport:
    """A report with AUC 0.70 + gain + by_window + by_slice, or of number tasks an RMSE of 3 that is lower by these
    shares. Draws share most of their noise with every other report, as those of models evaluated on the same resampled
    users do; `own_noise` is what each model has for itself."""
    shared = np.random.default_rng(0).normal(0, 0.01, 200)
    own = np.random.default_rng(list(model.encode()))

    def estimate(value: float) -> Estimate:
        return interval_of(value, value + shared + own.normal(0, own_noise, 200), 0.95)

    def metrics(task: str, extra: float, name: str) -> dict[str, Any]:
        part = (by_slice or {}).get(name, 0.0)
        if task in number_tasks:
            rmse = estimate(3 * (1 - gain - extra - part))
            return {"rmse": rmse, "mae": estimate(2.0), "r2": estimate(r2), "calibration": estimate(calibration)}
        return {
            "positives": 700,
            "auc": estimate(0.70 + gain + extra + part),
            "gauc": estimate(0.65 + gain + extra),
            "log_loss": estimate(log_loss - gain),
            "calibration": estimate(calibration),
            "ece": estimate(ece),
        }

    rows = tuple(
        MetricRow(
            task=task,
            window=window,
            slice_name=name,
            users=200,
            requests=400,
            targets=2_000,
            **metrics(task, extra, name),
        )
        for task in tasks
        for window, extra in zip(windows, by_window, strict=True)
        for name in slices
    )
    reference = min(windows, key=lambda w: abs(w - 100))
    values: dict[str, Any] = {
        "date": "2026-01-03",
        "model_digest": model,
        "data_digest": "data",
        "config_digest": "config",
        "tasks": tasks,
        "windows": windows,
        "slices": slices,
        "number_tasks": number_tasks,
        "training_mean_window": 100,
        "bootstrap_seed": 0,
        "bootstrap_draws": 200,
        "interval": 0.95,
        "longest_history": 500,
        "rows": rows,
        "window_gains": window_gains(rows, windows, reference, 0.95, number_tasks),
        "scoring": SCORING,
        "consistency": CONSISTENCY,
        "quality": DataQuality(passed=True),
    }
    return EvaluationReport(**values | overrides)
