"""Sample rows as flat arrays, and packed batches of them by index arithmetic.

No Python loop runs over events, targets or requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from longreel.contracts.actions import LABELS
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.contracts.schemas import HISTORY_FIELDS, REQUEST_TABLE, SAMPLES, TARGET_FIELDS
from longreel.lake.schema_evolution import to_schema
from longreel.model.data.batch import RequestBatch


def without_request_ids(schema: pa.Schema) -> pa.Schema:
    """A schema without the request ids, which no model reads: strings are slow to decode."""
    return pa.schema([field for field in schema if field.name != "request_id"])


def _integers(array: pa.Array, name: str) -> Ints:
    if array.null_count:
        raise LongreelError(f"samples column {name}: expected no nulls, got {array.null_count}; rebuild the samples")
    return np.asarray(array.to_numpy(zero_copy_only=False))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The ranges of the flat arrays that some requests read, as starts [B] and lengths [B]."""

    event_starts: Ints
    events: Ints
    target_starts: Ints
    targets: Ints


@dataclass(frozen=True, kw_only=True)
class SampleRows:
    """Rows of SAMPLES (or REQUEST_TABLE) as flat arrays: U rows (user-days), R requests in row order."""

    user_id: Ints  # [U]
    user_features: Ints  # [U, F]
    history: dict[str, Ints]  # each [all events]
    target: dict[str, Ints]  # each [all targets]
    labels: NDArray[np.int32] | None  # [all targets] bitmask, None where the table has none
    request_row: Ints  # [R]
    request_time_ms: Ints  # [R]
    history_start: Ints  # [R] where the request's row begins in `history`
    history_stop: Ints  # [R] one past the newest event that the request sees
    target_offsets: Ints  # [R+1] into `target`

    @staticmethod
    def from_arrow(table: pa.Table) -> "SampleRows":
        """Flat arrays of a table, checked: parallel lists are parallel, and no request sees its own time or later.

        Raises:
            LongreelError: a column is missing or of another type, or the rows break the schema's promises.
        """
        labelled = "target_labels" in table.column_names
        schema = without_request_ids(SAMPLES if labelled else REQUEST_TABLE)
        table = to_schema(table, schema, "samples" if labelled else "request table")
        history, history_offsets = _parallel(table, "history", list(HISTORY_FIELDS))
        requests, request_offsets = _parallel(table, "request", ["time_ms", "history_end", "target_end"])
        names = [*TARGET_FIELDS, "labels"] if labelled else list(TARGET_FIELDS)
        target, target_offsets = _parallel(table, "target", names)
        features, feature_offsets = list_values(table, "user_features")
        widths = np.unique(np.diff(feature_offsets))
        if len(widths) > 1:
            raise LongreelError(f"user_features: expected one length for every user, got {widths.tolist()}")
        users = table.num_rows
        row = np.repeat(np.arange(users), np.diff(request_offsets))
        rows = SampleRows(
            user_id=_integers(table.column("user_id"), "user_id"),
            user_features=_integers(features, "user_features").reshape(users, int(widths[0]) if users else 0),
            history=history,
            labels=target.pop("labels").astype(np.int32) if labelled else None,
            target=target,
            request_row=row,
            request_time_ms=requests["time_ms"],
            history_start=history_offsets[row],
            history_stop=history_offsets[row] + requests["history_end"],
            target_offsets=np.concatenate([np.zeros(1, np.int64), target_offsets[row] + requests["target_end"]]),
        )
        rows._check(history_offsets, target_offsets, request_offsets)
        return rows

    @staticmethod
    def concat(parts: Sequence["SampleRows"], history: dict[str, Ints], starts: Sequence[int]) -> "SampleRows":
        """All requests of several tables, in order, whose events were copied into `history` from `starts` on.

        Raises:
            LongreelError: users have more features in one part than in another, or only some have labels.
        """
        widths = sorted({part.user_features.shape[1] for part in parts if len(part.user_id)})
        if len(widths) > 1 or len({part.labels is None for part in parts}) > 1:
            raise LongreelError(f"user_features: expected one length for every user, got {widths}")
        users = offsets_of(np.array([len(part.user_id) for part in parts]))
        targets = offsets_of(np.array([part.target_offsets[-1] for part in parts]))
        features = [part.user_features for part in parts if len(part.user_id)]
        labels = [part.labels for part in parts if part.labels is not None]
        ends = [part.target_offsets[1:] + first for part, first in zip(parts, targets[:-1], strict=True)]
        return SampleRows(
            user_id=np.concatenate([part.user_id for part in parts]),
            user_features=np.concatenate(features) if features else parts[0].user_features,
            history=history,
            target={name: np.concatenate([part.target[name] for part in parts]) for name in parts[0].target},
            labels=np.concatenate(labels) if labels else None,
            request_row=np.concatenate([p.request_row + n for p, n in zip(parts, users[:-1], strict=True)]),
            request_time_ms=np.concatenate([part.request_time_ms for part in parts]),
            history_start=np.concatenate([p.history_start + n for p, n in zip(parts, starts, strict=True)]),
            history_stop=np.concatenate([p.history_stop + n for p, n in zip(parts, starts, strict=True)]),
            target_offsets=np.concatenate([np.zeros(1, np.int64), *ends]),
        )

    def _check(self, history_offsets: Ints, target_offsets: Ints, request_offsets: Ints) -> None:
        self._reject(
            (self.history_stop < self.history_start) | (self.history_stop > history_offsets[self.request_row + 1]),
            "request_history_end lies outside the history",
        )
        self._reject(np.diff(self.target_offsets) < 0, "request_target_end decreases, or passes the row's targets")
        counts = np.diff(request_offsets)
        last = request_offsets[1:][counts > 0] - 1
        closes = self.target_offsets[last + 1] == target_offsets[1:][counts > 0]
        if not (closes.all() and (np.diff(target_offsets)[counts == 0] == 0).all()):
            raise LongreelError("samples: a row has targets that belong to no request; rebuild the samples")
        times = self.history["time_ms"]
        earlier = np.flatnonzero(times[1:] < times[:-1]) + 1  # than the event before, which a row's first may be
        if not np.isin(earlier, history_offsets).all():
            raise LongreelError("samples: a history is not ordered by time; rebuild the samples")
        has_history = self.history_stop > self.history_start
        newest = np.where(has_history, times[np.maximum(self.history_stop - 1, 0)] if len(times) else 0, 0)
        self._reject(
            has_history & (newest >= self.request_time_ms), "the history holds an event at or after the request"
        )

    def _reject(self, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            user = self.user_id[self.request_row[int(np.argmax(wrong))]]
            raise LongreelError(f"samples: {what} ({int(wrong.sum())} requests, first user {user}); rebuild them")

    @property
    def num_requests(self) -> int:
        """R."""
        return len(self.request_row)

    @property
    def history_lengths(self) -> Ints:
        """Events that each request may see: [R]."""
        return self.history_stop - self.history_start

    @property
    def target_counts(self) -> Ints:
        """Targets of each request: [R]."""
        return np.diff(self.target_offsets)

    def task_labels(self, tasks: Sequence[str], where: Ints | slice = slice(None)) -> NDArray[np.float32]:
        """Labels of targets as [.., tasks] of 0 and 1; no columns where the table has no labels."""
        if self.labels is None:
            raise LongreelError("the table has no column target_labels, which training and evaluation need")
        masks = np.array([LABELS[task] for task in tasks], np.int32)
        return np.asarray((self.labels[where][:, None] & masks) != 0, np.float32)

    def of_users(self, chosen: Ints) -> "SampleRows":
        """Only the requests of some users; the arrays of events stay whole."""
        kept = np.flatnonzero(np.isin(self.user_id[self.request_row], chosen))
        counts = self.target_counts[kept]
        targets = ranges(self.target_offsets[kept], counts)
        return replace(
            self,
            target={name: values[targets] for name, values in self.target.items()},
            labels=None if self.labels is None else self.labels[targets],
            request_row=self.request_row[kept],
            request_time_ms=self.request_time_ms[kept],
            history_start=self.history_start[kept],
            history_stop=self.history_stop[kept],
            target_offsets=offsets_of(counts),
        )

    def cut(self, requests: Ints, windows: Ints | int, skip: Ints | int = 0) -> "Cut":
        """The events and targets that `requests` [B] read: `windows` events ([B], or one for all) before the newest
        `skip`.
        """
        stop = self.history_stop[requests] - skip
        lengths = np.minimum(stop - self.history_start[requests], windows)
        return Cut(
            event_starts=stop - lengths,
            events=lengths,
            target_starts=self.target_offsets[requests],
            targets=self.target_counts[requests],
        )

    def pack(
        self,
        requests: Ints,
        windows: Ints | int,
        tasks: Sequence[str] = (),
        index: Ints | None = None,
        skip: Ints | int = 0,
    ) -> RequestBatch:
        """A batch of `requests` [B] with the events and targets of `cut`. model/data/device_rows.py packs on a device.

        Labels are packed for `tasks`; `index` [B] becomes the batch's `request_index`, by default `requests`.
        """
        cut = self.cut(requests, windows, skip)
        events, targets = ranges(cut.event_starts, cut.events), ranges(cut.target_starts, cut.targets)
        row = self.request_row[requests]
        labels = self.task_labels(tasks, targets) if tasks else np.zeros((len(targets), 0), np.float32)
        return RequestBatch(
            history={name: torch.from_numpy(values[events]) for name, values in self.history.items()},
            history_offsets=torch.from_numpy(offsets_of(cut.events)),
            target={name: torch.from_numpy(values[targets]) for name, values in self.target.items()},
            target_offsets=torch.from_numpy(offsets_of(cut.targets)),
            labels=torch.from_numpy(labels),
            request_time_ms=torch.from_numpy(self.request_time_ms[requests]),
            user_features=torch.from_numpy(self.user_features[row]),
            user_id=torch.from_numpy(self.user_id[row]),
            request_index=torch.from_numpy(requests if index is None else index),
            max_history=int(cut.events.max(initial=0)),
            max_targets=int(cut.targets.max(initial=0)),
        )


def _parallel(table: pa.Table, prefix: str, names: list[str]) -> tuple[dict[str, Ints], Ints]:
    """The list columns prefix_name, whose offsets must agree: values by name, and the offsets."""
    values: dict[str, Ints] = {}
    first: Ints | None = None
    for name in names:
        array, offsets = list_values(table, f"{prefix}_{name}")
        if first is not None and not np.array_equal(first, offsets):
            raise LongreelError(
                f"samples: {prefix}_{name} and {prefix}_{names[0]} differ in length; rebuild the samples"
            )
        first = offsets
        values[name] = _integers(array, f"{prefix}_{name}")
    assert first is not None
    return values, first
