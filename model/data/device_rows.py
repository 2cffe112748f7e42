"""How do batches come together on the device? Decoded rows are copied there once, and each batch is gathered from them.

A user-day's history crosses to the device once, however many of its requests are read and however much their windows
share; what crosses for a batch is a few integers a request. Packing on the host (`SampleRows.pack`, the slow twin)
gathers and sends every request's window instead.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longreel.contracts.actions import LABELS
from longreel.contracts.jagged import Ints, offsets_of
from longreel.model.data.batch import RequestBatch
from longreel.model.data.samples import SampleRows


@dataclass(frozen=True, kw_only=True)
class DeviceRows:
    """`SampleRows` whose events, targets and labels lie on a device; what there is of requests stays on the host."""

    rows: SampleRows  # without events and targets
    device: torch.device
    history: dict[str, Tensor]  # each [all events]
    target: dict[str, Tensor]  # each [all targets]
    labels: Tensor | None  # [all targets] bitmask

    @staticmethod
    def of(rows: SampleRows, device: torch.device) -> "DeviceRows":
        """Copy rows to a device, on a stream for such copies alone: any thread may call this beside a training step."""
        stream = _copies(device) if device.type == "cuda" else None
        with torch.cuda.stream(stream):  # None: no stream is set
            moved = DeviceRows(
                rows=replace(rows, history={}, target={}),
                device=device,
                history={name: _moved(values, device) for name, values in rows.history.items()},
                target={name: _moved(values, device) for name, values in rows.target.items()},
                labels=None if rows.labels is None else _moved(rows.labels, device),
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
        """The batch that `SampleRows.pack` makes of the same arguments, on the device; nothing waits for it."""
        rows, cut = self.rows, self.rows.cut(requests, windows, skip)
        row = rows.request_row[requests]
        named = np.stack(
            [
                cut.event_starts,
                cut.target_starts,
                rows.history_lengths[requests],
                rows.request_time_ms[requests],
                rows.user_id[row],
                requests if index is None else index,
                *rows.user_features[row].T,
            ]
        )
        event_starts, target_starts, total, time, user_id, request_index, *features = self._sent(named).unbind()
        history_offsets, target_offsets = self._sent(np.stack([offsets_of(cut.events), offsets_of(cut.targets)]))
        events = _places(event_starts, history_offsets, int(cut.events.sum()))
        targets = _places(target_starts, target_offsets, int(cut.targets.sum()))
        self._in_use()
        return RequestBatch(
            history={name: values[events] for name, values in self.history.items()},
            history_offsets=history_offsets,
            history_total=total,
            target={name: values[targets] for name, values in self.target.items()},
            target_offsets=target_offsets,
            labels=self._labels(tasks, targets),
            request_time_ms=time,
            user_features=torch.stack(features, 1) if features else time.new_zeros(len(requests), 0),
            user_id=user_id,
            request_index=request_index,
            max_history=int(cut.events.max(initial=0)),
            max_targets=int(cut.targets.max(initial=0)),
        )

    def _sent(self, values: Ints) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _labels(self, tasks: Sequence[str], targets: Tensor) -> Tensor:
        if not tasks:
            return torch.zeros(len(targets), 0, device=self.device)
        if self.labels is None:
            self.rows.task_labels(tasks)  # says what is missing
        assert self.labels is not None
        masks = self.labels[targets]
        return torch.stack([(masks & LABELS[task]) != 0 for task in tasks], 1).float()

    def _in_use(self) -> None:
        """Keep the memory until what the current stream has been given so far is done, whoever drops the rows."""
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            for tensor in (*self.history.values(), *self.target.values()):
                tensor.record_stream(stream)
            if self.labels is not None:
                self.labels.record_stream(stream)


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """One for all: of every 32 new streams some is another's, and a graph may be recording on that one."""
    return torch.cuda.Stream(device)


def _moved(values: NDArray[Any], device: torch.device) -> Tensor:
    if not values.flags.writeable:  # straight from Arrow: small, or a single row group
        values = values.copy()
    return torch.from_numpy(values).to(device, non_blocking=True)


def _places(starts: Tensor, offsets: Tensor, total: int) -> Tensor:
    """`longreel.contracts.jagged.ranges` on the device: starts [B], offsets [B+1] of the ranges' lengths -> [total]."""
    moved = torch.repeat_interleave(starts - offsets[:-1], offsets.diff(), output_size=total)
    return moved + torch.arange(total, device=moved.device)
