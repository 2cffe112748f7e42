"""Vacuum of a lake: every step that writes to it removes what no reader needs before it begins.

It removes orphaned builds, which a killed process left behind, and history snapshots that no build uses again
(`stale_snapshots`). Nothing reads either; `longreel ops status` names both. `forget` removes builds only, as a
killed call leaves snapshots stale and the next one makes them current again.
"""

from longreel.lake.home import Home
from longreel.lake.lineage import stale_snapshots
from longreel.lake.maintenance import remove_orphans
from longreel.lake.table import Lake
from longreel.spark_jobs.days import log_progress


def vacuum(home: Home) -> None:
    """Remove orphaned builds and stale history snapshots; the bootstrap snapshot stays."""
    lake = home.lake
    vacuum_builds(lake)
    for stale in stale_snapshots(lake, home.config):
        lake.drop_partition(lake.require("history", stale.day))
        log_progress("history", stale.day, f"snapshot removed: {'; '.join(stale.reasons)}")


def vacuum_builds(lake: Lake) -> None:
    """Remove orphaned builds, and leave stale snapshots as they are."""
    for path in remove_orphans(lake):
        print(f"removed an orphaned build: {path}", flush=True)
