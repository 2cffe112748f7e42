"""Tables and plots of a results folder: `python -m benchmarks.extrapolation.tables OUT` writes results.md and *.png."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.arguments import run_main
from benchmarks.extrapolation.cells import BASE, LONG, SHORT
from benchmarks.extrapolation.findings import (
    ALL_TARGETS,
    LONG_USERS,
    SHORT_USERS,
    Findings,
    Group,
    best_of_capacity,
    changes,
    closed_share,
    fit_curve,
    gain,
    is_sampling,
    number,
)
from benchmarks.extrapolation.plots import draw_all
from benchmarks.extrapolation.runner import RESULTS
from longreel.contracts.errors import LongreelError

NAMES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table and an empty line after it; nothing without rows."""
    if rows:
        yield f"| {' | '.join(header)} |"
        yield "| --- " * len(header) + "|"
        for row in rows:
            yield f"| {' | '.join(row)} |"
        yield ""


def metric_table(groups: list[Group], metric: str, task: str, of: str) -> Iterator[str]:
    """A line a group, a column a window; what training cost beside it."""
    groups = [group for group in groups if of in group.slices]
    windows = sorted({window for group in groups for window in group.windows})
    rows = []
    for group in groups:
        cells = [group.estimate(metric, task, w, of).text() if w in group.windows else "" for w in windows]
        tokens, seconds = group.mean("training_tokens") / 1e6, group.mean("training_seconds")
        cost = ["" if np.isnan(tokens) else f"{tokens:,.1f} M", "" if np.isnan(seconds) else f"{seconds:,.0f}"]
        rows.append([group.name, str(len(group.lines)), *cells, *cost])
    if rows:
        row = groups[0].slices[of]
        who = "all users" if of == ALL_TARGETS else of
        yield f"{NAMES[metric]}, {task}, {who} ({row['targets']:,} targets of {row['users']:,} users):\n"
    header = ["reader, training windows", "seeds", *(f"{w:,}" for w in windows), "training tokens", "seconds"]
    yield from table(header, rows)


def gains(findings: Findings, name: str, task: str) -> Iterator[str]:
    """What the longer window buys, and what the method costs against reading everything in training."""
    rows = []
    for group in filter(is_sampling, findings.of(name, "stca")):
        windows = group.windows
        short = SHORT if SHORT in windows and windows[-1] > SHORT else windows[-2]
        for of in (ALL_TARGETS, LONG_USERS):
            if of in group.slices:
                first, last = (group.estimate("auc", task, w, of) for w in (short, windows[-1]))
                losses = [group.estimate("log_loss", task, w, of) for w in (short, windows[-1])]
                change = [(last - first).text(True), (losses[1] - losses[0]).text(True)]
                rows.append([group.name, of, f"{windows[-1]:,} over {short:,}", *change])
    yield from table(["reader, training windows", "users", "windows", "AUC", "log loss"], rows)
    ours, full = findings.method(name), findings.find(name, "stca", "full")
    what = "" if ours is None else ours.cell["training"].capitalize()
    if ours and full:
        longest = ours.windows[-1]
        difference = gain(ours, full, task, longest).text(True)
        share = ours.mean("training_tokens") / full.mean("training_tokens")
        yield f"{what} minus full at {longest:,}: AUC {difference}, for {share:.0%} of its training tokens.\n"
        if SHORT_USERS in ours.slices:
            others = [g for g in findings.of(name, "stca") if is_sampling(g) and g is not ours]
            differences = (
                f"{g.cell['training']} {gain(ours, g, task, longest, of=SHORT_USERS).text(True)}" for g in others
            )
            few = f"Of users with {SHORT_USERS.removeprefix('history')} events, AUC"
            yield f"{few} of {what.lower()} minus: {'; '.join(differences)}.\n"
    fixed = findings.find(name, "stca", f"fixed {SHORT}")
    if ours and fixed and len(ours.lines) == len(fixed.lines) and SHORT in fixed.windows:
        longest = ours.windows[-1]
        more = ours.estimate("auc", task, longest) - fixed.estimate("auc", task, SHORT)
        what += f" read at {longest:,} minus fixed {SHORT} read at {SHORT}, as it was trained"
        yield f"{what}: AUC {more.text(True)}.\n"


def against(findings: Findings, name: str, task: str) -> Iterator[str]:
    """The method minus every other reader, at the same evaluation windows."""
    ours = findings.method(name)
    if ours is None:
        return
    windows = [w for w in (LONG, ours.windows[-1]) if w in ours.windows]
    rows = []
    for group in findings.of(name):
        if group.cell["reader"] not in ("stca", "oracle"):
            flops = group.mean("training_flops")
            cost = f"{flops / ours.mean('training_flops'):.2f}" if flops > 0 else ""
            seeds = str(len(group.lines))
            rows.append([group.name, seeds, *(gain(ours, group, task, w).text(True) for w in windows), cost])
    header = [f"{ours.name} minus", "seeds", *(f"AUC at {w:,}" for w in windows)]
    yield from table([*header, "their training's arithmetic over ours"], rows)


def ablation_table(findings: Findings, name: str, task: str) -> Iterator[str]:
    """Every changed STCA minus the base, and what the longer window buys each.

    Every seed's own value stands beside: few seeds make narrow intervals.
    """
    base, changed = findings.find(name, "stca", BASE), changes(findings, name)
    if base is None or not changed:
        return
    longest = base.windows[-1]
    windows = list(dict.fromkeys(w for w in (SHORT, longest) if w in base.windows))
    slices = [of for of in (ALL_TARGETS, LONG_USERS) if of in base.slices] if len(windows) > 1 else []
    rows = []
    for group in [base, *changed]:
        values = ["" if group is base else gain(group, base, task, window).text(True) for window in windows]
        bought = [
            (group.estimate("auc", task, longest, of) - group.estimate("auc", task, windows[0], of)).text(True)
            for of in slices
        ]
        seeds = " ".join(number(value) for value in group.values("auc", task, longest))
        rows.append([group.cell["training"], seeds, *values, *bought])
    header = [f"instead of {base.name}", f"each seed's AUC at {longest:,}", *(f"AUC at {w:,}" for w in windows)]
    yield from table([*header, *(f"{longest:,} over {windows[0]:,}, {of}" for of in slices)], rows)


def scaling_table(findings: Findings, name: str, task: str) -> Iterator[str]:
    """AUC by window and capacity, and the curve through each line."""
    rows, windows = [], []
    for label, group in best_of_capacity(findings, name, task).items():
        windows = group.windows
        values = [group.estimate("auc", task, w) for w in windows]
        curve = fit_curve(windows, [v.value for v in values])
        fitted = "" if curve is None else f"{curve.a:.4f} − {curve.b:.3f} L^−{curve.c:.2f}"
        fit = ["", ""]
        if curve is not None:
            bend = f"{curve.bend:,.0f}" if curve.bend < 2 * windows[-1] else "beyond the data"
            fit = [f"{curve.residual:.4f} / {curve.error:.4f}", bend]
        size = (
            f"{group.mean('parameters') / 1e6:.2f} M, of which {group.mean('table_parameters') / 1e6:.2f} M in tables"
        )
        rows.append([f"{label} ({group.cell['training']})", size, *(v.text() for v in values), fitted, *fit])
    header = [
        "capacity",
        "parameters",
        *(f"{w:,}" for w in windows),
        "fitted",
        "error / left out",
        "doubling < .001 from",
    ]
    yield from table(header, rows)


def control_lines(findings: Findings, name: str, task: str) -> Iterator[str]:
    """What must teach nothing, and how far it is to the truth."""
    rows = []
    for change in ("shuffled", "no-history"):
        for group in findings.of(name, "stca", change):
            last = group.estimate("auc", task, group.windows[-1])
            rows.append([change, last.text(), group.estimate("gauc", task, group.windows[-1]).text()])
    yield from table(["control", "AUC", "GAUC"], rows)
    if closed := closed_share(findings, name, task):
        short, window = f"{closed['best short']:.4f}", f"{closed['short window']:,.0f}"
        yield (
            f"The best model trained on and reading {window} events has AUC {short}, the method {closed['ours']:.4f}, "
            f"the truth {closed['oracle']:.4f}: the method closes {closed['share']:.0%} of the gap.\n"
        )


def page(findings: Findings) -> Iterator[str]:
    """The whole page."""
    yield "# Train short, read long: results\n"
    yield "Written by `benchmarks/extrapolation/tables.py`. Values are means over seeds."
    yield "Differences are over shared seeds. Intervals are 95 %: a bootstrap of users, with the same draws"
    yield "for every cell, and of seeds if there are several. A number without one lacks replicates of a cell.\n"
    sections: list[tuple[str, Callable[[Findings, str, str], Iterator[str]]]] = [
        ("The gain of the longer window", gains),
        ("Against other readers", against),
        ("Ablations and settings", ablation_table),
        ("Scaling", scaling_table),
        ("Controls", control_lines),
    ]
    for name in findings.sets:
        groups = findings.of(name)
        for task in groups[0].tasks if groups else []:
            yield f"## {name}, {task}\n"
            shown = [g for g in groups if g.cell["suite"] in ("extrapolation", "comparators", "controls")]
            shown += [g for g in groups if g.cell["training"] == BASE and g not in shown]
            for metric in NAMES:
                for of in (ALL_TARGETS, LONG_USERS) if metric == "auc" else (ALL_TARGETS,):
                    yield from metric_table(shown, metric, task, of)
            for of in (SHORT_USERS, "new items", "new users"):
                yield from metric_table([g for g in shown if g.cell["reader"] == "stca"], "auc", task, of)
            for title, lines in sections:
                if section := list(lines(findings, name, task)):
                    yield f"### {title}\n"
                    yield from section


def main() -> None:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if not (out / RESULTS).is_file():
        raise LongreelError(f"no {RESULTS} in {out}; expected a results folder that the runner wrote")
    findings = Findings(out)
    (out / "results.md").write_text("\n".join(page(findings)) + "\n")
    for path in [out / "results.md", *draw_all(findings, out)]:
        print(path)


if __name__ == "__main__":
    run_main(main)
