"""Rates are over the newest steps; a line says what there is to say, and only the first rank speaks."""

from dataclasses import replace

import pytest

from longreel.model.training import progress
from longreel.model.training.progress import RECENT, Meter, ProgressPrinter, StepStats, describe

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


def test_rates_forget_what_is_more_than_the_newest_steps_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = Meter(peak=1e6)
    for _ in range(5):  # slow ones, as those that compile are
        now[0] += 10.0
        meter.add(targets=10, tokens=100, flops=1e5, waited_s=5.0)
    assert meter.rates() == (1.0, 10.0, 0.01, 0.5)
    for _ in range(RECENT):
        now[0] += 0.5
        meter.add(targets=10, tokens=100, flops=1e5, waited_s=0.005)
    assert meter.rates() == pytest.approx((20.0, 200.0, 0.2, 0.01))
    assert Meter(peak=None).rates().flop_utilisation is None


def test_a_line_names_the_utilisation_only_where_the_peak_is_known() -> None:
    assert "MFU" not in describe(STATS)
    assert "MFU 42.0%" in describe(replace(STATS, flop_utilisation=0.42))
    assert "waiting for data 1.2%" in describe(STATS)


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for silent in (False, True):
        with ProgressPrinter("training", silent=silent) as printer:
            printer.show(STATS)
        assert ("training 3/10" in capsys.readouterr().err) != silent
