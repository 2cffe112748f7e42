"""Stale partitions: published ones that a rebuild would make from other inputs or by other definitions, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from longreel.contracts.config import Config
from longreel.contracts.definitions import Change, changes, event_definitions
from longreel.contracts.history_cutoff import snapshot_cutoff_ms
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake

# Datasets made from other partitions of the lake; their manifests' `inputs` name those as `<dataset>/<day>`. Counters
# and statistics are not among them: they are caches of the events, and a build makes those it needs.
DERIVED = ("history", "samples")
INPUTS = ("events", "users", "history")  # of history, only an imported snapshot is named as an input


@dataclass(frozen=True)
class Stale:
    """A published partition that a rebuild would make differently; each reason names one input or definition."""

    dataset: str
    day: date
    reasons: tuple[str, ...]


def is_imported(snapshot: Manifest) -> bool:
    """Whether a history snapshot was imported, not compacted from published days."""
    return "raw" in snapshot.inputs


def stale_partitions(lake: Lake, config: Config, datasets: tuple[str, ...] = ("events", *DERIVED)) -> list[Stale]:
    """Every stale partition of events, history and samples, by dataset and day. Reads one manifest a partition.

    A partition is stale where the configuration now defines its rows differently (`definition_changes`). One of history
    or samples also where an input was published again with other rows, or where events of a log day, or an imported
    snapshot, that it should hold arrived after it was built. Inputs that were removed from the lake do not make it
    stale: a snapshot stands for the days compacted into it. A rebuild may well give the same rows.
    """
    inputs = _inputs(lake)
    stale = []
    for dataset in datasets:
        for day in lake.days(dataset):
            manifest = inputs.get(f"{dataset}/{day}") or lake.require(dataset, day)
            reasons = _schema_changes(manifest)
            reasons += [change.text for change in definition_changes(manifest, config)]
            reasons += _input_changes(manifest, inputs) if dataset in DERIVED else []
            if reasons:
                stale.append(Stale(dataset, day, tuple(reasons)))
    return stale


def stale_snapshots(lake: Lake, config: Config) -> list[Stale]:
    """The compacted history snapshots that no build uses: made from other inputs than those published now; or by other
    definitions, and from events that are all there to be compacted again."""
    inputs, stale = _inputs(lake), []
    for day in lake.days("history"):
        snapshot = inputs[f"history/{day}"]
        if is_imported(snapshot):
            continue
        reasons = tuple(_input_changes(snapshot, inputs))
        if not reasons and all(name in inputs for name in snapshot.inputs if name.startswith(("events/", "history/"))):
            reasons = (*_schema_changes(snapshot), *(change.text for change in history_changes(snapshot, config)))
        if reasons:
            stale.append(Stale("history", day, reasons))
    return stale


def _schema_changes(manifest: Manifest) -> list[str]:
    return [] if manifest.is_readable else [f"it has schema version {manifest.schema_version}, which is read no more"]


def definition_changes(manifest: Manifest, config: Config) -> list[Change]:
    """How the definitions that a partition was made with differ from the present ones; a partition that records none
    has no difference. Of a history snapshot only what decides its history events counts."""
    stored = manifest.details.get("definitions")
    if stored is None:
        return []
    return history_changes(manifest, config) if manifest.dataset == "history" else changes(stored, config)


def history_changes(manifest: Manifest, config: Config) -> list[Change]:
    """How the definitions of a snapshot's, or of events', history events differ from the present ones.

    Labels, user fields and the rules of samples do not matter, but a snapshot must keep `max_history` events a user
    before the earliest cutoff of the requests after it.
    """
    stored = manifest.details.get("definitions")
    if stored is None:
        return []
    now = event_definitions(config)
    ignored = {name: now["source"][name] for name in ("request_id", "max_lateness_hours")}
    fields = {name: field for name, field in stored["fields"].items() if field["place"] != "user"}
    fields |= {name: field for name, field in now["fields"].items() if field["place"] == "user"}
    same = {"source": stored["source"] | ignored, "fields": fields, "labels": now["labels"]}
    differences = changes({name: stored[name] for name in ("actions", "history")} | same, config)
    kept, needed = manifest.counts.get("max_history"), config.samples.max_history
    if kept is not None and kept < needed:
        differences.append(Change(f"it keeps {kept:,} events a user, max_history asks for {needed:,}"))
    differences += _cutoff_changes(manifest, config)
    return [change for change in differences if change.is_conflict]


def _cutoff_changes(snapshot: Manifest, config: Config) -> Iterator[Change]:
    kept_ms = snapshot.details.get("cutoff_ms")
    if kept_ms is None:
        return
    day, source = date.fromisoformat(snapshot.date), config.source
    needed_ms = snapshot_cutoff_ms(day, config.log_schema, source.max_lateness_hours)
    if needed_ms < kept_ms:
        settings = "[history] known_after, max_lateness_hours and the time zone"
        yield Change(f"it keeps max_history events before {kept_ms}, and {settings} ask for those before {needed_ms}")


def _inputs(lake: Lake) -> dict[str, Manifest]:
    return {f"{name}/{day}": lake.require(name, day) for name in INPUTS for day in lake.days(name)}


def _input_changes(derived: Manifest, inputs: dict[str, Manifest]) -> Iterator[str]:
    for name, digest in derived.inputs.items():
        current = inputs.get(name)
        if current is not None and current.digest != digest:
            yield f"{name} was {digest}, is {current.digest}"
    for name, current in inputs.items():
        belongs = name.startswith("events/") and current.date <= derived.date
        belongs |= name.startswith("history/") and is_imported(current) and current.date < derived.date
        if belongs and name not in derived.inputs:
            yield f"{name} arrived since"
