"""Summary of a retrain on one screen: windows, the decision with its reasons, the version and its files."""

import math
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import IN_LABEL_UNITS, TITLES, Estimate, EvaluationReport, TaskKind
from longreel.contracts.serialization import read_summary
from longreel.lake.home import Home

LOG_COLUMNS = 130  # without a terminal, as in an Airflow task's log
MARKS = {"promote": "[bold green]promote[/]", "hold": "[bold yellow]hold[/]", "reject": "[bold red]reject[/]"}
GROUPED = {  # gates that share a row where they passed
    "calibration": "Predictions are calibrated",
    "windows": "Long windows cause no significant loss",
    "slice": "No significant loss in",
}
SHOWN: dict[TaskKind, tuple[str, ...]] = {
    "binary": ("auc", "gauc", "log_loss", "calibration"),
    "number": ("rmse", "mae", "r2", "calibration"),
}
GAIN_TITLES: dict[TaskKind, str] = {"binary": "AUC - champion", "number": "RMSE saved"}
GAIN_FORMATS: dict[TaskKind, str] = {"binary": "+.4f", "number": "+.2%"}
VERDICTS = {
    "pass": "[green]pass[/]",
    "hold": "[yellow]hold[/]",
    "fail": "[red]fail[/]",
    "not_evaluated": "not evaluated",
}


def number_text(metric: str, estimate: Estimate, digits: int = 4) -> tuple[str, str]:
    """A metric and half of its interval, in label units with five digits; "" for an interval of one point, which a
    single user has."""
    if estimate.value is None:
        return "–", ""
    if metric in IN_LABEL_UNITS and estimate.value > 0:
        digits = max(0, 4 - math.floor(math.log10(estimate.value)))
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return f"{estimate.value:,.{digits}f}", ""
    return f"{estimate.value:,.{digits}f}", f"{(estimate.high - estimate.low) / 2:,.{digits}f}"


def _interval(metric: str, estimate: Estimate) -> str:
    value, spread = number_text(metric, estimate, 3 if metric == "calibration" else 4)
    return f"{value} [dim]±{spread}[/]" if spread else value


def window_table(report: EvaluationReport, champion: EvaluationReport | None = None) -> Group:
    """Metrics of every task by window, with intervals; with a champion's report, the paired gain over it too.

    Binary and number tasks have a table each.
    """
    level = f"± half of the {report.interval:.0%} user-bootstrap interval"
    totals = report.row(report.tasks[0], report.windows[0])
    counts = f"{totals.users:,} users, {totals.requests:,} requests, {totals.targets:,} targets"
    title = f"Model {report.model_digest} on {report.date}: {counts}"
    caption = (
        f"{level}; longest history {report.longest_history:,}; mean training window {report.training_mean_window:,}"
    )
    kinds = report.tasks_by_kind()
    units = {"number": "; RMSE and MAE in label units"}
    return Group(*(_kind_table(report, champion, kind, title, f"{caption}{units.get(kind, '')}") for kind in kinds))


def _kind_table(
    report: EvaluationReport, champion: EvaluationReport | None, kind: TaskKind, title: str, caption: str
) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column("task", no_wrap=True)
    table.add_column("window", justify="right", no_wrap=True)
    names = [TITLES[metric] for metric in SHOWN[kind]]
    for name in (*names, *([GAIN_TITLES[kind]] if champion else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for task in report.tasks_by_kind()[kind]:
        for window in report.windows:
            row = report.row(task, window)
            cells = [_interval(metric, getattr(row, metric)) for metric in SHOWN[kind]]
            if champion is not None:
                cells.append(_gain(report.gain(champion, task, window), kind))
            last = window == report.windows[-1]
            table.add_row(task if window == report.windows[0] else "", f"{window:,}", *cells, end_section=last)
    return table


def _gain(gain: Estimate, kind: TaskKind) -> str:
    if gain.value is None:  # other windows, or undefined on this day
        return "–"
    form = GAIN_FORMATS[kind]
    return f"{gain.value:{form}} [dim]({gain.low:{form}} .. {gain.high:{form}})[/]"


def decision_table(decision: Decision) -> Table:
    """Every gate of a decision with its reason; what passed or was not evaluated shares rows."""
    table = Table(title=f"Decision on {decision.date}: {MARKS[decision.outcome]}", title_justify="left")
    table.add_column("gate", no_wrap=True)
    table.add_column("verdict")
    table.add_column("reason")
    passed: dict[str, list[str]] = {}
    for gate in decision.gates:
        if gate.verdict == "pass" and gate.group in GROUPED:
            passed.setdefault(gate.group, []).append(gate.name.removeprefix(f"{gate.group}/"))
        elif gate.verdict != "not_evaluated":
            table.add_row(escape(gate.name), VERDICTS[gate.verdict], escape(gate.reason))
    for group, names in passed.items():
        table.add_row(group, VERDICTS["pass"], escape(f"{GROUPED[group]}: {', '.join(names)}."))
    if decision.not_evaluated:
        table.add_row("", VERDICTS["not_evaluated"], escape(decision.not_evaluated))
    return table


def wide_console() -> Console:
    """A console as wide as the terminal, or LOG_COLUMNS wide in a log file."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS)


def evaluated_days(home: Home) -> list[date]:
    """Days with a finished retrain under `reports/`, oldest first."""
    paths = home.reports.glob("*/summary.json") if home.reports.is_dir() else ()
    return sorted(date.fromisoformat(path.parent.name) for path in paths)


def print_summary(home: Home, day: date | None = None, console: Console | None = None) -> None:
    """Print the result of the retrain of `day`, by default the newest one, or that there is none yet."""
    console = console or wide_console()
    days = evaluated_days(home)
    if day is None and not days:
        console.print(
            "No candidate has been evaluated yet: the freshness policy has started no training (`longreel ops status`)."
        )
        return
    folder = home.reports / str(day or days[-1])
    if not (folder / "summary.json").is_file():
        have = f"evaluated days are {days[0]} .. {days[-1]}" if days else "no day was evaluated"
        raise LongreelError(f"no retrain was finished for {folder.name}; {have}")
    summary = read_summary(folder / "summary.json")
    report = EvaluationReport.read(folder / "report.json")
    baseline = folder / "champion_report.json"
    champion = EvaluationReport.read(baseline) if baseline.is_file() else None
    console.print(window_table(report, champion))
    console.print(decision_table(Decision.read(folder / "decision.json")))
    console.print(_facts(home, folder, summary, report), soft_wrap=True)


def _facts(home: Home, folder: Path, summary: dict[str, Any], report: EvaluationReport) -> Table:
    """Model, champion, training days and places of a retrain."""
    before, after = (f"version {v}" if v else "none" for v in (summary["champion_before"], summary["champion_after"]))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"{summary['model']} version {summary['version']}")
    facts.add_row("champion", f"{before} -> {after}" if before != after else f"{after} (unchanged)")
    facts.add_row("trained on", f"{summary['train_first_day']} .. {summary['train_last_day']} ({summary['trigger']})")
    facts.add_row("MLflow run", f"{summary['run_name']}  ({home.run_page(summary['run_id']) or summary['run_id']})")
    manifest = home.lake.manifest("samples", date.fromisoformat(folder.name))
    for warning in manifest.details.get("warnings", []) if manifest else []:
        facts.add_row("[yellow]data warning[/]", escape(warning))
    facts.add_row("reports", str(folder))
    facts.add_row("plots", str(folder / "plots"))
    if (cost := report.scoring) is not None:
        memory = f"{cost.peak_memory_mib:,.0f} MiB"
        facts.add_row("scoring", f"{cost.latency_ms:,.1f} ms and {memory} for {cost.shape} on {cost.device}")
    return facts
