"""Run card of a candidate: one HTML page without external files, to forward to a reviewer."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from longreel.contracts.decision import STOPPING, Decision
from longreel.contracts.report import ALL_TARGETS, METRICS, Estimate, EvaluationReport

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2328;max-width:1080px;margin:32px auto;padding:0 20px}
h1{font-size:25px;margin:0 0 4px}
h2{font-size:18px;margin:34px 0 8px;border-bottom:1px solid #d1d9e0;padding-bottom:4px}
table{border-collapse:collapse;font-size:13px;width:100%}
th,td{padding:5px 9px;border-bottom:1px solid #e6eaef;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small,.dim{color:#656d76}
.tag{display:inline-block;border-radius:12px;padding:2px 12px;color:#fff;font-weight:600;font-size:13px}
.not_evaluated{background:#656d76}.promote,.pass{background:#1a7f37}.hold{background:#9a6700}.reject,.fail{background:#cf222e}
img{max-width:100%;margin:8px 0}code{background:#f2f4f6;padding:1px 5px;border-radius:4px}
ul{margin:8px 0;padding-left:22px}
details summary{cursor:pointer;color:#0969da;margin:8px 0}.better{color:#1a7f37}.worse{color:#cf222e}
"""
TITLES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "calibration": "pred. / obs.", "ece": "calib. error"}
MOST_REASONS = 6  # of a candidate that was stopped, at the top of the page
PLOTS = {
    "gate_waterfall.png": "",
    "auc_by_window.png": "AUC by evaluation window: candidate and champion",
    "gain_over_champion.png": "AUC gained over the champion, by evaluation window",
    "gain_by_slice.png": "AUC gained over the champion, by slice",
    "gain_by_history.png": "AUC gained by the longest window, by history length",
    "reliability.png": "Reliability: observed against predicted rates",
}


def run_card(
    report: EvaluationReport,
    champion: EvaluationReport | None,
    decision: Decision,
    facts: Mapping[str, str],
    plots: Sequence[Path],
    settings: Mapping[str, Mapping[str, str]],
) -> str:
    """The page. `facts`: named lines on model, data, code and commands; `settings`: named tables of training settings
    and policy."""
    title = f"{facts.get('model', 'candidate')}: {decision.outcome} on {decision.date}"
    images = {path.name: path for path in plots}
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(facts.get('model', 'candidate'))} {_tag(decision.outcome)}</h1>",
        f"<p class=dim>evaluated on the samples of {escape(decision.date)}: {escape(_counts(report))}; compared with "
        f"{escape(facts.get('compared with', 'no champion'))}</p>",
        "<ul>" + "".join(f"<li>{escape(reason)}" for reason in _headline(decision)) + "</ul>",
        _waiting(decision, report),
        *[_image(images[name], caption) for name, caption in PLOTS.items() if name in images],
        "<h2>Evaluation windows</h2>",
        _windows(report, champion),
        "<h2>Slices</h2>",
        _slices(report, champion),
        "<h2>All gates</h2>",
        _gates(decision),
        "<h2>Cost and checks</h2>",
        _checks(report),
        "<h2>Origin</h2>",
        _facts({**_origin(report, decision), **facts}),
        *[_folded(name, _facts(values)) for name, values in settings.items()],
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _counts(report: EvaluationReport) -> str:
    row = report.row(report.tasks[0], report.windows[-1])
    return f"{row.users:,} users, {row.requests:,} requests, {row.targets:,} targets"


def _tag(word: str) -> str:
    return f'<span class="tag {escape(word)}">{escape(word.replace("_", " "))}</span>'


def _headline(decision: Decision) -> list[str]:
    if decision.outcome != "promote":
        more = len(decision.reasons) - MOST_REASONS
        return [*decision.reasons[:MOST_REASONS], *([f"and {more} more, under All gates."] if more > 0 else [])]
    compared = [g.reason for g in decision.gates if g.group == "champion"][:3]
    return [*compared, *filter(None, [decision.not_evaluated])]


def _waiting(decision: Decision, report: EvaluationReport) -> str:
    if decision.outcome != "hold":
        return ""
    users, factor = report.row(report.tasks[0], report.windows[-1]).users, decision.required_sample_factor
    enough = "" if factor is None else f"About {factor:.1f} times this day's {users:,} users would resolve it. "
    then = "The champion stays, and the next candidate is evaluated on another day."
    more_days = (
        "To evaluate this candidate on later days too, raise <code>evaluation_days</code> in gates.toml, which "
        "requires stronger evidence on each day."
    )
    return f"<p><b>Next:</b> {enough}{then} {more_days}</p>"


def _image(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    heading = f"<h2>{escape(caption)}</h2>" if caption else ""
    return f'{heading}<img alt="{escape(caption or path.stem)}" src="data:image/png;base64,{data}">'


def _number(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:  # a single user has no interval
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} <small>±{(estimate.high - estimate.low) / 2:.4f}</small>"


def _gain(gain: Estimate) -> str:
    if gain.value is None or gain.low is None or gain.high is None:
        return "–"
    style = "better" if gain.low > 0 else "worse" if gain.high < 0 else "dim"
    return f"<span class={style}>{gain.value:+.4f}</span> <small>{gain.low:+.4f} .. {gain.high:+.4f}</small>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are text and whose others are numbers."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(f"<{kind}{' class=n' if i >= words else ''}>{cell}</{kind}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def _windows(report: EvaluationReport, champion: EvaluationReport | None) -> str:
    head = ["task", "window", *TITLES.values(), *(["AUC - champion's"] if champion else [])]
    rows = []
    for task in report.tasks:
        for window in report.windows:
            row = report.row(task, window)
            cells = [_number(getattr(row, metric)) for metric in METRICS]
            if champion is not None:
                cells.append(_gain(report.auc_gain(champion, task, window)))
            rows.append([escape(task), f"{window:,}", *cells])
    note = (
        "<p class=dim>Window: the number of newest history events that a request sees. "
        f"±: half of the {report.interval:.0%} interval over {report.bootstrap_draws} resamples of the users. "
        "AUC - champion's: the paired difference with its interval. "
        "Pred. / obs.: predicted over observed rate, ideally 1.</p>"
    )
    return _table(head, rows, 1) + note


def _slices(report: EvaluationReport, champion: EvaluationReport | None) -> str:
    window, rows = report.windows[-1], []
    for task in report.tasks:
        for name in report.slices:
            row = report.row(task, window, name)
            if name == ALL_TARGETS or not row.users:
                continue
            cells = [f"{row.users:,}", f"{row.targets:,}", _number(row.auc), _number(row.log_loss)]
            if champion is not None:
                cells.append(_gain(report.auc_gain(champion, task, window, name)))
            rows.append([escape(task), escape(name), *cells])
    head = ["task", "slice", "users", "targets", "AUC", "log loss", *(["AUC - champion's"] if champion else [])]
    return _table(head, rows, 2)


def _gates(decision: Decision) -> str:
    rows = [[escape(g.name), _tag(g.verdict), escape(g.reason)] for g in decision.gates]
    stopped = [row for row, gate in zip(rows, decision.gates, strict=True) if gate.verdict in STOPPING]
    every = _folded(f"all {len(rows)} gates", _table(["gate", "verdict", "reason"], rows, 3))
    return (_table(["gate", "verdict", "reason"], stopped, 3) if stopped else "<p>No gate stopped it.</p>") + every


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _checks(report: EvaluationReport) -> str:
    rows = []
    if (cost := report.scoring) is not None:
        spread = f"10th to 90th percentile {cost.latency_low_ms:,.1f} .. {cost.latency_high_ms:,.1f} ms"
        numbers = f"{cost.latency_ms:,.1f} ms ({spread}), {cost.peak_memory_mib:,.0f} MiB on {escape(cost.device)}"
        rows.append([f"scoring {cost.shape}", numbers])
    for check in report.consistency:
        verdict = "consistent" if check.passed else "<b>inconsistent</b>"
        gap = f"{check.logits:,} logits differ by at most {check.largest:.2g}, tolerated {check.tolerance:.2g}"
        rows.append([f"logits: {escape(check.name)}", f"{verdict}; {gap}"])
    if (quality := report.quality) is not None:
        warnings = "; ".join(map(escape, quality.warnings)) or "no warnings"
        rows.append(["data quality", f"{'passed' if quality.passed else '<b>failed</b>'}; {warnings}"])
    return _table(["check", "result"], rows, 2)


def _origin(report: EvaluationReport, decision: Decision) -> dict[str, str]:
    return {
        "model digest": report.model_digest,
        "data digest": report.data_digest,
        "configuration digest": report.config_digest,
        "gate policy": f"version {decision.policy_version}, digest {decision.policy_digest}",
        "decision digest": decision.digest(),
        "code": report.code_version or "–",
        "last training day": str(report.extra.get("data_watermark") or "–"),
        "mean training window": f"{report.training_mean_window:,} events",
    }


def _facts(facts: Mapping[str, str]) -> str:
    rows = [[escape(name), f"<code>{escape(value)}</code>"] for name, value in facts.items() if value]
    return _table(["", ""], rows, 2)
