"""Rates are over the newest steps; a line shows what is known, and only the main rank prints."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from longreel.contracts.durations import time_left
from longreel.model.training import progress, throughput
from longreel.model.training.progress import ProgressPrinter, StepStats, describe
from longreel.model.training.throughput import RECENT, Throughput

STATS = StepStats(
    step=3,
    total_steps=10,
    loss=0.5,
    gradient_norm=1.0,
    lr=1e-3,
    targets_per_s=1_000.0,
    tokens_per_s=2e6,
    mean_window=256.0,
    data_wait_share=0.012,
    flop_utilisation=None,
    peak_memory_mib=100.0,
)

STEP = SimpleNamespace(rank_batch=SimpleNamespace(num_targets=10, num_events=90), flops=1e5)


def test_rates_forget_what_is_more_than_the_newest_steps_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    meter = Throughput(peak=1e6)
    for _ in range(5):  # slow ones, as those that compile are
        now[0] += 10.0
        meter.add(STEP, waited_s=5.0)
    assert meter.rates() == (1.0, 10.0, 0.01, 0.5)
    for _ in range(RECENT):
        now[0] += 0.5
        meter.add(STEP, waited_s=0.005)
    assert meter.rates() == pytest.approx((20.0, 200.0, 0.2, 0.01))
    assert Throughput(peak=None).rates().flop_utilisation is None


def test_a_line_names_the_utilisation_only_where_the_peak_is_known() -> None:
    assert "MFU" not in describe(STATS)
    assert "MFU 42.0%" in describe(replace(STATS, flop_utilisation=0.42))
    assert "data wait 1.2%" in describe(STATS)


def test_a_line_says_how_long_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1_000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressPrinter("training") as printer:
        for step in range(500, 1_001):  # resumed at 500
            printer.show(replace(STATS, step=step, total_steps=1_000))
            now[0] += 6.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training 500/1000  loss")
    assert "training 600/1000  about 40 min left  loss" in "\n".join(lines)
    assert "training 990/1000  about 60 s left  loss" in "\n".join(lines)
    assert [time_left(10, 0), time_left(10, 1)] == ["", "about 0 s left"]
    assert [time_left(3_600, 0.1), time_left(86_400, 0.1)] == ["about 9 h left", "about 9 d left"]


def test_only_the_main_rank_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for silent in (False, True):
        with ProgressPrinter("training", silent=silent) as printer:
            printer.show(STATS)
        assert ("training 3/10" in capsys.readouterr().err) != silent
