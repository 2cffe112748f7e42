"""Rows of a small dataset, and builds of its partition."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.schemas import QUARANTINE
from longreel.lake.lease import EXPIRES_AFTER_S, LEASE_FILE
from longreel.lake.manifest import CHECKSUM
from longreel.lake.table import Lake, PartitionWriter

DAY = date(2026, 1, 5)


def rows(*reasons: str) -> pa.Table:
    """Quarantined rows, one for each reason."""
    columns = [list(reasons), [None] * len(reasons), ["a.csv"] * len(reasons), ["{}"] * len(reasons)]
    return pa.table(columns, schema=QUARANTINE)


def write_build(lake: Lake, table: pa.Table) -> PartitionWriter:
    """A build of the quarantine of DAY that is not committed."""
    writer = lake.writer("quarantine", DAY)
    pq.write_table(table, f"{writer.path}/part-0.parquet")
    return writer


def expire_lease(writer: PartitionWriter) -> None:
    """Make the last heartbeat old, as if the writer's process had died. The time of the folder does not matter."""
    (Path(writer.path) / LEASE_FILE).write_text(str(time.time() - EXPIRES_AFTER_S - 60))


def stored_values(text: str) -> dict[str, Any]:
    """What a stored manifest says, without its checksum."""
    values: dict[str, Any] = json.loads(text)
    del values[CHECKSUM]
    return values
