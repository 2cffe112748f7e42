"""Text of a proposed longreel.toml, with what was seen of the log beside each line; and its summary."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from longreel.contracts.log_schema import PLACES, Place
from longreel.proposal.fields import ProposedField
from longreel.proposal.proposal import Proposal, item_rows
from longreel.proposal.raw_column import RawColumn
from longreel.proposal.raw_sample import SAMPLE_ROWS
from longreel.proposal.times import NO_TIME

PLACE_TEXTS: dict[Place, str] = {
    "item": "what describes an item: in histories and in targets",
    "request": "context known when the item is served: in histories and in targets",
    "event": "what came of an impression: in histories, never of a target",
    "user": "what describes a user: once for every sample row",
}
EXAMPLES, EXAMPLE_LENGTH = 3, 16
HOURS = (2, 6, 12, 24, 48, 72, 168)  # of a label for actions that come late


def config_text(proposal: Proposal, settings: str) -> str:
    """The whole file; [training], [model] and what follows are those of `settings`, the text of a preset."""
    parts = [
        _head(proposal),
        _source(proposal),
        *(_fields(proposal, place) for place in PLACES),
        _actions(proposal),
        _labels(proposal),
        _left_out(proposal),
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n[training]\n" + settings.partition("\n[training]\n")[2]


def summary(proposal: Proposal) -> list[str]:
    """A few lines for the screen."""
    sample, keys = proposal.sample, proposal.keys
    fields = [f"{len([f for f in proposal.of_place(p) if not f.is_guess])} {p}" for p in PLACES]
    guesses = sum(f.is_guess for f in proposal.fields)
    lines = [
        f"looked at {_where(proposal)}: {len(sample.rows):,} rows, {len(sample.rows.column_names)} columns",
        f"  user {keys.user.name} ({keys.user.distinct:,}), item {keys.item.name} ({keys.item.distinct:,}), "
        f"time {keys.time.name} ({keys.time.times.what if keys.time.times else ''}), "
        f"request {keys.request.name if keys.request else 'none'}",
        "  actions "
        + ", ".join(f"{a.name} {100 * a.rate:.3g} %{' (timed)' if a.at else ''}" for a in proposal.actions),
        f"  fields: {', '.join(fields)}; {guesses} guesses as comments; {len(proposal.left_out)} columns left out",
        f"  tasks {', '.join(proposal.tasks)}",
    ]
    return [*lines, *(f"  warning: {warning}" for warning in proposal.warnings)]


def next_steps(proposal: Proposal, home: Path) -> list[str]:
    """Commands to type next."""
    command = f"longreel data ingest --home {home} --date "
    day = proposal.first_day
    return [
        'read it, and decide the lines that begin with "# ?"; then try one day, and run the pipeline:',
        f"  {command}{day}",
        f"  longreel run --home {home}",
    ]


def _where(proposal: Proposal) -> str:
    sample = proposal.sample
    if sample.layout == "folders":
        days = " and ".join(day.isoformat() for day in sample.sampled_days)
        return f"{days} of {len(sample.days)} days"
    if len(sample.row_days) > 1:
        return f"the first and the last of {sample.files} files"
    return "the log" if len(sample.rows) < SAMPLE_ROWS else "the beginning of the log"


def _head(proposal: Proposal) -> str:
    sample = proposal.sample
    lines = [
        f"# Proposed by `longreel init --from` after a look at {_where(proposal)}: {len(sample.rows):,} rows.",
        '# Beside each line is what was seen. A line that begins with "# ?" is a guess: remove "# ?" if it is right.',
        "# Expressions are Spark SQL over the raw columns. docs/log-schema.md describes every place, kind and setting.",
        *(f"# WARNING: {warning}" for warning in proposal.warnings),
        f"name = {json.dumps(_home_name(sample.log))}",
        f"tasks = {json.dumps(list(proposal.tasks))}",
    ]
    return "\n".join(lines)


def _home_name(log: Path) -> str:
    folder = log.parent.name if log.stem in ("raw", "log", "logs", "data") else log.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.split(".", maxsplit=1)[0]).strip("-_")
    return name or "mylog"


def _source(proposal: Proposal) -> str:
    sample, keys = proposal.sample, proposal.keys
    assert keys.time.times is not None
    lines = ["[source]", f"kind = {json.dumps(proposal.kind)}", f"log = {json.dumps(str(sample.log))}"]
    if proposal.day:
        lines.append(_setting("day", proposal.day, "the log day of a row"))
    lines.append(
        _setting(
            "user_id", keys.user.sql, f"{facts_of(keys.user)}; {_a_row(sample.rows.num_rows, keys.user)} rows each"
        )
    )
    lines.append(
        _setting(
            "item_id", keys.item.sql, f"{facts_of(keys.item)}; {_a_row(sample.rows.num_rows, keys.item)} rows each"
        )
    )
    lines.append(_setting("time_ms", keys.time.times.sql, facts_of(keys.time)))
    if keys.request is not None:
        rows = _a_row(sample.rows.num_rows, keys.request)
        lines.append(_setting("request_id", keys.request.sql, f"{facts_of(keys.request)}; {rows} rows each"))
    else:
        lines.append("# request_id: no column found; rows of a user at one time are one request")
    zone = "the log's days end at its midnight; give the IANA zone of your folders' days"
    return "\n".join([*lines, _setting("time_zone", proposal.time_zone, zone)])


def _a_row(rows: int, column: RawColumn) -> str:
    return f"{rows / max(1, column.distinct):.3g}"


def _setting(name: str, value: str, comment: str) -> str:
    return f"{name} = {json.dumps(value)}   # {comment}"


def _fields(proposal: Proposal, place: Place) -> str:
    lines = [f"[fields.{place}]   # {PLACE_TEXTS[place]}"]
    if place == "item":
        lines.append(f"item_id = {{rows = {item_rows(proposal.keys)}, match = true}}")
    lines += [_field(f, proposal) for f in proposal.of_place(place)]
    return "\n".join(lines) if len(lines) > 1 else ""


def _field(f: ProposedField, proposal: Proposal) -> str:
    settings: dict[str, Any] = {"kind": f.kind, **f.settings}
    if f.name in proposal.matches and f.place == "item":
        settings["match"] = True
    if f.column.name in proposal.sample.optional:
        settings["optional"] = True
    text = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    comment = "; ".join(part for part in (facts_of(f.column), f.reason) if part)
    return f"{'# ? ' if f.is_guess else ''}{f.name} = {{{text}}}   # {comment}"


def _actions(proposal: Proposal) -> str:
    lines = ["[actions]   # what users do"]
    for action in proposal.actions:
        value = json.dumps(action.when)
        if action.at:
            value = f"{{when = {value}, at = {json.dumps(action.at)}}}"
        lines.append(f"{action.name} = {value}   # {action.comment}")
    liked = [a for a in proposal.actions if not a.is_negative] or list(proposal.actions)
    share = np.any([action.rows for action in liked], axis=0).mean()
    lines += ["", "[history]   # which impressions enter the history"]
    if proposal.history == "impressions":
        shorter = json.dumps(" OR ".join(action.name for action in liked))
        lines.append(f'events = "impressions"   # or {shorter}, {100 * share:.3g} % of rows: shorter and cheaper')
    else:
        lines.append(f"events = {json.dumps(proposal.history)}   # {100 * share:.3g} % of rows")
    if untimed := [action.name for action in proposal.actions if not action.at]:
        assumption = (
            f"{', '.join(untimed)} {'has' if len(untimed) == 1 else 'have'} no time, and count as known at once"
        )
        lines.append(f'# known_after = "10 min"   # {assumption}; "next day" is the safest')
    if proposal.history == "impressions":
        measures = json.dumps(["impressions", *(f"rate({action.name})" for action in liked)])
        lines += ["", "# [statistics]   # of the days before a request, as inputs: remove '# ' from these lines"]
        lines += [f"# {of} = {measures}" for of in ("user_id", "item_id")]
    return "\n".join(lines)


def _labels(proposal: Proposal) -> str:
    lines = ["[labels]   # what can be predicted: SQL over fields and actions; tasks names those to learn"]
    for action in proposal.actions:
        lines.append(
            f"{action.name} = {json.dumps(action.name)}   # {int(action.rows.sum()):,} of {len(action.rows):,} rows"
        )
    for action in proposal.actions:
        if action.delay_h > 1:
            hours = next((h for h in HOURS if h >= action.delay_h), HOURS[-1])
            within = f'{{when = "{action.name}", within = "{hours} h"}}'
            later = f"with [source] outcome_hours = {hours}: deliver each day that much later"
            lines.append(f"# {action.name}_{hours}h = {within}   # {later}")
    numbers = [f for f in proposal.of_place("event") if f.kind == "number" and not f.is_guess]
    lines += [f'# log_{f.name} = {{value = "ln(1 + {f.name})"}}   # a number to predict' for f in numbers[:2]]
    return "\n".join(lines)


def _left_out(proposal: Proposal) -> str:
    if not proposal.left_out:
        return ""
    return "\n".join(["# Columns left out:", *(f"#   {name}: {reason}" for name, reason in proposal.left_out)])


def facts_of(column: RawColumn) -> str:
    """What the sample has of a column, in a few words. Values are shown of small vocabularies only."""
    return ", ".join(_facts(column))


def _facts(column: RawColumn) -> Iterator[str]:
    yield f"{column.distinct:,} values"
    if column.null_share > 0:
        yield f"{100 * column.null_share:.3g} % null"
    if column.times is not None:
        times = column.times.ms[column.times.ms != NO_TIME]
        first, last = (str(np.datetime64(int(ms), "ms"))[:16] for ms in (times.min(), times.max()))
        yield f"{column.times.what if not column.times.what.startswith('text') else 'text'}, {first} .. {last} UTC"
    elif column.personal:
        yield f"like {column.personal}"
    elif column.numbers is not None and (column.distinct > 10 or not column.is_whole):
        yield f"{column.numbers.min():.6g} .. {column.numbers.max():.6g}"
    elif column.distinct <= 300 and not column.is_list:
        common = [str(column.texts.iloc[code]) for code in np.argsort(-column.counts, kind="stable")[:EXAMPLES]]
        yield "e.g. " + ", ".join(_example(text) for text in common)


def _example(text: str) -> str:
    clean = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return clean if len(clean) <= EXAMPLE_LENGTH else clean[:EXAMPLE_LENGTH] + ".."
