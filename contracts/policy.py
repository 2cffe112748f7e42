"""Gate policy: when a candidate becomes the champion. Read from `gates.toml` in the home folder."""

from dataclasses import asdict, dataclass
from pathlib import Path

from longreel.contracts import toml
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.presets import preset

SUPERIORITY_METRICS = ("auc", "log_loss")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on scoring one request, on devices whose name contains `device`; the first matching budget counts."""

    device: str = ""
    latency_ms: float = 0.0
    memory_mib: float = 0.0

    def __post_init__(self) -> None:
        require(bool(self.device), "budgets: name the device, or a part of its name")
        require(self.latency_ms > 0 and self.memory_mib > 0, f"budget of {self.device}: expected positive limits")


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """The gates' limits and error rates; contracts/presets/gates.toml says what each means, and has budgets too."""

    version: str = "1"
    task: str = "click"
    false_promotion_rate: float = 0.05
    missed_regression_rate: float = 0.05
    false_rejection_rate: float = 0.05
    evaluation_days: int = 1
    min_users: int = 100
    min_auc: float = 0.5
    calibration: tuple[float, float] = (0.8, 1.25)
    max_ece: float = 0.05
    max_window_loss: float = 0.002
    superiority_metrics: tuple[str, ...] = SUPERIORITY_METRICS
    superiority_margin: float = 0.0
    max_auc_loss: float = 0.002
    max_log_loss_rise: float = 0.005
    slice_tolerance: float = 0.01
    protected_slices: tuple[str, ...] = ("history<32",)
    budgets: tuple[Budget, ...] = ()
    hold_on_data_warning: bool = True

    def __post_init__(self) -> None:
        for name in ("false_promotion_rate", "missed_regression_rate", "false_rejection_rate"):
            require(0 < getattr(self, name) < 0.5, f"{name}: expected between 0 and 0.5")
        require(self.evaluation_days >= 1, "evaluation_days: expected at least 1")
        require(self.min_users >= 2, "min_users: expected at least 2")
        require(
            bool(self.superiority_metrics) and set(self.superiority_metrics) <= set(SUPERIORITY_METRICS),
            f"superiority_metrics: expected some of {', '.join(SUPERIORITY_METRICS)}, "
            f"got {list(self.superiority_metrics)}",
        )
        require(
            len(self.calibration) == 2 and 0 < self.calibration[0] <= 1 <= self.calibration[1],
            "calibration: expected [low, high] with low <= 1 <= high",
        )
        limits = ("max_window_loss", "superiority_margin", "max_auc_loss", "max_log_loss_rise", "slice_tolerance")
        for name in limits:
            require(getattr(self, name) >= 0, f"{name}: expected 0 or more")

    @property
    def promotion_level(self) -> float:
        """One-sided level of the superiority test: Bonferroni over evaluation days and metrics."""
        return self.false_promotion_rate / (self.evaluation_days * len(self.superiority_metrics))

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
