"""The bootstrap snapshot: an imported history snapshot of everything before the log's first day.

It has no events partitions; it stands for every log day up to and including its own. Compacted snapshots lie after it,
so it is the oldest snapshot of a lake.
"""

from datetime import date

from longreel.contracts.errors import LongreelError
from longreel.lake.lineage import is_imported
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake


def bootstrap_input(bootstrap: Manifest) -> dict[str, str]:
    """How partitions made from a bootstrap snapshot name it among their inputs."""
    return {f"history/{bootstrap.date}": bootstrap.digest}


def find_bootstrap(lake: Lake, before: date | None = None) -> Manifest | None:
    """The lake's bootstrap snapshot, if there is one (that ends before a day)."""
    oldest = next(lake.days("history"), None)
    if oldest is None or (before is not None and oldest >= before):
        return None
    snapshot = lake.require("history", oldest)
    return snapshot if is_imported(snapshot) else None


def require_after_bootstrap(lake: Lake, day: date) -> None:
    """Raises LongreelError where the bootstrap snapshot already stands for a log day."""
    bootstrap = find_bootstrap(lake)
    if bootstrap is not None and day.isoformat() <= bootstrap.date:
        raise LongreelError(
            f"{day} lies within the bootstrap snapshot, which stands for every log day up to {bootstrap.date}; "
            f"to ingest such days, remove {bootstrap.dataset}/date={bootstrap.date} from the lake and import the "
            "older history through an earlier day"
        )
