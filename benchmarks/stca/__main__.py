"""STCA on one GPU: exact, then how fast, against what the card can do and against a causal Transformer.

    python -m benchmarks.stca                # checks, table, profile, scaling: two minutes on an H200
    python -m benchmarks.stca --tune         # then tries tiles, and measures once more with the best
    python -m benchmarks.stca --variants     # then other ways to do the same, for README.md

Writes results.json and results.md beside this file (or into --out). TFLOP/s count the algorithm's arithmetic
(cases.py), training as three times forward; what is recomputed is not counted.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import run_main
from benchmarks.stca import check, transformer
from benchmarks.stca.cases import LAYERS, Case, scoring, training
from benchmarks.stca.timing import by_kernel, ceilings, graphed, median_ms
from longreel.model.kernels import side_stream
from longreel.model.nn import attention, attention_backends

SIZES = ((256, 8), (1_024, 16))
GOALS = {
    "train d=256": "320 TFLOP/s", "train d=1024": "580 TFLOP/s",
    "score d=256": "120 us", "score d=1024": "1,100 us",
}  # fmt: skip


def training_step(case: Case, backend: str = "auto", blocks: bool = False) -> Callable[[], object]:
    """Forward and backward of STCA in bf16 autocast over float32 weights, gradients of X, x_t and all weights.

    `blocks`: what handles targets is compiled.
    """
    model, inputs = case.model(), case.inputs(True)
    leaves = [*model.parameters(), inputs["history"], inputs["target"]]
    for block in (*model.fusions, model.first_query, model.collect_glu) if blocks else ():
        block.compile(dynamic=True)

    def run() -> object:
        with torch.autocast("cuda", torch.bfloat16):
            z = model(**inputs, backend=backend)
        return torch.autograd.grad(z.float().sum(), leaves, allow_unused=True)

    return run


def score(case: Case, backend: str = "auto") -> Callable[[], torch.Tensor]:
    """Forward with weights held in bf16."""
    model, inputs = case.model().bfloat16(), case.inputs(False)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(**inputs, backend=backend)

    return run


def causal(width: int, heads: int, requests: int = 4, length: int = 10_240, m: int = 128) -> Callable[[], None]:
    """The Transformer's forward, compiled."""
    model = torch.compile(transformer.Transformer(width, heads).cuda().bfloat16())
    x = transformer.batch(requests, length, m, width)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(x, m)

    run()
    return graphed(run)


def row(name: str, case: Case, run: Callable[[], Any], passes: int, profile: bool) -> dict[str, Any]:
    """Time one case."""
    ms = median_ms(run)
    torch.cuda.reset_peak_memory_stats()
    run()
    work = passes * case.forward_flops()
    measured = {
        "name": name,
        "ms": ms,
        "tflops": work / ms / 1e9,
        "events": case.num_events,
        "targets": case.num_targets,
        "requests": len(case.events),
        "us_per_request": 1e3 * ms / len(case.events),
        "ns_per_event_layer": 1e6 * ms / case.num_events / LAYERS,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    if profile:
        measured["kernels"] = by_kernel(run, 24)
        measured["kernel_ms"] = sum(ms for _, ms, _ in by_kernel(run, 10_000))
    print(
        f"{name:44s} {ms:9.3f} ms {measured['tflops']:7.1f} TFLOP/s {measured['us_per_request']:9.1f} us a request "
        f"(kernels {measured.get('kernel_ms', math.nan):.3f} ms)",
        flush=True,
    )
    return measured


def table(rows: list[dict[str, Any]]) -> None:
    """All cases, appended to `rows`."""
    for width, heads in SIZES:
        size = f"d={width}"
        requests = 256 if width == 256 else 64
        case = training(width, heads, requests)
        rows.append(row(f"train {size}", case, graphed(training_step(case)), 3, True))
        torch.cuda.empty_cache()
        rows.append(row(f"train {size} no graph", case, training_step(case), 3, False))
        case = training(width, heads, requests // 2)
        rows.append(row(f"train {size} half the batch", case, graphed(training_step(case)), 3, False))
        torch.cuda.empty_cache()
        case = training(width, heads, requests, id_match=True)
        rows.append(row(f"train {size} ids matched", case, graphed(training_step(case)), 3, True))
        case = training(width, heads, 64 if width == 256 else 16)
        rows.append(row(f"train {size} padded, eager", case, training_step(case, "padded"), 3, False))
        torch.cuda.empty_cache()
        case = scoring(width, heads)
        rows.append(row(f"score {size}", case, graphed(score(case)), 1, True))
        eight = scoring(width, heads, requests=8)
        rows.append(row(f"score {size} 8 requests", eight, graphed(score(eight)), 1, False))
        rows.append(row(f"score {size} no graph", case, score(case), 1, False))
        case = scoring(width, heads, m=8)
        rows.append(row(f"score {size} m=8", case, graphed(score(case)), 1, False))
        case = scoring(width, heads, id_match=True)
        rows.append(row(f"score {size} ids matched", case, graphed(score(case)), 1, True))
        torch.cuda.empty_cache()


def yardstick(rows: list[dict[str, Any]]) -> None:
    """The causal Transformer at 10,240 x 128."""
    for width, heads in SIZES:
        ms = median_ms(causal(width, heads), 10)
        work = 4 * transformer.flops(10_240, 128, width)
        measured = {"name": f"causal d={width}", "ms": ms, "us_per_request": 1e3 * ms / 4, "tflops": work / ms / 1e9}
        rows.append(measured)
        print(f"{measured['name']:44s} {ms:9.3f} ms {measured['tflops']:7.1f} TFLOP/s", flush=True)
        torch.cuda.empty_cache()


def variants(rows: list[dict[str, Any]]) -> None:
    """Other ways to do the same: compiled target side, one stream, a larger batch, wide kernels."""
    for width, heads in SIZES:
        case = training(width, heads, 256 if width == 256 else 64)
        rows.append(row(f"train d={width} compiled blocks", case, training_step(case, blocks=True), 3, True))
        torch.cuda.empty_cache()
    max_events, side_stream.MAX_EVENTS = side_stream.MAX_EVENTS, 0
    for width, heads in SIZES:
        case = scoring(width, heads)
        rows.append(row(f"score d={width} one stream", case, graphed(score(case)), 1, True))
        torch.cuda.empty_cache()
    side_stream.MAX_EVENTS = max_events
    case = training(256, 8, 512)
    rows.append(row("train d=256 512 requests", case, graphed(training_step(case)), 3, False))
    tile_width = attention.TILE_WIDTH
    attention.TILE_WIDTH = attention_backends.TILE_WIDTH = 128
    case = training(256, 8, 256)
    rows.append(row("train d=256 by wide kernels", case, training_step(case), 3, True))
    attention.TILE_WIDTH = attention_backends.TILE_WIDTH = tile_width


def scaling(width: int, heads: int) -> dict[str, Any]:
    """Time a request from 1K to 64K events, the batch always of 262,144 events, and the exponent that fits."""
    lengths = [1_024 * 2**i for i in range(7)]
    scaled: dict[str, Any] = {"lengths": lengths}
    for name, m in (("score", 128), ("train", 16)):
        times = []
        for length in lengths:
            requests = 262_144 // length
            case = Case([length] * requests, [m] * requests, width, heads)
            run = graphed(score(case)) if name == "score" else training_step(case)
            times.append(1e3 * median_ms(run, 7, 2) / requests)
            torch.cuda.empty_cache()
        scaled[f"{name}_us"] = times
        scaled[f"{name}_exponent"] = float(np.polyfit(np.log(lengths), np.log(times), 1)[0])
    print(f"scaling d={width}: " + json.dumps(scaled), flush=True)
    return scaled


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| case | ms | sum of its kernels, ms | TFLOP/s | us a request | ns an event and layer | goal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in rows:
        kernels, event = (case.get(key) for key in ("kernel_ms", "ns_per_event_layer"))
        cells = [
            case["name"], f"{case['ms']:.3f}", f"{kernels:.3f}" if kernels else "", f"{case['tflops']:.0f}",
            f"{case['us_per_request']:,.0f}", f"{event:.2f}" if event else "", GOALS.get(case["name"], ""),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def render(results: dict[str, Any]) -> str:
    """Markdown."""
    by_name = {case["name"]: case for case in results["rows"]}
    lines = [
        "# STCA on a GPU: results",
        "",
        "Written by `python -m benchmarks.stca`. [README.md](README.md) says how to read the numbers.",
        "",
        f"{results['device']}, torch {results['torch']}, Triton {results['triton']}; 8192^3 bf16 matmul "
        f"{results['ceilings']['matrix_tflops']:.0f} TFLOP/s, copy {results['ceilings']['copy_tbs']:.2f} TB/s.",
        "",
        *_rows(results["rows"]),
    ]
    lines += ["", "| against a causal Transformer, 10,240 x 128 | times faster | goal |", "| --- | --- | --- |"]
    for (width, _), goal in zip(SIZES, ("10", "3.4"), strict=True):
        if f"causal d={width}" in by_name:
            ratio = by_name[f"causal d={width}"]["ms"] / by_name[f"score d={width}"]["ms"]
            lines.append(f"| d={width} | {ratio:.1f} | {goal} |")
    if results.get("scaling"):
        lines += [
            "",
            "| cost from 1K to 64K events | exponent, scoring | exponent, training | goal |",
            "| --- | --- | --- | --- |",
        ]
        for size, scaled in results["scaling"].items():
            lines.append(f"| {size} | {scaled['score_exponent']:.3f} | {scaled['train_exponent']:.3f} | 1.05 |")
    good = sum(case["ok"] for case in results["checks"])
    worst = max((case["error"] for case in results["checks"]), default=math.nan)
    lines += ["", f"Exactness: {good} of {len(results['checks'])} cases are within tolerance of float64, in values",
        f"and all gradients, and give the same bits twice. The worst relative error is {worst:.4f}."]  # fmt: skip
    for key, title in (
        ("tuned", "Once more, with the best of the tiles tried"),
        ("variants", "Other ways to do the same"),
    ):
        if results.get(key):
            lines += ["", f"{title}:", "", *_rows(results[key])]
    for case in results["rows"]:
        if case.get("kernels"):
            lines += [
                "",
                f"**{case['name']}**, {case['kernel_ms']:.3f} ms of kernels",
                "",
                "| kernel | ms | launches |",
                "| --- | --- | --- |",
            ]
            lines += [f"| `{name[:60]}` | {ms:.3f} | {count} |" for name, ms, count in case["kernels"][:12]]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run; 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stca", description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="then try tiles, and measure again with the best")
    parser.add_argument("--variants", action="store_true", help="then measure other ways to do the same")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where results.json and results.md go")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: this measures GPU kernels; tests/model/test_attention.py holds the CPU's exactness")
        return 0
    import triton

    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "ceilings": ceilings(),
        "rows": [],
        "checks": [],
    }

    def save() -> None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
        (options.out / "results.md").write_text(render(results))

    for name, case, backend in check.cases():
        one = check.check(name, case, backend)
        results["checks"].append(asdict(one) | {"ok": one.ok})
        print(
            f"{'ok ' if one.ok else 'BAD'} {name:30s} {one.error:.4f} ({one.worst}), plain bf16 {one.plain_error:.4f}",
            flush=True,
        )
        torch.cuda.empty_cache()
    save()
    table(results["rows"])
    save()
    yardstick(results["rows"])
    save()
    results["scaling"] = {f"d={width}": scaling(width, heads) for width, heads in SIZES}
    save()
    if options.tune:
        from benchmarks.stca.tune import tune

        results["tiles"], results["tuned"] = tune(), []
        table(results["tuned"])
        save()
    if options.variants:
        results["variants"] = []
        variants(results["variants"])
        save()
    return 0 if all(case["ok"] for case in results["checks"]) else 1


if __name__ == "__main__":
    run_main(main)
