"""Whole training steps from sample files: request-level batches against one row per target, end to end.

    python -m benchmarks.training --quick                      # its own small lake; CPU or GPU; under a minute
    python -m benchmarks.training --home HOME --json out.json

The trainer's own parts run: decoding, packing, copying and looking up in the background, forward, backward, clipping,
both optimisers. The other layout gets its copies of a history by a gather in the background thread, from the same
decoded rows, without the decoding of stored copies that it would need.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.arguments import existing_home, run_main
from benchmarks.training.lake import make_lake, short_video
from benchmarks.training.longest import Memory, longest
from benchmarks.training.measure import Timing, time_steps
from longreel.contracts.argument_types import at_least
from longreel.contracts.config import ModelConfig, TrainingConfig
from longreel.contracts.log_schema import LogSchema
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.row_groups import num_decode_threads, row_groups
from longreel.model.training.compile import wants_compile
from longreel.model.training.device import deterministic, select_device

TARGETS = 16  # a request, in the lake that this program makes


def sizes_for(device: torch.device, width: int | None) -> ModelConfig:
    """The sizes of the project's other measurements on CUDA, small ones on a CPU."""
    d = width or (256 if device.type == "cuda" else 64)
    heads = {256: 8, 1024: 16}.get(d, max(1, d // 32))
    return ModelConfig(width=d, heads=heads, layers=4 if device.type == "cuda" else 2, dropout=0.0)


def schema_for(device: torch.device) -> LogSchema:
    """The log schema of the lake that this program makes, likewise."""
    return short_video(1 << 20, 1 << 17) if device.type == "cuda" else short_video()


def table(timings: list[Timing]) -> str:
    """Markdown."""
    head = [
        "layout",
        "steps",
        "ms a step",
        "targets/s",
        "tokens/s",
        "data wait",
        "TFLOP/s",
        "MFU",
        "peak MiB",
        "first step s",
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for t in timings:
        mfu = "–" if t.mfu is None else f"{t.mfu:.1%}"
        row = [
            t.what,
            str(t.steps),
            f"{t.step_ms:.1f}",
            f"{t.targets_per_s:,.0f}",
            f"{t.tokens_per_s:,.0f}",
            f"{t.data_wait_share:.1%}",
            f"{t.tflops:.2f}",
            mfu,
            f"{t.peak_memory_mib:,.0f}",
            f"{t.first_step_s:.1f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


T = TypeVar("T")


def attempt(measure: Callable[[], T]) -> list[T]:
    """One measurement, or none where it failed: the other measurements go on."""
    try:
        result = measure()
    except Exception:
        traceback.print_exc()
        return []
    print(result, flush=True)
    return [result]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, a smaller lake: under a minute")
    parser.add_argument("--home", type=existing_home, help="a home with samples; default: a lake that is made for this")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--width", type=at_least(1), help="d; default 256 on CUDA, 64 on a CPU")
    parser.add_argument("--batch-tokens", type=at_least(1), help="default 1,048,576 on CUDA, 16,384 on a CPU")
    parser.add_argument("--window-max", type=at_least(1), help="default 10,240 on CUDA, 2,048 on a CPU")
    parser.add_argument("--steps", type=at_least(1), help="measured steps; default 30, with --quick 12")
    parser.add_argument(
        "--warmup", type=at_least(0), help="steps before the measured ones; default 4, on CUDA 60 for graphs"
    )
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--no-cuda-graphs", action="store_true", help="on CUDA: launch kernel by kernel")
    parser.add_argument("--no-longest", action="store_true", help="leave out the longest trainable history")
    parser.add_argument("--json", type=Path, help="write the results here too")
    return parser.parse_args()


def settings(args: argparse.Namespace, device: torch.device) -> TrainingConfig:
    """The training settings of a command line."""
    on_cuda = device.type == "cuda"
    window = args.window_max or (10_240 if on_cuda else 2_048)
    return TrainingConfig(
        epochs=1_000,
        batch_tokens=args.batch_tokens or (1_048_576 if on_cuda else 16_384),
        window_min=64,
        window_mean=window // 5,
        window_max=window,
        device="cuda" if on_cuda else "cpu",
        compile=args.compile,
        activation_checkpointing=args.activation_checkpointing,
        cuda_graphs=not args.no_cuda_graphs,
    )


def open_lake(args: argparse.Namespace, device: torch.device, window: int, folder: Path) -> Lake:
    """The lake to read, made in `folder` where the command line names no home."""
    if args.home is not None:
        return Home(args.home).lake
    users = (384 if args.quick else 1_024) if device.type == "cuda" else (64 if args.quick else 256)
    return make_lake(folder, schema_for(device), days=2, users=users, history=window, targets=TARGETS)


def time_layouts(
    args: argparse.Namespace, lake: Lake, sizes: ModelConfig, training: TrainingConfig, device: torch.device
) -> list[Timing]:
    """Timings of request-level batches and of one row per target."""
    manifests = [lake.require("samples", day) for day in lake.days("samples")]
    _, _, targets = row_groups(lake, manifests)
    mean_targets = targets.mean()
    print(f"{len(targets):,} requests of {mean_targets:.1f} targets", flush=True)
    steps = args.steps or (12 if args.quick else 30)
    warmup = args.warmup or (60 if device.type == "cuda" and training.cuda_graphs else 4)
    limit = 8.0 if args.quick else 120.0
    timings: list[Timing] = []
    for what, apart in (("request-level", False), ("one row per target", True)):
        # As many tokens a step in either layout: a batch's copies take as much memory as the other's requests.
        budget = max(1, round(training.batch_tokens / mean_targets)) if apart else training.batch_tokens
        chosen = replace(training, batch_tokens=budget)
        run = partial(time_steps, lake=lake, manifests=manifests, sizes=sizes, device=device, apart=apart)
        timings += attempt(partial(run, what, training=chosen, steps=steps, warmup=warmup, limit_s=limit))
        if not timings and wants_compile(chosen, device):
            eager = replace(chosen, compile="off")
            run_eager = partial(run, f"{what}, eager", training=eager, steps=steps, warmup=warmup, limit_s=limit)
            timings += attempt(run_eager)
    return timings


def main() -> int:
    """Measure and print."""
    args, began = parse_arguments(), time.perf_counter()
    device = select_device(args.device)
    on_cuda = device.type == "cuda"
    sizes, training = sizes_for(device, args.width), settings(args, device)
    cpu = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if on_cuda else cpu
    print(f"{name}, torch {torch.__version__}, {num_decode_threads(device)} decode threads; {sizes}", flush=True)
    with deterministic(), tempfile.TemporaryDirectory() as folder:
        lake = open_lake(args, device, training.window_max, Path(folder))
        print(f"samples ready after {time.perf_counter() - began:.1f} s", flush=True)
        timings = time_layouts(args, lake, sizes, training, device)
        memory: list[Memory] = []
        for checkpointing in () if args.no_longest else (False, True):
            memory += attempt(partial(longest, sizes, lake.log_schema, device, activation_checkpointing=checkpointing))
    print("\n" + table(timings))
    ratio = timings[0].targets_per_s / timings[1].targets_per_s if len(timings) == 2 else None
    if ratio is not None:
        print(f"\nrequest-level batching: {ratio:.1f} times the targets a second, end to end")
    results = {"device": name, "torch": torch.__version__, "model": asdict(sizes), "training": asdict(training)}
    results |= {"timings": [asdict(t) for t in timings], "ratio": ratio, "memory": [asdict(m) for m in memory]}
    print(json.dumps(results))
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_main(main)
