"""Which requests are in which training batch? Seeded, balanced by tokens, and resumable to the row from two integers.

An epoch visits row groups in a seeded order, a pool of them at a time; a pool's requests are shuffled together and cut
into batches of about `batch_tokens` history events plus targets. A pool is decoded once, however many requests read one
user-day's history, while the pool before it is being packed. Where windows grow, the pool in the middle of the training
becomes two, of other requests each.

Batches do not depend on the number of ranks: each rank plans them all and packs its own share of every one. It decodes
whole pools for that, which is the price of balancing every batch by tokens.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import torch

from longreel.contracts.config import TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.contracts.schemas import HISTORY_FIELDS, SAMPLES
from longreel.lake.manifest import Manifest
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.device_rows import DeviceRows
from longreel.model.data.samples import SampleRows, without_request_ids
from longreel.model.data.windows import Distribution, MakeWindows, WindowSampler, distribution

POOL_BYTES = 384 << 20  # decoded values shuffled together: large against a batch; two pools are in memory at a time
MAX_THREADS = {"cpu": 8, "cuda": 16}  # that decode; enough for any step yet measured
_TORCH = {np.int64: torch.int64, np.int32: torch.int32}


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
    bytes: int  # decoded, about
    max_events: int  # no more history events than this
    first_request: int
    num_requests: int


@dataclass(frozen=True, kw_only=True)
class Largest:
    """What no batch of an epoch is larger than; batches that are to have few shapes are filled up to about this."""

    requests: int = 0  # likewise targets: of a whole batch, spread evenly over the ranks
    targets: int = 0
    max_history: int = 0
    max_targets: int = 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's part of a batch, which may be empty, and what every rank knows of the whole batch."""

    batch: RequestBatch
    position: Position  # after it
    num_requests: int  # of all ranks, likewise below
    num_targets: int
    num_events: int
    num_pairs: int  # of targets and the events that they read
    largest: Largest  # of the epoch's batches with windows of the same phase


@dataclass(frozen=True, kw_only=True)
class _Pool:
    groups: list[RowGroup]
    requests: Ints  # numbers within the pool, in reading order
    index: Ints  # numbers within the reader, likewise
    windows: Ints
    skip: Ints  # events of each request that are newer than its window
    bounds: Ints  # batch i reads [bounds[i], bounds[i+1])
    phase: int = 0  # of the windows, see model/data/windows.py


def row_groups(lake: Lake, manifests: Sequence[Manifest]) -> tuple[list[RowGroup], Ints, Ints]:
    """All row groups of some partitions, with the visible events and the targets of each of their requests."""
    groups: list[RowGroup] = []
    events: list[Ints] = [np.zeros(0, np.int64)]
    targets: list[Ints] = [np.zeros(0, np.int64)]
    first = 0
    for manifest in manifests:
        for path in lake.paths(manifest):
            with lake.open_parquet(path) as file:
                for g in range(file.num_row_groups):
                    table = file.read_row_group(g, columns=["request_history_end", "request_target_end"])
                    seen, _ = list_values(table, "request_history_end")
                    ends, offsets = list_values(table, "request_target_end")
                    stops = np.asarray(ends, np.int64)
                    before = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
                    before[offsets[:-1][offsets[:-1] < len(stops)]] = 0  # each row counts its targets from 0
                    events.append(np.asarray(seen, np.int64))
                    targets.append(stops - before)
                    size, most = _decoded_size(file.metadata.row_group(g))
                    groups.append(
                        RowGroup(
                            path=path,
                            index=g,
                            bytes=size,
                            max_events=most,
                            first_request=first,
                            num_requests=len(stops),
                        )
                    )
                    first += len(stops)
    return groups, np.concatenate(events), np.concatenate(targets)


def _decoded_size(meta: pq.RowGroupMetaData) -> tuple[int, int]:
    """Bytes of a row group once decoded, and its history events; both at most, an empty list counting as a value.

    Parquet's own sizes are of encoded pages, often a fifth of that.
    """
    columns = [meta.column(i) for i in range(meta.num_columns)]
    events = next(c.num_values for c in columns if c.path_in_schema.startswith("history_time_ms."))
    return sum(8 * int(c.num_values) for c in columns), int(events)


def deal(tokens: Ints, ranks: int) -> list[Ints]:
    """Split requests over ranks so that their tokens are even: the largest first, each to the rank with the least.

    tokens [B] -> for each rank the numbers of its requests, in the order given. Some are empty where B < ranks.
    """
    if ranks == 1:
        return [np.arange(len(tokens))]
    loads = [(0, rank) for rank in range(ranks)]
    mine: list[list[int]] = [[] for _ in range(ranks)]
    for request in np.argsort(-tokens, kind="stable").tolist():
        load, rank = heapq.heappop(loads)
        mine[rank].append(request)
        heapq.heappush(loads, (load + int(tokens[request]), rank))
    return [np.array(sorted(each), np.int64) for each in mine]


def even_pools(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Row groups in the order given, in as few pools of about POOL_BYTES as hold them, all about as large."""
    sizes = np.array([group.bytes for group in groups], np.int64)
    total = max(1, int(sizes.sum()))
    pools: list[list[RowGroup]] = [[] for _ in range(-(-total // POOL_BYTES))]
    for group, place in zip(groups, (np.cumsum(sizes) - sizes / 2) * len(pools) / total, strict=True):
        pools[min(int(place), len(pools) - 1)].append(group)
    return [pool for pool in pools if pool]


def read_rows(lake: Lake, groups: Sequence[RowGroup], threads: int = 1, for_card: bool = False) -> SampleRows:
    """Decode row groups, in the order given.

    `for_card`: every core may decode, columns beside one another, into page-locked memory, from which a card copies.
    """
    if not groups:
        return SampleRows.from_arrow(without_request_ids(SAMPLES).empty_table())
    if len(groups) == 1:
        return _read_group(lake, groups[0], for_card)
    starts = offsets_of(np.array([group.max_events for group in groups])).tolist()
    # Filled part by part: decoded parts need not all be in memory at once, nor be copied one after another.
    history = {
        name: torch.empty(starts[-1], dtype=_TORCH[kind.to_pandas_dtype()], pin_memory=for_card).numpy()
        for name, kind in HISTORY_FIELDS.items()
    }

    def decode(group: RowGroup, start: int) -> SampleRows:
        part = _read_group(lake, group, for_card)
        for name, values in part.history.items():
            history[name][start : start + len(values)] = values
        return replace(part, history={})

    with ThreadPoolExecutor(threads, "decode") as workers:
        parts = list(workers.map(decode, groups, starts[:-1]))
    return SampleRows.concat(parts, history, starts[:-1])


def _read_group(lake: Lake, group: RowGroup, use_threads: bool) -> SampleRows:
    schema = without_request_ids(SAMPLES)
    with lake.open_parquet(group.path) as file:
        found = file.read_row_group(
            group.index, columns=stored_columns(schema, file.schema_arrow.names), use_threads=use_threads
        )
    return SampleRows.from_arrow(to_schema(found, schema, f"samples in {group.path}"))


def decoding_threads(device: torch.device) -> int:
    """Threads that decode for one rank: on a CPU half of its cores, as the step wants some too, else all but two."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_THREADS[device.type], cores // 2 if device.type == "cpu" else cores - 2))


class TrainingReader:
    """Batches of a training run over published samples partitions, or one rank's shares of them, on its device."""

    def __init__(
        self,
        lake: Lake,
        manifests: Sequence[Manifest],
        tasks: Sequence[str],
        config: TrainingConfig,
        *,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        make_windows: MakeWindows = WindowSampler,
    ) -> None:
        self.lake, self.tasks, self.config = lake, tuple(tasks), config
        self.rank, self.ranks, self.device = rank, ranks, device
        self.windows = make_windows(config)
        self.groups, self.events, self.targets = row_groups(lake, manifests)
        if not self.targets.sum():
            days = ", ".join(manifest.date for manifest in manifests)
            raise LongreelError(f"nothing to train on: the samples of {days or 'no day'} hold no targets")
        self._plans: dict[int, list[_Pool]] = {}  # of the newest epoch asked for
        self._num_batches: dict[int, int] = {}
        self._largest: dict[tuple[int, int], Largest] = {}  # of the batches of an epoch and phase

    @property
    def num_requests(self) -> int:
        """Requests of one epoch."""
        return len(self.events)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch; epochs differ a little, since windows do."""
        if epoch not in self._num_batches:
            self._plan(epoch)
        return self._num_batches[epoch]

    def reads(self) -> tuple[Ints, Distribution]:
        """Events that every request sees in every epoch [epochs, num_requests] int64, and the windows behind them."""
        drawn = np.zeros((self.config.epochs, self.num_requests), np.int64)
        for epoch in range(self.config.epochs):
            for pool in self._plan(epoch):
                drawn[epoch, pool.index] = pool.windows
        return np.minimum(self.events, drawn), distribution(self.windows, drawn.ravel())

    def first_rows(self) -> SampleRows:
        """The first row group that has targets."""
        group = next(g for g in self.groups if self.targets[g.first_request :][: g.num_requests].sum())
        return read_rows(self.lake, [group])

    def label_rates(self) -> torch.Tensor:
        """Observed rate of each task [tasks] in the first rows, to start the logits from."""
        return torch.from_numpy(self.first_rows().task_labels(self.tasks).mean(axis=0))

    def _plan(self, epoch: int) -> list[_Pool]:
        if epoch not in self._plans:
            rng = np.random.default_rng([self.config.seed, epoch])
            groups = [self.groups[g] for g in rng.permutation(len(self.groups))]
            pools: list[_Pool] = []
            before = epoch * self.num_requests
            for each in even_pools(groups):
                requests = rng.permutation(sum(group.num_requests for group in each))
                for phase, part in self._phases(requests, before):
                    pools.append(self._pool(epoch, phase, each, part))
                before += len(requests)
            self._plans = {epoch: pools}
            self._num_batches[epoch] = sum(len(pool.bounds) - 1 for pool in pools)
            for phase in range(len(self.windows.phases)):
                self._largest[epoch, phase] = self._largest_of([pool for pool in pools if pool.phase == phase])
        return self._plans[epoch]

    def _phases(self, requests: Ints, before: int) -> Iterator[tuple[int, Ints]]:
        """A pool's requests by the phase of their windows; the training reads `before` others first."""
        if len(self.windows.phases) == 1:
            yield 0, requests
            return
        half = min(max(self.config.epochs * self.num_requests // 2 - before, 0), len(requests))
        yield from ((phase, part) for phase, part in enumerate([requests[:half], requests[half:]]) if len(part))

    def _pool(self, epoch: int, phase: int, groups: list[RowGroup], requests: Ints) -> _Pool:
        counts = np.array([group.num_requests for group in groups])
        index = ranges(np.array([group.first_request for group in groups]), counts)[requests]
        windows = self.windows.sample(epoch, index, phase)
        skip = self.windows.skip(epoch, index, self.events[index], windows)
        ends = np.cumsum(np.minimum(self.events[index], windows) + self.targets[index])
        total = int(ends[-1]) if len(ends) else 0
        batches = max(1, round(total / self.config.batch_tokens))
        cuts = np.searchsorted(ends, np.arange(1, batches) * (total / batches)) + 1
        bounds = np.unique(np.concatenate([np.zeros(1, np.int64), cuts, [len(ends)]]))
        return _Pool(
            groups=groups, requests=requests, index=index, windows=windows, skip=skip, bounds=bounds, phase=phase
        )

    def _largest_of(self, pools: list[_Pool]) -> Largest:
        pools = [pool for pool in pools if len(pool.index)]
        if not pools:
            return Largest()
        targets = [self.targets[pool.index] for pool in pools]
        batches = [np.add.reduceat(each, pool.bounds[:-1]) for each, pool in zip(targets, pools, strict=True)]
        return Largest(
            requests=-(-max(int(np.diff(pool.bounds).max()) for pool in pools) // self.ranks),
            targets=-(-max(int(each.max()) for each in batches) // self.ranks),
            max_history=max(int(np.minimum(self.events[pool.index], pool.windows).max()) for pool in pools),
            max_targets=max(int(each.max()) for each in targets),
        )

    def shares(self, start: Position | None = None) -> Iterator[Share]:
        """This rank's shares of the batches from a position to the end of the last epoch.

        Requests of a share come sorted by visible history, which attention over padded runs profits from.
        """
        with ThreadPoolExecutor(1, "ahead") as ahead:
            threads = decoding_threads(self.device)
            coming = self._pools(start or Position())
            now = next(coming, None)
            rows = None if now is None else ahead.submit(self._decode, now[0].groups, threads)
            while now is not None and rows is not None:
                (pool, first, position), decoded = now, rows.result()
                now = next(coming, None)
                rows = None if now is None else ahead.submit(self._decode, now[0].groups, threads)
                for i in range(first, len(pool.bounds) - 1):
                    position = replace(position, batch=position.batch + 1)
                    ended = position.batch == self._num_batches[position.epoch]
                    after = Position(epoch=position.epoch + 1) if ended else position
                    share = self._share(decoded, pool, slice(pool.bounds[i], pool.bounds[i + 1]), after)
                    yield replace(share, largest=self._largest[position.epoch, pool.phase])

    def _decode(self, groups: list[RowGroup], threads: int) -> SampleRows | DeviceRows:
        rows = read_rows(self.lake, groups, threads, for_card=self.device.type == "cuda")
        return rows if self.device.type == "cpu" else DeviceRows.of(rows, self.device)

    def _pools(self, position: Position) -> Iterator[tuple[_Pool, int, Position]]:
        """Pools from a position on, each with the number of its first batch to be read and the position of that."""
        for epoch in range(position.epoch, self.config.epochs):
            plan, before = self._plan(epoch), 0
            skip = position.batch if epoch == position.epoch else 0
            for pool in plan:
                batches = len(pool.bounds) - 1
                if skip < before + batches:
                    first = max(0, skip - before)
                    yield pool, first, Position(epoch=epoch, batch=before + first)
                before += batches

    def _share(self, rows: SampleRows | DeviceRows, pool: _Pool, part: slice, position: Position) -> Share:
        requests, windows, index, skip = pool.requests[part], pool.windows[part], pool.index[part], pool.skip[part]
        lengths, targets = np.minimum(self.events[index], windows), self.targets[index]
        mine = deal(lengths + targets, self.ranks)[self.rank]
        mine = mine[np.argsort(lengths[mine], kind="stable")]
        return Share(
            batch=rows.pack(requests[mine], windows[mine], self.tasks, index[mine], skip[mine]),
            position=position,
            num_requests=len(requests),
            num_targets=int(targets.sum()),
            num_events=int(lengths.sum()),
            num_pairs=int(lengths @ targets),
            largest=Largest(),
        )
