"""Two processes train what one does: the same batches, the same loss curve, one model, and no process left waiting."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.data.reader import TrainingReader
from longreel.model.training.checkpoint import WEIGHTS
from longreel.model.training.train import TrainResult, train
from tests.model.processes import train_on_ranks

SCRIPT = """
    import json, os, sys
    from datetime import date
    from pathlib import Path
    import torch
    from longreel.contracts.config import Config
    from longreel.contracts.log_schema import LogSchema
    from longreel.contracts.toml import build_section
    from longreel.lake.table import Lake
    from longreel.model.training.train import train
    torch.set_num_threads(1)
    config, schema, lake, days, work, out, folder = json.loads(sys.argv[1])
    config = build_section(Config, config, "test", log_schema=LogSchema.from_dict(schema))
    rank = os.environ["RANK"]
    def log_step(stats):
        with open(f"{folder}/rank{rank}", "a") as lines:
            print(os.getpid(), stats.step, flush=True, file=lines)
    days = [date.fromisoformat(day) for day in days]
    result = train(config, Lake(lake, config.log_schema), days, Path(work), Path(out), on_step=log_step)
    Path(f"{folder}/result{rank}").write_text(json.dumps([result.curve, result.model_digest, result.targets]))
"""


@pytest.fixture
def config(config: Config) -> Config:
    """Dropout differs from rank to rank, so equal runs are without."""
    return replace(config, model=replace(config.model, dropout=0.0), training=replace(config.training, epochs=1))


def launch(processes: int, config: Config, lake: Lake, days: list[date], folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    where = [str(folder / "work"), str(folder / "model"), str(folder)]
    settings = asdict(config)
    schema = settings.pop("log_schema")
    arguments = json.dumps([settings, schema, lake.root, [day.isoformat() for day in days], *where])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, str(script), arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3_000:]
    return errors


def outcomes_in(folder: Path, ranks: int) -> list["Outcome"]:
    return [tuple(json.loads((folder / f"result{rank}").read_text())) for rank in range(ranks)]


@pytest.fixture
def alone(config: Config, lake: Lake, days: list[date], tmp_path: Path) -> TrainResult:
    return train(config, lake, days, tmp_path / "work-alone", tmp_path / "model-alone")


Outcome = tuple[list[list[float]], str, int]  # curve, model digest, targets


def outcomes_of(results: list[TrainResult]) -> list[Outcome]:
    return [([list(point) for point in r.curve], r.model_digest, r.targets) for r in results]


def assert_like(alone: TrainResult, outcomes: list[Outcome], model: Path) -> None:
    assert all(outcome == outcomes[0] for outcome in outcomes)
    curve, _, targets = outcomes[0]
    assert targets == alone.targets
    assert [step for step, _ in curve] == [step for step, _ in alone.curve]
    torch.testing.assert_close(
        torch.tensor([loss for _, loss in curve]), torch.tensor([loss for _, loss in alone.curve]), rtol=2e-4, atol=2e-5
    )
    weights = load_file(alone.model_dir / WEIGHTS)
    for name, tensor in load_file(model / WEIGHTS).items():
        torch.testing.assert_close(tensor, weights[name], rtol=2e-2, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_give_the_loss_curve_of_one(
    alone: TrainResult, config: Config, lake: Lake, days: list[date], tmp_path: Path
) -> None:
    results = train_on_ranks(2, config, lake, days, tmp_path / "two")
    assert_like(alone, outcomes_of(results), tmp_path / "two/model")
    one, two = (json.loads((m / "config.json").read_text())["meta"] for m in (alone.model_dir, tmp_path / "two/model"))
    assert one["collisions"] == two["collisions"]
    assert one["collisions"]["item_id"]["rows_used"] > 50


def test_ranks_without_a_request_train_along(config: Config, lake: Lake, days: list[date], tmp_path: Path) -> None:
    few = replace(config, training=replace(config.training, batch_tokens=16, window_max=32, window_mean=16))
    day = days[:1]
    alone = train(few, lake, day, tmp_path / "work-alone", tmp_path / "model-alone")
    last = TrainingReader(lake, [lake.require("samples", day[0])], few.tasks, few.training, rank=2, ranks=3)
    assert any(part.batch.num_requests == 0 for part in last.batches())
    results = train_on_ranks(3, few, lake, day, tmp_path / "three")
    assert_like(alone, outcomes_of(results), tmp_path / "three/model")


@pytest.mark.slow
def test_sigterm_to_one_rank_saves_and_ends_all_and_another_number_of_ranks_resumes(
    alone: TrainResult, config: Config, lake: Lake, days: list[date], tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    never = replace(config, training=replace(config.training, checkpoint_every=1_000))
    process = launch(2, never, lake, days, folder)
    steps = folder / "rank1"
    while not steps.exists() or not steps.read_text().count("\n"):
        assert process.poll() is None
    os.kill(int(steps.read_text().split()[0]), signal.SIGTERM)  # to the second rank alone
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "exitcode  : 143" in errors
    assert not (folder / "model").exists()
    (saved,) = (folder / "work").glob("step-*")
    at = int(saved.name.removeprefix("step-"))
    assert 1 <= at < alone.steps
    finish(launch(3, never, lake, days, folder))
    assert_like(alone, outcomes_in(folder, 3), folder / "model")
    resumed = [int(line.split()[1]) for line in (folder / "rank2").read_text().splitlines()]
    assert resumed[0] == at + 1
