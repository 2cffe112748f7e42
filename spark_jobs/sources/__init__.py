"""Where raw rows come from. `open_source` is the only name that other modules need; Spark is imported on first use."""

from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.lake.home import CONFIG_FILE, Home
from longreel.spark_jobs.sources.base import Source, damage_named
from longreel.spark_jobs.sources.generic import GenericSource
from longreel.spark_jobs.sources.kuairand import KuaiRandSource

__all__ = ["Source", "damage_named", "open_source", "source_class"]


def source_class(kind: str) -> type[Source]:
    """What reads logs of a kind, `[source] kind` of the configuration."""
    return KuaiRandSource if kind == "kuairand" else GenericSource


def open_source(home: Home) -> Source:
    """The source that a home's configuration names.

    Raises:
        LongreelError: no log is configured, or what lies there is none.
        DataNotReadyError: nothing lies there yet: no folder, or an empty one, as of a volume that is mounted later.
    """
    settings, log = home.config.source, home.log
    if not settings.log:
        raise LongreelError(
            f"[source] log is not set in {home.settings / CONFIG_FILE}; expected the folder of the raw log"
        )
    if not log.exists() or (log.is_dir() and not any(log.iterdir())):
        hint = "`longreel simulate` writes one" if settings.kind == "simulated" else "mount it, or correct [source] log"
        there = "an empty folder" if log.exists() else "no such folder"
        raise DataNotReadyError(f"no raw log at {log} ({settings.kind}) yet: {there}; {hint}")
    if settings.kind == "kuairand":
        return KuaiRandSource(home.log)
    return GenericSource(home.log, settings.ready_file)
