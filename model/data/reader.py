"""Training batches in a seeded order, balanced by tokens, resumable at any batch from two integers.

An epoch visits row groups in a seeded order, a shuffle buffer of them at a time. The buffer's requests are shuffled
together and cut into batches of about `batch_tokens` history events plus targets. A buffer is decoded once, while the
one before it is being packed, however many requests read one user-day's history. With a window curriculum the buffer in
the middle of the training becomes two, of other requests each.

Batches do not depend on the number of ranks: each rank plans them all and packs its own part of every one. It decodes
whole buffers for that, which is the price of balancing every batch by tokens.
"""

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from longreel.contracts.config import TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints, ranges
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.device_rows import DeviceRows
from longreel.model.data.row_groups import RowGroup, num_decode_threads, read_rows, row_groups
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import MakeWindows, WindowSampler

BUFFER_BYTES = 384 << 20  # decoded values shuffled together: large against a batch; two buffers are in memory at a time


@dataclass(frozen=True, kw_only=True)
class ReaderState:
    """The next batch to read."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class ShapeLimits:
    """Upper bounds over the batches of an epoch and window phase; requests and targets are an even part for each rank.

    Padding to about these sizes gives batches few shapes (model/training/padding.py).
    """

    requests: int = 0
    targets: int = 0
    max_history: int = 0
    max_targets: int = 0


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """One rank's part of a batch, possibly without requests, and the sizes of the whole batch."""

    batch: RequestBatch
    next_state: ReaderState
    num_requests: int  # this and the following are sums over all ranks
    num_targets: int
    num_events: int
    num_pairs: int  # of targets and the events that they attend to
    limits: ShapeLimits = field(default_factory=ShapeLimits)


@dataclass(frozen=True, kw_only=True)
class ShuffleBuffer:
    """Row groups whose requests [P] are shuffled together, and the batches that they are cut into."""

    groups: list[RowGroup]
    requests: Ints  # [P] ordinals within the buffer, in reading order
    index: Ints  # [P] ordinals within the reader, in the same order
    windows: Ints  # [P] events
    skip: Ints  # [P] events of each request that are newer than its window
    bounds: Ints  # [batches + 1]: batch i reads requests[bounds[i] : bounds[i+1]]
    phase: int = 0  # of the window curriculum, see model/data/windows.py
    limits: ShapeLimits = field(default_factory=ShapeLimits)

    @property
    def num_batches(self) -> int:
        """Batches of the buffer."""
        return len(self.bounds) - 1


def balance_by_tokens(tokens: Ints, ranks: int) -> list[Ints]:
    """Split requests over ranks so that their tokens are even: the largest first, each to the rank with the least.

    tokens [B] -> for each rank the ordinals of its requests, in the order given. Some are empty where B < ranks.
    """
    if ranks == 1:
        return [np.arange(len(tokens))]
    loads = [(0, rank) for rank in range(ranks)]
    by_rank: list[list[int]] = [[] for _ in range(ranks)]
    for request in np.argsort(-tokens, kind="stable").tolist():
        load, rank = heapq.heappop(loads)
        by_rank[rank].append(request)
        heapq.heappush(loads, (load + int(tokens[request]), rank))
    return [np.array(sorted(requests), np.int64) for requests in by_rank]


def even_buffers(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Row groups in the order given, in as few buffers of about BUFFER_BYTES as hold them, all about as large."""
    sizes = np.array([group.size_bytes for group in groups], np.int64)
    total = max(1, int(sizes.sum()))
    buffers: list[list[RowGroup]] = [[] for _ in range(-(-total // BUFFER_BYTES))]
    for group, place in zip(groups, (np.cumsum(sizes) - sizes / 2) * len(buffers) / total, strict=True):
        buffers[min(int(place), len(buffers) - 1)].append(group)
    return [buffer for buffer in buffers if buffer]


class TrainingReader:
    """Batches of a training run over published samples partitions, or one rank's part of each, on its device."""

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
        self._plans: dict[int, list[ShuffleBuffer]] = {}  # by epoch; only the newest is kept
        self._num_batches: dict[int, int] = {}  # by epoch

    @property
    def num_requests(self) -> int:
        """Requests of one epoch."""
        return len(self.events)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch; epochs differ a little, since windows do."""
        if epoch not in self._num_batches:
            self._plan(epoch)
        return self._num_batches[epoch]

    def drawn_windows(self) -> Ints:
        """The window of every request in every epoch: [epochs, num_requests] int64, events."""
        drawn = np.zeros((self.config.epochs, self.num_requests), np.int64)
        for epoch in range(self.config.epochs):
            for buffer in self._plan(epoch):
                drawn[epoch, buffer.index] = buffer.windows
        return drawn

    def first_rows(self) -> SampleRows:
        """The first row group that has targets."""
        group = next(g for g in self.groups if self.targets[g.first_request :][: g.num_requests].sum())
        return read_rows(self.lake, [group])

    def label_rates(self) -> torch.Tensor:
        """Mean of each task's labels [tasks] in the first rows, to start the logits from; 0 of a task without any."""
        labels = torch.from_numpy(self.first_rows().task_labels(self.tasks))
        return labels.nanmean(dim=0).nan_to_num()

    def batches(self, start: ReaderState | None = None) -> Iterator[RankBatch]:
        """This rank's parts of the batches from a state to the end of the last epoch.

        Their requests come sorted by visible history: attention over padded histories is faster so.
        """
        for buffer, first, before, rows in self._decoded_buffers(start or ReaderState()):
            state = before
            for number in range(first, buffer.num_batches):
                state = self._after(state)
                yield self._rank_batch(rows, buffer, number, state)

    def _plan(self, epoch: int) -> list[ShuffleBuffer]:
        if epoch not in self._plans:
            rng = np.random.default_rng([self.config.seed, epoch])
            groups = [self.groups[g] for g in rng.permutation(len(self.groups))]
            buffers: list[ShuffleBuffer] = []
            read_before = epoch * self.num_requests
            for some in even_buffers(groups):
                requests = rng.permutation(sum(group.num_requests for group in some))
                for phase, part in self._phases(requests, read_before):
                    buffers.append(self._buffer(epoch, phase, some, part))
                read_before += len(requests)
            self._plans = {epoch: self._with_limits(buffers)}
            self._num_batches[epoch] = sum(buffer.num_batches for buffer in buffers)
        return self._plans[epoch]

    def _phases(self, requests: Ints, read_before: int) -> Iterator[tuple[int, Ints]]:
        """A buffer's requests by the phase of their windows; the training reads `read_before` others first."""
        if len(self.windows.phases) == 1:
            yield 0, requests
            return
        half = min(max(self.config.epochs * self.num_requests // 2 - read_before, 0), len(requests))
        yield from ((phase, part) for phase, part in enumerate([requests[:half], requests[half:]]) if len(part))

    def _buffer(self, epoch: int, phase: int, groups: list[RowGroup], requests: Ints) -> ShuffleBuffer:
        counts = np.array([group.num_requests for group in groups])
        index = ranges(np.array([group.first_request for group in groups]), counts)[requests]
        windows = self.windows.sample(epoch, index, phase)
        skip = self.windows.skip(epoch, index, self.events[index], windows)
        ends = np.cumsum(np.minimum(self.events[index], windows) + self.targets[index])
        total = int(ends[-1]) if len(ends) else 0
        batches = max(1, round(total / self.config.batch_tokens))
        cuts = np.searchsorted(ends, np.arange(1, batches) * (total / batches)) + 1
        bounds = np.unique(np.concatenate([np.zeros(1, np.int64), cuts, [len(ends)]]))
        return ShuffleBuffer(
            groups=groups, requests=requests, index=index, windows=windows, skip=skip, bounds=bounds, phase=phase
        )

    def _with_limits(self, buffers: list[ShuffleBuffer]) -> list[ShuffleBuffer]:
        """An epoch's buffers, each with the limits of all batches of its phase."""
        limits = {
            phase: self._limits([buffer for buffer in buffers if buffer.phase == phase])
            for phase in {buffer.phase for buffer in buffers}
        }
        return [replace(buffer, limits=limits[buffer.phase]) for buffer in buffers]

    def _limits(self, buffers: list[ShuffleBuffer]) -> ShapeLimits:
        buffers = [buffer for buffer in buffers if len(buffer.index)]
        if not buffers:
            return ShapeLimits()
        targets = [self.targets[buffer.index] for buffer in buffers]
        by_batch = [np.add.reduceat(t, buffer.bounds[:-1]) for t, buffer in zip(targets, buffers, strict=True)]
        return ShapeLimits(
            requests=-(-max(int(np.diff(buffer.bounds).max()) for buffer in buffers) // self.ranks),
            targets=-(-max(int(t.max()) for t in by_batch) // self.ranks),
            max_history=max(int(np.minimum(self.events[b.index], b.windows).max()) for b in buffers),
            max_targets=max(int(t.max()) for t in targets),
        )

    def _buffers_from(self, start: ReaderState) -> Iterator[tuple[ShuffleBuffer, int, ReaderState]]:
        """Buffers from a state on, each with the number of its first batch to read and that batch's state."""
        for epoch in range(start.epoch, self.config.epochs):
            before = 0
            skip = start.batch if epoch == start.epoch else 0
            for buffer in self._plan(epoch):
                if skip < before + buffer.num_batches:
                    first = max(0, skip - before)
                    yield buffer, first, ReaderState(epoch=epoch, batch=before + first)
                before += buffer.num_batches

    def _decoded_buffers(
        self, start: ReaderState
    ) -> Iterator[tuple[ShuffleBuffer, int, ReaderState, SampleRows | DeviceRows]]:
        """`_buffers_from` with their rows; the next buffer is decoded while this one is being read."""
        current: tuple[ShuffleBuffer, int, ReaderState, Future[SampleRows | DeviceRows]] | None = None
        with ThreadPoolExecutor(1, "decode-ahead") as executor:
            for buffer, first, state in self._buffers_from(start):
                following = (buffer, first, state, executor.submit(self._decode, buffer.groups))
                if current is not None:
                    yield *current[:3], current[3].result()
                current = following
            if current is not None:
                yield *current[:3], current[3].result()

    def _decode(self, groups: list[RowGroup]) -> SampleRows | DeviceRows:
        threads, on_cuda = num_decode_threads(self.device), self.device.type == "cuda"
        rows = read_rows(self.lake, groups, threads=threads, pin_memory=on_cuda)
        return rows if self.device.type == "cpu" else DeviceRows.of(rows, self.device)

    def _after(self, state: ReaderState) -> ReaderState:
        """The state once the batch at `state` is read."""
        ended = state.batch + 1 == self.num_batches(state.epoch)
        return ReaderState(epoch=state.epoch + 1) if ended else replace(state, batch=state.batch + 1)

    def _rank_batch(
        self, rows: SampleRows | DeviceRows, buffer: ShuffleBuffer, number: int, next_state: ReaderState
    ) -> RankBatch:
        part = slice(buffer.bounds[number], buffer.bounds[number + 1])
        requests, windows, index, skip = (
            buffer.requests[part],
            buffer.windows[part],
            buffer.index[part],
            buffer.skip[part],
        )
        lengths, targets = np.minimum(self.events[index], windows), self.targets[index]
        own = balance_by_tokens(lengths + targets, self.ranks)[self.rank]
        own = own[np.argsort(lengths[own], kind="stable")]
        return RankBatch(
            batch=rows.pack(requests[own], windows[own], self.tasks, index[own], skip[own]),
            next_state=next_state,
            num_requests=len(requests),
            num_targets=int(targets.sum()),
            num_events=int(lengths.sum()),
            num_pairs=int(lengths @ targets),
            limits=buffer.limits,
        )
