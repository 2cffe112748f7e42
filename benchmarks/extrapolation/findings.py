"""Findings: means over seeds with paired intervals, and the curve of AUC against the window."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmarks.extrapolation.cells import BASE, LONG, METHOD
from benchmarks.extrapolation.evaluation import DRAWS, SHORT_HISTORY, interval
from benchmarks.extrapolation.runner import draws_path, read_results

Floats = NDArray[np.float64]
ALL_TARGETS, LONG_USERS, SHORT_USERS = "all", f"history>={LONG}", f"history<{SHORT_HISTORY}"
CAPACITIES = ("S", "M", "L")
BEND = 0.001  # AUC that doubling the window must bring to be worth it


@dataclass(frozen=True)
class Estimate:
    """A number, a mean over seeds, with its bootstrap replicates: users are drawn in each, and so are seeds."""

    value: float
    draws: Floats

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.draws - other.draws)

    @property
    def bounds(self) -> tuple[float, float]:
        """Its percentile interval."""
        return interval(self.draws)

    def text(self, signed: bool = False) -> str:
        """+.0123 (+.0101 .. +.0140), or .7654 ± .0021; the number alone where there are no replicates."""
        low, high = self.bounds
        if np.isnan(low):
            return number(self.value, signed)
        if signed:
            return f"{number(self.value, True)} ({number(low, True)} .. {number(high, True)})"
        return f"{number(self.value)} ± {number((high - low) / 2)}"


def number(value: float, signed: bool = False) -> str:
    """.7654, or +.0123."""
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.replace("0.", ".", 1).replace("-", "−")


@dataclass(frozen=True)
class Group:
    """The cells that differ in their seed alone."""

    out: Path
    lines: list[dict[str, Any]]

    @property
    def cell(self) -> dict[str, Any]:
        """What they have in common, besides the first one's seed."""
        cell: dict[str, Any] = self.lines[0]["cell"]
        return cell

    @property
    def name(self) -> str:
        """As tables name it."""
        reader = self.cell["reader"] + ("" if self.cell["match"] else " without match")
        return f"{reader}, {self.cell['training']}"

    @property
    def windows(self) -> list[int]:
        """The evaluation windows."""
        return sorted({row["window"] for row in self.lines[0]["rows"]})

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the results."""
        return list(dict.fromkeys(row["task"] for row in self.lines[0]["rows"]))

    @property
    def slices(self) -> dict[str, dict[str, Any]]:
        """The slices of the users, each with one of its rows."""
        return {row["slice"]: row for row in self.lines[0]["rows"]}

    def mean(self, name: str) -> float:
        """Mean over the seeds of a number such as training_tokens; nan where there is none."""
        values = [line[name] for line in self.lines if line.get(name) is not None]
        return float(np.mean(values)) if values else float("nan")

    def values(self, metric: str, task: str, window: int, of: str = ALL_TARGETS) -> list[float]:
        """Each seed's metric at a window over a slice."""
        place = (task, window, of)
        return [
            next(row[metric][0] for row in line["rows"] if (row["task"], row["window"], row["slice"]) == place)
            for line in self.lines
        ]

    def value(self, metric: str, task: str, window: int, of: str = ALL_TARGETS) -> float:
        """Their mean; no replicate is read."""
        return float(np.mean(self.values(metric, task, window, of)))

    def estimate(self, metric: str, task: str, window: int, of: str = ALL_TARGETS) -> Estimate:
        """A metric at a window over a slice; without replicates where a line's are not beside the results file."""
        value = self.value(metric, task, window, of)
        files = [draws_path(self.out, line["key"]) for line in self.lines]
        if not all(file.exists() for file in files):
            return Estimate(value, np.full(DRAWS, np.nan))
        kept = []
        for file in files:
            with np.load(file) as draws:
                kept.append(draws[f"{task}|{of}|{window}|{metric}"].astype(np.float64))
        return Estimate(value, np.take_along_axis(np.stack(kept), self._drawn_seeds(len(kept[0])), axis=0).mean(axis=0))

    def _drawn_seeds(self, replicates: int) -> NDArray[np.int64]:
        """Which seeds each replicate averages [seeds, replicates]: the same at every window, others for other groups.

        Users are paired between groups, trainings are not: a seed's number says nothing of how lucky it is elsewhere.
        """
        number = len(self.lines)
        rng = np.random.default_rng(crc32(self.lines[0]["key"].encode()))
        return rng.integers(0, number, (number, replicates))


def gain(group: Group, base: Group, task: str, window: int, metric: str = "auc", of: str = ALL_TARGETS) -> Estimate:
    """A group's metric minus another's, over the seeds that both have been run with; over all where there are none."""
    seeds = [{line["cell"]["seed"] for line in side.lines} for side in (group, base)]
    common = seeds[0] & seeds[1] or seeds[0] | seeds[1]
    one, other = (
        Group(side.out, [line for line in side.lines if line["cell"]["seed"] in common]) for side in (group, base)
    )
    return one.estimate(metric, task, window, of) - other.estimate(metric, task, window, of)


class Findings:
    """All groups of a results folder."""

    def __init__(self, out: Path) -> None:
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for line in read_results(out):
            cell = line["cell"]
            key = tuple(cell[name] for name in ("set", "change", "reader", "match", "training"))
            groups.setdefault(key, []).append(line)
        self.groups = {key: Group(out, sorted(lines, key=lambda x: x["cell"]["seed"])) for key, lines in groups.items()}

    @property
    def sets(self) -> list[str]:
        """The sample sets, in the order in which they were run."""
        return list(dict.fromkeys(key[0] for key in self.groups))

    def of(self, name: str, reader: str | None = None, change: str = "") -> list[Group]:
        """The groups of a set, of one reader or all."""
        groups = [(k, g) for k, g in self.groups.items() if k[0] == name and k[1] == change]
        return sorted((group for key, group in groups if reader in (None, key[2])), key=_in_order)

    def method(self, name: str) -> Group | None:
        """STCA with the method's windows; where those have not been run, the base."""
        return self.find(name, "stca", METHOD) or self.find(name, "stca", BASE)

    def find(self, name: str, reader: str, training: str, change: str = "", match: bool = True) -> Group | None:
        """One group, where it has been run."""
        return self.groups.get((name, change, reader, match, training))


@dataclass(frozen=True)
class Curve:
    """AUC(L) = a - b L ** -c, fitted to points; `residual` is the root mean square of what the points miss, `error` of
    what each misses when it is left out of the fit, `bend` the window from which doubling it brings less than BEND."""

    a: float
    b: float
    c: float
    residual: float
    error: float
    bend: float

    def at(self, window: Floats | float) -> Floats:
        """The fitted AUC."""
        return np.asarray(self.a - self.b * np.asarray(window, np.float64) ** -self.c)


def _least_squares(windows: Floats, values: Floats) -> tuple[float, float, float]:
    best = (np.inf, 0.0, 0.0, 0.0)
    for c in np.geomspace(0.02, 3, 200):
        columns = np.stack([np.ones_like(windows), -(windows**-c)], axis=1)
        solved = np.linalg.lstsq(columns, values, rcond=None)[0]
        missed = float(((columns @ solved - values) ** 2).sum())
        if missed < best[0]:
            best = (missed, float(solved[0]), float(solved[1]), float(c))
    return best[1:]


def fit_curve(windows: list[int], values: list[float]) -> Curve | None:
    """The curve through at least four points; None with fewer."""
    x, y = np.array(windows, np.float64), np.array(values)
    if len(x) < 4:
        return None
    a, b, c = _least_squares(x, y)
    missed = []
    for out in range(len(x)):
        rest = np.arange(len(x)) != out
        p, q, r = _least_squares(x[rest], y[rest])
        missed.append(p - q * x[out] ** -r - y[out])
    gain = b * (1 - 2**-c)  # of doubling L, times L ** -c
    bend = float((gain / BEND) ** (1 / c)) if gain > 0 else 0.0
    residual = a - b * x**-c - y
    return Curve(a, b, c, *(float(np.sqrt(np.mean(np.square(errors)))) for errors in (residual, missed)), bend)


def closed_share(findings: Findings, name: str, task: str) -> dict[str, float] | None:
    """How much of the gap from the best short-window model to the oracle the method closes at its longest window.

    The short-window model is the best of all that were trained on the shortest fixed window and read it.
    """
    oracle, ours = findings.find(name, "oracle", "truth"), findings.method(name)
    fixed = [g for g in findings.of(name) if g.cell["training"].startswith("fixed")]
    if oracle is None or ours is None or not fixed:
        return None
    shortest = min(int(group.cell["training"].split()[1]) for group in fixed)
    short = [
        group.value("auc", task, shortest)
        for group in fixed
        if group.cell["training"] == f"fixed {shortest}" and shortest in group.windows
    ]
    if not short:
        return None
    top = oracle.value("auc", task, oracle.windows[-1])
    best = ours.value("auc", task, ours.windows[-1])
    share = (best - max(short)) / (top - max(short))
    return {"short window": shortest, "best short": max(short), "ours": best, "oracle": top, "share": share}


def _in_order(group: Group) -> tuple[bool, str, bool, str, int]:
    """STCA first, windows before all else: the method's, beta, fixed ones by length, full; the rest as it was run."""
    reader, training = group.cell["reader"], group.cell["training"]
    words = training.split()
    window = int(words[1]) if words[0] == "fixed" else 0
    return reader != "stca", reader, training != METHOD, words[0] if is_sampling(group) else "~", window


def is_sampling(group: Group) -> bool:
    """Whether a group differs from the method in its training windows alone."""
    training = group.cell["training"]
    return training in (METHOD, BASE, "full") or (training.startswith("fixed ") and "," not in training)


def changes(findings: Findings, name: str) -> list[Group]:
    """STCA with one thing other than in its base: a part of the model, a setting, or its training windows."""
    groups = [g for g in findings.of(name, "stca") if g.cell["training"] != BASE]
    changed = [g for g in groups if g.cell["suite"] in ("ablations", "tuning")]
    return changed and [g for g in groups if is_sampling(g)] + [g for g in changed if not is_sampling(g)]


def best_of_capacity(findings: Findings, name: str, task: str) -> dict[str, Group]:
    """Each capacity at the learning rate that suits it: the best AUC at the longest window."""
    by_size: dict[str, list[Group]] = {}
    for group in findings.of(name, "stca"):
        if group.cell["suite"] == "scaling" and group.cell["training"] != BASE:
            by_size.setdefault(group.cell["training"].split(",")[0], []).append(group)
    base = findings.find(name, "stca", BASE)
    if by_size and base:
        by_size.setdefault("M", []).append(base)
    order = [label for label in CAPACITIES if label in by_size]
    return {label: max(by_size[label], key=lambda g: g.value("auc", task, g.windows[-1])) for label in order}
