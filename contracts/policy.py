"""Gate policy: when a candidate becomes the champion. Read from `gates.toml` in the home folder."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from longreel.contracts import toml
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.presets import preset

SUPERIORITY_METRICS = ("auc", "log_loss")
MAX_CALIBRATION = 1_000.0
RANGES = (  # setting, lowest, highest
    ("evaluation_days", 1, 366),
    ("min_users", 2, 1_000_000_000),
    ("min_auc", 0.0, 1.0),
    ("min_r2", -1_000.0, 1.0),
    ("max_ece", 0.0, 1.0),
    ("max_window_loss", 0.0, 1.0),
    ("superiority_margin", 0.0, 1.0),
    ("max_auc_loss", 0.0, 1.0),
    ("max_log_loss_rise", 0.0, 100.0),
    ("max_rmse_rise", 0.0, 100.0),
    ("slice_tolerance", 0.0, 1.0),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """[[budgets]]: limits on scoring one request of 10,240 events and 128 candidates. The first budget whose `device`
    is part of the device's name counts; a candidate timed on another device is held."""

    device: str = ""
    """Name of the device, or a part of it."""
    latency_ms: float = 0.0
    """Milliseconds from the packed batch on the host to logits on the host."""
    memory_mib: float = 0.0
    """Peak memory, in MiB."""

    def __post_init__(self) -> None:
        require(bool(self.device), "budgets: name the device, or a part of its name")
        limits = (self.latency_ms, self.memory_mib)
        require(all(0 < limit < math.inf for limit in limits), f"budget of {self.device}: expected positive limits")


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """Limits and error rates of the gates. AUC differences are absolute (0.001 is a tenth of a point); log loss is in
    nats; RMSE, of tasks that predict a number, is compared by its relative change. A difference is significant by the
    bound of a paired user bootstrap at the level that the error rates allow;
    docs/decisions/0006-gates-look-at-differences.md gives the reasons."""

    version: str = "1"
    """Your name for this policy; decisions record it."""
    task: str = "click"
    """The gate task: its AUC or log loss must improve, or the RMSE of a task that predicts a number."""
    false_promotion_rate: float = 0.05
    """How often a candidate that is no better is promoted; shared by evaluation days and metrics."""
    missed_regression_rate: float = 0.05
    """How often a candidate worse than tolerated in a protected slice passes there (non-inferiority)."""
    false_rejection_rate: float = 0.05
    """How often a candidate that is worse nowhere is stopped by a comparison; shared by all of them."""
    evaluation_days: int = 1
    """Days on which one candidate may be evaluated; more days need stronger evidence on each."""
    min_users: int = 100
    """Users below which the bootstrap is too narrow: a candidate is held, and a slice is reported as not evaluated."""
    min_auc: float = 0.5
    """Lowest AUC of the gate task at the longest window, for every champion."""
    min_r2: float = 0.0
    """The same for a gate task that predicts a number: R2 is 0 where the mean label predicts as well."""
    calibration: tuple[float, float] = (0.8, 1.25)
    """Lowest and highest ratio of predicted to observed rate or mean, for every task."""
    max_ece: float = 0.05
    """Highest expected calibration error, for every binary task."""
    max_window_loss: float = 0.002
    """AUC that the longest window may lose against the window nearest to the training mean."""
    superiority_metrics: tuple[str, ...] = SUPERIORITY_METRICS
    """Metrics of a binary gate task; a candidate must be significantly better than the champion by at least one."""
    superiority_margin: float = 0.0
    """How much better: the gain must be larger than this; of RMSE, the share by which it falls."""
    max_auc_loss: float = 0.002
    """AUC that the gate task (non-inferiority) and other tasks, and GAUC that every task (guardrails), may lose."""
    max_log_loss_rise: float = 0.005
    """As `max_auc_loss`, for log loss in nats."""
    max_rmse_rise: float = 0.01
    """As `max_auc_loss`, for RMSE of number tasks, as a share of it; also in slices and for the longest window."""
    slice_tolerance: float = 0.01
    """AUC that a slice may lose before a significant loss stops the candidate (guardrail)."""
    protected_slices: tuple[str, ...] = ("history<32",)
    """Slices in which a larger loss must be ruled out (non-inferiority)."""
    budgets: tuple[Budget, ...] = ()
    """Cost limits by device; gates.toml has some."""
    replace_unevaluated_champion: bool = False
    """Whether the absolute gates alone decide where the champion has other definitions of fields than the day, so that
    it cannot be evaluated; otherwise the candidate is held."""
    hold_on_data_warning: bool = True
    """Whether every candidate is held on a day whose checkpoint gave a warning."""

    def __post_init__(self) -> None:
        for name in ("false_promotion_rate", "missed_regression_rate", "false_rejection_rate"):
            require(0 < getattr(self, name) < 0.5, f"{name}: expected between 0 and 0.5")
        for name, low, high in RANGES:
            value = getattr(self, name)
            require(low <= value <= high, f"{name}: expected {low:,} to {high:,}, got {value}")
        require(
            bool(self.superiority_metrics) and set(self.superiority_metrics) <= set(SUPERIORITY_METRICS),
            f"superiority_metrics: expected some of {', '.join(SUPERIORITY_METRICS)}, "
            f"got {list(self.superiority_metrics)}",
        )
        require(
            len(self.calibration) == 2 and 0 < self.calibration[0] <= 1 <= self.calibration[1] <= MAX_CALIBRATION,
            f"calibration: expected [low, high] with low <= 1 <= high, above 0 and up to {MAX_CALIBRATION}",
        )

    def promotion_level(self, metrics: int) -> float:
        """One-sided level of a superiority test by some number of metrics: Bonferroni over them and evaluation days."""
        return self.false_promotion_rate / (self.evaluation_days * metrics)

    def digest(self) -> str:
        """16 hex digits that change with any setting, `version` included."""
        return digest_of(asdict(self))


def parse_policy(text: str, where: str = "policy") -> GatePolicy:
    """Read a policy from TOML text.

    Raises:
        LongreelError: it is not TOML, or a setting is unknown, of the wrong type or out of range.
    """
    values = toml.parse(text, where)
    budgets = values.pop("budgets", [])
    if not isinstance(budgets, list) or not all(isinstance(item, dict) for item in budgets):
        raise LongreelError(f"{where}: budgets expected sections [[budgets]], got {budgets!r}")
    sections = tuple(toml.build_section(Budget, item, f"{where} [[budgets]]") for item in budgets)
    return toml.build_section(GatePolicy, values | {"budgets": sections}, where)


def load_policy(path: Path) -> GatePolicy:
    """A policy file, or the shipped policy where there is none; see `parse_policy` for errors."""
    return parse_policy(toml.read_text(path), str(path)) if path.is_file() else parse_policy(preset("gates"))
