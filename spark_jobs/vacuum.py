"""What lies in the lake that nobody needs any more? A step that builds removes it before it begins.

Two things: builds that a killed process left behind, and history bases folded from events that were published again
since. Nothing reads either; `longreel status` names both.
"""

from longreel.lake.lineage import is_imported, stale_partitions
from longreel.lake.table import Lake
from longreel.spark_jobs.days import say


def vacuum(lake: Lake) -> None:
    """Remove orphaned builds and superseded history bases; an imported archive is never one."""
    for path in lake.remove_orphans():
        print(f"removed an orphaned build: {path}", flush=True)
    for one in stale_partitions(lake, ("history",)):
        base = lake.require("history", one.day)
        if not is_imported(base):
            lake.drop_partition(base)
            say("history", one.day, f"base removed: {'; '.join(one.reasons)}")
