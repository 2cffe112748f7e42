"""Run card of a candidate: one HTML page without external files, to forward to a reviewer."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from longreel.components.reports.summary import GAIN_FORMATS, number_text
from longreel.contracts.decision import STOPPING, Decision
from longreel.contracts.report import METRICS, TITLES, Estimate, EvaluationReport, MetricRow, TaskKind, slice_groups

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2328;max-width:1080px;margin:32px auto;padding:0 20px}
h1{font-size:25px;margin:0 0 4px}
h2{font-size:18px;margin:34px 0 8px;border-bottom:1px solid #d1d9e0;padding-bottom:4px}
h3{font-size:15px;margin:18px 0 6px}
table{border-collapse:collapse;font-size:13px;width:100%}
th,td{padding:5px 9px;border-bottom:1px solid #e6eaef;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small,.dim{color:#656d76}
.tag{display:inline-block;border-radius:12px;padding:2px 12px;color:#fff;font-weight:600;font-size:13px}
.not_evaluated{background:#656d76}.promote,.pass{background:#1a7f37}.hold{background:#9a6700}.reject,.fail{background:#cf222e}
img{max-width:100%;margin:8px 0}code{background:#f2f4f6;padding:1px 5px;border-radius:4px}
ul{margin:8px 0;padding-left:22px}
details summary{cursor:pointer;color:#0969da;margin:8px 0}.better{color:#1a7f37}.worse{color:#cf222e}
"""
MOST_REASONS = 6  # of a candidate that was stopped, at the top of the page
PLOTS = {  # file: caption; {gain} is what a gain is of
    "gate_waterfall.png": "",
    "auc_by_window.png": "AUC by evaluation window: candidate and champion",
    "rmse_by_window.png": "RMSE by evaluation window: candidate and champion",
    "gain_over_champion.png": "{gain} over the champion, by evaluation window",
    "gain_by_slice.png": "{gain} over the champion, by slice",
    "gain_by_history.png": "{gain} by the longest window, by history length",
    "reliability.png": "Reliability: observed against predicted rates",
}
GAINS: dict[TaskKind, str] = {"binary": "AUC gained", "number": "RMSE saved"}
MODEL_GAINS: dict[TaskKind, str] = {"binary": "AUC - champion's", "number": "RMSE saved over the champion"}
SLICE_METRICS: dict[TaskKind, tuple[str, ...]] = {"binary": ("auc", "log_loss"), "number": ("rmse", "mae")}


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
    gain = " or ".join(GAINS[kind] for kind in report.tasks_by_kind())
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(facts.get('model', 'candidate'))} {_tag(decision.outcome)}</h1>",
        f"<p class=dim>evaluated on the samples of {escape(decision.date)}: {escape(_counts(report))}; compared with "
        f"{escape(facts.get('compared with', 'no champion'))}</p>",
        "<ul>" + "".join(f"<li>{escape(reason)}" for reason in _headline(decision)) + "</ul>",
        _waiting(decision, report),
        *[_image(images[name], caption.format(gain=gain)) for name, caption in PLOTS.items() if name in images],
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


def _number(row: MetricRow, metric: str) -> str:
    value, spread = number_text(metric, getattr(row, metric))
    return f"{value} <small>±{spread}</small>" if spread else value


def _gain(gain: Estimate, kind: TaskKind) -> str:
    if gain.value is None or gain.low is None or gain.high is None:
        return "–"
    style = "better" if gain.low > 0 else "worse" if gain.high < 0 else "dim"
    form = GAIN_FORMATS[kind]
    return f"<span class={style}>{gain.value:{form}}</span> <small>{gain.low:{form}} .. {gain.high:{form}}</small>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are text and whose others are numbers."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(f"<{kind}{' class=n' if i >= words else ''}>{cell}</{kind}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def _windows(report: EvaluationReport, champion: EvaluationReport | None) -> str:
    parts = []
    for kind, tasks in report.tasks_by_kind().items():
        rows = []
        for task in tasks:
            for window in report.windows:
                row = report.row(task, window)
                cells = [_number(row, metric) for metric in METRICS[kind]]
                if champion is not None:
                    cells.append(_gain(report.gain(champion, task, window), kind))
                rows.append([escape(task), f"{window:,}", *cells])
        head = ["task", "window", *(TITLES[metric] for metric in METRICS[kind])]
        parts.append(_table([*head, *([MODEL_GAINS[kind]] if champion else [])], rows, 1))
    return "".join(parts) + f"<p class=dim>{' '.join(_window_notes(report))}</p>"


def _window_notes(report: EvaluationReport) -> Iterator[str]:
    kinds = report.tasks_by_kind()
    yield "Window: the number of newest history events that a request sees."
    yield f"±: half of the {report.interval:.0%} interval over {report.bootstrap_draws} resamples of the users."
    if "binary" in kinds:
        yield "AUC - champion's: the paired difference with its interval."
    if "number" in kinds:
        yield "RMSE and MAE: in label units. R2: 1 - squared error over that of the mean label."
        yield "RMSE saved over the champion: the paired share by which RMSE is lower, with its interval."
    yield f"Pred. / obs.: predicted over observed rate{' or mean' if 'number' in kinds else ''}, ideally 1."


def _slices(report: EvaluationReport, champion: EvaluationReport | None) -> str:
    """A table for the slices by history, and for those by each declared category."""
    parts = []
    for field, names in slice_groups(report.slices).items():
        parts += [f"<h3>By {escape(field)}</h3>"] if field else []
        for kind, tasks in report.tasks_by_kind().items():
            parts.append(_slice_table(report, champion, kind, tasks, names))
    return "".join(parts)


def _slice_table(
    report: EvaluationReport,
    champion: EvaluationReport | None,
    kind: TaskKind,
    tasks: Sequence[str],
    names: Sequence[str],
) -> str:
    window, rows = report.windows[-1], []
    for task in tasks:
        for name in names:
            row = report.row(task, window, name)
            if not row.users:
                continue
            numbers = [_number(row, metric) for metric in SLICE_METRICS[kind]]
            cells = [f"{row.users:,}", f"{row.targets:,}", *numbers]
            if champion is not None:
                cells.append(_gain(report.gain(champion, task, window, name), kind))
            rows.append([escape(task), escape(name), *cells])
    head = ["task", "slice", "users", "targets", *(TITLES[metric] for metric in SLICE_METRICS[kind])]
    return _table([*head, *([MODEL_GAINS[kind]] if champion else [])], rows, 2)


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
