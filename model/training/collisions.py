"""Hash collisions: how many ids share a row of a hashed table, counted from training's lookups.

A row remembers the smallest and the largest id that named it, so it is shared where they differ: two order-free
numbers, which ranks and resumed runs merge exactly. How many ids there were follows from how many rows they fill
(linear counting, Whang et al. 1990), since remembering every id would cost more than the table.
"""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from longreel.contracts.log_schema import UNKNOWN, LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.nn.embeddings import Embeddings

log = logging.getLogger(__name__)

WARN_SHARE = 0.2  # of the lookups; above it, a warning advises a larger table
ADVISED_SHARE = 0.1  # of the ids that share a row at the advised size
_NONE_LOW, _NONE_HIGH = torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min


@dataclass(frozen=True, kw_only=True)
class Collisions:
    """Collisions of one feature. Unknown ids have their own row and are left out."""

    feature: str
    table_rows: int  # that ids hash into
    rows_used: int
    ids: int  # distinct, estimated; a lower bound where every row is used
    shared_ids: float  # share of the ids whose row another id uses too
    shared_lookups: float  # share of history events and targets whose row several ids use


class CollisionCounter:
    """Counts the lookups of the id table, step by step, on the device that trains."""

    def __init__(self, embeddings: Embeddings, device: torch.device) -> None:
        table = embeddings.ids
        self._sizes, self._starts = table.sizes, table.starts
        self._stacked_ids = embeddings.history_fields.ids.stacked_ids, embeddings.target_fields.ids.stacked_ids
        self.low = torch.full((table.num_rows,), _NONE_LOW, device=device)
        self.high = torch.full((table.num_rows,), _NONE_HIGH, device=device)
        self.lookups = torch.zeros(table.num_rows, dtype=torch.int64, device=device)

    def count(self, batch: RequestBatch) -> None:
        """Count the lookups of a batch whose rows were looked up."""
        rows = batch.rows
        assert rows is not None
        assert rows.unique is not None
        assert rows.counts is not None
        self.lookups[rows.unique] += rows.counts
        sides = ((rows.history, batch.history), (rows.target, batch.target))
        for stacked_ids, (places, values) in zip(self._stacked_ids, sides, strict=True):
            where, ids = rows.unique[places.flatten()], stacked_ids(values).flatten()
            self.low.scatter_reduce_(0, where, ids, "amin")
            self.high.scatter_reduce_(0, where, ids, "amax")

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        return {"low": self.low, "high": self.high, "lookups": self.lookups}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def report(self) -> list[Collisions]:
        """One entry a feature."""
        return [self._feature(name) for name in self._sizes]

    def _feature(self, name: str) -> Collisions:
        first = self._starts[name] + 1  # the row before is the unknown id's
        part = slice(first, first + self._sizes[name] - 1)
        low, high, lookups = self.low[part], self.high[part], self.lookups[part]
        used = int((low != _NONE_LOW).sum())
        alone = int((low == high).sum())
        total = int(lookups.sum())
        ids = max(used, _linear_count(used, len(low)))
        shared = int(lookups[low < high].sum())
        return Collisions(
            feature=name,
            table_rows=len(low),
            rows_used=used,
            ids=ids,
            shared_ids=1 - alone / ids if ids else 0.0,
            shared_lookups=shared / total if total else 0.0,
        )


def _linear_count(used: int, rows: int) -> int:
    """Ids that fill `used` of `rows` rows on average: n = ln(1 - used / rows) / ln(1 - 1 / rows)."""
    if used == 0:
        return 0
    free = max(rows - used, 0.5) / rows  # every row used: a lower bound instead of infinity
    return round(math.log(free) / math.log1p(-1 / rows)) if rows > 1 else used


def as_dict(report: list[Collisions]) -> dict[str, Any]:
    """The report as plain values, by feature."""
    return {feature.feature: asdict(feature) for feature in report}


def warn(report: list[Collisions], log_schema: LogSchema) -> list[str]:
    """Log and return the settings to change where too many lookups share rows."""
    places = {field.name: field.place for field in log_schema.fields}
    warnings = []
    for feature in report:
        if feature.shared_lookups <= WARN_SHARE:
            continue
        # At least twice the size: the most frequent ids may have collided by chance.
        advised = max(feature.ids / -math.log1p(-ADVISED_SHARE), 2 * feature.table_rows)
        rows = 2 ** math.ceil(math.log2(advised))
        warnings.append(
            f"{feature.shared_lookups:.0%} of {feature.feature} lookups share a table row with another id "
            f"(about {feature.ids:,} ids in {feature.table_rows:,} rows); expected at most {WARN_SHARE:.0%}: "
            f"set [fields.{places[feature.feature]}] {feature.feature}: rows = {rows}"
        )
        log.warning(warnings[-1])
    return warnings


assert UNKNOWN == -1  # bucket() gives it row 0 of its feature
