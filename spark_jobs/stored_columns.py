"""Partitions with other columns than the present log schema gives: days from before a field was added or removed."""

from collections.abc import Iterable
from datetime import date

from longreel.contracts.definitions import stored_log_schema
from longreel.contracts.schemas import schema_text
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake


def lake_as_stored(lake: Lake, manifest: Manifest) -> Lake:
    """The lake with the columns that a partition's files have: by the present log schema where that fits, else by the
    one that the partition was made with."""
    if not manifest.files:
        return lake
    with lake.open_parquet(lake.files(manifest)[0]) as file:
        stored = file.schema_arrow
    if schema_text(stored) == schema_text(lake.schemas[manifest.dataset]):
        return lake
    origin = lake.manifest("events", date.fromisoformat(manifest.date)) if manifest.dataset == "users" else manifest
    definitions = origin.details.get("definitions") if origin else None
    return Lake(lake.root, stored_log_schema(definitions, stored.names)) if definitions else lake


def by_columns(lake: Lake, manifests: Iterable[Manifest]) -> list[tuple[Lake, list[Manifest]]]:
    """Partitions of a dataset that have the same columns, with the lake that reads them."""
    groups: dict[str, tuple[Lake, list[Manifest]]] = {}
    for manifest in manifests:
        stored = lake_as_stored(lake, manifest)
        groups.setdefault(stored.log_schema.digest(), (stored, []))[1].append(manifest)
    return list(groups.values())
