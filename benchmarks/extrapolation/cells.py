"""Suites of cells: a sample set, a reader of histories, training settings, a seed."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.extrapolation.ablations import PARTS_OF_THE_MODEL
from longreel.contracts.config import Config
from longreel.contracts.digests import digest_of
from longreel.contracts.log_schema import LogSchema

CELLS_VERSION = 8  # raise when the same cell would give another result
SLOW = ("sasrec", "hstu", "din")  # readers that take two to five times as long as STCA, and more memory
WITHOUT_TRAINING = ("oracle", "trees")  # readers that are no torch modules
METHOD, BASE = "growing", "beta"  # training windows: the method's, and those of every ablation and what it is held to
GROWTH = 3.0  # of windows that grow: the mean of the training's second half over the first's
SHORT, LONG = 512, 2_048  # fixed windows to compare with; users with at least LONG events make a slice


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a run is: the model and its tables, the windows and the passes over the data."""

    model: dict[str, Any]
    rows: dict[str, int]  # of the tables of ids
    matched: tuple[str, ...]  # ids that attention compares
    training: dict[str, Any]
    eval_windows: tuple[int, ...]
    requests_per_batch: int = 64

    def with_eval_windows(self, eval_windows: tuple[int, ...]) -> "Size":
        """Other evaluation windows, the last also the longest trained on; where that is shorter, so is the mean."""
        mean = min(self.training["window_mean"], max(16, eval_windows[-1] // 40 * 8))
        shortest = min(self.training["window_min"], max(8, mean // 64 * 8))
        windows = {"window_min": shortest, "window_mean": mean, "window_max": eval_windows[-1]}
        return replace(self, eval_windows=eval_windows, training=self.training | windows)


FULL = Size(
    model={
        "width": 128,
        "heads": 16,
        "layers": 4,
        "expansion": 2,
        "embedding_width": 64,
        "match_counts": False,
        "dropout": 0.2,
    },
    # some 150,000 files: fewer rows would let a third of them share one
    rows={"item_id": 1_048_576, "author_id": 262_144, "tag": 16_384},
    matched=("item_id", "author_id", "tag"),
    training={
        "epochs": 2,
        "window_min": 256,
        "window_mean": 2_048,
        "window_max": 10_240,
        "learning_rate": 2.5e-4,
        "table_optimizer": "adamw",
        "table_learning_rate": 5e-4,
        "cuda_graphs": True,
    },
    eval_windows=(128, 512, 2_048, 4_096, 10_240),
)
SMALL = Size(
    model={
        "width": 32,
        "heads": 4,
        "layers": 2,
        "expansion": 2,
        "embedding_width": 16,
        "dropout": 0.1,
    },
    rows={"item_id": 65_536, "author_id": 16_384, "tag": 1_024},
    matched=("item_id", "author_id"),
    training={
        "epochs": 1,
        "window_min": 16,
        "window_mean": 208,
        "window_max": 1_024,
        "learning_rate": 2e-3,
    },
    eval_windows=(32, 128, 512, 1_024),
    requests_per_batch=32,
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment. `set` names a folder of sample sets; `change` one of CONTROLS, or nothing."""

    suite: str
    set: str
    reader: str  # stca, one of COMPARATORS, trees or oracle
    training: str  # what the table calls its windows or its ablation
    seed: int
    change: str = ""  # of the sample set: shuffled | no-history
    match: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    matched: tuple[str, ...] | None = None  # ids that attention compares, where they are not the size's
    train: dict[str, Any] = field(default_factory=dict)
    windows: dict[str, str] = field(default_factory=dict)  # shape and part, where they are not the method's (ablations)
    without: str = ""  # a part of the model, one of ablations.PARTS_OF_THE_MODEL

    @property
    def key(self) -> str:
        """A name for it, which is also that of its files."""
        match = "" if self.match else "-nomatch"
        change = f"-{self.change}" if self.change else ""
        return f"{self.set}{change}/{self.reader}{match}/{self.training}/s{self.seed}".replace(" ", "_")

    def log_schema(self, size: Size, log_schema: LogSchema) -> LogSchema:
        """The log schema of a sample set with this cell's tables and matched ids."""
        matched = size.matched if self.matched is None else self.matched
        fields = (
            replace(field, rows=size.rows.get(field.name, field.rows), match=field.name in matched)
            for field in log_schema.fields
        )
        return replace(log_schema, fields=tuple(fields))

    def config(self, size: Size, tasks: tuple[str, ...], log_schema: LogSchema, device: str) -> Config:
        """The product's configuration of this cell, but for `batch_tokens`."""
        training = size.training | self.train | {"seed": self.seed, "device": device, "checkpoint_every": 1_000}
        if self.reader != "stca":
            training |= {
                "compile": "off",
                "cuda_graphs": False,
            }  # what is compiled is STCA's own; they wait for the device
        base = Config()
        return Config(
            name="extrapolation",
            tasks=tasks,
            log_schema=self.log_schema(size, log_schema),
            model=replace(base.model, **(size.model | self.model)),
            training=replace(base.training, **training),
        )

    def fingerprint(self, config: Config, data: str) -> str:
        """Changes with anything that the result depends on, but for the code."""
        made_from = asdict(self) | {"suite": ""}  # suites share cells
        settings = [config.tasks, config.log_schema.digest(), asdict(config.model), asdict(config.training)]
        return digest_of([CELLS_VERSION, made_from, settings, data])


def samplings(size: Size) -> dict[str, dict[str, dict[str, Any]]]:
    """The training windows to compare: the method's, growing and not, two fixed ones, and everything."""
    longest = size.training["window_max"]
    short, long = min(SHORT, longest // 8), min(LONG, longest // 2)
    return {
        METHOD: {"train": {"window_curriculum": GROWTH}},
        BASE: {},
        f"fixed {short}": fixed_at(short),
        f"fixed {long}": fixed_at(long),
        "full": {"windows": {"shape": "full"}},
    }


def fixed_at(window: int) -> dict[str, Any]:
    """What a cell says to train on one window."""
    return {"windows": {"shape": "fixed"}, "train": {"window_mean": window}}


def ablations(size: Size) -> dict[str, dict[str, Any]]:
    """What is taken away or changed, one at a time, from BASE."""
    layers = size.model["layers"]
    depths = {f"depth {n}": {"model": {"layers": n}} for n in (1, 2, 4) if n != layers}
    counted = bool(size.model.get("match_counts"))
    tags, pair = "tag" in size.matched, ("item_id", "author_id")
    # a field takes a head at least
    numbers = [n for n in (2, 4, 8, 16) if n != size.model["heads"] and n >= len(size.matched)]
    heads = {f"heads {n}": {"model": {"heads": n}} for n in numbers}
    adagrad = {"table_optimizer": "rowwise_adagrad", "table_learning_rate": 0.05}
    adamw = {"table_optimizer": "adamw", "table_learning_rate": size.training["learning_rate"]}
    learned = size.training.get("table_optimizer") == "adamw"
    return {
        **depths,
        **heads,
        "no identity match": {"matched": ()},
        **{f"no {part}": {"without": part} for part in PARTS_OF_THE_MODEL},
        "no match counts" if counted else "match counts": {"model": {"match_counts": not counted}},
        "tags not matched" if tags else "tags matched too": {"matched": pair if tags else (*pair, "tag")},
        "tables by Adagrad" if learned else "tables by AdamW": {"train": adagrad if learned else adamw},
        "uniform windows": {"windows": {"shape": "uniform"}},
        "beta, alpha 1": {"train": {"window_alpha": 1.0}},
        "random part": {"windows": {"part": "random"}},
        "oldest part": {"windows": {"part": "oldest"}},
    }


def tunings(size: Size) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings that may be better than the base's, one at a time; what pays with every seed becomes the base.

    Now the shape of the windows: the smaller alpha is, the more of the same tokens lie in whole histories. And when
    long ones come: the more they grow, the later; the last is as long at first as "growing" is at the end.
    """
    shortest, growing = size.training["window_min"], {"window_curriculum": GROWTH}
    return {
        **{f"beta, alpha {alpha:g}": {"train": {"window_alpha": alpha}} for alpha in (0.05, 0.1, 0.5, 1.0)},
        f"windows from {shortest // 4}": {"train": {"window_min": shortest // 4}},
        METHOD: {"train": growing},
        **{f"{METHOD} {by}": {"train": {"window_curriculum": float(by)}} for by in (2, 7)},
        "shrinking": {"train": {"window_curriculum": 1 / GROWTH}},
        f"{BASE}, one epoch": {"train": {"epochs": 1}},
        f"{METHOD}, one epoch": {"train": {"epochs": 1, **growing}},
    }


def capacities(size: Size) -> dict[str, dict[str, Any]]:
    """Three sizes of the model; the middle one is the base."""
    width, heads = size.model["width"], size.model["heads"]
    return {
        "S": {"width": width // 2, "heads": max(4, heads // 2), "layers": max(1, size.model["layers"] // 2)},
        "M": {},
        "L": {"width": 2 * width, "heads": heads, "layers": size.model["layers"]},
    }


def suite(name: str, sets: str, size: Size, seeds: int) -> Iterator[Cell]:
    """The cells of a suite on a sample set.

    extrapolation  STCA x training windows
    comparators    other readers with the method's windows, or with a fixed one, as they are usually trained; trees
    ablations      STCA without one thing at a time
    tuning         STCA with one setting that may be better
    scaling        three capacities x three learning rates, the best of which counts
    controls       shuffled labels, no history, the oracle where there is a truth
    """
    stca = {"suite": name, "set": sets, "reader": "stca"}
    windows = samplings(size)
    longest_fixed = [label for label in windows if label.startswith("fixed")][-1]
    for seed in range(seeds):
        if name == "extrapolation":
            yield from (Cell(**stca, training=label, seed=seed, **change) for label, change in windows.items())
        elif name == "comparators":
            yield Cell(**stca, training=BASE, seed=seed)
            fixed = windows[longest_fixed]["train"]["window_mean"]
            for reader in ("din", "mean"):
                for label in (METHOD, BASE, longest_fixed):
                    yield Cell(**stca | {"reader": reader}, training=label, seed=seed, **windows[label])
            equal = {"sasrec": 3 * fixed // 8, "hstu": fixed // 2}  # windows of the method's arithmetic (compute.py)
            fused_heads = {"heads": min(8, size.model["heads"])}  # heads of 16 columns, as fused attention wants them
            for reader, window in equal.items():
                other = stca | {"reader": reader, "model": fused_heads}
                yield Cell(**other, training=f"fixed {window}", seed=seed, **fixed_at(window))
                yield Cell(**other, training=longest_fixed, seed=seed, **windows[longest_fixed])
                if seed == 0:
                    for label in (METHOD, BASE):
                        yield Cell(**other, training=label, seed=seed, **windows[label])
            if seed == 0:
                other = stca | {"reader": "sasrec", "model": fused_heads}
                yield Cell(**other, training=longest_fixed, match=False, seed=seed, **windows[longest_fixed])
                yield Cell(**stca | {"reader": "trees"}, training="counts", seed=seed)
        elif name in ("ablations", "tuning"):
            yield Cell(**stca, training=BASE, seed=seed)
            for label, change in (ablations if name == "ablations" else tunings)(size).items():
                yield Cell(**stca, training=label, seed=seed, **change)
        elif name == "scaling":
            for label, model in capacities(size).items():
                for share, rate in ((1.0, ""), (0.5, ", half the rate"), (0.25, ", a quarter of the rate")):
                    if not model and not rate:
                        yield Cell(**stca, training=BASE, seed=seed)
                        continue
                    train = {"learning_rate": share * size.training["learning_rate"]}
                    yield Cell(**stca, training=f"{label}{rate}", model=model, train=train, seed=seed)
        elif name == "controls":
            yield Cell(**stca, training=BASE, seed=seed)
            yield Cell(**stca, training=BASE, change="shuffled", seed=seed)
            yield Cell(**stca, training=BASE, change="no-history", seed=seed)
            if seed == 0:
                yield Cell(**stca | {"reader": "oracle"}, training="truth", seed=seed)


SUITES = ("extrapolation", "controls", "tuning", "comparators", "ablations", "scaling")  # the most important first


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells in the order in which they are run, each once: the main table and what may become its base, then everything
    else seed by seed; within a seed the slow readers lie evenly among the others, so that few share a card at a time.
    """
    by_round: dict[int, dict[str, Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (SUITES.index(cell.suite), cell.seed)):
        first = cell.suite in ("extrapolation", "tuning")
        by_round.setdefault(0 if first else 1 + cell.seed, {}).setdefault(cell.key, cell)
    ordered: dict[str, Cell] = {}
    for number in sorted(by_round):
        cells_of_round = [cell for cell in by_round[number].values() if cell.key not in ordered]
        groups = [[cell for cell in cells_of_round if (cell.reader in SLOW) == slow] for slow in (False, True)]
        placed = [(i / len(group), cell) for group in groups for i, cell in enumerate(group)]
        ordered |= {cell.key: cell for _, cell in sorted(placed, key=lambda pair: pair[0])}
    return list(ordered.values())
