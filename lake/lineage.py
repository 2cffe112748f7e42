"""Stale partitions: published ones whose inputs have changed since, and the reasons."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake

# Datasets made from other partitions of the lake; their manifests' `inputs` name those as `<dataset>/<day>`.
DERIVED = ("history", "samples")
INPUTS = ("events", "users", "history")  # of history, only an imported snapshot is named as an input


@dataclass(frozen=True)
class Stale:
    """A published partition that a rebuild would make from other inputs; each reason names one input."""

    dataset: str
    day: date
    reasons: tuple[str, ...]


def is_imported(snapshot: Manifest) -> bool:
    """Whether a history snapshot was imported, not compacted from published days."""
    return "raw" in snapshot.inputs


def stale_partitions(lake: Lake, datasets: tuple[str, ...] = DERIVED) -> list[Stale]:
    """Every stale history snapshot and samples partition, by dataset and day.

    A partition is stale where an input was published again with other rows, or where events of a log day, or an
    imported snapshot, that it should hold arrived after it was built. Inputs that were removed from the lake do not
    make it stale: a snapshot stands for the days compacted into it. A rebuild may well give the same rows.
    """
    inputs = {f"{name}/{day}": lake.require(name, day) for name in INPUTS for day in lake.days(name)}
    stale = []
    for dataset in datasets:
        for day in lake.days(dataset):
            if reasons := tuple(_reasons(lake.require(dataset, day), inputs)):
                stale.append(Stale(dataset, day, reasons))
    return stale


def _reasons(derived: Manifest, inputs: dict[str, Manifest]) -> Iterator[str]:
    for name, digest in derived.inputs.items():
        current = inputs.get(name)
        if current is not None and current.digest != digest:
            yield f"{name} was {digest}, is {current.digest}"
    for name, current in inputs.items():
        belongs = name.startswith("events/") and current.date <= derived.date
        belongs |= name.startswith("history/") and is_imported(current) and current.date < derived.date
        if belongs and name not in derived.inputs:
            yield f"{name} arrived since"
