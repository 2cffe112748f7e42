"""Configuration of one pipeline: typed sections of `longreel.toml` in the home folder.

The text under each setting gives its meaning, and `make reference` prints it. The parser (toml.py) checks types; each
section checks ranges. `contracts/presets/` has a file for each source, with the settings that differ between logs.
"""

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from longreel.contracts import toml
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.local_files import require_path
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.log_schema_toml import TABLES, build_log_schema
from longreel.contracts.outcome_columns import check_outcome_columns

SourceKind = Literal["simulated", "shop", "kuairand", "generic"]
SOURCES: tuple[SourceKind, ...] = typing.get_args(SourceKind)
SIMULATED: tuple[SourceKind, ...] = ("simulated", "shop")  # `longreel simulate` writes their logs
NAME = re.compile(r"\w[\w.-]*", re.ASCII)


def _require_seed(seed: int, section: str) -> None:
    require(0 <= seed < 2**32, f"[{section}] seed: expected 0 .. {2**32 - 1}, got {seed}")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """[source]: the raw log, and what its rows mean."""

    kind: SourceKind = "simulated"
    """Format of the raw log; docs/generic-log.md describes `generic`."""
    log: str = ""
    """Folder or file of the raw log, relative to the home folder."""
    table: str = ""
    """Spark catalog table with the log, instead of `log`: `catalog.database.table`."""
    day: str = ""
    """SQL for the log day of a row, a date or YYYY-MM-DD. Of a `table`, or of a `log` that is one file or a folder
    without date= folders."""
    items: str = ""
    """Table that describes items, if it is not beside the log: a file or folder, whose path has a `/` and may start at
    the home folder; or a Spark catalog table."""
    users: str = ""
    """As `items`, of users."""
    ready_file: str = ""
    """A file such as _SUCCESS that marks a day's folder as complete. Empty: no such file. Unused by kuairand."""
    user_id: str = "user_id"
    """SQL over the raw columns for the user: a whole number or text."""
    item_id: str = "item_id"
    """SQL for the item: a whole number or text."""
    time_ms: str = "time_ms"
    """SQL for when the item was served: milliseconds since 1970 UTC, or a timestamp."""
    request_id: str = ""
    """SQL for the request. Empty: the raw column request_id, where there is one."""
    derived: dict[str, str] = field(default_factory=dict)
    """Further columns as SQL over the raw ones, for use in other expressions."""
    where: str = ""
    """SQL: rows for which it does not hold are left out and counted. Empty: all rows."""
    time_zone: str = "UTC"
    """IANA time zone, such as Europe/Berlin, whose midnight ends a log day."""
    outcome_hours: float = 0.0
    """Hours after the log day's end up to which its rows have outcomes: deliver a day that much later."""
    max_lateness_hours: float = 24.0
    """Hours before the log day's midnight that a row's time may lie; older rows are quarantined."""
    max_quarantined_share: float = 0.01
    """Share of quarantined rows, 0 .. 1, above which a day stops: a changed format breaks more rows than chance."""

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise LongreelError(
                f"[source] time_zone: expected an IANA name such as Europe/Berlin or UTC, got {self.time_zone!r}"
            ) from None
        for name in ("log", "items", "users"):
            require_path(getattr(self, name), f"[source] {name}")
        for name in ("user_id", "item_id", "time_ms"):
            require(bool(getattr(self, name).strip()), f"[source] {name}: expected a column or SQL expression")
        require(not (self.log and self.table), "[source]: expected either log or table, got both")
        require(bool(self.day) or not self.table, "[source] day: expected SQL for the log day of a row of the table")
        require(0 <= self.outcome_hours < math.inf, "[source] outcome_hours: expected 0 or a number of hours")
        require(0 <= self.max_lateness_hours < math.inf, "[source] max_lateness_hours: expected 0 or a number of hours")
        require(0 <= self.max_quarantined_share <= 1, "[source] max_quarantined_share: expected 0 .. 1")

    @property
    def clock(self) -> ZoneInfo:
        """The time zone of the log's days."""
        return ZoneInfo(self.time_zone)


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """[samples]: how events become user-day samples."""

    max_history: int = 10_240
    """Newest history events kept of the log days before the sample's own; the longest window of the method."""
    request_rule: Literal["auto", "request_id", "delivery_time", "gap"] = "auto"
    """What makes impressions one request. `auto`: request_id where the source gives one, else delivery_time."""
    gap_ms: int = 60_000
    """Milliseconds; with the rule `gap`, a longer pause starts a new request."""
    max_targets: int = 512
    """Targets in a request; a request with more is split, and none is dropped."""
    sampled_negatives: int = 0
    """For a log of positives only: negatives for each request, items of the day's other impressions. It has a bias; see
    docs/log-schema.md. 0: none."""
    compact_every_days: int = 7
    """Log days after the newest history snapshot at which the next one is written."""

    def __post_init__(self) -> None:
        for name in ("max_history", "gap_ms", "max_targets", "compact_every_days"):
            require(getattr(self, name) > 0, f"[samples] {name}: expected a positive number")
        require(
            0 <= self.sampled_negatives < self.max_targets,
            f"[samples] sampled_negatives: expected 0 (none) to max_targets - 1, got {self.sampled_negatives}",
        )


@dataclass(frozen=True, kw_only=True)
class DriftPolicy:
    """[drift]: how far a log day may differ from the days before it; spark_jobs/drift.py has the rule.

    Each measure has two limits, [warn, stop]. A ratio r allows median / r .. median * r and what chance adds to that. A
    share says how far above the median a day may be.
    """

    days: int = 7
    """Log days before a day that it is compared with: a week has every weekday once."""
    min_days: int = 3
    """Published days needed among them; with fewer, nothing is checked."""
    volume: tuple[float, float] = (1.5, 1.8)
    """Ratios, of events a day and of requests a user."""
    users: tuple[float, float] = (1.5, 1.8)
    """Ratio, of users a day."""
    label_rate: tuple[float, float] = (1.3, 1.6)
    """Ratio, of the share of impressions with an action or label, for each of these."""
    history: tuple[float, float] = (1.6, 2.0)
    """Ratio, of history events a user."""
    new_items: tuple[float, float] = (0.2, 0.4)
    """Share, of impressions on items that none of those days had."""

    def __post_init__(self) -> None:
        require(1 <= self.min_days <= self.days, "[drift] expected 1 <= min_days <= days")
        for name in ("volume", "users", "label_rate", "history", "new_items"):
            least, limits = (0.0 if name == "new_items" else 1.0), getattr(self, name)
            require(
                len(limits) == 2 and least < limits[0] <= limits[1],
                f"[drift] {name}: expected [warn, stop] with {least:g} < warn <= stop, got {list(limits)}",
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """[model]: the ranker's sizes, and what it may look at. docs/method.md has the equations and their letters."""

    width: int = 64
    """d: components of every token; a multiple of `heads` and of `mixer_tokens`."""
    heads: int = 4
    """h: attention heads of a layer; at least one for each id with `match`."""
    layers: int = 2
    """M: layers of target-to-history attention."""
    expansion: int = 2
    """r: hidden width of the feed-forward networks over d."""
    embedding_width: int = 32
    """Components of an id's embedding, before they are fused to a token of `width`."""
    mixer_layers: int = 1
    """RankMixer layers."""
    mixer_tokens: int = 4
    """Tokens that RankMixer mixes."""
    dropout: float = 0.1
    """Share of components dropped in training, 0 <= dropout < 1."""
    match_counts: bool = False
    """A token per target says how many events of the window have each of its item's ids, and how recent they are."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "layers", "expansion", "embedding_width", "mixer_layers", "mixer_tokens"):
            require(getattr(self, name) > 0, f"[model] {name}: expected a positive number")
        require(self.width % self.heads == 0, f"[model] width {self.width} is not a multiple of heads {self.heads}")
        require(
            self.width % self.mixer_tokens == 0,
            f"[model] width {self.width} is not a multiple of mixer_tokens {self.mixer_tokens}",
        )
        require(0 <= self.dropout < 1, "[model] dropout: expected 0 <= dropout < 1")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """[training]: one training run. Each request gets a window from a Beta distribution, see model/data/windows.py."""

    window_days: int = 7
    """Log days before the evaluated one to train on."""
    epochs: int = 1
    """Passes over the training days."""
    batch_tokens: int = 65_536
    """History events plus targets in a batch, about, over all ranks; raise it with the number of GPUs."""
    window_min: int = 64
    """Shortest training window, in history events."""
    window_max: int = 10_240
    """Longest training window, in history events."""
    window_mean: int = 2_048
    """Mean training window, in history events: the cost of training follows it."""
    window_alpha: float = 0.2
    """Parameter a of the windows' Beta distribution; b follows from the mean. A small a draws mostly short or long
    windows."""
    window_curriculum: float = 1.0
    """Mean window of the second half of training over that of the first; window_mean stays the mean of both. 1: off."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW, for all weights but the hashed tables; linear warmup, then a cosine to 5 %."""
    table_learning_rate: float = 5e-2
    """Rate of the hashed tables. Row-wise Adagrad lowers it by itself, so it starts high."""
    table_optimizer: Literal["rowwise_adagrad", "adamw"] = "rowwise_adagrad"
    """Optimiser of the hashed tables. The default touches only a batch's rows, `adamw` whole tables in every step."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; hashed and context tables have none."""
    warmup_share: float = 0.05
    """Share of the steps in which the rates rise to their peak, 0 <= warmup_share < 1."""
    clip_norm: float = 1.0
    """Norm to which the gradient of all weights together is cut."""
    warm_start: bool = False
    """Whether to start from the champion and train on the days that it has not seen."""
    checkpoint_every: int = 200
    """Steps between two checkpoints, the most that a killed run repeats; one is due every five minutes too."""
    seed: int = 0
    """Seed of the initial weights, the windows, the order of requests and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train and evaluate. `auto`: CUDA if there is a GPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the parts that treat every token alike. `auto`: on CUDA only."""
    cuda_graphs: bool = True
    """Whether CUDA replays forward and backward as one graph per shape; not with activation checkpointing."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes the history side again: longer histories fit, a step takes a third longer."""

    def __post_init__(self) -> None:
        for name in ("window_days", "epochs", "batch_tokens", "window_min", "checkpoint_every"):
            require(getattr(self, name) > 0, f"[training] {name}: expected a positive number")
        require(
            self.window_min < self.window_mean < self.window_max,
            "[training] expected window_min < window_mean < window_max, "
            f"got {self.window_min}, {self.window_mean}, {self.window_max}",
        )
        require(self.window_curriculum > 0, "[training] window_curriculum: expected a positive number")
        for mean in self.window_means:
            require(
                self.window_min < mean < self.window_max,
                f"[training] window_curriculum = {self.window_curriculum:g} makes {mean:,.0f} a half's mean window, "
                f"expected between window_min and window_max, {self.window_min:,} and {self.window_max:,}",
            )
        for name in ("window_alpha", "learning_rate", "table_learning_rate", "clip_norm"):
            require(getattr(self, name) > 0, f"[training] {name}: expected a positive number")
        require(self.weight_decay >= 0, "[training] weight_decay: expected 0 or more")
        require(0 <= self.warmup_share < 1, "[training] warmup_share: expected 0 <= warmup_share < 1")
        _require_seed(self.seed, "training")

    @property
    def window_means(self) -> tuple[float, ...]:
        """The mean window of each half of the training; one mean for both halves without a curriculum."""
        if self.window_curriculum == 1:
            return (float(self.window_mean),)
        first = 2 * self.window_mean / (1 + self.window_curriculum)
        return first, self.window_curriculum * first


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """[evaluation]: the windows that a model is evaluated at, and the intervals of its metrics."""

    windows: tuple[int, ...] = (32, 128, 512, 2_048, 10_240)
    """Newest history events that a request sees, increasing; cut after the first that holds every history."""
    bootstrap_draws: int = 400
    """Resamplings of users behind each interval, at least 20; more make steadier bounds and take longer."""
    interval: float = 0.95
    """Confidence level of the intervals, 0.5 .. 1."""
    seed: int = 0
    """Seed of the bootstrap."""
    max_users: int = 0
    """Users of the day to evaluate on, chosen by hash. 0: all."""

    def __post_init__(self) -> None:
        increasing = list(self.windows) == sorted(set(self.windows))
        require(bool(self.windows) and increasing and self.windows[0] > 0, "[evaluation] windows: expected to increase")
        require(self.bootstrap_draws >= 20, "[evaluation] bootstrap_draws: expected at least 20")
        require(0.5 <= self.interval < 1, "[evaluation] interval: expected 0.5 <= interval < 1")
        require(self.max_users >= 0, "[evaluation] max_users: expected 0 (all) or a number of users")
        _require_seed(self.seed, "evaluation")


@dataclass(frozen=True, kw_only=True)
class RetrainPolicy:
    """[retrain]: when a new samples partition starts a training; components/freshness.py applies it."""

    min_train_days: int = 3
    """Published days needed before the evaluated one."""
    every_new_days: int = 1
    """New days since the last trained candidate's evaluated day that start a training."""
    max_champion_age_days: int = 0
    """Age of the champion's newest training day, in days, above which a training starts sooner. 0: no limit."""
    on_warning: bool = True
    """Whether a training starts sooner once a checkpoint has warned of a day that no candidate was trained on."""
    max_data_age_days: int = 0
    """Days before today after which a day is too old to start a training. 0: no limit."""
    replay: bool = False
    """Whether days with newer published ones count too: for a log that has ended, replayed day by day."""

    def __post_init__(self) -> None:
        for name, least in (("min_train_days", 1), ("every_new_days", 1)):
            require(getattr(self, name) >= least, f"[retrain] {name}: expected at least {least}")
        for name in ("max_champion_age_days", "max_data_age_days"):
            require(getattr(self, name) >= 0, f"[retrain] {name}: expected 0 (no limit) or a number of days")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run is made from, besides its data."""

    name: str = "simulated"
    """Names the MLflow experiment and the registered model: letters, digits, `-`, `_` and `.`."""
    tasks: tuple[str, ...] = ("click",)
    """The labels that the model predicts, each once."""
    log_schema: LogSchema = field(default_factory=LogSchema)
    source: SourceConfig = field(default_factory=SourceConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)

    def __post_init__(self) -> None:
        require(
            NAME.fullmatch(self.name) is not None,
            f"name: expected letters, digits, '-', '_' and '.', since it names a model in MLflow, got {self.name!r}",
        )
        require(bool(self.tasks), "tasks: name at least one label")
        require(len(set(self.tasks)) == len(self.tasks), f"tasks: expected each once, got {list(self.tasks)}")
        for task in self.tasks:
            label = self.log_schema.label(task)
            require(
                label.within_ms <= 3_600_000 * self.source.outcome_hours,
                f"[labels] {task}: within {label.within_ms / 3_600_000:g} h needs rows with the outcomes of that time; "
                f"deliver each day that much later and set [source] outcome_hours = {label.within_ms / 3_600_000:g}",
            )
        matches = len(self.log_schema.match_fields)
        require(
            matches <= self.model.heads,
            f"[model] heads: expected one for each of the {matches} ids with match = true, got {self.model.heads}",
        )
        source = self.source
        keys = (source.user_id, source.item_id, source.time_ms, source.request_id or "request_id")
        check_outcome_columns(self.log_schema, source.derived, keys)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as logged with a run."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """16 hex digits that change when any setting does; where log and tables lie is not one."""
        values = self.to_dict()
        for name in ("log", "items", "users"):
            values["source"].pop(name)
        return digest_of(values)


def parse_config(text: str, where: str = "config") -> Config:
    """Read a configuration from TOML text.

    Raises:
        LongreelError: it is not TOML, or a setting is unknown, of the wrong type or out of range.
    """
    values = toml.parse(text, where)
    tables = {name: values.pop(name) for name in TABLES if name in values}
    source = toml.build_section(SourceConfig, _section(values, "source", where), f"{where} [source]")
    schema = build_log_schema(tables, source.time_zone, where)
    return toml.build_section(Config, values, where, log_schema=schema)


def _section(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, dict):
        raise LongreelError(f"{where}: {name!r} is a section: expected [{name}], got {section!r}")
    return section


def load_config(path: Path) -> Config:
    """Read a configuration file; see `parse_config` for errors."""
    if not path.is_file():
        raise LongreelError(f"no configuration at {path}; `longreel init` writes one from a preset")
    return parse_config(toml.read_text(path), str(path))
