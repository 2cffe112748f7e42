"""Sample rows as flat arrays, and packed batches of them by index arithmetic.

No Python loop runs over events, targets or requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.contracts.history_cutoff import history_cutoff_ms
from longreel.contracts.jagged import Ints, offsets_of, ranges
from longreel.contracts.log_schema import LogSchema
from longreel.lake.schema_evolution import to_schema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.columns import (
    REQUEST_COLUMNS,
    Columns,
    column_values,
    label_columns,
    parallel_values,
    rows_schema,
    user_values,
)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The ranges of the flat arrays that some requests read, as starts [B] and lengths [B]."""

    event_starts: Ints
    events: Ints
    target_starts: Ints
    targets: Ints


@dataclass(frozen=True, kw_only=True)
class SampleRows:
    """Rows of samples (or of a request table) as flat arrays: U rows (user-days), R requests in row order."""

    log_schema: LogSchema  # of `history`, `target` and `user`
    user_id: Ints  # [U]
    user: Columns  # LogSchema.user_columns, each [U] or [U, size]
    history: Columns  # LogSchema.event_columns, each [all events] or [all events, size]
    target: Columns  # LogSchema.target_columns, each [all targets] or [all targets, size]
    labels: Ints | None  # [all targets] bitmask, int32 or int64; None where the table has no labels
    binary_labels: tuple[str, ...] = ()  # the label of each bit
    number_labels: Columns  # each [all targets] float32, nan without a value
    request_row: Ints  # [R]
    request_time_ms: Ints  # [R]
    history_start: Ints  # [R] where the request's row begins in `history`
    history_stop: Ints  # [R] one past the newest event that the request sees
    target_offsets: Ints  # [R+1] into `target`

    @staticmethod
    def from_arrow(table: pa.Table, log_schema: LogSchema, labels: LogSchema | None = None) -> "SampleRows":
        """Flat arrays of a table, checked: parallel lists are parallel, and no request sees an event at its history
        cutoff or later.

        Args:
            log_schema: of the columns to read: that of the table, or of a model that scores it.
            labels: the log schema that the table's labels and histories follow, by default `log_schema`.

        Raises:
            LongreelError: a column is missing or of another type, or the rows break the schema's promises.
        """
        rule = labels or log_schema
        labels = rule if "target_labels" in table.column_names else None
        what, advice = (
            ("request table", "correct the request") if labels is None else ("samples", "rebuild the samples")
        )
        table = to_schema(table, rows_schema(log_schema, labels), what)
        try:
            return SampleRows._of_columns(table, log_schema, labels, rule)
        except LongreelError as error:
            raise LongreelError(f"{what}: {error}; {advice}") from error

    @staticmethod
    def _of_columns(table: pa.Table, log_schema: LogSchema, labels: LogSchema | None, rule: LogSchema) -> "SampleRows":
        history, history_offsets = parallel_values(table, "history", log_schema.event_columns)
        requests, request_offsets = parallel_values(table, "request", REQUEST_COLUMNS)
        columns = (*log_schema.target_columns, *(() if labels is None else label_columns(labels)))
        target, target_offsets = parallel_values(table, "target", columns)
        numbers = () if labels is None else labels.number_labels
        row = np.repeat(np.arange(table.num_rows), np.diff(request_offsets))
        rows = SampleRows(
            log_schema=log_schema,
            user_id=column_values(table.column("user_id"), "user_id"),
            user={column.name: user_values(table, column) for column in log_schema.user_columns},
            history=history,
            labels=None if labels is None else target.pop("labels"),
            binary_labels=() if labels is None else labels.binary_labels,
            number_labels={name: target.pop(f"label_{name}") for name in numbers},
            target=target,
            request_row=row,
            request_time_ms=requests["time_ms"],
            history_start=history_offsets[row],
            history_stop=history_offsets[row] + requests["history_end"],
            target_offsets=np.concatenate([np.zeros(1, np.int64), target_offsets[row] + requests["target_end"]]),
        )
        rows._check(history_offsets, target_offsets, request_offsets, rule)
        return rows

    @staticmethod
    def concat(parts: Sequence["SampleRows"], history: Columns, starts: Sequence[int]) -> "SampleRows":
        """All requests of several tables of one schema, in order, whose events were copied into `history` from `starts`
        on."""
        users = offsets_of(np.array([len(part.user_id) for part in parts]))
        targets = offsets_of(np.array([part.target_offsets[-1] for part in parts]))
        labels = [part.labels for part in parts if part.labels is not None]
        ends = [part.target_offsets[1:] + first for part, first in zip(parts, targets[:-1], strict=True)]
        return replace(
            parts[0],
            user_id=np.concatenate([part.user_id for part in parts]),
            user=_concatenated([part.user for part in parts]),
            history=history,
            target=_concatenated([part.target for part in parts]),
            labels=np.concatenate(labels) if labels else None,
            number_labels=_concatenated([part.number_labels for part in parts]),
            request_row=np.concatenate([p.request_row + n for p, n in zip(parts, users[:-1], strict=True)]),
            request_time_ms=np.concatenate([part.request_time_ms for part in parts]),
            history_start=np.concatenate([p.history_start + n for p, n in zip(parts, starts, strict=True)]),
            history_stop=np.concatenate([p.history_stop + n for p, n in zip(parts, starts, strict=True)]),
            target_offsets=np.concatenate([np.zeros(1, np.int64), *ends]),
        )

    def one_request_a_row(self) -> "SampleRows":
        """All targets of a row as one request, at the time and with the history of the row's first request."""
        rows, first = np.unique(self.request_row, return_index=True)
        return replace(
            self,
            request_row=rows,
            request_time_ms=self.request_time_ms[first],
            history_start=self.history_start[first],
            history_stop=self.history_stop[first],
            target_offsets=self.target_offsets[np.append(first, self.num_requests)],
        )

    def _check(self, history_offsets: Ints, target_offsets: Ints, request_offsets: Ints, rule: LogSchema) -> None:
        self._reject(
            (self.history_stop < self.history_start) | (self.history_stop > history_offsets[self.request_row + 1]),
            "request_history_end lies outside the history",
        )
        self._reject(np.diff(self.target_offsets) < 0, "request_target_end decreases, or passes the row's targets")
        counts = np.diff(request_offsets)
        last = request_offsets[1:][counts > 0] - 1
        closes = self.target_offsets[last + 1] == target_offsets[1:][counts > 0]
        if not (closes.all() and (np.diff(target_offsets)[counts == 0] == 0).all()):
            raise LongreelError(
                "a row has targets that belong to no request: expected the last request_target_end to be their number"
            )
        times = self.history["time_ms"]
        earlier = np.flatnonzero(times[1:] < times[:-1]) + 1  # than the event before, which a row's first may be
        if not np.isin(earlier, history_offsets).all():
            raise LongreelError("a history is not ordered by time")
        has_history = self.history_stop > self.history_start
        newest = np.where(has_history, times[np.maximum(self.history_stop - 1, 0)] if len(times) else 0, 0)
        what = "the history holds an event at or after the request"
        if rule.history_known_after:
            what = f"the history holds an event not known yet, [history] known_after = {rule.history_known_after!r}"
        self._reject(has_history & (newest >= history_cutoff_ms(self.request_time_ms, rule)), what)

    def _reject(self, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            user = self.user_id[self.request_row[int(np.argmax(wrong))]]
            raise LongreelError(f"{what} ({int(wrong.sum())} requests, first user {user})")

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

    def label_bits(self, tasks: Sequence[str]) -> list[int | None]:
        """The bit of each task in `labels`; None for one of `number_labels`.

        Raises:
            LongreelError: the table has no labels, or not that of a task.
        """
        if self.labels is None:
            raise LongreelError("the table has no column target_labels, which training and evaluation need")
        declared = (*self.binary_labels, *self.number_labels)
        if unknown := [task for task in tasks if task not in declared]:
            raise LongreelError(
                f"the samples have no label {', '.join(unknown)}; expected some of {', '.join(declared)}"
            )
        return [None if task in self.number_labels else 1 << self.binary_labels.index(task) for task in tasks]

    def task_labels(self, tasks: Sequence[str], where: Ints | slice = slice(None)) -> NDArray[np.float32]:
        """Labels of targets [.., tasks]: 0 and 1 of a binary one; a number, or nan where it has no value.

        Raises:
            LongreelError: as `label_bits`.
        """
        bits = self.label_bits(tasks)
        assert self.labels is not None
        masks = self.labels[where]
        out = np.empty((len(masks), len(bits)), np.float32)
        for column, (task, bit) in enumerate(zip(tasks, bits, strict=True)):
            out[:, column] = self.number_labels[task][where] if bit is None else (masks & bit) != 0
        return out

    def of_users(self, chosen: Ints) -> "SampleRows":
        """Only the requests of some users; the arrays of events stay whole."""
        kept = np.flatnonzero(np.isin(self.user_id[self.request_row], chosen))
        counts = self.target_counts[kept]
        targets = ranges(self.target_offsets[kept], counts)
        return replace(
            self,
            target=_taken(self.target, targets),
            labels=None if self.labels is None else self.labels[targets],
            number_labels=_taken(self.number_labels, targets),
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
            history=_tensors(self.history, events),
            history_offsets=torch.from_numpy(offsets_of(cut.events)),
            target=_tensors(self.target, targets),
            target_offsets=torch.from_numpy(offsets_of(cut.targets)),
            user=_tensors(self.user, row),
            labels=torch.from_numpy(labels),
            request_time_ms=torch.from_numpy(self.request_time_ms[requests]),
            user_id=torch.from_numpy(self.user_id[row]),
            request_index=torch.from_numpy(requests if index is None else index),
            max_history=int(cut.events.max(initial=0)),
            max_targets=int(cut.targets.max(initial=0)),
        )


def _taken(columns: Columns, where: Ints) -> Columns:
    return {name: values[where] for name, values in columns.items()}


def _tensors(columns: Columns, where: Ints) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values[where]) for name, values in columns.items()}


def _concatenated(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
