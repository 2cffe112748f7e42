"""Which requests are in which training batch? Seeded, balanced by tokens, and resumable to the row from two integers.

An epoch visits row groups in a seeded order, a pool of them at a time; a pool's requests are shuffled together and cut
into batches of about `batch_tokens` history events plus targets. Only the row groups of a pool are ever decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from contracts.config import TrainingConfig
from contracts.conform import conform, stored_columns
from contracts.errors import LongreelError
from contracts.lake import Lake, Manifest
from contracts.ragged import Ints, list_values, ranges
from contracts.schemas import SAMPLES
from model.batch import RequestBatch
from model.samples import SampleRows
from model.windows import WindowSampler

POOL_BYTES = 256 << 20  # decoded Parquet shuffled together: large against a batch, small against memory


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where reading stands: the next batch to be read."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One Parquet row group of a samples partition, and what its requests are numbered from."""

    path: str
    index: int
    bytes: int
    first_request: int
    num_requests: int


@dataclass(frozen=True, kw_only=True)
class _Pool:
    groups: list[RowGroup]
    requests: Ints  # numbers within the pool, in reading order
    index: Ints  # numbers within the reader, likewise
    windows: Ints
    skip: Ints  # events of each request that are newer than its window
    bounds: Ints  # batch i reads [bounds[i], bounds[i+1])


def row_groups(lake: Lake, manifests: Sequence[Manifest]) -> tuple[list[RowGroup], Ints, Ints]:
    """All row groups of some partitions, with the visible events and the targets of each of their requests."""
    groups: list[RowGroup] = []
    events: list[Ints] = [np.zeros(0, np.int64)]
    targets: list[Ints] = [np.zeros(0, np.int64)]
    first = 0
    for manifest in manifests:
        for path in lake.paths(manifest):
            with pq.ParquetFile(path, filesystem=lake.filesystem) as file:
                for g in range(file.num_row_groups):
                    table = file.read_row_group(g, columns=["request_history_end", "request_target_end"])
                    seen, _ = list_values(table, "request_history_end")
                    ends, offsets = list_values(table, "request_target_end")
                    stops = np.asarray(ends, np.int64)
                    before = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
                    before[offsets[:-1][offsets[:-1] < len(stops)]] = 0  # each row counts its targets from 0
                    events.append(np.asarray(seen, np.int64))
                    targets.append(stops - before)
                    size = file.metadata.row_group(g).total_byte_size
                    groups.append(
                        RowGroup(path=path, index=g, bytes=size, first_request=first, num_requests=len(stops))
                    )
                    first += len(stops)
    return groups, np.concatenate(events), np.concatenate(targets)


def read_rows(lake: Lake, groups: Sequence[RowGroup]) -> SampleRows:
    """Decode row groups, in the order given."""
    tables = []
    for group in groups:
        with pq.ParquetFile(group.path, filesystem=lake.filesystem) as file:
            found = file.read_row_group(group.index, columns=stored_columns(SAMPLES, file.schema_arrow.names))
            tables.append(conform(found, SAMPLES, f"samples in {group.path}"))
    return SampleRows.from_arrow(pa.concat_tables(tables) if tables else SAMPLES.empty_table())


class TrainingReader:
    """Batches of a training run over published samples partitions."""

    def __init__(self, lake: Lake, manifests: Sequence[Manifest], tasks: Sequence[str], config: TrainingConfig) -> None:
        self.lake, self.tasks, self.config = lake, tuple(tasks), config
        self.windows = WindowSampler(config)
        self.groups, self.events, self.targets = row_groups(lake, manifests)
        if not self.targets.sum():
            days = ", ".join(manifest.date for manifest in manifests)
            raise LongreelError(f"nothing to train on: the samples of {days or 'no day'} hold no targets")
        self._plans: dict[int, list[_Pool]] = {}

    @property
    def num_requests(self) -> int:
        """Requests of one epoch."""
        return len(self.events)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch; epochs differ a little, since windows do."""
        return sum(len(pool.bounds) - 1 for pool in self._plan(epoch))

    def label_rates(self) -> torch.Tensor:
        """Observed rate of each task [tasks] in the first row group that has targets, to start the logits from."""
        group = next(g for g in self.groups if self.targets[g.first_request :][: g.num_requests].sum())
        return torch.from_numpy(read_rows(self.lake, [group]).task_labels(self.tasks).mean(axis=0))

    def _plan(self, epoch: int) -> list[_Pool]:
        if epoch not in self._plans:
            rng = np.random.default_rng([self.config.seed, epoch])
            pools: list[list[RowGroup]] = []
            room = 0
            for g in rng.permutation(len(self.groups)):
                group = self.groups[g]
                if not pools or group.bytes > room:
                    pools.append([])
                    room = POOL_BYTES
                pools[-1].append(group)
                room -= group.bytes
            self._plans = {epoch: [self._pool(rng, epoch, groups) for groups in pools]}
        return self._plans[epoch]

    def _pool(self, rng: np.random.Generator, epoch: int, groups: list[RowGroup]) -> _Pool:
        counts = np.array([group.num_requests for group in groups])
        requests = rng.permutation(int(counts.sum()))
        index = ranges(np.array([group.first_request for group in groups]), counts)[requests]
        windows = self.windows.sample(epoch, index)
        skip = self.windows.skip(epoch, index, self.events[index], windows)
        ends = np.cumsum(np.minimum(self.events[index], windows) + self.targets[index])
        total = int(ends[-1]) if len(ends) else 0
        batches = max(1, round(total / self.config.batch_tokens))
        cuts = np.searchsorted(ends, np.arange(1, batches) * (total / batches)) + 1
        bounds = np.unique(np.concatenate([np.zeros(1, np.int64), cuts, [len(ends)]]))
        return _Pool(groups=groups, requests=requests, index=index, windows=windows, skip=skip, bounds=bounds)

    def batches(self, start: Position | None = None) -> Iterator[tuple[RequestBatch, Position]]:
        """Batches from a position to the end of the last epoch, each with the position after it.

        Requests of a batch come sorted by visible history, which attention over padded runs profits from.
        """
        position = start or Position()
        while position.epoch < self.config.epochs:
            skip = position.batch
            for pool in self._plan(position.epoch):
                if skip >= len(pool.bounds) - 1:
                    skip -= len(pool.bounds) - 1
                    continue
                rows = read_rows(self.lake, pool.groups)
                for i in range(skip, len(pool.bounds) - 1):
                    position = replace(position, batch=position.batch + 1)
                    yield self._pack(rows, pool, slice(pool.bounds[i], pool.bounds[i + 1])), position
                skip = 0
            position = Position(epoch=position.epoch + 1)

    def _pack(self, rows: SampleRows, pool: _Pool, part: slice) -> RequestBatch:
        requests, windows, index, skip = pool.requests[part], pool.windows[part], pool.index[part], pool.skip[part]
        order = np.argsort(np.minimum(rows.history_lengths[requests], windows), kind="stable")
        return rows.pack(requests[order], windows[order], self.tasks, index[order], skip[order])
