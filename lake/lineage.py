"""Which published partitions were made from inputs that have changed since, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from longreel.lake.table import Lake, Manifest

# Datasets made from other partitions of the lake; their manifests' `inputs` name those as `<dataset>/<day>`.
DERIVED = ("history", "samples")
INPUTS = ("events", "users", "history")  # of history, only an imported archive is named as an input


@dataclass(frozen=True)
class Stale:
    """A published partition that a rebuild would make from other inputs; each reason names one input."""

    dataset: str
    day: date
    reasons: tuple[str, ...]


def is_imported(base: Manifest) -> bool:
    """Whether a history base was imported, not compacted from published days."""
    return "raw" in base.inputs


def stale_partitions(lake: Lake, datasets: tuple[str, ...] = DERIVED) -> list[Stale]:
    """Every stale history base and samples partition, by dataset and day.

    A partition is stale where an input was published again with other rows, or where events of a log day, or an
    archive, that it should hold arrived only after it was built. Inputs that were removed from the lake do not make it
    stale: a base stands for the days folded into it. Building a stale partition again may well give the same rows.
    """
    inputs = {f"{name}/{day}": lake.require(name, day) for name in INPUTS for day in lake.days(name)}
    found = []
    for dataset in datasets:
        for day in lake.days(dataset):
            if reasons := tuple(_reasons(lake.require(dataset, day), inputs)):
                found.append(Stale(dataset, day, reasons))
    return found


def _reasons(made: Manifest, inputs: dict[str, Manifest]) -> Iterator[str]:
    for name, digest in made.inputs.items():
        now = inputs.get(name)
        if now is not None and now.digest != digest:
            yield f"{name} was {digest}, is {now.digest}"
    for name, now in inputs.items():
        is_held = name.startswith("events/") and now.date <= made.date
        is_held |= name.startswith("history/") and is_imported(now) and now.date < made.date
        if is_held and name not in made.inputs:
            yield f"{name} arrived since"
