"""Where raw rows come from. `open_source` is the only name that other modules need; Spark is imported on first use."""

from contracts.errors import LongreelError
from contracts.home import Home
from spark_jobs.sources.base import Source
from spark_jobs.sources.generic import GenericSource
from spark_jobs.sources.kuairand import KuaiRandSource

__all__ = ["Source", "open_source", "source_class"]


def source_class(kind: str) -> type[Source]:
    """What reads logs of a kind, `[source] kind` of the configuration."""
    return KuaiRandSource if kind == "kuairand" else GenericSource


def open_source(home: Home) -> Source:
    """The source that a home's configuration names.

    Raises:
        LongreelError: no log is configured, or there is nothing where it should lie.
    """
    settings = home.config.source
    if not settings.log:
        raise LongreelError(f"[source] log is not set in {home.path}; expected the folder of the raw log")
    if not home.log.exists():
        hint = "`longreel simulate` writes one" if settings.kind == "simulated" else "correct [source] log"
        raise LongreelError(f"no raw log at {home.log} ({settings.kind}); {hint}")
    if settings.kind == "kuairand":
        return KuaiRandSource(home.log)
    return GenericSource(home.log, settings.ready_file)
