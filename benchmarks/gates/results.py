"""The quarter on one page: tables, a CSV of every day, and a plot."""

import csv
import math
import textwrap
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.gates.quarter import MOST_USERS, HoldCount, NoiseCount, Step, worth
from longreel.components.gates.difference import POWER
from longreel.contracts.policy import GatePolicy

COLOURS = {"promote": "#2da44e", "hold": "#bf8700", "reject": "#cf222e"}


def write(
    out: Path,
    walks: dict[str, list[Step]],
    counts: list[NoiseCount],
    waits: list[HoldCount],
    users: int,
    policy: GatePolicy,
    seconds: float,
) -> None:
    """Write results.md, quarter.csv and quarter.png into `out`."""
    _csv(out / "quarter.csv", walks)
    _plot(walks).savefig(out / "quarter.png", dpi=110)
    lines = [
        "# A quarter of decisions whose truth is known",
        "",
        f"Written by `python -m benchmarks.gates` ({seconds:,.0f} s on a CPU). [README.md](README.md) says what was",
        f"simulated and how to read the tables. Here: 90 log days of {users:,} users, about ten targets each.",
        "",
        "## What the gates did",
        "",
        *_events(walks["gates"]),
        "",
        "## The same quarter under simpler rules",
        "",
        *_rules(walks),
        "",
        "![The live model's true AUC under each rule](quarter.png)",
        "",
        "## Candidates that are no better",
        "",
        f"The policy allows {policy.false_promotion_rate:.0%}. Candidate and champion are equally good by",
        "construction, and each pair is evaluated on its own day. *Kin* is the share of their errors that a warm start",
        "leaves in common.",
        "",
        *_noise(counts),
        "",
        "## Candidates that are better and are held for lack of data",
        "",
        f"A hold states the required sample size: how many users resolve it {POWER:.0%} of the time if the difference",
        f"stays as measured. Each candidate that needs at most {MOST_USERS:,} users was evaluated again on another",
        "day with that many, where the difference is the true one.",
        "",
        *_resolved(waits),
        "",
        "## Why, day by day",
        "",
        *_reasons(walks["gates"]),
    ]
    (out / "results.md").write_text("\n".join(lines) + "\n")


def _events(steps: list[Step]) -> list[str]:
    lines = ["| planted | days | should promote | promoted | held | rejected | wrong | missed |", "| --- " * 8 + "|"]
    for event in dict.fromkeys(s.planned.event for s in steps):
        own = [s for s in steps if s.planned.event == event]
        outcomes = Counter(s.outcome for s in own)
        lines.append(
            f"| {event} | {len(own)} | {sum(s.should == 'promote' for s in own)} | {outcomes['promote']} "
            f"| {outcomes['hold']} | {outcomes['reject']} | {_wrong(own)} | {_missed(own)} |"
        )
    lines += ["", "*Wrong*: promoted, but the truth says keep. *Missed*: kept, but the truth says promote. After a"]
    return [*lines, "miss, the next day's candidate has the same improvement."]


def _wrong(steps: list[Step]) -> int:
    return sum(s.outcome == "promote" and s.should == "keep" for s in steps)


def _missed(steps: list[Step]) -> int:
    return sum(s.outcome != "promote" and s.should == "promote" for s in steps)


def _rules(walks: dict[str, list[Step]]) -> list[str]:
    lines = [
        "| rule | promotions | wrong | of them faulty | missed | days a faulty model was live | mean true AUC live |",
        "| --- " * 7 + "|",
    ]
    for name, steps in walks.items():
        faulty = {s.planned.candidate.name for s in steps if s.planned.fault}
        wrong = sum(s.outcome == "promote" and bool(s.planned.fault) for s in steps)
        live = sum(s.live.name in faulty for s in steps)
        mean = sum(worth(s.live, s.planned.day).auc for s in steps) / len(steps)
        lines.append(
            f"| {name} | {sum(s.outcome == 'promote' for s in steps)} | {_wrong(steps)} | {wrong} | {_missed(steps)} "
            f"| {live} | {mean:.4f} |"
        )
    lines += [
        "",
        "*Faulty*: harms short histories or long windows, is broken, is too slow, or answers with NaN now and then.",
    ]
    return [*lines, "The last two do not show in AUC."]


def _noise(counts: list[NoiseCount]) -> list[str]:
    lines = [
        "| users a day | kin | candidates | by the gates | by `champion/superiority` alone | by >= | by >= + .002 |",
        "| --- " * 7 + "|",
    ]
    for c in counts:
        cells = [c.gates, c.better, c.at_least, c.margin]
        columns = " | ".join(f"{n} ({n / c.of:.1%}{_wilson(n, c.of)})" for n in cells)
        lines.append(f"| {c.users:,} | {c.kin:.0%} | {c.of} | {columns} |")
    hits, tries = sum(c.gates for c in counts), sum(c.of for c in counts)
    lines += [
        "",
        f"Together {hits} of {tries} were promoted: {hits / tries:.1%}{_wilson(hits, tries)} (95 % interval).",
    ]
    return lines


def _resolved(waits: list[HoldCount]) -> list[str]:
    lines = ["| users a day | true gain in AUC | candidates | held, with a number | median number | tried | resolved |"]
    lines.append("| --- " * 7 + "|")
    for w in waits:
        share = f"{w.resolved} ({w.resolved / w.tried:.0%}{_wilson(w.resolved, w.tried)})" if w.tried else "–"
        lines.append(f"| {w.users:,} | {w.gain:.4f} | {w.of} | {w.held} | {w.median:.1f} times | {w.tried} | {share} |")
    return lines


def _wilson(hits: int, of: int) -> str:
    """The 95 % interval of a share (Wilson)."""
    z, p = 1.96, hits / of
    centre, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return f"; {max(0.0, (centre - half) / (1 + z * z / of)):.1%} to {(centre + half) / (1 + z * z / of):.1%}"


def _reasons(steps: list[Step]) -> list[str]:
    lines = ["| day | planted | should | decided | first reason |", "| --- " * 5 + "|"]
    for n, s in enumerate(steps, start=1):
        quiet = s.planned.event == "retrained, no better" and s.outcome == "hold"
        if quiet or s.decision is None:
            continue
        better = [g.reason for g in s.decision.gates if g.name == "champion/superiority"]
        reason = (better or s.decision.reasons)[0] if s.outcome == "promote" else s.decision.reasons[0]
        short = textwrap.shorten(reason, 200, placeholder=" ...")
        lines.append(f"| {n} | {s.planned.event} | {s.should} | {s.outcome} | {short} |")
    return [
        *lines,
        "",
        "The table leaves out days without a planted event on which the candidate was held; quarter.csv has all days.",
    ]


def _csv(path: Path, walks: dict[str, list[Step]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ["day", "planted", *[f"{name}: {what}" for name in walks for what in ("should", "did", "true AUC")]]
        )
        for steps in zip(*walks.values(), strict=True):
            row = [steps[0].planned.day.name, steps[0].planned.event]
            for s in steps:
                row += [s.should, s.outcome, f"{worth(s.live, s.planned.day).auc:.4f}"]
            table.writerow(row)


def _plot(walks: dict[str, list[Step]]) -> Figure:
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name, steps in walks.items():
        values = [worth(s.live, s.planned.day).auc for s in steps]
        top.step(range(1, len(steps) + 1), values, where="mid", lw=2.4 if name == "gates" else 1.1, label=name)
    top.set_ylabel("true AUC of the live model")
    top.legend(fontsize=8, frameon=False, ncols=3, loc="lower left")
    names = list(walks)
    for y, name in enumerate(names):
        for x, s in enumerate(walks[name], start=1):
            wrong = s.outcome == "promote" and s.should == "keep"
            missed = s.outcome != "promote" and s.should == "promote"
            bottom.plot(x, y, "o", ms=4 if s.outcome == "promote" else 2, color=COLOURS[s.outcome])
            if wrong or missed:
                bottom.plot(x, y, "x" if wrong else "s", ms=8, mfc="none", color="#24292f")
    bottom.set_yticks(range(len(names)), names, fontsize=8)
    bottom.invert_yaxis()
    bottom.set_xlabel("log day   (green: promoted, amber: held, red: rejected; cross: wrong, square: missed)")
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure
