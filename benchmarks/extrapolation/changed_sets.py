"""Sample sets that must teach nothing: shuffled labels, or histories that no request sees."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.extrapolation.sample_sets import ABOUT, Sets, content_digest
from longreel.contracts.jagged import list_values
from longreel.lake.table import Lake
from longreel.spark_jobs.array_io import write_bucket


def changed(sets: Sets, change: str) -> Sets:
    """The sets with a change, made beside them where they are not there yet.

    shuffled    the training set's labels, permuted over all its targets; the test set as it is
    no-history  no request of either set sees an event
    """
    if not change:
        return sets
    out = sets.folder.with_name(f"{sets.folder.name}-{change}")
    if not (out / ABOUT).exists():
        lake = Lake(out / "lake", sets.lake.log_schema)
        for day in (sets.train, sets.test):
            table = sets.lake.read(sets.lake.require("samples", day))
            if change == "no-history" or day == sets.train:
                table = _without_history(table) if change == "no-history" else _shuffled(table)
            _publish(lake, day, table)
        (out / ABOUT).write_text((sets.folder / ABOUT).read_text())
    return Sets.open(out)


def _publish(lake: Lake, day: date, table: pa.Table) -> None:
    writer = lake.writer("samples", day)
    events = max(1, len(list_values(table, "history_item_id")[0]))
    step = max(1, (1 << 20) * table.num_rows // events)
    parts = (table.slice(at, step).combine_chunks() for at in range(0, table.num_rows, step))
    path = write_bucket(writer, 0, parts)
    assert path is not None
    assert pq.read_metadata(path).num_rows == table.num_rows
    writer.commit(digest=content_digest(path), inputs={})


def _with_values(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    _, offsets = list_values(table, name)
    field = table.schema.field(name)
    column = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, field.type.value_type))
    return table.set_column(table.schema.get_field_index(name), field, column)


def _shuffled(table: pa.Table) -> pa.Table:
    values = list_values(table, "target_labels")[0].to_numpy()
    return _with_values(table, "target_labels", np.random.default_rng(0).permutation(values))


def _without_history(table: pa.Table) -> pa.Table:
    values = list_values(table, "request_history_end")[0].to_numpy()
    return _with_values(table, "request_history_end", np.zeros_like(values))
