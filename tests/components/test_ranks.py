"""`longreel model train` under torchrun: one candidate, one MLflow run, whatever the number of processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from longreel.components.registry import store, versions
from longreel.lake.home import Home

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_train_one_candidate_and_find_it_done_the_second_time(make_home: Callable[..., Home]) -> None:
    home = make_home(4)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "longreel"]
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [*command, "model", "train", "--home", str(home.path), "--date", "2026-01-03"],
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        outputs.append(done.stdout)
    assert all(out.count("version 1: digest") == 1 for out in outputs)
    client = store.open_store(home)
    (version,) = versions.list_versions(client, versions.model_name(home.config))
    assert (version.version, date.fromisoformat(str(version.data_watermark))) == (1, date(2026, 1, 2))
    runs = client.search_runs([store.experiment_id(home, client)])
    assert len(runs) == 1
    metrics = runs[0].data.metrics
    assert metrics["train/gradient_norm"] > 0
    assert metrics["train/peak_memory_mib"] > 0
    assert 0 < metrics["collisions/item_id/rows_used"] <= metrics["collisions/item_id/ids"]
