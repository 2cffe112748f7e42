"""Raw days compared with the published ones, fast and without Spark: days that were not ingested, and changed ones.

Only for a log with a folder a day: the days of other logs are in their rows. Reads no file of a day unless its files or
folder were touched after its events were published.
"""

from calendar import timegm
from dataclasses import dataclass
from datetime import date
from time import strptime

from longreel.lake.home import Home
from longreel.lake.lineage import is_imported
from longreel.lake.manifest import Manifest
from longreel.spark_jobs.sources import Source, open_source
from longreel.spark_jobs.sources.catalog_descriptions import CatalogDescriptions
from longreel.spark_jobs.sources.generic import GenericSource

MAX_BYTES = 256 * 2**20  # of touched files that are read to compare them: a second or two


@dataclass(frozen=True, kw_only=True)
class RawDays:
    """`missing`: days after the last published one that have arrived, and when the newest file of each did, in seconds
    since 1970. `changed`: published days that are made from other bytes now. `touched`: those whose files were touched
    and are too large to be compared here."""

    missing: dict[date, float]
    changed: list[date]
    touched: list[date]


def compare_raw_days(home: Home) -> RawDays | None:
    """The comparison; None where it needs Spark.

    Raises:
        LongreelError, DataNotReadyError: as `open_source`.
    """
    source = open_source(home)
    if not isinstance(source, GenericSource) or isinstance(source.items, CatalogDescriptions):
        return None
    if isinstance(source.users, CatalogDescriptions):
        return None
    lake = home.lake
    published = {day: lake.require("events", day) for day in lake.days("events")}
    snapshots = [day for day in lake.days("history") if is_imported(lake.require("history", day))]
    last = max([*published, *snapshots], default=date.min)
    changed, touched, left = [], [], MAX_BYTES
    for day in sorted(set(published) & set(source.days()), reverse=True):
        if _changed_at(source, day) <= published_at(published[day]):
            continue
        left -= source.input_bytes(day)
        if left < 0:
            touched.append(day)
        elif source.digest(day) != published[day].inputs.get("raw"):
            changed.append(day)
    return RawDays(
        missing={day: _changed_at(source, day) for day in source.days() if day > last},
        changed=sorted(changed),
        touched=sorted(touched),
    )


def published_at(manifest: Manifest) -> float:
    """When a partition was published, in seconds since 1970."""
    return float(timegm(strptime(manifest.created_at, "%Y-%m-%dT%H:%M:%SZ")))


def _changed_at(source: Source, day: date) -> float:
    """When the newest file of a day, or the folder of one, last changed, in seconds since 1970. Not by the time alone
    that a copied file brings along, which may be older."""
    folders = {path.parent for path in source.log_files(day)}  # a file may be gone
    stats = [path.stat() for path in (*source.files(day), *folders)]
    return max((max(stat.st_mtime, stat.st_ctime) for stat in stats), default=0.0)
