"""Pictures of the results: AUC against the window, windows drawn, ablations, and scaling with its fitted curves."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.extrapolation.cells import BASE
from benchmarks.extrapolation.findings import (
    ALL_TARGETS,
    LONG_USERS,
    Findings,
    Group,
    best_of_capacity,
    changes,
    fit_curve,
    gain,
    is_sampling,
)
from longreel.components.reports.plots import draw_windows

FAR = 4  # times as far from the method as the next of them all: written down, not drawn, or nothing else could be seen
SIZE = (7.2, 4.2)
WIDE = (11.5, 4.2)
DPI = 130


def draw_all(findings: Findings, out: Path) -> Iterator[Path]:
    """Every picture that there are results for."""
    for name in findings.sets:
        groups = findings.of(name)
        if not groups:
            continue
        task = groups[0].tasks[0]
        samplings = [g for g in findings.of(name, "stca") if is_sampling(g)]
        for of, suffix in ((ALL_TARGETS, ""), (LONG_USERS, "-long-users")):
            having = [g for g in samplings if of in g.slices]
            if len(having) > 1:
                yield by_window(having, findings, name, task, of, out / f"{name}-windows{suffix}.png")
        readers = best_of_readers(groups, findings.method(name), task)
        if len(readers) > 1:
            yield by_window(readers, findings, name, task, ALL_TARGETS, out / f"{name}-readers.png")
        drawn = [g for g in samplings if g.lines[0]["windows"]]
        if drawn:
            yield drawn_windows(drawn, out / f"{name}-drawn-windows.png")
        changed = changes(findings, name)
        base = findings.find(name, "stca", BASE)
        if base and changed:
            yield ablations(base, changed, task, out / f"{name}-ablations.png")
        if capacities := best_of_capacity(findings, name, task):
            yield scaling(capacities, task, out / f"{name}-scaling.png")


def _window_axis(axes: Axes, windows: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(windows)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("history events read")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: plt.Figure, path: Path, legend: float = 0.0) -> Path:
    """`legend`: the share of its height, from below, that a legend takes."""
    figure.tight_layout(rect=(0, legend, 1, 1))
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


def best_of_readers(groups: list[Group], method: Group | None, task: str) -> list[Group]:
    """STCA as the method has it, every other reader with the training windows that suit it best at the longest one."""
    by_reader: dict[str, Group] = {}
    for group in groups:
        reader = group.cell["reader"]
        if reader == "oracle" or not group.cell["match"] or (reader == "stca" and group is not method):
            continue
        values = [g.value("auc", task, g.windows[-1]) for g in (group, by_reader.get(reader, group))]
        if values[0] >= values[1]:
            by_reader[reader] = group
    return list(by_reader.values())


def far_off(differences: list[float]) -> float:
    """The distance from the method from which on nothing is drawn: FAR times the next one, of the larger half."""
    apart = sorted(abs(value) for value in differences)
    steps = zip(apart[len(apart) // 2 :], apart[len(apart) // 2 + 1 :], strict=False)
    return next((further for near, further in steps if near and further > FAR * near), float("inf"))


def by_window(groups: list[Group], findings: Findings, name: str, task: str, of: str, path: Path) -> Path:
    """AUC against the evaluation window, and what each group differs by from the method, with paired intervals.

    A line's own interval is some .02 to each side, nearly all of it users' luck that all lines share.
    """
    base = next((g for g in groups if g is findings.method(name)), None)
    figure, panels = plt.subplots(1, 1 if base is None else 2, figsize=WIDE if base else SIZE, squeeze=False)
    axes, several = panels[0][0], len({g.cell["reader"] for g in groups}) > 1
    windows = sorted({w for group in groups for w in group.windows})
    distances = {g.name: _distance(g, base, task, of) for g in groups if base is not None and g is not base}
    limit = far_off(list(distances.values()))
    for number, group in enumerate(groups):
        colour, label = f"C{number % 10}", group.name if several else group.cell["training"]
        values = [group.value("auc", task, w, of) for w in group.windows]
        if distances.get(group.name, 0.0) >= limit:
            axes.plot([], [], color=colour, label=f"{label} ({_seeds(group)}): {max(values):.2f}, far off")
            continue
        axes.plot(group.windows, values, marker="o", color=colour, label=f"{label} ({_seeds(group)})")
        if base is not None and group is not base:
            apart = 2 ** (0.09 * (number - len(groups) / 2))  # so that no interval hides another
            _differences(panels[0][1], group, base, task, of, colour, apart)
    if base is not None:
        panels[0][1].axhline(0, color="C0", linewidth=1)
        panels[0][1].set_title(f"minus {base.name}: the same users, 95 %", fontsize=10)
    oracle = findings.find(name, "oracle", "truth")
    title = f"{name}: {task}, {_who(of)}"
    if oracle and of in oracle.slices:
        title += f"; the truth reaches {oracle.value('auc', task, oracle.windows[-1], of):.3f}"
    axes.set_title(title, fontsize=10)
    for value in panels[0]:
        _window_axis(value, windows)
    axes.set_ylabel("AUC")
    columns = 4 if len(groups) <= 4 else 3
    figure.legend(loc="lower center", ncols=columns, fontsize=8, frameon=False)
    return _save(figure, path, 0.05 * -(-len(groups) // columns))


def _differences(axes: Axes, group: Group, base: Group, task: str, of: str, colour: str, apart: float) -> None:
    windows = [w for w in group.windows if w in base.windows]
    gains = [gain(group, base, task, w, of=of) for w in windows]
    low, high = np.array([value.bounds for value in gains]).T  # of few users they may lie to one side of the value
    at = np.array(windows) * apart
    axes.plot(at, [value.value for value in gains], marker="o", markersize=4, color=colour, linewidth=0.8)
    axes.vlines(at, low, high, color=colour, linewidth=0.8)


def _distance(group: Group, base: Group, task: str, of: str) -> float:
    """How far a group is from the base, over the windows."""
    windows = [w for w in group.windows if w in base.windows]
    return float(np.mean([abs(group.value("auc", task, w, of) - base.value("auc", task, w, of)) for w in windows]))


def _seeds(group: Group) -> str:
    return f"{len(group.lines)} seed{'s'[: len(group.lines) > 1]}"


def _who(of: str) -> str:
    return "all users" if of == ALL_TARGETS else of.replace("history>=", "users with at least ") + " events"


def drawn_windows(groups: list[Group], path: Path) -> Path:
    """The windows that training drew beside those that were configured."""
    figure, panels = plt.subplots(1, len(groups), figsize=(2.4 * len(groups) + 1, 3), sharey=True, squeeze=False)
    for axes, group in zip(panels[0], groups, strict=True):
        windows = group.lines[0]["windows"]
        draw_windows(axes, windows)
        axes.set_title(f"{group.cell['training']}\nmean {windows['drawn_mean']:,.0f}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("training window", fontsize=8)
    panels[0][0].set_ylabel("share of requests", fontsize=8)
    panels[0][0].legend(fontsize=7, frameon=False)
    return _save(figure, path)


def ablations(base: Group, changed: list[Group], task: str, path: Path) -> Path:
    """What every change costs at the longest window, with its paired interval."""
    longest = base.windows[-1]
    differences = [(g, gain(g, base, task, longest)) for g in changed]
    differences.sort(key=lambda pair: pair[1].value)
    figure, axes = plt.subplots(figsize=(7.2, 0.32 * len(differences) + 1.3))
    limit = far_off([difference.value for _, difference in differences])
    least = min((d.bounds[0] for _, d in differences if abs(d.value) < limit), default=0.0)
    for row, (_, difference) in enumerate(differences):
        low, high = difference.bounds
        if abs(difference.value) >= limit:
            axes.text(least, row, f"◂ {difference.text(True)}", color="C0", fontsize=8, va="center")
            continue
        axes.plot([low, high], [row, row], color="C0", linewidth=2, alpha=0.5)
        axes.plot(difference.value, row, "o", color="C0")
    axes.axvline(0, color="k", linewidth=0.8)
    axes.set_ylim(-0.7, len(differences) - 0.3)
    axes.set_yticks(range(len(differences)), [g.cell["training"] for g, _ in differences], fontsize=8)
    axes.set_xlabel(f"AUC minus the base's ({task}, {longest:,} events)", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def scaling(capacities: dict[str, Group], task: str, path: Path) -> Path:
    """AUC by window for each capacity, with the fitted curve; its intervals are in the tables."""
    figure, axes = plt.subplots(figsize=SIZE)
    for number, (label, group) in enumerate(capacities.items()):
        values, colour = [group.value("auc", task, w) for w in group.windows], f"C{number}"
        dense = (group.mean("parameters") - group.mean("table_parameters")) / 1e6
        legend = f"{label}: {dense:.2f} M parameters besides tables ({_seeds(group)})"
        axes.plot(group.windows, values, "o", color=colour, label=legend)
        if curve := fit_curve(group.windows, values):
            x = np.geomspace(group.windows[0], group.windows[-1], 100)
            axes.plot(x, curve.at(x), color=colour, linewidth=1)
    _window_axis(axes, next(iter(capacities.values())).windows)
    axes.set_ylabel(f"AUC, {task}")
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)
