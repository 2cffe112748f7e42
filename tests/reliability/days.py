"""A week of scheduled days with an asset-triggered training, a backfill and a corrected day."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from longreel.airflow_settings import DATABASE
from longreel.components.registry import versions
from longreel.components.registry.ledger import Ledger
from longreel.lake.home import TRACKING_VARIABLE, Home
from longreel.run import spark_variables
from tests.reliability.pipeline import FIRST, Case, client_of, correct, new_home, require_whole
from tests.reliability.stack import DAILY, REBUILD, TRAIN, Stack, mlflow_server, postgres, until

SCHEDULED, BACKFILLED = 5, 5
DAYS = [FIRST + timedelta(days=number) for number in range(SCHEDULED + BACKFILLED)]


@contextmanager
def stores(where: Path, kind: str) -> Iterator[dict[str, str]]:
    """Variables of a stack whose Airflow and MLflow stand on `kind`: sqlite, or postgres, MLflow's server between."""
    if kind == "sqlite":
        yield {}
        return
    with ExitStack() as open_:
        database = open_.enter_context(postgres(where / "pg"))
        server = open_.enter_context(mlflow_server(where / "server", database("mlflow")))
        yield {DATABASE: database("airflow"), TRACKING_VARIABLE: server.url}


def week(where: Path, kind: str) -> str:
    """Five scheduled days, a backfill of five more, a corrected day; every end state checked in all three stores."""
    home, began = new_home(where / "home", len(DAYS), epochs=2, every=5), time.monotonic()
    durations = []
    with stores(where, kind) as variables:
        tracking = variables.get(TRACKING_VARIABLE)
        ends = {"LONGREEL_FIRST_DAY": str(DAYS[0]), "LONGREEL_LAST_DAY": str(DAYS[SCHEDULED - 1])}
        with Stack(home, variables | ends | spark_variables(home, DAYS[0])) as stack:
            if kind == "postgres":
                assert "postgresql" in stack.cli("config", "get-value", "database", "sql_alchemy_conn")
            for phase in (_scheduled, _backfilled, _corrected):
                phase(home, stack, tracking)
                durations.append(f"{phase.__name__.strip('_')} {time.monotonic() - began:.0f} s")
                began = time.monotonic()
        assert stack.left() == []
    return ", ".join(durations)


DONE = (
    f"{SCHEDULED} simulated days by the schedule, `airflow backfill create` for {BACKFILLED} more, then a corrected "
    "raw day: `airflow dags clear` of it, then of the days after it; Airflow and MLflow on "
)
CHECKED = (
    "after each phase: every partition whole, no samples stale; one asset event a day with the published digest; "
    "trained when the policy says and no more often; versions, ledger and alias agree; the correction rewrote the "
    "day's events, and samples from it on, and nothing else; it caused no training"
)
WEEKS = {
    "days-on-sqlite": Case("days-on-sqlite", f"{DONE}SQLite", CHECKED, lambda _, where: week(where, "sqlite")),
    "days-on-postgres": Case(
        "days-on-postgres",
        f"{DONE}PostgreSQL, MLflow behind its server",
        CHECKED,
        lambda _, where: week(where, "postgres"),
    ),
}


def _scheduled(home: Home, stack: Stack, tracking: str | None) -> None:
    days = DAYS[:SCHEDULED]
    until(lambda: _succeeded(stack, DAILY, days), "the scheduled days", 1800, every=3)
    until(lambda: _succeeded(stack, TRAIN, days), "their training runs", 1200, every=3)
    stack.quiet()
    assert list(home.lake.days("samples")) == days
    require_whole(home)
    assert [run["run_type"] for day in days for run in stack.runs(DAILY, str(day))] == ["scheduled"] * SCHEDULED
    assert [run["run_type"] for day in days for run in stack.runs(TRAIN, str(day))] == ["asset_triggered"] * SCHEDULED
    assert trained(stack) == [str(days[3])]  # three days to train on, then one to evaluate on
    _require_events(stack, days)
    _require_champion(home, tracking, evaluated=[days[3]])


def _backfilled(home: Home, stack: Stack, tracking: str | None) -> None:
    days = DAYS[SCHEDULED:]
    stack.cli("backfill", "create", "--dag-id", DAILY, "--from-date", str(days[0]), "--to-date", str(days[-1]))
    until(lambda: _succeeded(stack, DAILY, days), "the backfilled days", 1800, every=3)
    stack.quiet(1800)
    (backfill,) = stack.ask("GET", f"backfills?dag_id={DAILY}")["backfills"]
    until(lambda: stack.ask("GET", f"backfills/{backfill['id']}")["completed_at"], "the backfill's end", 120)
    assert list(home.lake.days("samples")) == DAYS
    require_whole(home)
    assert [run["run_type"] for day in days for run in stack.runs(DAILY, str(day))] == ["backfill"] * BACKFILLED
    _require_events(stack, DAYS)
    assert len(trained(stack)) == len(set(trained(stack))) <= 2, "a backfill retrains once at most"
    _require_champion(home, tracking, evaluated=[date.fromisoformat(day) for day in trained(stack)])


def _corrected(home: Home, stack: Stack, tracking: str | None) -> None:
    wrong, ledger = DAYS[-3], Ledger(home, client_of(home, tracking))
    trained_before, entries = trained(stack), ledger.entries()
    before = {(name, day): home.lake.require(name, day) for name in ("events", "samples") for day in DAYS}
    correct(home, wrong)
    # The day first: of runs that a backfill made, Airflow runs several at once, whatever the DAG's max_active_runs.
    for first, last in ((str(wrong), str(wrong)), (str(wrong + timedelta(days=1)), str(DAYS[-1]))):
        stack.cli("dags", "clear", DAILY, "--partition-date-start", first, "--partition-date-end", last, "-y")
        stack.quiet(1800)
    assert home.lake.require("events", wrong).digest != before["events", wrong].digest
    require_whole(home)  # nothing stale either
    changed = [key for key, manifest in before.items() if home.lake.require(*key).digest != manifest.digest]
    rewritten = [key for key, manifest in before.items() if home.lake.require(*key) != manifest]
    assert ("events", wrong) in changed
    assert ("samples", wrong) in changed
    assert all(
        name == "samples" and day > wrong for name, day in set(rewritten) - {("events", wrong), ("samples", wrong)}
    )
    later = {str(day): "correction" for name, day in changed if name == "samples" and day > wrong}
    assert {day: extra["run_type"] for day, extra in event_extras(stack, REBUILD).items()} == later
    assert trained(stack) == trained_before, "a corrected day trained again"
    assert ledger.entries() == entries


def _succeeded(stack: Stack, dag: str, days: list[date]) -> bool:
    """Whether every partition's newest run has ended well; none may have failed."""
    newest = {run["partition_key"]: run["state"] for run in stack.runs(dag)}
    assert "failed" not in newest.values(), newest
    return all(newest.get(str(day)) == "success" for day in days)


def trained(stack: Stack) -> list[str]:
    """The days whose training run trained, in order; the others were skipped as not due."""
    runs = stack.runs(TRAIN)
    assert {run["state"] for run in runs} <= {"success"}
    return sorted(
        run["partition_key"] for run in runs if stack.task(TRAIN, run["dag_run_id"], "retrain")["state"] == "success"
    )


def _require_events(stack: Stack, days: list[date]) -> None:
    """One asset event a day, which says what was published."""
    digests = {day: extra["digest"] for day, extra in event_extras(stack, DAILY).items()}
    assert digests == {str(day): stack.home.lake.require("samples", day).digest for day in days}


def event_extras(stack: Stack, *dags: str) -> dict[str, dict[str, Any]]:
    """What the newest asset event of some DAGs says about each day."""
    events = stack.ask("GET", "assets/events?limit=1000&order_by=timestamp")["asset_events"]
    return {event["partition_key"]: event["extra"] for event in events if event["source_dag_id"] in dags}


def _require_champion(home: Home, tracking: str | None, evaluated: list[date]) -> None:
    """Every evaluated day has one version, the first was promoted, and the alias is where the ledger ends."""
    client = client_of(home, tracking)
    ledger = Ledger(home, client)
    registered, entries = versions.list_versions(client, ledger.model), ledger.entries()
    assert [version.evaluation_day for version in registered] == evaluated
    assert all(version.decision in ("promote", "hold", "reject") for version in registered)
    promoted = [version.version for version in registered if version.decision == "promote"]
    assert [entry.to_version for entry in entries] == promoted
    assert promoted[0] == registered[0].version
    assert not any(entry.superseded for entry in entries)
    assert int(client.get_model_version_by_alias(ledger.model, "champion").version) == promoted[-1]
    for version in registered:
        assert client.get_run(version.run_id).info.status == "FINISHED"
