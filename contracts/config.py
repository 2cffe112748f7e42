"""One run's configuration: typed sections read from a TOML file, each value checked where it is declared.

A home folder holds everything one pipeline owns; `longreel.toml` in it is this configuration. Presets for the known
sources stand in `contracts/presets/` and show every setting that people turn.
"""

import dataclasses
import math
import re
import tomllib
import typing
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from longreel.contracts.actions import ENGAGEMENT, LABELS, action_mask
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.errors import require as _require

SOURCES = ("simulated", "kuairand", "generic")
COMPARABLE = ("item_id", "author_id", "tag")  # what target and event both carry, and an attention head can compare
SWITCHES = (
    "swiglu",
    "query_fusion",
    "time_delta",
    "position",
    "window_length",
    "history_length",
    "sink",
    "match_counts",
    "match_month",
    "rankmixer",
)
TRAINING_SWITCHES = ("window_growth",)
NAME = re.compile(r"\w[\w.-]*", re.ASCII)
REQUEST_RULES = ("auto", "request_id", "delivery_time", "gap")


def _require_seed(seed: int, section: str) -> None:
    _require(0 <= seed < 2**32, f"[{section}] seed: expected 0 .. {2**32 - 1}, got {seed}")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where raw rows come from and what they mean."""

    kind: str = "simulated"
    log: str = ""  # folder or file of the raw log; relative to the home folder
    ready_file: str = ""  # generic, simulated: a day has arrived once its folder holds this file; say, _SUCCESS
    utc_offset_hours: float = 0.0  # the clock whose midnight ends a log day
    behaviour: tuple[str, ...] = ENGAGEMENT  # an impression with any of these actions enters history
    max_lateness_hours: float = 24.0  # rows older than the log day's midnight by more than this are quarantined
    max_quarantined_share: float = 0.01  # a day with a larger share of refused rows is stopped

    def __post_init__(self) -> None:
        _require(self.kind in SOURCES, f"[source] kind: expected one of {', '.join(SOURCES)}, got {self.kind!r}")
        _require(bool(self.behaviour), "[source] behaviour: name at least one action")
        action_mask(self.behaviour)
        _require(abs(self.utc_offset_hours) <= 14, "[source] utc_offset_hours: expected -14 .. 14")
        _require(
            0 <= self.max_lateness_hours < math.inf, "[source] max_lateness_hours: expected 0 or a number of hours"
        )
        _require(0 <= self.max_quarantined_share <= 1, "[source] max_quarantined_share: expected 0 .. 1")

    @property
    def clock(self) -> timezone:
        """The time zone of the log's days."""
        return timezone(timedelta(hours=self.utc_offset_hours))


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """How events become user-day samples."""

    max_history: int = 10_240  # newest behaviours kept of the log days before the sample's own
    request_rule: str = "auto"  # auto: request_id where the source gives one, else delivery_time
    gap_ms: int = 60_000  # rule "gap": a pause longer than this starts a new request
    max_targets: int = 512  # a request with more targets is split, never cut
    compact_every_days: int = 7  # a new history base once this many log days lie after the last

    def __post_init__(self) -> None:
        _require(
            self.request_rule in REQUEST_RULES,
            f"[samples] request_rule: expected one of {', '.join(REQUEST_RULES)}, got {self.request_rule!r}",
        )
        for name in ("max_history", "gap_ms", "max_targets", "compact_every_days"):
            _require(getattr(self, name) > 0, f"[samples] {name}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class DriftPolicy:
    """How unlike the days before it a log day may be: (warn, stop) of each measure; spark_jobs/drift.py has the rule.

    A ratio r allows median / r .. median * r and what chance adds to that; a share says how far above the median.
    """

    days: int = 7  # log days before the day that it is compared with
    min_days: int = 3  # fewer published ones among them judge nothing
    volume: tuple[float, float] = (1.5, 1.8)  # ratio: events a day, requests a user
    users: tuple[float, float] = (1.5, 1.8)  # ratio: users a day
    label_rate: tuple[float, float] = (1.3, 1.6)  # ratio: share of impressions with an action or label, each of them
    history: tuple[float, float] = (1.6, 2.0)  # ratio: history events a user
    new_items: tuple[float, float] = (0.2, 0.4)  # share of impressions on items that none of those days had

    def __post_init__(self) -> None:
        _require(1 <= self.min_days <= self.days, "[drift] expected 1 <= min_days <= days")
        for name in ("volume", "users", "label_rate", "history", "new_items"):
            least, levels = (0.0 if name == "new_items" else 1.0), getattr(self, name)
            _require(
                len(levels) == 2 and least < levels[0] <= levels[1],
                f"[drift] {name}: expected [warn, stop] with {least:g} < warn <= stop, got {list(levels)}",
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The ranker's sizes. `width` d, `heads` h, `layers` M and `expansion` r as in docs/method.md."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    expansion: int = 2
    item_buckets: int = 65_536  # rows of the hashed item table; likewise below
    author_buckets: int = 32_768
    tag_buckets: int = 1_024
    user_feature_buckets: int = 4_096
    embedding_width: int = 32
    mixer_layers: int = 1
    mixer_tokens: int = 4
    query_fusion_norm: bool = True  # LN after query fusion; readers of the paper differ
    identity: tuple[str, ...] = ("item_id", "author_id")  # fields whose equality heads can see; (): none
    dropout: float = 0.1
    swiglu: bool = True  # off: a GELU network with as many parameters
    query_fusion: bool = True  # off: every layer asks with the target alone
    time_delta: bool = True  # off: no event says how long ago it was
    position: bool = True  # off: no event says how many came after it
    window_length: bool = False  # on: the user's token says how many events the request sees
    history_length: bool = False  # on: and how many it has, also those that a window hides
    sink: bool = False  # on: heads may read nothing, by a learned score that stands in every softmax
    match_counts: bool = False  # on: a token says how many events are of the target's item, author, tag, and how recent
    match_month: bool = False  # on: and how many of the last 30 days, with match_counts
    rankmixer: bool = True  # off: concatenation and an MLP with as many parameters

    def __post_init__(self) -> None:
        for name in ("width", "heads", "layers", "expansion", "embedding_width", "mixer_layers", "mixer_tokens"):
            _require(getattr(self, name) > 0, f"[model] {name}: expected a positive number")
        for name in ("item_buckets", "author_buckets", "tag_buckets", "user_feature_buckets"):
            rows = getattr(self, name)
            _require(
                rows >= 2, f"[model] {name}: expected at least 2 (unknown ids have a row of their own), got {rows}"
            )
        _require(self.width % self.heads == 0, f"[model] width {self.width} is not a multiple of heads {self.heads}")
        _require(
            self.width % self.mixer_tokens == 0,
            f"[model] width {self.width} is not a multiple of mixer_tokens {self.mixer_tokens}",
        )
        object.__setattr__(self, "identity", tuple(self.identity))  # a list where it comes from JSON
        _require(
            set(self.identity) <= set(COMPARABLE) and len(set(self.identity)) == len(self.identity) <= self.heads,
            f"[model] identity: expected some of {', '.join(COMPARABLE)}, each once and no more than heads, "
            f"got {list(self.identity)}",
        )
        _require(0 <= self.dropout < 1, "[model] dropout: expected 0 <= dropout < 1")
        _require(self.match_counts or not self.match_month, "[model] match_month = true needs match_counts = true")
        _require(
            self.query_fusion or self.query_fusion_norm,
            "[model] query_fusion_norm = false takes the LayerNorm from fused queries, and query_fusion = false leaves "
            "none: set one of them",
        )

    def described(self) -> dict[str, Any]:
        """The settings that name a model, see `_described`."""
        return _described(self, SWITCHES)


def _described(section: Any, switches: tuple[str, ...]) -> dict[str, Any]:
    """A section's settings; a switch at its default is not among them.

    So a digest stays what it was before a switch existed, and so does what a description from then means.
    """
    values = dataclasses.asdict(section)
    defaults = {each.name: each.default for each in dataclasses.fields(section)}
    return {name: value for name, value in values.items() if name not in switches or value != defaults[name]}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training run. Windows are drawn per request, see model/data/windows.py; the method's are Beta's."""

    window_days: int = 7  # train on this many log days before the evaluated one
    epochs: int = 1
    batch_tokens: int = 65_536  # history events plus targets in a batch
    window_min: int = 64
    window_max: int = 10_240
    window_mean: int = 2_048
    window_alpha: float = 0.2  # a; b follows from the pinned mean. Small a: U-shaped, the method's choice
    # mean window of the training's second half over the first's; window_mean is the mean of both. 1: no curriculum
    window_growth: float = 1.0
    learning_rate: float = 1e-3
    table_learning_rate: float = 5e-2
    table_optimizer: str = "rowwise_adagrad"  # or adamw, which reads and writes whole tables every step
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    warm_start: bool = False  # start from the champion and train on the days it has not seen
    checkpoint_every: int = 200  # steps
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    compile: str = "auto"  # auto | on | off: torch.compile of the per-token parts; auto: on CUDA
    graphs: bool = True  # on CUDA: forward and backward replayed as one graph for each shape; not with recompute
    recompute: bool = False  # run the history side again in the backward pass: longer histories fit, a third slower

    def __post_init__(self) -> None:
        for name in ("window_days", "epochs", "batch_tokens", "window_min", "checkpoint_every"):
            _require(getattr(self, name) > 0, f"[training] {name}: expected a positive number")
        _require(
            self.window_min < self.window_mean < self.window_max,
            "[training] expected window_min < window_mean < window_max, "
            f"got {self.window_min}, {self.window_mean}, {self.window_max}",
        )
        _require(self.window_growth > 0, "[training] window_growth: expected a positive number")
        for mean in self.window_means:
            _require(
                self.window_min < mean < self.window_max,
                f"[training] window_growth = {self.window_growth:g} makes {mean:,.0f} a half's mean window, "
                f"expected between window_min and window_max, {self.window_min:,} and {self.window_max:,}",
            )
        for name in ("window_alpha", "learning_rate", "table_learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"[training] {name}: expected a positive number")
        _require(self.weight_decay >= 0, "[training] weight_decay: expected 0 or more")
        _require(0 <= self.warmup_share < 1, "[training] warmup_share: expected 0 <= warmup_share < 1")
        _require_seed(self.seed, "training")
        _require(
            self.table_optimizer in ("rowwise_adagrad", "adamw"),
            "[training] table_optimizer: expected rowwise_adagrad or adamw",
        )
        _require(self.device in ("auto", "cpu", "cuda"), "[training] device: expected auto, cpu or cuda")
        _require(self.compile in ("auto", "on", "off"), "[training] compile: expected auto, on or off")

    @property
    def window_means(self) -> tuple[float, ...]:
        """The mean window of each half of the training; one for all of it where windows do not grow."""
        if self.window_growth == 1:
            return (float(self.window_mean),)
        first = 2 * self.window_mean / (1 + self.window_growth)
        return first, self.window_growth * first

    def described(self) -> dict[str, Any]:
        """The settings that name a training, see `_described`."""
        return _described(self, TRAINING_SWITCHES)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The window ladder and its intervals."""

    windows: tuple[int, ...] = (32, 128, 512, 2_048, 10_240)  # cut after the first that holds every history
    bootstrap_draws: int = 400
    interval: float = 0.95
    seed: int = 0
    max_users: int = 0  # evaluate on at most this many users of the day, chosen by hash; 0: all

    def __post_init__(self) -> None:
        increasing = list(self.windows) == sorted(set(self.windows))
        _require(
            bool(self.windows) and increasing and self.windows[0] > 0, "[evaluation] windows: expected to increase"
        )
        _require(self.bootstrap_draws >= 20, "[evaluation] bootstrap_draws: expected at least 20")
        _require(0.5 <= self.interval < 1, "[evaluation] interval: expected 0.5 <= interval < 1")
        _require(self.max_users >= 0, "[evaluation] max_users: expected 0 (all) or a number of users")
        _require_seed(self.seed, "evaluation")


@dataclass(frozen=True, kw_only=True)
class RetrainPolicy:
    """When a new samples partition is worth a training run; components/freshness.py applies it. A limit of 0 is off."""

    min_train_days: int = 3  # published days before the evaluated one
    every_new_days: int = 1  # new days since the last trained candidate's evaluated day, or sooner:
    max_champion_age_days: int = 0  # once the champion's newest training day lies more days back than this
    on_warning: bool = True  # once a checkpoint has warned of a day that no candidate was trained on
    max_data_age_days: int = 0  # a day that lies more days back than this today is too old to train for
    replay: bool = False  # a day is asked about even if newer ones are published: a log that has ended, day by day

    def __post_init__(self) -> None:
        for name, least in (("min_train_days", 1), ("every_new_days", 1)):
            _require(getattr(self, name) >= least, f"[retrain] {name}: expected at least {least}")
        for name in ("max_champion_age_days", "max_data_age_days"):
            _require(getattr(self, name) >= 0, f"[retrain] {name}: expected 0 (no limit) or a number of days")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run is made from, besides its data."""

    name: str = "simulated"  # names the MLflow experiment and the registered model
    tasks: tuple[str, ...] = ("click", "long_view", "like")
    source: SourceConfig = field(default_factory=SourceConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)

    def __post_init__(self) -> None:
        _require(
            NAME.fullmatch(self.name) is not None,
            f"name: expected letters, digits, '-', '_' and '.', since it names a model in MLflow, got {self.name!r}",
        )
        _require(bool(self.tasks), "tasks: name at least one label")
        _require(len(set(self.tasks)) == len(self.tasks), f"tasks: expected each once, got {list(self.tasks)}")
        for task in self.tasks:
            _require(task in LABELS, f"tasks: {task!r} is not a label; expected some of {', '.join(LABELS)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as logged with a run."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """16 hex digits that change when any setting does; where the log lies on a machine is not one."""
        values = self.to_dict() | {"model": self.model.described(), "training": self.training.described()}
        values["source"].pop("log")
        return digest_of(values)


T = TypeVar("T")
TOML_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: 'a text in ""'}


def build_section(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A config dataclass from TOML values; sections become dataclasses, arrays tuples, and types are checked.

    Raises:
        LongreelError: a setting is unknown, of the wrong type or out of range; the message begins with `where`.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise LongreelError(f"{where}: unknown setting {name!r}; expected some of {', '.join(known)}")
        if dataclasses.is_dataclass(known[name].type):
            if not isinstance(value, dict):
                raise LongreelError(f"{where}: {name!r} is a section: expected [{name}], got {value!r}")
            made[name] = build_section(cast(type[Any], known[name].type), value, f"{where} [{name}]")
        else:
            made[name] = _value(known[name].type, value, f"{where}: {name}")
    try:
        return kind(**made)
    except LongreelError as error:
        raise LongreelError(f"{where.partition(' [')[0]}: {error}") from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as a field's annotation wants it: an int may stand for a float, and a tuple is written as an array.

    Raises:
        LongreelError: it is of another type.
    """
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_value(typing.get_args(kind)[0], each, f"{where}, in its list,") for each in value)
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind:
        raise LongreelError(f"{where} expected {TOML_NAMES.get(kind) or 'a list, [..]'}, got {value!r}")
    return value


def parse_config(text: str, where: str = "config") -> Config:
    """Read a configuration from TOML text.

    Raises:
        LongreelError: it is not TOML, or a setting is unknown, of the wrong type or out of range.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LongreelError(f"{where} is not valid TOML: {error}") from error
    return build_section(Config, values, where)


def read_toml(path: Path) -> str:
    """The text of a TOML file.

    Raises:
        LongreelError: it is not text.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise LongreelError(f"{path} is not valid TOML: it is not UTF-8 ({error}); write it again") from error


def load_config(path: Path) -> Config:
    """Read a configuration file; see `parse_config` for errors."""
    if not path.is_file():
        raise LongreelError(f"no configuration at {path}; `longreel init` writes one from a preset")
    return parse_config(read_toml(path), str(path))


def preset(name: str) -> str:
    """The TOML text of a shipped preset."""
    folder = resources.files("longreel.contracts.presets")
    names = sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
    if name not in names:
        raise LongreelError(f"no preset {name!r}; expected one of {', '.join(names)}")
    return (folder / f"{name}.toml").read_text()
