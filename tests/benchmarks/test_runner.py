"""The runner runs what is not finished, goes on where it was killed, and its tables say what the replicates say."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.extrapolation import mlflow_log
from benchmarks.extrapolation.cells import FULL, METHOD, SLOW, SMALL, SUITES, Cell, Size, in_order, samplings, suite
from benchmarks.extrapolation.findings import Findings, fit_curve
from benchmarks.extrapolation.jobs import PIPE, on_card
from benchmarks.extrapolation.merge import merge
from benchmarks.extrapolation.plan import Clock, Data, expected_seconds, plan
from benchmarks.extrapolation.plots import draw_all, far_off
from benchmarks.extrapolation.runner import RESULTS, Runner, append_line, draws_path, read_results
from benchmarks.extrapolation.sample_sets import from_world
from benchmarks.extrapolation.tables import page
from longreel.contracts.config import parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.presets import preset
from longreel.spark_jobs.simulated_world import WorldSettings
from tests.short_video import SHORT_VIDEO

ROOT = Path(__file__).resolve().parents[2]
TINY = Size(
    rows=SMALL.rows,
    matched=SMALL.matched,
    model=SMALL.model | {"width": 16, "heads": 2, "layers": 1, "embedding_width": 8, "mixer_tokens": 2},
    training=SMALL.training | {"window_min": 8, "window_mean": 24, "window_max": 64},
    eval_windows=(8, 16, 32, 64),
    requests_per_batch=16,
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in what is started: another number of threads adds in another order."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    world = WorldSettings(users=25, items=300, activity=30, interests=20)
    from_world(world, folder / "sim", archive_days=2, train_days=2, test_days=1)
    return folder


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREEL_NO_MLFLOW", "1")


def runner_of(sets: Path, out: Path) -> Runner:
    return Runner(Data(sets), out, TINY)


def planned(runner: Runner, *cells: Cell) -> list:
    return [plan(cell, TINY, runner.data, "cpu") for cell in cells]


STCA = Cell(suite="extrapolation", set="sim", reader="stca", training="beta", seed=0)


def test_finished_cells_are_not_run_again_unless_something_changed(sets: Path, tmp_path: Path) -> None:
    runner = runner_of(sets, tmp_path)
    cells = [STCA, replace(STCA, reader="mean"), replace(STCA, reader="oracle", training="truth")]
    runner.run(planned(runner, *cells))
    first = (tmp_path / RESULTS).read_text()
    assert len(first.splitlines()) == 3
    again = runner_of(sets, tmp_path)
    again.run(planned(again, *cells, replace(STCA, suite="ablations")))  # the same cell in another suite
    assert (tmp_path / RESULTS).read_text() == first
    other = replace(TINY, training=TINY.training | {"learning_rate": 1e-3})
    again.run([plan(STCA, other, again.data, "cpu")])
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 4
    assert len(list(read_results(tmp_path))) == 3


def test_the_planned_tokens_are_those_that_training_reads(sets: Path, tmp_path: Path) -> None:
    runner = runner_of(sets, tmp_path)
    for windows in ({}, {"shape": "full"}, {"shape": "fixed"}):
        cell_plan = plan(replace(STCA, windows=windows), TINY, runner.data, "cpu")
        line = runner.compute(cell_plan)
        assert line["steps"] == pytest.approx(cell_plan.steps, rel=0.2)
        assert line["training_tokens"] == cell_plan.tokens
        assert line["windows"]["drawn_mean"] == pytest.approx(line["windows"]["configured_mean"], rel=0.1)


def test_a_half_written_line_is_no_result_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    append_line(path, {"key": "a", "fingerprint": "1"})
    with path.open("a") as stream:
        stream.write('{"key": "b", "finge')
    append_line(path, {"key": "c", "fingerprint": "3"})
    assert [row["key"] for row in read_results(tmp_path)] == ["a", "c"]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_cells_that_are_left(sets: Path, tmp_path: Path) -> None:
    """Killed in the middle of a cell, the next run keeps what was finished and ends with what an unhurt run gives."""
    words = ["--set", "sim", "--suite", "extrapolation", "--size", "small", "--seeds", "1", "--device", "cpu"]
    words += ["--eval-windows", "32,512", "--only", "f"]  # the two fixed windows, and full
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "benchmarks.extrapolation.runner", str(sets), str(out), *words]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)

    hurt, unhurt = tmp_path / "hurt", tmp_path / "unhurt"
    process = start(hurt)
    deadline = time.monotonic() + 120
    while not list(read_results(hurt)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = list(read_results(hurt))
    assert 1 <= len(done) < 3
    for out in (hurt, unhurt):
        process = start(out)
        assert process.wait(timeout=240) == 0, process.stderr and process.stderr.read()
    assert (hurt / RESULTS).read_text().startswith(json.dumps(done[0]))
    ends = [{row["key"]: row["rows"] for row in read_results(out)} for out in (hurt, unhurt)]
    assert len(ends[0]) == 3
    assert ends[0] == ends[1]
    assert not list((hurt / "work").rglob("*.safetensors"))


def test_every_suite_names_its_cells_apart() -> None:
    for name in SUITES:
        cells = list(suite(name, "sim", SMALL, 2))
        assert len({cell.key for cell in cells}) == len(cells)


def line_of(training: str, seed: int, aucs: dict[int, float], out: Path, **fields: object) -> dict:
    cell = {"suite": "extrapolation", "set": "sim", "reader": "stca", "training": training, "seed": seed}
    cell |= {"change": "", "match": True} | fields
    key = f"{cell['reader']}/{training}/{seed}"
    rows = [
        {"task": "click", "window": w, "slice": "all", "targets": 9, "users": 3, "auc": [v, 0, 1], "gauc": [v, 0, 1]}
        | {"log_loss": [1 - v, 0, 1]}
        for w, v in aucs.items()
    ]
    noise = np.random.default_rng(0).normal(0, 0.05, 200)  # the same users in every draw: differences are exact
    draws = {f"click|all|{w}|{m}": v + noise for w, v in aucs.items() for m in ("auc", "gauc", "log_loss")}
    (out / "draws").mkdir(exist_ok=True)
    np.savez(out / "draws" / f"{key.replace('/', '--')}.npz", **draws)
    return {"key": key, "fingerprint": key, "cell": cell, "training_tokens": 1e6, "rows": rows, "windows": {}}


def test_differences_are_paired_by_users_and_hold_what_seeds_differ_by(tmp_path: Path) -> None:
    for seed, shift in enumerate((0.0, 0.02)):
        append_line(tmp_path / RESULTS, line_of("beta", seed, {512: 0.70 + shift, 2_048: 0.74 + shift}, tmp_path))
    for seed, shift in enumerate((0.0, 0.02)):
        append_line(tmp_path / RESULTS, line_of("full", seed, {512: 0.69, 2_048: 0.73 + shift}, tmp_path))
    append_line(tmp_path / RESULTS, line_of("fixed 512", 0, {512: 0.71, 2_048: 0.65}, tmp_path))
    append_line(tmp_path / RESULTS, line_of("truth", 0, {512: 0.80, 2_048: 0.80}, tmp_path, reader="oracle"))
    text = "\n".join(page(Findings(tmp_path)))
    assert "| stca, beta | 2 | .7100 ± " in text
    assert "| stca, beta | all | 2,048 over 512 | +.0400 (+.0400 .. +.0400) |" in text
    assert "Beta minus full at 2,048: AUC +.0100 (−.0100 .. +.0300), for 100% of its training tokens" in text
    assert "the method closes 44% of the gap" in text  # (.75 - .71) / (.80 - .71)
    assert "Beta read at 2,048 minus fixed 512 read at 512" not in text, "they have not as many seeds"
    append_line(tmp_path / RESULTS, line_of("fixed 512", 1, {512: 0.73, 2_048: 0.65}, tmp_path))
    text = "\n".join(page(Findings(tmp_path)))
    assert "Beta read at 2,048 minus fixed 512 read at 512, as it was trained: AUC +.0300 (+.0100 .. +.0500)" in text


def test_a_difference_is_taken_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    for seed, shift in enumerate((0.0, 0.02, 0.04)):
        append_line(tmp_path / RESULTS, line_of("beta", seed, {512: 0.70, 2_048: 0.74 + shift}, tmp_path))
    fields = {"suite": "ablations"}
    append_line(tmp_path / RESULTS, line_of("no position", 1, {512: 0.70, 2_048: 0.75}, tmp_path, **fields))
    append_line(tmp_path / RESULTS, line_of("fixed 512", 0, {512: 0.70, 2_048: 0.65}, tmp_path))
    text = "\n".join(page(Findings(tmp_path)))
    beta = "| beta | .7400 .7600 .7800 |  |  | +.0600 (+.0400 .. +.0800) |"
    fixed = "| fixed 512 | .6500 | +.0000 (+.0000 .. +.0000) | −.0900 (−.0900 .. −.0900) | −.0500 (−.0500 .. −.0500) |"
    place = (
        "| no position | .7500 | +.0000 (+.0000 .. +.0000) | −.0100 (−.0100 .. −.0100) | +.0500 (+.0500 .. +.0500) |"
    )
    assert 0 < text.index(beta) < text.index(fixed) < text.index(place)


def test_results_without_replicates_have_numbers_without_intervals(tmp_path: Path) -> None:
    append_line(tmp_path / RESULTS, line_of("beta", 0, {512: 0.70, 2_048: 0.74}, tmp_path))
    append_line(tmp_path / RESULTS, line_of("full", 0, {512: 0.69, 2_048: 0.73}, tmp_path))
    draws_path(tmp_path, "stca/full/0").unlink()
    findings = Findings(tmp_path)
    text = "\n".join(page(findings))
    assert "| stca, full | 1 | .6900 | .7300 |" in text
    assert "Beta minus full at 2,048: AUC +.0100, for" in text
    assert "| stca, beta | all | 2,048 over 512 | +.0400 (+.0400 .. +.0400) |" in text
    assert (tmp_path / "sim-windows.png") in list(draw_all(findings, tmp_path))


def test_an_interval_of_few_users_that_does_not_hold_its_value_is_drawn(tmp_path: Path) -> None:
    append_line(tmp_path / RESULTS, line_of("beta", 0, {512: 0.70, 2_048: 0.74}, tmp_path))
    line = line_of("full", 0, {512: 0.69, 2_048: 0.73}, tmp_path)
    line_of("full", 0, {512: 0.79, 2_048: 0.63}, tmp_path)  # other replicates
    append_line(tmp_path / RESULTS, line)
    assert (tmp_path / "sim-windows.png") in list(draw_all(Findings(tmp_path), tmp_path))


def test_what_is_far_off_is_not_drawn_and_small_differences_make_nothing_far() -> None:
    assert far_off([-0.231, -0.030, -0.028, -0.016, 0.003]) == 0.231
    assert far_off([0.24, 0.04, 0.03]) == 0.24
    assert far_off([0.0001, 0.01, 0.03, 0.02]) == far_off([0.2]) == far_off([]) == float("inf")


def test_a_process_finds_its_card_also_where_every_card_has_a_service_of_its_own() -> None:
    assert on_card(1, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert on_card(1, {PIPE: "/tmp/mps"}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert on_card(1, {PIPE: "/tmp/mps{card}"}) == {PIPE: "/tmp/mps1", "CUDA_VISIBLE_DEVICES": "0"}


def test_the_fitted_curve_is_found_again_and_says_where_it_bends() -> None:
    windows = [128, 512, 2_048, 4_096, 10_240]
    curve = fit_curve(windows, [0.8 - 0.3 * w**-0.4 for w in windows])
    assert curve is not None
    assert (curve.a, curve.b, curve.c) == pytest.approx((0.8, 0.3, 0.4), rel=0.05)
    assert curve.error < 1e-3
    assert curve.at(curve.bend * 2) - curve.at(curve.bend) == pytest.approx(0.001, rel=0.01)
    assert fit_curve(windows[:3], [0.7, 0.71, 0.72]) is None


@pytest.mark.parametrize("size", [SMALL, FULL], ids=["small", "full"])
def test_every_cell_of_every_suite_is_a_configuration_and_its_own(size: Size) -> None:
    cells = {cell.key: cell for name in SUITES for cell in suite(name, "sim", size, 2)}
    configs = {key: cell.config(size, ("click",), SHORT_VIDEO, "cpu") for key, cell in cells.items()}
    named = {cells[key].fingerprint(config, "data") for key, config in configs.items()}
    assert len(named) == len(cells) > 60


def test_the_generic_preset_is_the_measured_config() -> None:
    cell = Cell(suite="", set="", reader="stca", training=METHOD, seed=0, **samplings(FULL)[METHOD])
    shipped = parse_config(preset("generic"))
    measured = cell.config(FULL, ("click",), shipped.log_schema, "auto")
    of_the_log = ("window_days", "batch_tokens", "checkpoint_every")  # settings that follow the log, not the experiment
    same = {name: getattr(shipped.training, name) for name in of_the_log}
    assert shipped.model == measured.model
    assert shipped.log_schema == measured.log_schema
    assert shipped.training == replace(measured.training, **same)
    assert shipped.evaluation.windows == FULL.eval_windows


def test_settings_of_no_training_make_no_new_cell_and_an_ablation_does() -> None:
    config = STCA.config(TINY, ("click",), SHORT_VIDEO, "cpu")
    named = STCA.fingerprint(config, "data")
    assert named == STCA.fingerprint(replace(config, retrain=replace(config.retrain, min_train_days=9)), "data")
    assert named != replace(STCA, without="SwiGLU").fingerprint(config, "data")
    assert named != STCA.fingerprint(replace(config, model=replace(config.model, layers=4)), "data")


def test_the_main_table_comes_first_then_every_suite_once() -> None:
    cells = in_order(c for name in reversed(SUITES) for c in suite(name, "sim", FULL, 3))
    assert len({cell.key for cell in cells}) == len(cells)
    main = [cell.suite in ("extrapolation", "tuning") for cell in cells]
    assert main == sorted(main, reverse=True)
    rest = [cell.seed for cell in cells if cell.suite not in ("extrapolation", "tuning")]
    assert rest == sorted(rest)
    assert {cell.suite for cell in cells if cell.suite != "extrapolation" and cell.seed == 0} == set(SUITES[1:])


def test_slow_readers_lie_evenly_among_the_others_of_their_seed() -> None:
    cells = in_order(c for name in SUITES for c in suite(name, "sim", FULL, 2))
    slow = [cell.reader in SLOW for cell in cells if cell.seed == 1 and cell.suite not in ("extrapolation", "tuning")]
    for at in range(len(slow) - 11):
        assert 1 <= sum(slow[at : at + 12]) <= 4


def test_estimates_follow_tokens_steps_and_what_finished_cells_took(sets: Path) -> None:
    cell_plan = plan(STCA, TINY, Data(sets), "cpu")
    assert expected_seconds("stca", 2 * 10**8, 1_000, "cuda", 1) > expected_seconds("stca", 10**8, 1_000, "cuda", 1)
    assert expected_seconds("din", 10**8, 1_000, "cuda", 1) > expected_seconds("stca", 10**8, 1_000, "cuda", 1)
    line = {"cell": {"reader": "stca"}, "device_type": "cpu", "jobs": 1, "training_tokens": cell_plan.tokens}
    expected = expected_seconds("stca", cell_plan.tokens, cell_plan.steps, "cpu", 1)
    lines = [line | {"steps": cell_plan.steps, "total_seconds": factor * expected} for factor in (3, 2, 9)]
    assert Clock("cpu", 1, lines).seconds(cell_plan) == pytest.approx(3 * expected)
    assert Clock("cpu", 2, lines).seconds(cell_plan) == expected_seconds(
        "stca", cell_plan.tokens, cell_plan.steps, "cpu", 2
    )
    assert Clock("cuda", 1, lines).seconds(cell_plan) == expected_seconds(
        "stca", cell_plan.tokens, cell_plan.steps, "cuda", 1
    )


def test_no_cell_is_begun_that_would_not_end_in_time_and_the_next_call_goes_on(sets: Path, tmp_path: Path) -> None:
    cells = [STCA, replace(STCA, reader="oracle", training="truth"), replace(STCA, reader="mean")]
    runner = runner_of(sets, tmp_path)
    assert runner.run(planned(runner, *cells), minutes=0) == []
    assert list(read_results(tmp_path)) == []
    oracle = Clock("cpu", 1).seconds(planned(runner, cells[1])[0])
    trained = Clock("cpu", 1).seconds(planned(runner, cells[0])[0])
    enough_for_it = (oracle + 0.2 * (trained - oracle)) / 60 if oracle < trained else None
    if enough_for_it is not None:
        runner.run(planned(runner, *cells), minutes=enough_for_it)
        assert [row["cell"]["reader"] for row in read_results(tmp_path)] == ["oracle"]
    runner.run(planned(runner, *cells), minutes=10)
    assert sorted(row["cell"]["reader"] for row in read_results(tmp_path)) == ["mean", "oracle", "stca"]


def test_merged_results_are_those_made_elsewhere_once(sets: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first, second = STCA, replace(STCA, reader="oracle", training="truth")
    for out, cells in ((here, [second]), (there, [first, second])):
        runner = runner_of(sets, out)
        runner.run(planned(runner, *cells))
    archive = tmp_path / "results.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name in (RESULTS, "draws"):
            packed.add(there / name, name)
    assert merge(here, archive) == (1, 2)
    assert merge(here, there) == (0, 2)
    assert {row["key"]: row["rows"] for row in read_results(here)} == {r["key"]: r["rows"] for r in read_results(there)}
    assert draws_path(here, first.key).read_bytes() == draws_path(there, first.key).read_bytes()
    assert page(Findings(here))
    draws_path(there, first.key).unlink()
    with pytest.raises(LongreelError, match="has no replicates"):
        merge(tmp_path / "third", there)
    with pytest.raises(LongreelError, match=r"no results\.jsonl"):
        merge(here, tmp_path)


@pytest.mark.slow
def test_cells_in_processes_of_their_own_give_what_they_give_one_by_one(sets: Path, tmp_path: Path) -> None:
    cells = [STCA, replace(STCA, reader="mean"), replace(STCA, seed=1, matched=())]
    one, two = runner_of(sets, tmp_path / "one"), runner_of(sets, tmp_path / "two")
    one.run(planned(one, *cells))
    assert two.run(planned(two, *cells), jobs=2) == []
    ends = [
        {row["key"]: (row["fingerprint"], row["rows"]) for row in read_results(runner.out)} for runner in (one, two)
    ]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 3
    assert [row["jobs"] for row in read_results(two.out)] == [2, 2, 2]
    assert not list((two.out / "work").rglob("*.safetensors"))
    assert two.todo(planned(two, *cells)) == []


@pytest.mark.slow
def test_a_dead_process_loses_its_cell_alone_and_a_stop_reaches_all(sets: Path, tmp_path: Path) -> None:
    runner = runner_of(sets, tmp_path / "dead")
    broken = replace(STCA, training="broken", train={"learning_rate": 1e30, "clip_norm": 1e30})
    lost = runner.run(planned(runner, broken, STCA, replace(STCA, seed=1)), jobs=2)
    assert [cell_plan.cell.training for cell_plan in lost] == ["broken"]
    assert sorted(row["key"] for row in read_results(runner.out)) == [STCA.key, replace(STCA, seed=1).key]

    words = ["--set", "sim", "--suite", "extrapolation", "--size", "small", "--seeds", "1", "--device", "cpu"]
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "benchmarks.extrapolation.runner", str(sets), str(out), *words, "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "training" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 143, rest
    assert list((out / "work").rglob("*.safetensors"))  # saved, to go on from


@pytest.mark.slow
def test_every_line_is_in_mlflow_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("LONGREEL_NO_MLFLOW")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    line = line_of("beta", 0, {512: 0.7, 2_048: 0.74}, tmp_path, model={"layers": 1}, train={})
    for _ in range(2):
        mlflow_log.log(line, tmp_path)
    import mlflow

    runs = mlflow.search_runs(experiment_names=[mlflow_log.EXPERIMENT])
    assert len(runs) == 1
    assert runs.loc[0, "metrics.click/all/auc"] == 0.74
