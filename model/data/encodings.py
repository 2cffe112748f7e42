"""Encodings: what a training learned of its log before the first step, and a model keeps with its weights.

The vocabulary of each category, the bucket boundaries of each number, the scale of each vector, mean and deviation of
each number label, and the offsets of the log's time zone. All of it is a function of the published data alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.clock import transitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import DERIVED_KINDS, UNKNOWN, Field, LogSchema
from longreel.lake.manifest import Manifest
from longreel.model.data.samples import SampleRows

MAX_VALUES = 1 << 20  # of a number or vector that its encoding is learned from

Values = NDArray[Any]
Counted = Sequence[tuple[int, str, int]]  # code, name, count of a category's values


@dataclass(frozen=True)
class VectorScale:
    """A vector v is read as (v - mean) / deviation: one mean for each element, one deviation for all of them."""

    mean: tuple[float, ...]
    deviation: float


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of a number label, which is learned as (label - mean) / deviation."""

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Encodings:
    """By field or label name. A field that is missing here has no value that a model could tell from another."""

    codes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of categories, the most frequent first
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the same values, as the log spells them
    boundaries: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of numbers, increasing
    vectors: dict[str, VectorScale] = field(default_factory=dict)
    number_labels: dict[str, Moments] = field(default_factory=dict)
    transitions: tuple[tuple[int, int], ...] = ()  # UTC ms and ms ahead of it from then on, for hours and weekdays

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` reads them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Encodings":
        """Encodings from the JSON of `to_dict`.

        Raises:
            LongreelError: it is none.
        """
        try:
            vectors = {name: (tuple(scale["mean"]), scale["deviation"]) for name, scale in values["vectors"].items()}
            return Encodings(
                codes={name: tuple(codes) for name, codes in values["codes"].items()},
                names={name: tuple(names) for name, names in values["names"].items()},
                boundaries={name: tuple(numbers) for name, numbers in values["boundaries"].items()},
                vectors={name: VectorScale(*scale) for name, scale in vectors.items()},
                number_labels={name: Moments(**moments) for name, moments in values["number_labels"].items()},
                transitions=tuple((int(time_ms), int(offset_ms)) for time_ms, offset_ms in values["transitions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LongreelError(f"not encodings ({error}); expected what Encodings.to_dict gives") from error


def learn_encodings(log: LogSchema, rows: SampleRows, categories: Mapping[str, Counted] | None = None) -> Encodings:
    """The encodings of a log.

    Args:
        rows: the samples that numbers, vectors and number labels are learned from.
        categories: values of category fields, as `counted_categories` gives them; a field that is not among them is
            counted in `rows`.
    """
    served = (*log.target_fields, *log.of_place("event"), *log.user_fields)
    stored = {field.name: field for field in served if field.is_stored}
    kinds = {kind: [f for f in stored.values() if f.kind == kind] for kind in ("category", "number", "vector")}
    vocabularies = {f.name: _vocabulary(f, rows, categories or {}) for f in kinds["category"]}
    has_clock = any(f.kind in DERIVED_KINDS for f in log.fields)
    return Encodings(
        codes={name: tuple(code for code, _ in values) for name, values in vocabularies.items()},
        names={name: tuple(text for _, text in values) for name, values in vocabularies.items()},
        boundaries={f.name: quantile_boundaries(field_values(f, rows), f.table_rows) for f in kinds["number"]},
        vectors={f.name: vector_scale(field_values(f, rows)) for f in kinds["vector"]},
        number_labels={name: _moments(rows.number_labels[name]) for name in log.number_labels},
        transitions=tuple(zip(*transitions(log.time_zone), strict=True)) if has_clock else (),
    )


def counted_categories(manifests: Iterable[Manifest]) -> dict[str, list[tuple[int, str, int]]]:
    """Values of category fields over some days, from the manifests of their events and users."""
    totals: dict[str, dict[int, tuple[str, int]]] = {}
    for manifest in manifests:
        for name, values in manifest.details.get("categories", {}).items():
            by_code = totals.setdefault(name, {})
            for code, text, count in values:
                first_text, before = by_code.get(code, (str(text), 0))
                by_code[code] = first_text, before + count
    return {name: [(code, text, count) for code, (text, count) in by_code.items()] for name, by_code in totals.items()}


def field_values(field: Field, rows: SampleRows) -> Values:
    """All values of a field: of events and targets together where both have it, or of users."""
    if field.place == "user":
        return rows.user[field.name]
    parts = [values[field.name] for values in (rows.history, rows.target) if field.name in values]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _vocabulary(field: Field, rows: SampleRows, categories: Mapping[str, Counted]) -> list[tuple[int, str]]:
    """Codes and names, the most frequent first."""
    counted = categories.get(field.name)
    if counted is None:
        codes, counts = np.unique(field_values(field, rows), return_counts=True)
        counted = [(code, str(code), count) for code, count in zip(codes.tolist(), counts.tolist(), strict=True)]
    present = [value for value in counted if value[0] != UNKNOWN]
    frequent = sorted(present, key=lambda value: (-value[2], value[0]))
    return [(code, name) for code, name, _ in frequent[: field.table_rows - 2]]


def quantile_boundaries(values: Values, buckets: int) -> tuple[float, ...]:
    """At most `buckets` - 1 increasing boundaries that part values evenly; a value belongs below its equal boundary.

    As many values as buckets, or fewer, each get their own. None where all are equal or missing.
    """
    present = _some(values)
    present = np.sort(present[np.isfinite(present)])
    distinct = np.unique(present)
    if len(distinct) > buckets:
        ends = np.arange(1, buckets) * len(present) // buckets - 1
        distinct = np.unique(np.append(present[ends], present[-1]))
    return tuple(distinct[:-1].tolist())


def vector_scale(values: Values) -> VectorScale:
    """The scale of vectors [n, size]; a vector with NaN is missing."""
    present = _some(values)
    present = present[np.isfinite(present).all(axis=1)].astype(np.float64)
    if not len(present):
        return VectorScale((0.0,) * values.shape[1], 1.0)
    mean = present.mean(axis=0)
    deviation = float(np.sqrt(np.square(present - mean).mean()))
    return VectorScale(tuple(mean.tolist()), deviation or 1.0)


def _moments(values: Values) -> Moments:
    present = values[np.isfinite(values)].astype(np.float64)
    return Moments(float(present.mean()), float(present.std()) or 1.0) if len(present) else Moments()


def _some(values: Values) -> Values:
    """At most MAX_VALUES of the values, evenly spaced."""
    return values[:: -(-len(values) // MAX_VALUES) or 1]
