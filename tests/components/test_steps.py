"""What a user sees of the steps: tables, exit codes and errors that say what to do."""

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from longreel.cli import main
from longreel.components.registry import metrics
from longreel.components.registry.tracking import flatten
from longreel.components.registry.versions import Version
from longreel.components.reports.plots import write_plots
from longreel.components.reports.run_card import run_card
from longreel.components.reports.summary import decision_table, print_summary, window_table
from longreel.components.training.spec import training_days
from longreel.contracts.errors import DataNotReadyError
from longreel.contracts.report import EvaluationReport
from longreel.lake.erasure import FOLDER, new_request, write_request
from longreel.lake.home import CONFIG_FILE, Home
from longreel.status_data import gaps

MakeHome = Callable[..., Home]
Report = Callable[..., EvaluationReport]


@pytest.fixture
def home(make_home: MakeHome) -> Home:
    return make_home()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model", "train", "--date", "yesterday"], 2, "expected a day as YYYY-MM-DD, got 'yesterday'"),
        (["model", "train", "--date", "2026-01-03"], 3, "at least 2 days before it, published are none"),
        (["model", "evaluate", "--date", "2026-01-03", "--version", "1"], 2, "nothing is registered"),
        (["model", "evaluate", "--date", "2026-01-03", "--champion"], 2, "there is no champion yet"),
        (["model", "evaluate", "--date", "2026-01-03", "--model", "/nowhere"], 3, "nothing is published"),
        (["model", "decide", "--candidate", "/nowhere/report.json"], 2, "no report at /nowhere/report.json"),
        (["model", "promote", "--decision", "/nowhere/decision.json", "--version", "1"], 2, "no decision at"),
        (["model", "promote", "--date", "2026-01-03"], 2, "no retrain was finished for 2026-01-03"),
        (["model", "promote", "--version", "1"], 2, "--date DAY, or --decision FILE and --version N"),
        (["model", "rollback"], 2, "has no champion, so there is nothing to roll back"),
        (["model", "score", "--input", "/nowhere.parquet", "--output", "x"], 2, "no request table at /nowhere.parquet"),
        (["ops", "retrain", "--date", "2026-01-03"], 3, "samples of 2026-01-03 expected"),
    ],
)
def test_a_mistake_ends_with_a_message_and_its_exit_code(
    home: Home, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words[:2], "--home", str(home.path), *words[2:]]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"longreel {words[0]} {words[1]}: error: ")
    assert message in error


def test_score_names_missing_columns_and_the_version_that_needs_them(
    home: Home, register: Callable[..., Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    register(home)
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "in.parquet")
    words = ["--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.parquet"), "--version", "1"]
    assert main(["model", "score", "--home", str(home.path), *words]) == 2
    error = capsys.readouterr().err
    assert "in.parquet does not fit longreel-tiny version 1: request table: column user_taste" in error
    assert "history_time_ms" in error
    (tmp_path / "in.parquet").write_text("not parquet")
    assert main(["model", "score", "--home", str(home.path), *words]) == 2
    assert "is not a request table" in capsys.readouterr().err


def test_due_exits_99_when_not_due_and_0_when_due(make_home: MakeHome, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(make_home(3).path)
    assert main(["ops", "should-retrain", "--home", home, "--date", "2026-01-02"]) == 99
    assert "not due: 1 published days lie before 2026-01-02" in capsys.readouterr().out
    assert main(["ops", "should-retrain", "--home", home, "--date", "2026-01-03"]) == 0
    assert capsys.readouterr().out.startswith("due: ")


def test_decide_writes_the_decision_next_to_the_candidates_report(
    home: Home, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ours.json").write_text(report(0.005).to_json())
    (tmp_path / "theirs.json").write_text(report(model="champion").to_json())
    words = ["--candidate", str(tmp_path / "ours.json"), "--champion", str(tmp_path / "theirs.json")]
    assert main(["model", "decide", "--home", str(home.path), *words]) == 0
    assert json.loads((tmp_path / "decision.json").read_text())["outcome"] == "promote"
    assert "champion/superiority" in capsys.readouterr().out
    (tmp_path / "ours.json").write_text("{}")
    assert main(["model", "decide", "--home", str(home.path), *words]) == 2
    assert "not an evaluation report" in capsys.readouterr().err


def test_training_days_are_the_newest_before_the_evaluated_one(home: Home) -> None:
    days = [date(2026, 1, d) for d in (1, 2, 4, 5, 6, 7)]
    assert training_days(days, date(2026, 1, 6), home.config) == [date(2026, 1, d) for d in (2, 4, 5)]
    with pytest.raises(DataNotReadyError, match=r"2026-01-01 \.\. 2026-01-01"):
        training_days(days, date(2026, 1, 2), home.config)


def test_the_window_table_fits_a_log_line_and_shows_every_window(report: Report) -> None:
    console = Console(width=130, record=True)
    console.print(window_table(report(0.004), report(model="champion")))
    console.print(decision_table(make_decision(report)))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 130
    for part in ("0.7240", "+0.0040", "click", "like", " 32 ", " 128 ", " 512 ", "200 users", "promote"):
        assert part in text


def make_decision(report: Report):  # type: ignore[no-untyped-def]
    from longreel.components.gates.decide import decide
    from longreel.contracts.policy import GatePolicy

    return decide(report(0.004), report(model="champion"), GatePolicy())


def test_plots_are_drawn_with_and_without_a_champion_and_with_undefined_numbers(report: Report, tmp_path: Path) -> None:
    from dataclasses import replace

    from longreel.contracts.report import Estimate

    nothing = Estimate(value=None, low=None, high=None)
    whole, decision = report(), make_decision(report)
    undefined = replace(whole, rows=tuple(replace(r, auc=nothing, calibration=nothing) for r in whole.rows))
    for champion in (None, report(model="champion"), undefined):
        plots = write_plots(whole, champion, decision, tmp_path)
        for name in plots:
            assert name.read_bytes().startswith(b"\x89PNG")
        assert run_card(whole, champion, decision, {}, plots, {})
    assert run_card(undefined, None, decision, {}, write_plots(undefined, None, decision, tmp_path), {})


def test_the_waterfall_paints_each_verdicts_share_of_a_group(report: Report) -> None:
    from longreel.components.gates.decide import decide
    from longreel.components.reports.plots import COLOUR, gate_waterfall
    from longreel.contracts.policy import GatePolicy

    decision = decide(report(0.01, by_slice={"history<32": -0.2}), report(model="champion"), GatePolicy())
    groups = list(dict.fromkeys(gate.group for gate in decision.gates))
    slices = [gate.verdict for gate in decision.gates if gate.group == "slice"]
    assert {"pass", "fail"} == set(slices)
    bars = [b for b in gate_waterfall(decision).axes[0].patches if round(b.get_y() + 0.33) == groups.index("slice")]
    painted = {to_hex(bar.get_facecolor()): bar.get_width() for bar in bars if bar.get_width()}
    expected = {COLOUR[v]: slices.count(v) / len(slices) for v in ("pass", "fail")}
    assert painted == pytest.approx(expected)


def test_a_candidate_that_failed_a_dozen_gates_has_a_short_headline(report: Report) -> None:
    from longreel.components.gates.decide import decide
    from longreel.components.registry.decision_record import HEADLINE_REASONS, headline
    from longreel.contracts.policy import GatePolicy

    decision = decide(report(-0.1), report(model="champion"), GatePolicy())
    more = len(decision.reasons) - HEADLINE_REASONS
    assert more > 5
    assert headline(decision) == " ".join(decision.reasons[:HEADLINE_REASONS]) + f" And {more} more."


def test_a_run_says_which_airflow_run_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from longreel.components.registry import tracking

    for name in tracking.AIRFLOW_NAMES:
        monkeypatch.delenv(name, raising=False)
    assert tracking.airflow_run() == {}
    for name, value in zip(tracking.AIRFLOW_NAMES, ("longreel_train", "manual__2026-01-03"), strict=True):
        monkeypatch.setenv(name, value)
    assert tracking.airflow_run() == {"airflow_run": "longreel_train/manual__2026-01-03"}


def test_a_run_card_holds_everything_itself_and_says_what_was_decided(report: Report, tmp_path: Path) -> None:
    from longreel.components.gates.decide import decide
    from longreel.contracts.policy import GatePolicy

    candidate, champion = report(0.001, by_slice={"history<32": -0.04}), report(model="champion")
    decision = decide(candidate, champion, GatePolicy())
    assert decision.outcome == "reject"
    plots = write_plots(candidate, champion, decision, tmp_path)
    settings = {"gate policy": {"slice_tolerance": "0.01"}}
    card = run_card(candidate, champion, decision, {"model": "longreel-<x> version 3"}, plots, settings)
    assert card.count("data:image/png;base64,") == len(plots) == 6
    assert not re.search(r'(src|href)="(?!data:)', card)  # nothing is fetched
    assert "longreel-&lt;x&gt; version 3" in card
    for gate in decision.gates:
        assert html.escape(gate.reason) in card
    for part in (decision.digest(), decision.policy_digest, "history&lt;32", "10,240 events x 128 candidates"):
        assert part in card
    assert "<code>0.01</code>" in card


NAMED = (
    "all",
    "history<32",
    "history>=32",
    "device=phone",
    "device=<i>tv $x^{$ [b]",
    "other device",
    "country=Österreich",
)
MIXED: dict[str, Any] = {"tasks": ("click", "spent"), "number_tasks": ("spent",), "slices": NAMED}


def test_number_tasks_and_named_slices_are_on_the_card_the_plots_and_the_tables(report: Report, tmp_path: Path) -> None:
    from longreel.components.gates.decide import decide
    from longreel.contracts.policy import GatePolicy

    candidate = report(0.01, by_slice={"device=<i>tv $x^{$ [b]": -0.1}, **MIXED)
    champion = report(model="champion", **MIXED)
    decision = decide(candidate, champion, GatePolicy(protected_slices=("device=<i>tv $x^{$ [b]",)))
    assert decision.outcome == "reject"
    plots = write_plots(candidate, champion, decision, tmp_path)
    assert {plot.name for plot in plots} >= {"auc_by_window.png", "rmse_by_window.png", "gain_by_slice.png"}
    card = run_card(candidate, champion, decision, {}, plots, {})
    assert card.count("<h3>By device</h3>") == card.count("<h3>By country</h3>") == 1
    devices = card[card.index("<h3>By device</h3>") : card.index("<h3>By country</h3>")]
    assert "device=&lt;i&gt;tv $x^{$ [b]" in devices
    assert "<td>other device</td>" in devices
    assert "country" not in devices
    for part in ("RMSE saved over the champion", "R2", "label units", "AUC gained or RMSE saved over"):
        assert part in card
    assert "2.9100" in card  # RMSE 3 x .97 at the longest window
    console = Console(width=130, record=True)
    console.print(window_table(candidate, champion))
    console.print(decision_table(decision))
    text = console.export_text()
    for part in ("2.9100", "RMSE saved", "+1.02%", "AUC - champion", "+0.0100", "label units"):
        assert part in " ".join(text.split())
    assert "slice/auc/device=<i>tv $x^{$ [b]" in text.replace("\n", "")


def test_metrics_of_categories_have_names_that_mlflow_takes(home: Home, report: Report) -> None:
    from longreel.components.registry import store

    names = ("all", "new users", "a=b/../c", "a=b|..|c", "a=..", "a=", "a=x" * 50, "other a")
    client = store.open_store(home)
    run = client.create_run(store.experiment_id(home, client)).info.run_id
    metrics.log_report(client, run, report(**MIXED | {"slices": names}))
    logged = {name for name in client.get_run(run).data.metrics if name.startswith("rmse_by_slice/spent/a/")}
    assert logged == {
        f"rmse_by_slice/spent/a/{name}" for name in ("b_.._c", "b_.._c 2", "_", "_ 2", ("x" + "a_x" * 49)[:80], "other")
    }
    assert "auc_by_slice/click/a/other" in client.get_run(run).data.metrics
    assert "rmse_by_window/spent" in client.get_run(run).data.metrics
    assert not any(name.startswith("auc") and "spent" in name for name in client.get_run(run).data.metrics)


def test_summary_before_any_evaluation_says_so(home: Home) -> None:
    console = Console(record=True, width=200)
    print_summary(home, console=console)
    assert "No candidate has been evaluated yet" in console.export_text()


def test_summary_shows_what_the_checkpoint_warned_of(home: Home, report: Report) -> None:
    folder = home.reports / "2026-01-01"
    folder.mkdir(parents=True)
    evaluation = report(0.004)
    (folder / "report.json").write_text(evaluation.to_json())
    (folder / "decision.json").write_text(make_decision(report).to_json())
    names = ("model", "version", "champion_before", "champion_after", "train_first_day", "train_last_day")
    summary = dict.fromkeys((*names, "trigger", "run_name", "run_id"), "x")
    (folder / "summary.json").write_text(json.dumps(summary))
    writer = home.lake.writer("samples", date(2026, 1, 1))
    writer.commit(digest="d", inputs={}, details={"warnings": ["like rate (median 0.1): got [0.2]"]})
    console = Console(record=True, width=200)
    print_summary(home, console=console)
    assert "data warning" in (out := console.export_text())
    assert "like rate (median 0.1): got [0.2]" in out


def test_status_of_an_empty_and_of_a_begun_home(make_home: MakeHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "status", "--home", str(make_home().path)]) == 0
    out = capsys.readouterr().out
    assert "champion: none yet" in out
    assert "no samples are published" in out
    assert main(["ops", "status", "--home", str(make_home(3, name="begun").path)]) == 0
    out = capsys.readouterr().out
    assert "2026-01-03" in out
    assert "training for 2026-01-03: due" in out


def test_status_prints_a_reason_as_it_is_though_it_names_a_section_in_brackets(
    make_home: MakeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    settings = home.path / CONFIG_FILE
    settings.write_text(settings.read_text() + "max_data_age_days = 1\n")
    assert main(["ops", "status", "--home", str(home.path)]) == 0
    assert "; [retrain] max_data_age_days allows 1." in capsys.readouterr().out


def test_status_counts_suppressed_users_and_names_an_unfinished_request(
    make_home: MakeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(1)
    done, cut = new_request(["a", "b"]), new_request(["b", "c"])
    Path(home.lake.storage.path(FOLDER)).mkdir()
    write_request(home.lake.storage, replace(done, finished=done.began))
    write_request(home.lake.storage, cut)
    assert main(["ops", "status", "--home", str(home.path)]) == 0
    out = capsys.readouterr().out
    assert "suppressed: 3 users" in out
    assert f"unfinished forget of 2 users, begun at {cut.began}" in out
    assert out.count("unfinished") == 1


def test_gaps_are_days_missing_between_the_first_and_the_last() -> None:
    assert gaps([date(2026, 1, 1), date(2026, 1, 4)]) == [date(2026, 1, 2), date(2026, 1, 3)]
    assert gaps([]) == []


def test_settings_become_flat_parameters() -> None:
    settings = {"tasks": ("click", "like"), "training": {"seed": 0}, "a": {"b": {"c": 1.5}}}
    assert flatten(settings) == {"tasks": "click, like", "training.seed": "0", "a.b.c": "1.5"}
