"""Sample rows on the device: copied there once, and each batch gathered from them.

A user-day's history is copied to the device once, for any number of requests and any overlap of their windows; a batch
copies a few integers per request. Packing on the host (`SampleRows.pack`, the reference implementation) gathers and
copies every request's window instead.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreel.contracts.jagged import Ints, offsets_of
from longreel.model.data.batch import RequestBatch
from longreel.model.data.columns import Columns
from longreel.model.data.samples import SampleRows


@dataclass(frozen=True, kw_only=True)
class DeviceRows:
    """`SampleRows` with events, targets, users and labels on a device; the requests' arrays stay on the host."""

    rows: SampleRows  # without events, targets and users
    device: torch.device
    history: dict[str, Tensor]  # each [all events] or [all events, size]
    target: dict[str, Tensor]  # each [all targets] or [all targets, size]
    user: dict[str, Tensor]  # each [U] or [U, size]
    labels: Tensor | None  # [all targets] bitmask
    number_labels: dict[str, Tensor]  # each [all targets]

    @staticmethod
    def of(rows: SampleRows, device: torch.device) -> "DeviceRows":
        """Copy rows to a device, on a stream for copies only: any thread may call this during a training step."""
        stream = _copy_stream(device) if device.type == "cuda" else None
        with torch.cuda.stream(stream):  # None leaves the current stream
            moved = DeviceRows(
                rows=replace(rows, history={}, target={}, user={}),
                device=device,
                history=_copied_columns(rows.history, device),
                target=_copied_columns(rows.target, device),
                user=_copied_columns(rows.user, device),
                labels=None if rows.labels is None else _copied(rows.labels, device),
                number_labels=_copied_columns(rows.number_labels, device),
            )
        if stream is not None:
            stream.synchronize()
        return moved

    def pack(
        self,
        requests: Ints,
        windows: Ints | int,
        tasks: Sequence[str] = (),
        index: Ints | None = None,
        skip: Ints | int = 0,
    ) -> RequestBatch:
        """The batch of `SampleRows.pack` with the same arguments, on the device; the host does not wait for it."""
        rows, cut = self.rows, self.rows.cut(requests, windows, skip)
        row = rows.request_row[requests]
        per_request = np.stack(
            [
                cut.event_starts,
                cut.target_starts,
                rows.request_time_ms[requests],
                rows.user_id[row],
                requests if index is None else index,
                row,
            ]
        )
        event_starts, target_starts, time, user_id, request_index, user = self._send(per_request).unbind()
        history_offsets, target_offsets = self._send(np.stack([offsets_of(cut.events), offsets_of(cut.targets)]))
        events = _ranges(event_starts, history_offsets, int(cut.events.sum()))
        targets = _ranges(target_starts, target_offsets, int(cut.targets.sum()))
        self._record_stream()
        return RequestBatch(
            history={name: values[events] for name, values in self.history.items()},
            history_offsets=history_offsets,
            target={name: values[targets] for name, values in self.target.items()},
            target_offsets=target_offsets,
            labels=self._labels(tasks, targets),
            user={name: values[user] for name, values in self.user.items()},
            request_time_ms=time,
            user_id=user_id,
            request_index=request_index,
            max_history=int(cut.events.max(initial=0)),
            max_targets=int(cut.targets.max(initial=0)),
        )

    def _send(self, values: Ints) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _labels(self, tasks: Sequence[str], targets: Tensor) -> Tensor:
        if not tasks:
            return torch.zeros(len(targets), 0, device=self.device)
        bits = self.rows.label_bits(tasks)
        assert self.labels is not None
        masks = self.labels[targets]
        columns = [
            self.number_labels[task][targets] if bit is None else ((masks & bit) != 0).float()
            for task, bit in zip(tasks, bits, strict=True)
        ]
        return torch.stack(columns, 1)

    def _record_stream(self) -> None:
        """Keep the memory until the current stream's work so far is done, even if the rows are dropped before."""
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            columns = (*self.history.values(), *self.target.values(), *self.user.values(), *self.number_labels.values())
            for tensor in columns if self.labels is None else (*columns, self.labels):
                tensor.record_stream(stream)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all copies: new streams come from a pool of 32, and a graph may be capturing on a reused one."""
    return torch.cuda.Stream(device)


def _copied_columns(columns: Columns, device: torch.device) -> dict[str, Tensor]:
    return {name: _copied(values, device) for name, values in columns.items()}


def _copied(values: NDArray[Any], device: torch.device) -> Tensor:
    if not values.flags.writeable:  # memory of Arrow: small, or a single row group
        values = values.copy()
    return torch.from_numpy(values).to(device, non_blocking=True)


def _ranges(starts: Tensor, offsets: Tensor, total: int) -> Tensor:
    """`longreel.contracts.jagged.ranges` on the device: starts [B], offsets [B+1] of the ranges' lengths -> [total]."""
    moved = torch.repeat_interleave(starts - offsets[:-1], offsets.diff(), output_size=total)
    return moved + torch.arange(total, device=moved.device)
