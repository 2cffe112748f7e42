"""Cost of a day on a cluster, on paper: `python manifests/cost.py` writes the tables into docs/cluster.md.

Measured numbers are read from the benchmarks' results. Everything else is an assumption, declared here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS, PAGE = ROOT / "benchmarks", ROOT / "docs/cluster.md"
BEGIN, END = "<!-- manifests/cost.py writes from here -->\n", "<!-- to here -->"
SIZES = {"1 M": 10**6, "100 M": 10**8, "1 B": 10**9}
HOURS = 3_600.0

# Assumptions about a log, per user who is active on the day.
IMPRESSIONS = 100
REQUESTS = 10  # so ten targets each
HISTORY = 2_000  # events of a history on average; the most is 10,240
HISTORY_EVENTS = 30  # of the impressions, those that enter history
WINDOW = 1_000  # history events that a training window holds on average: a drawn window (mean 2,048), or all there is

# Assumptions about speed and size that no benchmark here has measured.
INGEST_ROWS = 50_000  # a core and second
SAMPLE_BYTES = 10  # a history event on disk: between the 5.4 of the real log and the 14.7 of the simulated one
EVENT_BYTES = 15  # an impression in events/, as much again in samples/
GPU_SCALING = 0.7  # of N GPUs' speed, if several share a training
EVALUATION_SPEED = 3.0  # times the training's tokens a second, without a backward pass
EVALUATED_USERS = 10**6  # [evaluation] max_users
WINDOWS = (128, 512, 2_048, 4_096, 10_240)
KEPT_SAMPLES, KEPT_EVENTS = 16, 30  # days
UNTIL_DONE = 6 * HOURS  # a training is to end within
SPARK_UNTIL_DONE = 2 * HOURS

# Prices in dollars; yours differ.
CORE_HOUR, GPU_HOUR, GB_MONTH = 0.04, 4.0, 0.10


@dataclass(frozen=True)
class Measured:
    """From the benchmarks' results."""

    events_a_core: float  # history events that build-samples writes, a core and second
    tokens_a_gpu: float  # history events and targets that a training step reads, a second


def measured() -> Measured:
    """The slower of the two logs of benchmarks/samples (two cores), and the H200 of benchmarks/training."""
    samples = json.loads((BENCHMARKS / "samples/results.json").read_text())
    logs = [samples["filetouch, whole log: longreel"], samples["simulated, 2,048: longreel"]]
    training = json.loads((BENCHMARKS / "training/results-h200.json").read_text())["timings"][0]
    return Measured(
        events_a_core=min(log["history_events"] / log["seconds"] / 2 for log in logs),
        tokens_a_gpu=training["tokens_per_s"],
    )


def day(users: int, train_days: int) -> dict[str, float]:
    """One day: core hours, GPU hours, GPUs, terabytes and dollars."""
    speed = measured()
    ingest = users * IMPRESSIONS / INGEST_ROWS / HOURS
    samples = users * (HISTORY + HISTORY_EVENTS) / speed.events_a_core / HOURS
    tokens = users * train_days * (REQUESTS * WINDOW + IMPRESSIONS)
    alone = tokens / speed.tokens_a_gpu
    gpus = 1.0 if alone <= UNTIL_DONE else -(-alone // (GPU_SCALING * UNTIL_DONE))
    train = alone / HOURS / (1.0 if gpus == 1 else GPU_SCALING)
    evaluated_tokens = min(users, EVALUATED_USERS) * (
        REQUESTS * sum(min(w, HISTORY) for w in WINDOWS) + IMPRESSIONS * len(WINDOWS)
    )
    evaluation = 2 * evaluated_tokens / (EVALUATION_SPEED * speed.tokens_a_gpu) / HOURS  # candidate and champion
    samples_kept = users * KEPT_SAMPLES * (HISTORY * SAMPLE_BYTES + IMPRESSIONS * EVENT_BYTES)
    kept = samples_kept + users * (KEPT_EVENTS * IMPRESSIONS * EVENT_BYTES + 2 * HISTORY * SAMPLE_BYTES)
    return {
        "ingest, core hours": ingest,
        "samples, core hours": samples,
        "executors of 4 cores to be done in 2 h": -(-(ingest + samples) * HOURS // (4 * SPARK_UNTIL_DONE)),
        "training, tokens": tokens,
        "training, GPU hours": train,
        "GPUs to be done in 6 h": gpus,
        "evaluation, GPU hours": evaluation,
        "stored, TB": kept / 1e12,
        "Spark, $": (ingest + samples) * CORE_HOUR,
        "GPUs, $": (train + evaluation) * GPU_HOUR,
        "storage, $": kept / 1e9 * GB_MONTH / 30,
        "a day, $": (ingest + samples) * CORE_HOUR + (train + evaluation) * GPU_HOUR + kept / 1e9 * GB_MONTH / 30,
    }


def written(value: float) -> str:
    """Two significant digits, with thousands' commas; large counts as powers of ten."""
    if value >= 1e9:
        return f"{value:.1e}".replace("e+", "e")
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{float(f'{value:.2g}'):g}"


def tables() -> str:
    """Both tables: the day's new requests only, and 14 days from scratch."""
    speed = measured()
    text = [
        f"Measured: {written(speed.events_a_core)} history events a core and second (samples), "
        f"{speed.tokens_a_gpu / 1e6:.2f} M tokens a second (training).",
    ]
    for title, train_days in (("Warm start: the new day only", 1), ("From scratch: 14 days", 14)):
        columns = [day(users, train_days) for users in SIZES.values()]
        text += [
            "",
            f"**{title}**",
            "",
            "| users a day | " + " | ".join(SIZES) + " |",
            "| --- |" + " ---: |" * len(SIZES),
        ]
        text += [f"| {name} | " + " | ".join(written(c[name]) for c in columns) + " |" for name in columns[0]]
    return "\n".join(text)


def page(text: str) -> str:
    """The page with its tables as they would be written now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
