"""Serving: predictions for a table of requests, in the table's order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import list_values
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.schema_evolution import missing_columns, to_schema
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import predictions, score_rows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import load_model
from longreel.model.training.device import select_device

DEFAULT_WINDOW = 10_240


@dataclass(frozen=True)
class Scorer:
    """A loaded model that scores request tables of the log schema that it was trained on."""

    ranker: Ranker
    meta: dict[str, Any]
    device: torch.device

    @staticmethod
    def load(model_dir: Path, device: str = "auto") -> "Scorer":
        """Load a model folder, checking its digest; see `longreel.model.training.checkpoint.load_model` for errors."""
        selected = select_device(device)
        ranker, meta = load_model(model_dir, selected)
        return Scorer(ranker, meta, selected)

    def score(self, table: pa.Table, window: int | None = None) -> pa.Table:
        """One row per target, in the table's order: user_id, request_id, item_id and a column per task: a probability,
        or the value of a number label.

        Args:
            table: requests with their histories and targets (`request_schema`); other columns, such as labels, are
                ignored, and a column of an optional field may be missing. Null values of fields are unknown.
            window: newest events that a request sees; default 10,240, at any training window.

        Raises:
            LongreelError: a column is missing or of another type, or the rows break the schema's promises.
        """
        if window is not None and window < 0:
            raise LongreelError(f"window: expected 0 or more events, got {window}")
        if missing := missing_columns(self.request_schema, table.column_names):
            names = {column.name for column in self.ranker.log_schema.statistic_columns}
            is_statistic = any(name.removeprefix("target_").removeprefix("user_") in names for name in missing)
            where = " (a statistic: the lake's statistics/date=D has it)" if is_statistic else ""
            raise LongreelError(
                f"request table: column {', '.join(missing)} is missing{where}, which the log that the model was "
                f"trained on has. Add it, or train a model without the field. Got {', '.join(table.column_names)}"
            )
        table = to_schema(_fill_unknown(table, self.ranker.log_schema), self.request_schema, "request table")
        rows = SampleRows.from_arrow(table, self.ranker.log_schema)
        logits = score_rows(self.ranker, rows, DEFAULT_WINDOW if window is None else window, self.device)
        request_ids, _ = list_values(table, "request_id")
        request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
        columns: dict[str, pa.Array] = {
            "user_id": pa.array(rows.user_id[rows.request_row[request]], pa.int64()),
            "request_id": request_ids.take(pa.array(request)),
            "item_id": pa.array(rows.target["item_id"], pa.int64()),
        }
        predicted = predictions(self.ranker, logits)
        columns |= {task: pa.array(predicted[:, place]) for place, task in enumerate(self.ranker.tasks)}
        return pa.table(columns)

    @property
    def request_schema(self) -> pa.Schema:
        """The columns of a request table, by the log schema that the model was trained on."""
        return dataset_schemas(self.ranker.log_schema).request_table


def _fill_unknown(table: pa.Table, log: LogSchema) -> pa.Table:
    """The table with what the lake stores for a missing value in place of nulls, which JSON and pandas have for it."""
    for prefix, columns in (("user", log.user_columns), ("history", log.event_columns), ("target", log.target_columns)):
        for column in columns:
            at = table.schema.get_field_index(f"{prefix}_{column.name}")
            if at >= 0 and column.field is not None:
                filled = _filled(table.column(at), column.field.unknown)
                table = table.set_column(at, table.schema.field(at).name, filled)
    return table


def _filled(values: pa.ChunkedArray, unknown: float) -> pa.ChunkedArray | pa.Array:
    """Numbers, or lists of numbers, without nulls."""
    if not pa.types.is_list(values.type):
        return values.fill_null(unknown) if values.null_count and pa.types.is_primitive(values.type) else values
    lists = values.combine_chunks()
    elements = lists.flatten()
    if lists.null_count or not elements.null_count or not pa.types.is_primitive(elements.type):
        return values
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    return pa.ListArray.from_arrays(offsets, elements.fill_null(unknown))
