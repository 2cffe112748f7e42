"""Plots of reports and decisions, drawn without a display."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from longreel.contracts.decision import STOPPING, VERDICTS, Decision, GateResult
from longreel.contracts.report import ALL_TARGETS, PRIMARY, TITLES, Estimate, EvaluationReport, TaskKind
from longreel.model.data.windows import Distribution

PLOTS = "plots"  # the folder in an MLflow run
CANDIDATE, CHAMPION, GREY = "#1f6feb", "#d1700a", "#8a8f98"
BETTER, UNCLEAR, WORSE = "#2da44e", "#bf8700", "#cf222e"
COLOUR = {"pass": BETTER, "not_evaluated": "#d1d9e0", "hold": UNCLEAR, "fail": WORSE}


def write_plots(
    candidate: EvaluationReport, champion: EvaluationReport | None, decision: Decision, folder: Path
) -> list[Path]:
    """Write every plot as PNG into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "gate_waterfall.png": gate_waterfall(decision),
        **{
            f"{PRIMARY[kind]}_by_window.png": by_window(candidate, champion, kind) for kind in candidate.tasks_by_kind()
        },
        "gain_by_history.png": gain_by_history(candidate),
        "reliability.png": reliability(candidate),
    }
    if champion is not None:
        figures["gain_over_champion.png"] = gain_over_champion(candidate, champion)
        figures["gain_by_slice.png"] = gain_by_slice(candidate, champion)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def draw_windows(axis: Axes, windows: Distribution) -> None:
    """Bars of the windows drawn, and a line of those configured."""
    edges, width = windows["edges"], windows["edges"][1] - windows["edges"][0]
    axis.bar(edges[:-1], windows["drawn_share"], width, align="edge", color=CANDIDATE, alpha=0.5, label="drawn")
    axis.step(edges, [*windows["configured_share"], 0.0], where="post", color="k", lw=1, label="configured")
    axis.spines[["top", "right"]].set_visible(False)


def training_windows(windows: Distribution, means: tuple[float, ...]) -> Figure:
    """Training windows, drawn and configured. `means`: the mean window of each phase of the curriculum."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    draw_windows(axis, windows)
    phases = "" if len(means) == 1 else f" ({' then '.join(f'{mean:,.0f}' for mean in means)})"
    axis.set_title(
        f"mean drawn {windows['drawn_mean']:,.0f}, configured {windows['configured_mean']:,.0f}{phases}", fontsize=10
    )
    axis.set_xlabel("training window, events")
    axis.set_ylabel("share of requests")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.legend(fontsize=8, frameon=False)
    return figure


def _panels(tasks: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(6.8, 1.2 + 3.8 * len(tasks)), 3.9), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    figure.suptitle(title, fontsize=11)
    for axis, task in zip(axes, tasks, strict=True):
        axis.set_title(task, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _by_window(
    axis: Axes, report: EvaluationReport, task: str, metric: str, colour: str, label: str, shift: float
) -> None:
    """One model's metric by window, with intervals; `shift` separates the bars of two models."""
    rows = [row for row in report.rows if row.task == task and row.slice_name == "all"]
    points = [(row.window, getattr(row, metric)) for row in rows if getattr(row, metric).value is not None]
    if not points:
        return
    at = [window * shift for window, _ in points]
    values = [e.value for _, e in points]
    below = [max(0.0, e.value - e.low) if e.low is not None else 0.0 for _, e in points]
    above = [max(0.0, e.high - e.value) if e.high is not None else 0.0 for _, e in points]
    axis.errorbar(at, values, yerr=[below, above], marker="o", ms=4, lw=1.4, capsize=3, color=colour, label=label)


def _window_axis(axis: Axes, report: EvaluationReport) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(report.windows, [f"{w:,}" for w in report.windows], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("evaluation window, history events")


def by_window(candidate: EvaluationReport, champion: EvaluationReport | None, kind: TaskKind) -> Figure:
    """AUC of candidate and champion by window, or of number tasks RMSE."""
    metric, tasks = PRIMARY[kind], candidate.tasks_by_kind()[kind]
    name = TITLES[metric]
    percent = f"{candidate.interval:.0%} user-bootstrap interval"
    figure, axes = _panels(tasks, f"{name} on {candidate.date} by evaluation window ({percent})")
    for axis, task in zip(axes, tasks, strict=True):
        _by_window(axis, candidate, task, metric, CANDIDATE, "candidate", 1.0)
        if champion is not None and task in champion.tasks:
            _by_window(axis, champion, task, metric, CHAMPION, "champion", 1.06)
        _window_axis(axis, candidate)
        axis.axvline(candidate.training_mean_window, color=GREY, lw=1, ls=":")
    _legend(figure, axes[0])
    units = ", label units" if kind == "number" else ""
    axes[0].set_ylabel(f"{name}{units}\n(dotted: mean training window)")
    return figure


def _gains_title(report: EvaluationReport, what: str) -> str:
    """The title of a plot of gains: of AUC alone they are differences."""
    return f"{' or '.join(TITLES[PRIMARY[kind]] for kind in report.tasks_by_kind())} on {report.date}{what}"


def _gain_label(report: EvaluationReport, task: str) -> str:
    return "AUC gained" if report.kind(task) == "binary" else "RMSE saved, as a share"


def gain_over_champion(candidate: EvaluationReport, champion: EvaluationReport) -> Figure:
    """Gain of the candidate over the champion by window, with the paired interval that the gates use."""
    comparison = f": candidate {_against(candidate)} champion, paired {candidate.interval:.0%} interval"
    figure, axes = _panels(candidate.tasks, _gains_title(candidate, comparison))
    labelled = ""
    for axis, task in zip(axes, candidate.tasks, strict=True):
        axis.axhline(0.0, color=GREY, lw=1, ls=":")
        for window in candidate.windows:
            gain = candidate.gain(champion, task, window)
            if gain.value is None or gain.low is None or gain.high is None:
                continue
            axis.plot([window, window], [gain.low, gain.high], color=CANDIDATE, lw=1.4)
            axis.plot([window], [gain.value], "o", ms=4, color=CANDIDATE)
        _window_axis(axis, candidate)
        if (label := _gain_label(candidate, task)) != labelled:
            axis.set_ylabel(f"{label}  (above 0: better)")
            labelled = label
    return figure


def _against(report: EvaluationReport) -> str:
    return "against" if report.number_tasks else "minus"


def reliability(report: EvaluationReport) -> Figure:
    """Observed against predicted rates or means, in bins with equal numbers of targets."""
    window = report.windows[-1]
    figure, axes = _panels(
        report.tasks, f"Reliability on {report.date} at window {window:,}, in bins with equal numbers of targets"
    )
    for axis, task in zip(axes, report.tasks, strict=True):
        bins = [b for b in report.reliability if b.task == task and b.observed.value is not None]
        most = max([b.predicted for b in bins] + [b.observed.high or 0.0 for b in bins], default=1.0)
        least = min([0.0, *(b.predicted for b in bins)])
        axis.plot([least, most], [least, most], color=GREY, lw=1, ls=":", label="observed = predicted")
        for b in bins:
            ends = [b.observed.low or 0.0, b.observed.high or 0.0]
            axis.plot([b.predicted] * 2, ends, color=CANDIDATE, lw=1.4)
        points = [(b.predicted, b.observed.value) for b in bins if b.observed.value is not None]
        axis.plot([x for x, _ in points], [y for _, y in points], "o", ms=4, color=CANDIDATE, label="observed")
        row = report.row(task, window)
        numbers = [f"predicted / observed {row.calibration.value:.3f}"] if row.calibration.value is not None else []
        numbers += [f"calibration error {row.ece.value:.4f}"] if row.ece.value is not None else []
        axis.text(0.03, 0.97, "\n".join(numbers), transform=axis.transAxes, va="top", fontsize=8)
        what = "rate" if report.kind(task) == "binary" else "mean, label units"
        axis.set_xlabel(f"predicted {what}")
        if axis is axes[0] or report.kind(task) == "number":
            axis.set_ylabel(f"observed {what}")
    _legend(figure, axes[0])
    return figure


def gain_by_slice(candidate: EvaluationReport, champion: EvaluationReport) -> Figure:
    """Gain of the candidate over the champion in every slice, paired."""
    comparison = f" by slice: candidate {_against(candidate)} champion, paired {candidate.interval:.0%} interval"
    figure, axes = _panels(candidate.tasks, _gains_title(candidate, comparison))
    window = candidate.windows[-1]
    for axis, task in zip(axes, candidate.tasks, strict=True):
        every = {name: candidate.gain(champion, task, window, name) for name in candidate.slices}
        gains = {name: gain for name, gain in every.items() if gain.value is not None}
        _forest(axis, gains, {name: candidate.row(task, window, name).users for name in gains})
        axis.set_xlabel(_gain_label(candidate, task))
    return figure


def gain_by_history(report: EvaluationReport) -> Figure:
    """Gain of the longest window over the reference window, by history length."""
    longest, reference = report.windows[-1], report.reference_window
    windows = f": window {longest:,} {_against(report)} window {reference:,}, by history length"
    figure, axes = _panels(report.tasks, _gains_title(report, windows))
    for axis, task in zip(axes, report.tasks, strict=True):
        names = [name for name in report.slices if name == ALL_TARGETS or name.startswith("history")]
        by_slice = {g.slice_name: g.gain for g in report.window_gains if g.task == task}
        gains = {name: by_slice[name] for name in names if name in by_slice}
        _forest(axis, gains, {name: report.row(task, longest, name).users for name in gains})
        axis.set_xlabel(_gain_label(report, task))
    return figure


def _forest(axis: Axes, gains: dict[str, Estimate], users: dict[str, int]) -> None:
    """One row per interval, against zero."""
    axis.axvline(0.0, color=GREY, lw=1, ls=":")
    for place, gain in enumerate(gains.values()):
        if gain.value is None or gain.low is None or gain.high is None:
            continue
        colour = WORSE if gain.high < 0 else BETTER if gain.low > 0 else GREY
        axis.plot([gain.low, gain.high], [place, place], color=colour, lw=1.6)
        axis.plot([gain.value], [place], "o", ms=4, color=colour)
    labels = [f"{name}  ({users[name]:,})" for name in gains]
    axis.set_yticks(range(len(gains)), labels, fontsize=7, parse_math=False)  # a category's name may hold any text
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(axis="x", labelsize=8)


def gate_waterfall(decision: Decision) -> Figure:
    """Verdicts of each group of gates, with the first reason that stopped the candidate."""
    groups: dict[str, list[GateResult]] = {}
    for gate in decision.gates:
        groups.setdefault(gate.group, []).append(gate)
    steps = len(groups)
    figure = Figure(figsize=(11, 0.8 + 0.52 * steps), layout="constrained")
    axis = figure.subplots()
    for place, (name, gates) in enumerate(groups.items()):
        left = float(place)
        for verdict in reversed(VERDICTS):
            share = sum(gate.verdict == verdict for gate in gates) / len(gates)
            axis.barh(place, share, left=left, height=0.66, color=COLOUR[verdict])
            left += share
        axis.text(-0.15, place, name, va="center", ha="right", fontsize=10)
        axis.text(place + 1.15, place, _verdicts(gates, 124 - 7 * place), va="center", fontsize=8.5, parse_math=False)
    axis.set_title(f"{decision.outcome.upper()}: candidate {decision.candidate_digest}, evaluated on {decision.date}")
    axis.set_xlim(-1.6, 2.2 * steps)
    axis.set_ylim(steps - 0.4, -0.6)
    axis.axis("off")
    return figure


def _verdicts(gates: list[GateResult], width: int) -> str:
    """A group's verdicts with their counts and its first stopping reason, on up to three lines."""
    counts = [f"{n} {v.replace('_', ' ')}" for v in VERDICTS if (n := sum(gate.verdict == v for gate in gates))]
    stopped = [gate.reason for verdict in STOPPING for gate in gates if gate.verdict == verdict]
    if not stopped:
        return ", ".join(counts)
    lines = textwrap.wrap(f"{', '.join(counts)}.  {stopped[0]}", width, max_lines=3, placeholder=" ...")
    return "\n".join(lines)
