"""Retrain operator and trigger against a local KFP REST server: submit, watch, continue, end, cancel."""

import asyncio
from collections.abc import Callable
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from longreel.components.decide import INPUTS_TAG
from longreel.components.registry import store
from longreel.components.reports.record import log_evaluation
from longreel.components.retrain import plan
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.lake.home import Home
from longreel.operators.remote import RUN_KEY
from longreel.operators.retrain import PipelineRunTrigger, RetrainOperator
from tests.kfp_server import KfpServer

MakeHome = Callable[..., Home]
DAY = "2026-01-03"


class Store(dict):
    """The task's state store: what outlives a try."""

    set = dict.__setitem__


def context(store: Store | None = None, run: str = "asset_triggered__1") -> dict[str, Any]:
    dag_run = SimpleNamespace(dag_id="longreel_train", run_id=run, partition_key=DAY)
    return {"task_state_store": Store() if store is None else store, "dag_run": dag_run}


def operator(home: Home, **options: Any) -> RetrainOperator:
    """As a worker has it: templates filled in."""
    values: dict[str, Any] = {"poll_interval": timedelta(seconds=0.02)} | options
    return RetrainOperator(task_id="retrain", home=str(home.path), day=DAY, **values)


def deferred(task: RetrainOperator, given: dict[str, Any]) -> PipelineRunTrigger:
    """Run a try up to its deferral; gives the trigger as a triggerer gets it, from what is stored."""
    with pytest.raises(TaskDeferred) as stopped:
        task.execute(given)
    assert stopped.value.method_name == "collect"
    path, values = stopped.value.trigger.serialize()
    assert path == "longreel.operators.retrain.PipelineRunTrigger"
    return PipelineRunTrigger(**values)


def fired(trigger: PipelineRunTrigger) -> dict[str, Any]:
    """The trigger's event."""

    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return asyncio.run(asyncio.wait_for(first(), 20))


def ended(run_id: str) -> dict[str, str]:
    """The event of a run that has ended."""
    return {"run_id": run_id, "status": "ended", "message": ""}


def test_submits_once_watches_and_collects(
    kfp: KfpServer, make_home: MakeHome, register: Callable[..., Any], report: Callable[..., Any]
) -> None:
    home = make_home(3)
    task, given = operator(home), context()
    trigger = deferred(task, given)
    run_id = next(iter(kfp.runs))
    assert given["task_state_store"] == {RUN_KEY: run_id}
    evaluated_by_pods(home, register, report, kfp.runs[run_id]["runtime_config"]["parameters"]["inputs_digest"])
    register(home, 1)  # a later version that this run has not made
    kfp.set(run_id, "SUCCEEDED")
    event = fired(trigger)
    assert event == ended(run_id)
    summary = operator(home).collect(given, event)
    assert (summary["version"], summary["outcome"], summary["trigger"]) == (1, "promote", "freshness")
    assert (home.reports / DAY / "summary.json").is_file()
    assert len(kfp.runs) == 1


def evaluated_by_pods(home: Home, register: Any, report: Any, inputs_digest: str) -> None:
    """What the run's pods leave in MLflow."""
    from longreel.components.gates.decide import decide

    version = register(home)
    client = store.open_store(home)
    evaluation = report(model=version.model_digest, windows=(8, 64), by_window=(0.0, 0.01), date=DAY)
    log_evaluation(home, version.version, evaluation, None, decide(evaluation, None, home.policy))
    client.set_model_version_tag("longreel-tiny", str(version.version), INPUTS_TAG, inputs_digest)


def test_a_try_after_a_crash_continues_with_the_existing_run(kfp: KfpServer, make_home: MakeHome) -> None:
    """Killed after it deferred (the id is stored), and killed between submitting and storing (the name is found)."""
    home = make_home(3)
    stored = context()
    first = deferred(operator(home), stored)
    assert deferred(operator(home), stored).run_id == first.run_id
    assert deferred(operator(home), context()).run_id == first.run_id
    assert len(kfp.runs) == 1


def test_a_running_pipeline_is_kept_even_if_its_inputs_have_changed(
    kfp: KfpServer, make_home: MakeHome, publish: Callable[..., None]
) -> None:
    """Never two trainings at once: the new data is the next run's."""
    home, given = make_home(3), context()
    first = deferred(operator(home), given)
    publish(home, date(2026, 1, 1), seed=5)
    assert deferred(operator(home), given).run_id == first.run_id
    kfp.set(first.run_id, "SUCCEEDED")
    assert deferred(operator(home), given).run_id != first.run_id


def test_a_try_after_a_failed_or_deleted_run_submits_a_new_one(kfp: KfpServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    first = deferred(operator(home), given)
    kfp.set(first.run_id, "FAILED")
    second = deferred(operator(home), given)
    assert second.run_id != first.run_id
    del kfp.runs[second.run_id]
    assert deferred(operator(home), given).run_id not in (first.run_id, second.run_id)


def test_another_airflow_run_for_the_day_has_its_own_pipeline_run(kfp: KfpServer, make_home: MakeHome) -> None:
    home = make_home(3)
    assert deferred(operator(home), context()).run_id != deferred(operator(home), context(run="manual__2")).run_id


def test_a_failed_step_fails_the_task_with_its_reason(kfp: KfpServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    steps = [{"display_name": "train", "error": {"code": 9, "message": "no space left on device"}}]
    kfp.set(trigger.run_id, "FAILED", run_details={"task_details": steps})
    with pytest.raises(LongreelError, match="ended as FAILED: step 'train': no space left on device"):
        operator(home).collect(given, fired(trigger))


def test_a_run_beyond_its_timeout_is_terminated_and_fails_the_task(kfp: KfpServer, make_home: MakeHome) -> None:
    """Its time counts from its creation, so a restart does not give it more."""
    home, given = make_home(3), context()
    trigger = deferred(operator(home, timeout=timedelta(hours=2)), given)
    kfp.age(trigger.run_id, hours=3)
    event = fired(trigger)
    with pytest.raises(LongreelError, match=r"has not ended 2\.0 h after its creation and was terminated"):
        operator(home, timeout=timedelta(hours=2)).collect(given, event)
    assert kfp.terminated == [trigger.run_id]


def test_the_trigger_survives_a_server_outage_and_gives_up_on_a_refusal(kfp: KfpServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    kfp.fail_next = [503, 500, 502]
    kfp.set(trigger.run_id, "CANCELED")
    assert fired(trigger) == ended(trigger.run_id)
    assert not kfp.fail_next
    kfp.token = "somebody else's"
    event = fired(trigger)
    with pytest.raises(LongreelError, match=r"401.*is the token right\?"):
        operator(home).collect(given, event)


def test_a_person_who_ends_the_task_ends_the_run(kfp: KfpServer, make_home: MakeHome) -> None:
    """Deferred: Airflow calls the trigger's on_kill, which it does not on a restart. In a worker: the operator's."""
    home = make_home(3)
    trigger = deferred(operator(home), context())
    asyncio.run(trigger.on_kill())
    assert kfp.terminated == [trigger.run_id]
    task = operator(home)
    other = deferred(task, context(run="manual__2"))
    task.on_kill()
    assert kfp.terminated == [trigger.run_id, other.run_id]
    operator(home).on_kill()  # nothing submitted, nothing to end


def test_what_is_stored_of_a_trigger_holds_no_address_and_no_token(
    kfp: KfpServer, make_home: MakeHome, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("very secret")
    monkeypatch.setenv("LONGREEL_KFP_TOKEN_FILE", str(tmp_path / "token"))
    kfp.token = "very secret"
    trigger = deferred(operator(make_home(3)), context())
    assert set(trigger.serialize()[1]) == {"run_id", "poll_s", "timeout_s"}
    kfp.set(trigger.run_id, "CANCELED")
    assert fired(trigger) == ended(trigger.run_id)


def test_a_day_that_is_not_ready_submits_nothing(kfp: KfpServer, make_home: MakeHome) -> None:
    home = make_home(1)
    with pytest.raises(DataNotReadyError):
        operator(home).execute(context())
    assert not kfp.runs


def test_without_a_server_it_says_what_is_missing(make_home: MakeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGREEL_KFP_HOST", raising=False)
    with pytest.raises(LongreelError, match="LONGREEL_KFP_HOST is not set here"):
        operator(make_home(3)).execute(context())


def test_a_success_without_its_version_names_the_likely_cause(kfp: KfpServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    kfp.set(trigger.run_id, "SUCCEEDED")
    assert plan(home, date.fromisoformat(DAY)).champion == 0
    with pytest.raises(LongreelError, match="share MLflow"):
        operator(home).collect(given, fired(trigger))
