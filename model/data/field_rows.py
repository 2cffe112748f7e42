"""Rows of a table that the values of declared fields name: hashed, looked up in a vocabulary, or bucketed.

Every field has its own rows of the table. The first of them belongs to events without a value; a category's second
belongs to values that training did not see.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from longreel.contracts.log_schema import UNKNOWN, Field, Kind
from longreel.model.data.encodings import Encodings
from longreel.model.data.hashing import bucket

HASHED: tuple[Kind, ...] = ("id", "multi")
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
FIRST_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0
KNOWN_CODES = 2  # rows of a category before those of its vocabulary


def num_rows(field: Field, encodings: Encodings) -> int:
    """The rows that a field has in its table."""
    if field.kind == "category":
        return KNOWN_CODES + len(encodings.codes.get(field.name, ()))
    if field.kind == "number":
        return 2 + len(encodings.boundaries.get(field.name, ()))
    return {"hour": 24, "weekday": 7, "vector": 2}.get(field.kind, field.table_rows)


class FieldRows(nn.Module):
    """Columns of row numbers: one for each field, `size` for a multi. Ids come first, then multis, then the others.

    Args:
        starts: the first row of each field.
    """

    def __init__(self, fields: Sequence[Field], starts: Mapping[str, int], encodings: Encodings) -> None:
        super().__init__()
        by_kind = {kind: [f for f in fields if f.kind == kind] for kind in HASHED}
        self.ids, self.multis = by_kind["id"], by_kind["multi"]
        self.others = [f for f in fields if f.kind not in HASHED]
        self.starts = starts
        hashed = [f for f in (*self.ids, *self.multis) for _ in range(f.size)]
        self._constant("first", torch.tensor([starts[f.name] for f in hashed], dtype=torch.int64))
        self._constant("sizes", torch.tensor([f.table_rows for f in hashed], dtype=torch.int64))
        for field in self.others:
            if field.kind == "category":
                codes = sorted(encodings.codes.get(field.name, ()))
                self._constant(f"codes_{field.name}", torch.tensor(codes, dtype=torch.int32))
            if field.kind == "number":
                boundaries = encodings.boundaries.get(field.name, ())
                self._constant(f"boundaries_{field.name}", torch.tensor(boundaries, dtype=torch.float32))
        times, offsets = zip(*encodings.transitions, strict=True) if encodings.transitions else ((0,), (0,))
        self._constant("transitions", torch.tensor(times))
        self._constant("offsets_ms", torch.tensor(offsets))

    def _constant(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)  # follows from schema and encodings

    @property
    def num_columns(self) -> int:
        """Columns of `rows`."""
        return len(self.get_buffer("first")) + len(self.others)

    def stacked_ids(self, values: Mapping[str, Tensor]) -> Tensor:
        """Ids and multis side by side: [E, columns] int64."""
        ids = [values[f.name].long() for f in self.ids]
        together = [torch.stack(ids, dim=-1)] if ids else []
        together += [values[f.name] for f in self.multis]
        return together[0] if len(together) == 1 else torch.cat(together, dim=-1)

    def rows(self, values: Mapping[str, Tensor], time_ms: Tensor) -> Tensor:
        """Values by field name, [E] or [E, size], and times [E] -> [E, columns] int32."""
        columns = []
        if len(self.get_buffer("first")):
            hashed = bucket(self.stacked_ids(values), self.get_buffer("sizes")) + self.get_buffer("first")
            columns.append(hashed.int())
        if self.others:
            local = [self.starts[f.name] + self._local_rows(f, values, time_ms) for f in self.others]
            columns.append(torch.stack(local, dim=1).int())
        if not columns:
            return torch.zeros(len(time_ms), 0, dtype=torch.int32, device=time_ms.device)
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)

    def weights(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The share of each id in the mean of its multi, [E, columns of multis] float32; None without multis.

        An event without ids has row 0, once.
        """
        if not self.multis:
            return None
        return torch.cat([_mean_weights(values[f.name]) for f in self.multis], dim=1)

    def _local_rows(self, field: Field, values: Mapping[str, Tensor], time_ms: Tensor) -> Tensor:
        """A field's rows, counted from its first: [E]."""
        if field.kind == "category":
            return vocabulary_rows(values[field.name], self.get_buffer(f"codes_{field.name}"))
        if field.kind == "number":
            return number_rows(values[field.name], self.get_buffer(f"boundaries_{field.name}"))
        if field.kind == "vector":
            return values[field.name].isfinite().all(dim=1).int()
        place = torch.searchsorted(self.get_buffer("transitions"), time_ms, right=True) - 1
        local_ms = time_ms + self.get_buffer("offsets_ms")[place.clamp(min=0)]
        return local_ms // HOUR_MS % 24 if field.kind == "hour" else (local_ms // DAY_MS + FIRST_WEEKDAY) % 7


def vocabulary_rows(values: Tensor, codes: Tensor) -> Tensor:
    """Category values [E], increasing codes [V] -> 0 without a value, 1 for an unseen one, 2 + its place in `codes`."""
    if not len(codes):
        return (values != UNKNOWN).int()
    place = torch.searchsorted(codes, values, out_int32=True).clamp(max=len(codes) - 1)
    rows = torch.where(codes[place] == values, place + KNOWN_CODES, 1)
    return rows.masked_fill_(values == UNKNOWN, 0)


def number_rows(values: Tensor, boundaries: Tensor) -> Tensor:
    """Numbers [E], increasing boundaries -> 0 for NaN, 1 + the number of boundaries below the value."""
    rows = 1 + torch.bucketize(values.to(boundaries.dtype), boundaries, out_int32=True)
    return rows.masked_fill_(values.isnan(), 0)


def _mean_weights(ids: Tensor) -> Tensor:
    """[E, size], padded with UNKNOWN -> [E, size]: 1 over the number of ids."""
    there = ids != UNKNOWN
    there[:, 0] |= ~there.any(dim=1)
    return there / there.sum(dim=1, keepdim=True)


class VectorColumns(nn.Module):
    """Vectors side by side, standardised; zeros where an event has none."""

    def __init__(self, fields: Iterable[Field], encodings: Encodings) -> None:
        super().__init__()
        self.fields = [f for f in fields if f.kind == "vector"]
        scales = [(f.size, encodings.vectors.get(f.name)) for f in self.fields]
        means = [m for size, scale in scales for m in (scale.mean if scale else (0.0,) * size)]
        deviations = [scale.deviation if scale else 1.0 for size, scale in scales for _ in range(size)]
        self.register_buffer("mean", torch.tensor(means), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviations), persistent=False)
        self.mean: Tensor
        self.deviation: Tensor

    @property
    def width(self) -> int:
        """Elements of all vectors together."""
        return sum(f.size for f in self.fields)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """[E, width], or None without vectors."""
        if not self.fields:
            return None
        together = torch.cat([values[f.name] for f in self.fields], dim=1)
        return ((together - self.mean) / self.deviation).nan_to_num(0.0, 0.0, 0.0)
