"""Pictures of the results: AUC against the window, windows drawn, ablations, and scaling with its fitted curves."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.extrapolation.findings import (
    EVERYBODY,
    LONG_USERS,
    Findings,
    Group,
    best_of_capacity,
    changes,
    fit_curve,
    gain,
    is_sampling,
)

SIZE = (7.2, 4.2)
DPI = 130


def draw_all(findings: Findings, out: Path) -> Iterator[Path]:
    """Every picture that there are results for."""
    for name in findings.sets:
        groups = findings.of(name)
        if not groups:
            continue
        task = groups[0].tasks[0]
        samplings = [g for g in findings.of(name, "stca") if is_sampling(g)]
        for of, suffix in ((EVERYBODY, ""), (LONG_USERS, "-long-users")):
            having = [g for g in samplings if of in g.slices]
            if len(having) > 1:
                yield by_window(having, findings, name, task, of, out / f"{name}-windows{suffix}.png")
        readers = best_of_readers(groups, task)
        if len(readers) > 1:
            yield by_window(readers, findings, name, task, EVERYBODY, out / f"{name}-readers.png")
        drawn = [g for g in samplings if g.lines[0]["windows"]]
        if drawn:
            yield drawn_windows(drawn, out / f"{name}-drawn-windows.png")
        changed = changes(findings, name)
        base = findings.find(name, "stca", "beta")
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


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


def best_of_readers(groups: list[Group], task: str) -> list[Group]:
    """STCA as the method has it, every other reader with the training windows that suit it best at the longest one."""
    found: dict[str, Group] = {}
    for group in groups:
        reader, ours = group.cell["reader"], group.cell["training"] == "beta"
        if reader == "oracle" or not group.cell["match"] or (reader == "stca" and not ours):
            continue
        values = [np.mean(g.values("auc", task, g.windows[-1])) for g in (group, found.get(reader, group))]
        if values[0] >= values[1]:
            found[reader] = group
    return list(found.values())


def by_window(groups: list[Group], findings: Findings, name: str, task: str, of: str, path: Path) -> Path:
    """AUC against the evaluation window, a line for each group with its interval."""
    figure, axes = plt.subplots(figsize=SIZE)
    for number, group in enumerate(groups):
        found = [group.estimate("auc", task, w, of) for w in group.windows]
        low, high = zip(*(each.bounds for each in found), strict=True)
        colour = f"C{number % 10}"
        label = group.name if len({g.cell["reader"] for g in groups}) > 1 else group.cell["training"]
        axes.plot(group.windows, [each.value for each in found], marker="o", color=colour, label=label)
        axes.fill_between(group.windows, low, high, color=colour, alpha=0.12, linewidth=0)
    oracle = findings.find(name, "oracle", "truth")
    if oracle and of in oracle.slices:
        top = oracle.estimate("auc", task, oracle.windows[-1], of).value
        axes.set_title(f"{name}: {task}, {_who(of)}; the truth reaches {top:.3f}", fontsize=10)
    else:
        axes.set_title(f"{name}: {task}, {_who(of)}", fontsize=10)
    _window_axis(axes, sorted({w for group in groups for w in group.windows}))
    axes.set_ylabel("AUC")
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def _who(of: str) -> str:
    return "all users" if of == EVERYBODY else of.replace("history>=", "users with at least ") + " events"


def drawn_windows(groups: list[Group], path: Path) -> Path:
    """The windows that training drew beside those that were configured."""
    figure, panels = plt.subplots(1, len(groups), figsize=(2.4 * len(groups) + 1, 3), sharey=True, squeeze=False)
    for axes, group in zip(panels[0], groups, strict=True):
        windows = group.lines[0]["windows"]
        edges = np.array(windows["edges"])
        centres, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
        axes.bar(centres, windows["drawn_share"], width, color="C0", alpha=0.45, label="drawn")
        axes.step(edges, [*windows["configured_share"], 0], where="post", color="k", linewidth=1, label="configured")
        axes.set_title(f"{group.cell['training']}\nmean {windows['drawn_mean']:,.0f}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
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
    for row, (_, difference) in enumerate(differences):
        low, high = difference.bounds
        axes.plot([low, high], [row, row], color="C0", linewidth=2, alpha=0.5)
        axes.plot(difference.value, row, "o", color="C0")
    axes.axvline(0, color="k", linewidth=0.8)
    axes.set_yticks(range(len(differences)), [g.cell["training"] for g, _ in differences], fontsize=8)
    axes.set_xlabel(f"AUC minus that of stca, beta ({task}, {longest:,} events)")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def scaling(capacities: dict[str, Group], task: str, path: Path) -> Path:
    """AUC by window for each capacity, with the fitted curve."""
    figure, axes = plt.subplots(figsize=SIZE)
    for number, (label, group) in enumerate(capacities.items()):
        found, colour = [group.estimate("auc", task, w) for w in group.windows], f"C{number}"
        low, high = zip(*(each.bounds for each in found), strict=True)
        dense = (group.mean("parameters") - group.mean("table_parameters")) / 1e6
        values = [each.value for each in found]
        axes.errorbar(
            group.windows,
            values,
            [np.subtract(values, low), np.subtract(high, values)],
            fmt="o",
            color=colour,
            alpha=0.8,
            label=f"{label}: {dense:.2f} M parameters besides tables",
        )
        if curve := fit_curve(group.windows, values):
            x = np.geomspace(group.windows[0], group.windows[-1], 100)
            axes.plot(x, curve.at(x), color=colour, linewidth=1)
    _window_axis(axes, next(iter(capacities.values())).windows)
    axes.set_ylabel(f"AUC, {task}")
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)
