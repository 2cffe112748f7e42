"""What does a report look like? Figures that answer one question each, drawn without a display."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contracts.errors import LongreelError
from contracts.report import EvaluationReport, MetricRow, paired_difference

CANDIDATE, CHAMPION, GREY = "#1f6feb", "#d1700a", "#8a8f98"


def write_plots(candidate: EvaluationReport, champion: EvaluationReport | None, folder: Path) -> list[Path]:
    """Write every plot as PNG into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "auc_by_window.png": auc_by_window(candidate, champion),
        "gain_by_history.png": gain_by_history(candidate),
        "calibration_by_window.png": calibration_by_window(candidate, champion),
    }
    if champion is not None:
        figures["gain_over_champion.png"] = gain_over_champion(candidate, champion)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def _panels(report: EvaluationReport, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.2 + 3.8 * len(report.tasks), 3.9), layout="constrained")
    axes = figure.subplots(1, len(report.tasks), squeeze=False)[0]
    figure.suptitle(title, fontsize=11)
    for axis, task in zip(axes, report.tasks, strict=True):
        axis.set_title(task, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _ladder(
    axis: Axes, report: EvaluationReport, task: str, metric: str, colour: str, label: str, shift: float
) -> None:
    """One model's metric over the windows, with its intervals; `shift` keeps two models' bars from lying on another."""
    rows = [row for row in report.rows if row.task == task and row.slice == "all"]
    known = [(row.window, getattr(row, metric)) for row in rows if getattr(row, metric).value is not None]
    if not known:
        return
    at = [window * shift for window, _ in known]
    values = [e.value for _, e in known]
    below = [max(0.0, e.value - e.low) if e.low is not None else 0.0 for _, e in known]
    above = [max(0.0, e.high - e.value) if e.high is not None else 0.0 for _, e in known]
    axis.errorbar(at, values, yerr=[below, above], marker="o", ms=4, lw=1.4, capsize=3, color=colour, label=label)


def _window_axis(axis: Axes, report: EvaluationReport) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(report.windows, [f"{w:,}" for w in report.windows], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("history events read")


def _compare(
    candidate: EvaluationReport, champion: EvaluationReport | None, metric: str, title: str
) -> tuple[Figure, list[Axes]]:
    figure, axes = _panels(candidate, title)
    for axis, task in zip(axes, candidate.tasks, strict=True):
        _ladder(axis, candidate, task, metric, CANDIDATE, "candidate", 1.0)
        if champion is not None and task in champion.tasks:
            _ladder(axis, champion, task, metric, CHAMPION, "champion", 1.06)
        _window_axis(axis, candidate)
    _legend(figure, axes[0])
    return figure, axes


def auc_by_window(candidate: EvaluationReport, champion: EvaluationReport | None) -> Figure:
    """Does reading more history help, and is the candidate better at every length?"""
    percent = f"{candidate.interval:.0%} user-bootstrap interval"
    figure, axes = _compare(candidate, champion, "auc", f"AUC on {candidate.date} by history window ({percent})")
    for axis in axes:
        axis.axvline(candidate.training_mean_window, color=GREY, lw=1, ls=":")
    axes[0].set_ylabel("AUC  (dotted: mean training window)")
    return figure


def gain_over_champion(candidate: EvaluationReport, champion: EvaluationReport) -> Figure:
    """Is the candidate surely better? The paired difference, whose interval is what the gates look at."""
    figure, axes = _panels(candidate, f"AUC on {candidate.date}: candidate minus champion, paired interval")
    for axis, task in zip(axes, candidate.tasks, strict=True):
        axis.axhline(0.0, color=GREY, lw=1, ls=":")
        for window in candidate.windows:
            try:
                pair = [report.row(task, window).auc for report in (candidate, champion)]
                gain = paired_difference(pair[0], pair[1], candidate.interval)
            except LongreelError:  # undefined for one of them
                continue
            if gain.value is None or gain.low is None or gain.high is None:
                continue
            axis.plot([window, window], [gain.low, gain.high], color=CANDIDATE, lw=1.4)
            axis.plot([window], [gain.value], "o", ms=4, color=CANDIDATE)
        _window_axis(axis, candidate)
    return figure


def calibration_by_window(candidate: EvaluationReport, champion: EvaluationReport | None) -> Figure:
    """Are predicted rates right at every window?"""
    title = f"Predicted over observed rate on {candidate.date}"
    figure, axes = _compare(candidate, champion, "calibration", title)
    for axis in axes:
        axis.axhline(1.0, color=GREY, lw=1, ls=":")
    return figure


def _slice_start(row: MetricRow) -> float:
    digits = "".join(c if c.isdigit() else " " for c in row.slice.split(">=")[-1].replace(",", "")).split()
    return -1.0 if not digits else 0.0 if row.slice.startswith("history<") else float(digits[0])


def gain_by_history(report: EvaluationReport) -> Figure:
    """Who gains from a long window? AUC at the shortest and at the longest one, by how much history a user has."""
    shortest, longest = report.windows[0], report.windows[-1]
    figure, axes = _panels(report, f"AUC on {report.date} by history length: {shortest:,} against {longest:,} events")
    for axis, task in zip(axes, report.tasks, strict=True):
        at_longest = [row for row in report.rows if row.task == task and row.window == longest and row.slice != "all"]
        names = [row.slice for row in sorted(at_longest, key=_slice_start)]
        for window, colour, side in ((shortest, GREY, -0.12), (longest, CANDIDATE, 0.12)):
            rows = {row.slice: row.auc for row in report.rows if row.task == task and row.window == window}
            for place, auc in enumerate(rows.get(name) for name in names):
                if auc is None or auc.value is None or auc.low is None or auc.high is None:
                    continue
                axis.plot([auc.low, auc.high], [place + side, place + side], color=colour, lw=1.4)
                axis.plot([auc.value], [place + side], "o", ms=4, color=colour)
            axis.plot([], [], "o-", ms=4, lw=1.4, color=colour, label=f"{window:,} events")
        users = {row.slice: row.users for row in at_longest}
        axis.set_yticks(range(len(names)), [f"{n}\n{users[n]:,} users" for n in names], fontsize=8)
        axis.set_xlabel("AUC")
    _legend(figure, axes[0])
    return figure
