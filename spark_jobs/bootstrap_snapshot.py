"""Is there an imported archive of older events in the lake, and which log days does it stand for?

An imported archive is a history base without events partitions: everything up to and including its day. Compacted
bases lie after it, so it is the oldest of a lake's bases.
"""

from datetime import date

from longreel.contracts.errors import LongreelError
from longreel.lake.lineage import is_imported
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake


def archive_input(archive: Manifest) -> dict[str, str]:
    """How partitions made from an imported archive name it among their inputs."""
    return {f"history/{archive.date}": archive.digest}


def imported_archive(lake: Lake, before: date | None = None) -> Manifest | None:
    """The imported archive, where the lake has one (that ends before a day)."""
    oldest = next(lake.days("history"), None)
    if oldest is None or (before is not None and oldest >= before):
        return None
    base = lake.require("history", oldest)
    return base if is_imported(base) else None


def require_after_archive(lake: Lake, day: date) -> None:
    """Raises LongreelError where a log day lies within the imported archive, which stands for it already."""
    archive = imported_archive(lake)
    if archive is not None and day.isoformat() <= archive.date:
        raise LongreelError(
            f"{day} lies within the imported archive, which stands for every log day up to {archive.date}; "
            f"to ingest such days, remove {archive.dataset}/date={archive.date} from the lake and import the archive "
            "through an earlier day"
        )
