"""Reference pages of the command line and the configuration, written from the code: `python -m longreel.reference`."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from longreel.cli import COMMANDS, EXIT_CODES, GROUPS, command_parser, commands_of
from longreel.contracts.config import SOURCES, Config
from longreel.contracts.log_schema import DEFAULT_ROWS, PLACES, Action, Field, Label, LogSchema
from longreel.contracts.policy import Budget, GatePolicy
from longreel.contracts.presets import preset
from longreel.model_size import sized

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTE = "`make reference` writes this page from {}; do not edit it."

# (variable, meaning, default) of what every command reads, and of what only the DAGs read
COMMAND_VARIABLES = (
    ("LONGREEL_HOME", "home folder; `--home` takes precedence", "`.longreel/simulated`"),
    ("LONGREEL_CONFIG", "folder of `longreel.toml` and `gates.toml`, such as a mounted ConfigMap", "the home"),
    ("LONGREEL_LAKE", "the lake: an absolute path that is the same for every process", "`lake/` in the home"),
    ("MLFLOW_TRACKING_URI", "MLflow: a server or a database URL", "SQLite in the home"),
    ("LONGREEL_ACTOR", "who acts; the ledger records it", "user and host"),
    ("LONGREEL_CODE_VERSION", "commit of the code, where there is no checkout; images contain it", "`unknown`"),
    ("LONGREEL_KFP_HOST", "URL of the Kubeflow Pipelines API that runs retrains", "in the process itself"),
    ("LONGREEL_KFP_NAMESPACE", "namespace of the pipeline runs, where the API has several users", "none"),
    ("LONGREEL_KFP_TOKEN_FILE", "file with a bearer token; read before every request", "no token"),
    ("LONGREEL_KFP_CA_FILE", "file with the certificate authority of the API", "the system's"),
    (
        "LONGREEL_AIRFLOW_DB",
        "database of the embedded Airflow, `postgresql+psycopg://USER@HOST/DATABASE`",
        "SQLite in the home",
    ),
    ("JAVA_HOME", "a Java 17 for Spark; `bash .ci/java.sh` finds one", "`java` on the `PATH`"),
)
DAG_VARIABLES = (
    ("LONGREEL_FIRST_DAY", "first log day to process, YYYY-MM-DD; the scheduler catches up from there", "required"),
    ("LONGREEL_LAST_DAY", "last log day, of a log that has ended", "none: a live log"),
    ("LONGREEL_CRON", "when a log day is complete, in the zone's standard time", "midnight"),
    ("LONGREEL_TIMEZONE", "time zone of the log's days and of the schedules", "UTC"),
    ("LONGREEL_ARRIVAL_HOURS", "hours that a run waits for its raw day before it fails", "24"),
    ("LONGREEL_ARRIVAL_POLL_S", "seconds between two checks of the raw log", "300"),
    ("LONGREEL_DEADLINE_HOURS", "hours beyond the average run time after which a late run is reported", "12"),
    ("LONGREEL_REBUILD_CRON", "when `longreel_rebuild` looks for corrected raw days", "only on demand"),
    ("LONGREEL_WATCH_CRON", "when `longreel_watch` checks the pipeline", "every six hours"),
    ("LONGREEL_APPROVAL", "`1`: a person approves each promotion", "no approval"),
    ("LONGREEL_TRAIN_JOB", "file with the TrainJob that trains on several nodes", "`retrain` trains"),
    ("LONGREEL_NOTIFY_CONN", "Airflow connection of a webhook for failures and decisions", "no messages"),
)
VARIABLES = (*COMMAND_VARIABLES, *DAG_VARIABLES)
# Settings that TOML spells otherwise: name, values and default
SPELLINGS = {(Field, "source"): ("from", "text", ""), (Label, "within_ms"): ("within", "duration, such as `48 h`", "")}


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, tuple("---" for _ in header), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def commands_page() -> str:
    """Every command with its options, and the exit codes."""
    lines = ["# Commands", "", NOTE.format("the parsers in `longreel/cli.py`"), ""]
    lines += ["Activate the environment with `source .venv/bin/activate`, or type `.venv/bin/longreel`.", ""]
    lines += ["Every command takes `--home HOME`, the folder that holds `longreel.toml`.", ""]
    for group, purpose in {"": "the whole pipeline on one machine", **GROUPS}.items():
        lines += [f"## longreel {group}".rstrip(), "", sentence(purpose), ""]
        for command in commands_of(group):
            lines += [*command_section(command), ""]
    lines += ["## Exit codes", "", "Airflow fails a task at once on 2 and 4. It retries every other failure.", ""]
    lines += table(("code", "name", "meaning"), [(str(code), name, meaning) for code, name, meaning in EXIT_CODES])
    return "\n".join(lines) + "\n"


def command_section(command: str) -> list[str]:
    """Heading, purpose and options of one command."""
    module, purpose = COMMANDS[command]
    parser = command_parser(command)
    importlib.import_module(module).add_arguments(parser)
    rows = [option_row(action) for action in parser._actions if action.dest not in ("help", "home")]
    options = table(("option", "meaning", "default"), rows) if rows else ["It takes no other option."]
    return [f"### longreel {command}", "", sentence(purpose), "", *options]


def option_row(action: argparse.Action) -> tuple[str, str, str]:
    """Spelling, meaning and default of an option; a default that the help text states goes to its own column."""
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = "" if action.nargs == 0 else f" `{action.metavar or action.dest.upper()}`"
    choices = f"; one of {', '.join(map(str, action.choices))}" if action.choices else ""
    stated = re.search(r" \((?:default:? ([^()]*)|default)\)$", action.help or "")
    meaning = (action.help or "").removesuffix(stated[0]) if stated else action.help or ""
    default = "required" if action.required else "off" if action.nargs == 0 else text_of(action.default)
    return f"{names}{value}".strip(), f"{meaning}{choices}", stated[1] or "yes" if stated else default


def sentence(text: str) -> str:
    """A phrase as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def text_of(value: Any) -> str:
    """A default as a reader would write it in TOML or on the command line."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {text_of(item)}' for name, item in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(text_of, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def meanings(kind: type[Any]) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts


def allowed(annotation: Any) -> str:
    """The values a setting takes, from its type."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if annotation == tuple[Budget, ...]:
        return "sections `[[budgets]]`"
    if typing.get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)
        return f"list of {allowed(inner[0])}" if inner[-1] is ... else f"[{', '.join(map(allowed, inner))}]"
    if annotation == dict[str, str]:
        return "table of text"
    return {str: "text", int: "integer", float: "number", bool: "true, false"}.get(annotation, str(annotation))


def settings(kind: type[Any], presets: dict[str, dict[str, Any]]) -> list[str]:
    """A table of a dataclass's settings that have a text; `presets` maps a preset's name to what it sets."""
    types, texts = typing.get_type_hints(kind), meanings(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if field.name not in texts:  # a section, or a key of the table
            continue
        default = "" if field.default is dataclasses.MISSING else text_of(field.default)
        chosen = {name: text_of(values[field.name]) for name, values in presets.items() if field.name in values}
        differs = any(value not in ("", default) for value in chosen.values())
        others = "; ".join(f"{name}: {value}" for name, value in chosen.items() if value) if differs else ""
        spelling = (field.name, allowed(types[field.name]), default)
        name, values, default = SPELLINGS.get((kind, field.name), spelling)
        rows.append((f"`{name}`", texts[field.name], values, default, others))
    header = ("setting", "meaning", "values", "default", "presets")
    return table(header, rows) if presets else table(header[:4], [row[:4] for row in rows])


def purpose_of(kind: type[Any]) -> str:
    """A dataclass's docstring as a paragraph, without the section's name in front."""
    text = re.sub(r"^\[+\w+\]+: ", "", " ".join((kind.__doc__ or "").split()))
    return textwrap.fill(sentence(text), 118)


def sections(presets: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Every section of longreel.toml."""
    yield from settings(Config, presets)
    for name, kind in typing.get_type_hints(Config).items():
        if kind is LogSchema:
            yield from ("", *log_schema_sections())
        elif dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from ("", f"### [{name}]", "", purpose_of(kind), "")
            yield from settings(kind, {preset: values.get(name, {}) for preset, values in presets.items()})


def log_schema_sections() -> Iterator[str]:
    """The tables that declare what an impression is made of."""
    rows = ", ".join(f"{rows:,} ({kind})" for kind, rows in DEFAULT_ROWS.items())
    examples = (
        (Field, ", ".join(f"[fields.{place}]" for place in PLACES), 'brand = {kind = "id", rows = 4096, match = true}'),
        (Action, "[actions]", 'purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}'),
        (Label, "[labels]", 'bought = {when = "purchase", within = "48 h", weight = 2}'),
    )
    for kind, heading, example in examples:
        yield from (f"### {heading}", "", purpose_of(kind), f"For example `{example}`.", "")
        yield from (*settings(kind, {}), "")
        if kind is Field:
            text = f"Default `rows`: {rows}. `item_id` is an `id` of `[fields.item]` and cannot be renamed."
            yield from (textwrap.fill(text, 118), "")
        else:
            yield from ('`NAME = "SQL"` is short for `NAME = {when = "SQL"}`.', "")
    yield from ("### [history]", "", "Which impressions enter the history of a user.", "")
    meaning = "SQL over actions and fields of an impression, or `impressions` for all of them."
    yield from table(("setting", "meaning", "values", "default"), [("`events`", meaning, "text", LogSchema().history)])


def configuration_page() -> str:
    """Every setting of longreel.toml and gates.toml, and the environment variables."""
    presets = {str(name): tomllib.loads(preset(name)) for name in SOURCES}
    presets["generic without a GPU"] = tomllib.loads(sized(preset("generic"), False)[0])
    code = "`contracts/config.py`, `contracts/log_schema.py`, `contracts/policy.py` and the presets"
    lines = ["# Configuration", "", textwrap.fill(NOTE.format(code), 118, break_on_hyphens=False), ""]
    lines += [
        "A home folder holds `longreel.toml` and `gates.toml`. `longreel init` writes both from a preset.",
        "On a machine without a GPU it writes a smaller model for `generic`, see the last column.",
        "",
    ]
    lines += ["## longreel.toml", "", *sections(presets), ""]
    lines += ["## gates.toml", "", "The gate policy. A change retrains nothing.", "", *settings(GatePolicy, {}), ""]
    lines += ["### [[budgets]]", "", purpose_of(Budget), "", *settings(Budget, {}), ""]
    lines += ["## Environment variables", "", "Every command reads these.", ""]
    lines += table(("variable", "meaning", "unset"), [(f"`{name}`", *rest) for name, *rest in COMMAND_VARIABLES])
    lines += ["", "The DAGs read these besides; set them in the environment of every Airflow process.", ""]
    lines += table(("variable", "meaning", "unset"), [(f"`{name}`", *rest) for name, *rest in DAG_VARIABLES])
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """File name and text of every reference page."""
    return {"commands.md": commands_page(), "configuration.md": configuration_page()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
