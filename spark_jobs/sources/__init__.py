"""Sources of raw rows; `open_source` opens the configured one. Spark is imported on first use."""

from typing import TYPE_CHECKING

from longreel.contracts.config import SIMULATED, SourceConfig
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.lake.home import CONFIG_FILE, Home
from longreel.spark_jobs.sources.base import Source, name_damaged_file
from longreel.spark_jobs.sources.catalog_descriptions import CatalogDescriptions
from longreel.spark_jobs.sources.catalog_table import CatalogTable
from longreel.spark_jobs.sources.descriptions import Descriptions, FileDescriptions, Keys, tables_in
from longreel.spark_jobs.sources.flat import FlatSource
from longreel.spark_jobs.sources.generic import GenericSource
from longreel.spark_jobs.sources.kuairand import KuaiRandSource
from longreel.spark_jobs.sources.raw_columns import RawColumns
from longreel.spark_jobs.sources.table import TableSource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Source", "name_damaged_file", "open_source"]


def open_source(home: Home) -> Source:
    """The source that a home's configuration names.

    Raises:
        LongreelError: no log is configured, or the folder is no log.
        DataNotReadyError: the folder is missing or empty, as before a volume is mounted.
    """
    config = home.config
    columns = RawColumns.of(config)
    source = _open_log(home, config.source, columns)
    for name, keys in (("items", columns.item_keys), ("users", columns.user_keys)):
        if place := getattr(config.source, name):
            setattr(source, name, _descriptions(home, name, place, columns, keys))
    return source


def _open_log(home: Home, settings: SourceConfig, columns: RawColumns) -> Source:
    """The source, with the tables of items and users that lie beside its rows."""
    log = home.log
    if settings.table:
        return TableSource(settings.table, settings.day, _session, columns)
    if not settings.log:
        raise LongreelError(
            f"[source] log is not set in {home.settings / CONFIG_FILE}; expected the folder of the raw log"
        )
    if not log.exists() or (log.is_dir() and not any(log.iterdir())):
        hint = "`longreel simulate` writes one" if settings.kind in SIMULATED else "mount it, or correct [source] log"
        state = "an empty folder" if log.exists() else "no such folder"
        raise DataNotReadyError(f"no raw log at {log} ({settings.kind}) yet: {state}; {hint}")
    if settings.kind == "kuairand":
        return KuaiRandSource(log, columns)
    if settings.day:
        return FlatSource(log, settings.day, _session, columns)
    return GenericSource(log, settings.ready_file, columns)


def _descriptions(home: Home, name: str, place: str, columns: RawColumns, keys: Keys) -> Descriptions:
    """The tables that [source] items or users names: a path has a /, and a table of the catalog has none."""
    settings = home.config.source
    if "/" not in place or "`" in place:
        return CatalogDescriptions(CatalogTable(name, place, _session, keys), settings.day)
    path = (home.path / place).resolve()
    return FileDescriptions(path, lambda: tables_in(path), columns, keys, settings.ready_file)


def _session() -> "SparkSession":
    """The running Spark session, or a new one."""
    from longreel.spark_jobs.session import QUICK_BYTES, spark_session

    return spark_session("longreel", input_bytes=QUICK_BYTES)  # how much is read later is not known
