"""Progress of the scheduler: the state of every log day, from Airflow's REST API, shown as it changes."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import EmbeddedAirflow

DAGS = {
    "longreel_daily": ("check_arrival", "ingest", "build_samples", "announce"),
    "longreel_train": ("should_retrain", "retrain"),
}
COLUMNS = tuple(task for tasks in DAGS.values() for task in tasks)
FINISHED = ("success", "failed")
MARKS = {"success": "[green]✓[/]", "failed": "[red]✗[/]", "upstream_failed": "[red]–[/]", "skipped": "[dim]not due[/]"}
POLL_S = 2.0
PAGE = 100  # the most runs that Airflow returns at a time ([api] maximum_page_limit)
# Parts of log lines of Spark, Airflow and libraries that do not report the step's own progress.
NOISE = (
    "WARN",
    "::",
    "Spark",
    "DagBag",
    "DAG bundles",
    "mlflow.store.db",
    "alembic",
    "great_expectations",
    "Tmp dir",
    "Temporary script",
    "Return code matches",
    "KFP Executor",
    "{",
    "}",
    "Running command",
    "Output:",
    "Using",
    "Worker startup",
    "Setting default",
    "To adjust",
    "Command exited",
    "Skipping task",
    "Cleaned up workspace",
    "outputFile",
    " INFO ",
    "Pushing xcom",
    "Success criteria met",
    "Skipping downstream",
)


@dataclass
class TaskState:
    """One task of one day's run: Airflow's state, its seconds and its log file."""

    state: str = ""
    seconds: float | None = None
    log: Path | None = None

    def mark(self) -> str:
        """As a table cell."""
        seconds = f" {self.seconds:.0f}s" if self.seconds else ""
        return MARKS.get(self.state, f"[yellow]{self.state}[/]" if self.state else "") + f"[dim]{seconds}[/]"


@dataclass
class DayState:
    """One log day: its runs' states by DAG, its tasks by name."""

    runs: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, TaskState] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether both DAGs ended, or the daily one failed and so started no training."""
        daily = self.runs.get("longreel_daily")
        return daily == "failed" or (daily == "success" and self.runs.get("longreel_train") in FINISHED)

    @property
    def failed(self) -> bool:
        """Whether a run of this day failed."""
        return "failed" in self.runs.values()


def read_days(airflow: EmbeddedAirflow, days: list[date], previous: dict[date, DayState]) -> dict[date, DayState]:
    """The state of every day; finished days keep their previous state."""
    keys = {day.isoformat(): day for day in days if not previous[day].finished}
    states = {day: (DayState() if day.isoformat() in keys else previous[day]) for day in days}
    for dag, tasks in DAGS.items():
        for run in _runs(airflow, dag):  # a later run of the same day replaces an earlier one
            day = keys.get(run["partition_key"])
            if day is None:
                continue
            states[day].runs[dag] = run["state"]
            path = f"dags/{dag}/dagRuns/{quote(run['dag_run_id'], safe='')}/taskInstances"
            for task in airflow.get(path)["task_instances"]:
                if task["task_id"] in tasks:
                    states[day].tasks[task["task_id"]] = TaskState(
                        task["state"] or "", task["duration"], _log_file(airflow, dag, run["dag_run_id"], task)
                    )
    return states


def _runs(airflow: EmbeddedAirflow, dag: str) -> list[dict[str, Any]]:
    """Every run of a DAG, oldest first."""
    runs: list[dict[str, Any]] = []
    while True:
        page = airflow.get(f"dags/{dag}/dagRuns?limit={PAGE}&offset={len(runs)}&order_by=run_after")
        runs += page["dag_runs"]
        if not page["dag_runs"] or len(runs) >= page["total_entries"]:
            return runs


def watch(airflow: EmbeddedAirflow, days: list[date], console: Console) -> dict[date, DayState]:
    """Follow the days until each has finished; a live table on a terminal, a line for each change elsewhere.

    Raises:
        LongreelError: Airflow stopped by itself.
    """
    states = {day: DayState() for day in days}
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            return _follow(airflow, states, lambda current, _: live.update(day_table(current)))
    return _follow(airflow, states, ChangePrinter(console))


def _follow(
    airflow: EmbeddedAirflow,
    states: dict[date, DayState],
    show: Callable[[dict[date, DayState], dict[date, DayState]], None],
) -> dict[date, DayState]:
    misses = 0
    while True:
        if not airflow.is_running():
            raise LongreelError(f"Airflow stopped by itself; its last lines are in {airflow.log}")
        try:
            current, misses = read_days(airflow, list(states), states), 0
        except (OSError, ValueError) as error:  # busy machines answer late
            misses += 1
            if misses > 30:
                raise LongreelError(f"Airflow does not answer ({error}); see {airflow.log}") from error
            time.sleep(POLL_S)
            continue
        show(current, states)
        states = current
        if all(state.finished for state in states.values()):
            return states
        time.sleep(POLL_S)


def day_table(states: dict[date, DayState]) -> Table:
    """One row for each log day, one column for each task; below it the last log line of each running task."""
    table = Table("log day", *COLUMNS, box=None, pad_edge=False)
    running = []
    for day, state in states.items():
        table.add_row(day.isoformat(), *(state.tasks.get(name, TaskState()).mark() for name in COLUMNS))
        for name, task in state.tasks.items():
            if task.state == "running" and task.log:
                running.append(f"{day} {name}: {last_line(task.log)}")
    table.caption = Text("\n".join(running), no_wrap=True, overflow="ellipsis") if running else None
    table.caption_justify = "left"
    return table


class ChangePrinter:
    """Plain lines if the output is no terminal: each task as it ends, and each new last log line of a running one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: dict[tuple[date, str], str] = {}

    def __call__(self, current: dict[date, DayState], before: dict[date, DayState]) -> None:
        for day, state in current.items():
            for name, task in state.tasks.items():
                old = before[day].tasks.get(name, TaskState()).state
                line = last_line(task.log) if task.state == "running" and task.log else ""
                if line and line != self._printed.get((day, name)):
                    self._printed[day, name] = line
                    self._console.print(
                        f"  {day} {name:14} {line}", highlight=False, markup=False, overflow="ellipsis", no_wrap=True
                    )
                if task.state != old and task.state in (*FINISHED, "skipped", "upstream_failed"):
                    self._console.print(f"{day} {name:14} {task.mark()}", highlight=False)


def last_line(log: Path) -> str:
    """The last message of a step in a task's log (JSON lines); empty if there is none yet."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            event = str(json.loads(line)["event"]).strip()
        except (ValueError, KeyError, TypeError):
            continue
        if event and not any(word in event for word in NOISE):
            return event.removeprefix("INFO - ")
    return ""


def print_failures(states: dict[date, DayState], console: Console) -> None:
    """For each failed task, the end of its log."""
    for day, state in states.items():
        for name, task in state.tasks.items():
            if task.state == "failed":
                console.print(f"[red]{day} {name} failed[/]; its log: {task.log}", highlight=False)
                for line in _tail(task.log, 25):
                    console.print(f"    {line}", highlight=False, markup=False)


def _tail(log: Path | None, number: int) -> list[str]:
    if log is None or not log.exists():
        return []
    events = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            events.append(str(json.loads(line)["event"]))
        except (ValueError, KeyError, TypeError):
            continue
    return events[-number:]


def _log_file(airflow: EmbeddedAirflow, dag: str, run_id: str, task: dict[str, Any]) -> Path:
    folder = airflow.home.airflow / "logs" / f"dag_id={dag}" / f"run_id={run_id}" / f"task_id={task['task_id']}"
    return folder / f"attempt={task['try_number']}.log"


def console() -> Console:
    """The terminal, or plain lines of a fixed width if the output is a file."""
    return Console() if sys.stdout.isatty() else Console(width=120, no_color=True)


def print_address(screen: Console, server: str, address: str, notice: str) -> None:
    """Where a server is, on one line that a terminal does not break, and what a user should know of its port."""
    screen.print(f"{server}{address}", highlight=False, soft_wrap=True)
    if notice:
        screen.print(f"({notice})", highlight=False, soft_wrap=True)
