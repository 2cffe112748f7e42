"""Golden requests and logits: synthetic requests, kept beside the weights with the logits of the model in memory.

Scoring them again with the saved model shows whether what was saved is what was trained. The requests hold items that
training saw, in random order: the tables' trained rows are read, and the model folder holds no user's history. They are
scored in float32 on any device, so that weights are compared and not a device's rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from longreel.contracts.history_cutoff import history_cutoff_ms
from longreel.contracts.jagged import Ints, offsets_of
from longreel.contracts.schemas import dataset_schemas
from longreel.model.data.batch import RequestBatch
from longreel.model.data.columns import Columns
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import golden_file, load_log_schema

Sizes = tuple[int, int, int]  # requests, at most that many events of each, and targets of each
KEPT_SIZES: Sizes = (16, 512, 12)
ITEMS = 256  # distinct: few, so that targets recur in the histories and attention has something to match
NOW_MS = 1_750_000_000_000
OLDEST_S = 365 * 86_400


def make_requests(rows: SampleRows, seed: int, sizes: Sizes = KEPT_SIZES) -> RequestBatch:
    """Requests with items, outcomes and users drawn from `rows`, one without history and one with the longest.

    An item is drawn whole, with its request; every other column by itself, and actions and times at random. Numbers of
    events and targets are a function of seed and sizes alone.
    """
    rng = np.random.default_rng(seed)
    requests, max_events, max_targets = sizes
    lengths = rng.integers(1, max_events, requests)
    lengths[:2] = 0, max_events
    counts = rng.integers(1, max_targets + 1, requests)
    shown = rng.integers(0, len(rows.target["item_id"]), ITEMS)
    starts = offsets_of(lengths)
    events = int(starts[-1])

    def items(number: int) -> Columns:
        chosen = shown[rng.integers(0, ITEMS, number)]
        return {name: values[chosen] for name, values in rows.target.items()}

    cutoff_ms = history_cutoff_ms(np.array([NOW_MS]), rows.log_schema)
    ages_s = np.exp(rng.uniform(0, np.log(OLDEST_S), events))
    history = items(events) | {
        "time_ms": cutoff_ms - 1_000 - (1_000 * _descending(ages_s, starts)).astype(np.int64),
        "actions": rng.integers(0, 1 << len(rows.log_schema.actions), events),
    }
    history |= {name: _drawn(rng, values, events) for name, values in rows.history.items() if name not in history}
    golden_rows = SampleRows(
        log_schema=rows.log_schema,
        user_id=np.arange(requests),
        user={name: _drawn(rng, values, requests) for name, values in rows.user.items()},
        history={name: history[name].astype(values.dtype, copy=False) for name, values in rows.history.items()},
        target=items(int(counts.sum())),
        labels=None,
        number_labels={},
        request_row=np.arange(requests),
        request_time_ms=np.full(requests, NOW_MS),
        history_start=starts[:-1],
        history_stop=starts[1:],
        target_offsets=offsets_of(counts),
    )
    return golden_rows.pack(np.arange(requests), max_events)


def _drawn(rng: np.random.Generator, values: NDArray[Any], number: int) -> NDArray[Any]:
    """Elements of a column [n, ...] drawn at random: [number, ...]; zeros where it has none."""
    if not len(values):
        return np.zeros((number, *values.shape[1:]), values.dtype)
    return values[rng.integers(0, len(values), number)]


def _descending(ages: NDArray[np.float64], starts: Ints) -> NDArray[np.float64]:
    """Ages sorted within each request: oldest first."""
    request = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return ages[np.lexsort((-ages, request))]


def float32_logits(ranker: Ranker, batch: RequestBatch, device: torch.device) -> NDArray[np.float32]:
    """Logits [T, tasks] in float32, without dropout and without the compiled blocks."""
    training = ranker.training
    ranker.eval()
    eager: Any = torch.compiler.set_stance("force_eager")
    try:
        with torch.inference_mode(), eager, _any_kernel(), torch.autocast(device.type, enabled=False):
            return np.asarray(ranker(batch.to(device)).float().cpu().numpy())
    finally:
        ranker.train(training)


@contextmanager
def _any_kernel() -> Iterator[None]:
    """Allow kernels without a fixed order of additions.

    Float32 on CUDA takes some that training does not, and they must not fail a training at its last step.
    """
    strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(strict, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)


def tensors(ranker: Ranker, batch: RequestBatch, device: torch.device) -> dict[str, Tensor]:
    """A batch and its logits by `ranker`, as named tensors to be saved."""
    named = {f"history.{name}": values for name, values in batch.history.items()}
    named |= {f"target.{name}": values for name, values in batch.target.items()}
    named |= {f"user.{name}": values for name, values in batch.user.items()}
    for name in ("history_offsets", "target_offsets", "request_time_ms"):
        named[name] = getattr(batch, name)
    return named | {"logits": torch.from_numpy(float32_logits(ranker, batch, device))}


def read(folder: Path) -> tuple[RequestBatch, NDArray[np.float32]] | None:
    """The golden batch and logits [T, tasks] of a model folder; None where it has none. Raises as `golden_file`."""
    if (path := golden_file(folder)) is None:
        return None
    named = load_file(path)

    def fields(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): values for name, values in named.items() if name.startswith(prefix)}

    requests, lengths = len(named["request_time_ms"]), named["history_offsets"].diff()
    batch = RequestBatch(
        history=fields("history."),
        history_offsets=named["history_offsets"],
        target=fields("target."),
        target_offsets=named["target_offsets"],
        user=fields("user."),
        labels=torch.zeros(len(named["logits"]), 0),
        request_time_ms=named["request_time_ms"],
        user_id=torch.arange(requests),
        request_index=torch.arange(requests),
        max_history=int(lengths.max()),
        max_targets=int(named["target_offsets"].diff().max()),
    )
    return batch, named["logits"].numpy()


def example_request(folder: Path) -> pa.Table | None:
    """A golden request of a model folder as a request table to score: that with the shortest history that has an event.

    None where the folder has none.
    """
    golden = read(folder)
    if golden is None:
        return None
    batch, _ = golden
    lengths = batch.history_offsets.diff()
    chosen = int(torch.where(lengths > 0, lengths, lengths.max() + 1).argmin())
    (events, num_events), (targets, num_targets) = (
        (slice(int(offsets[chosen]), int(offsets[chosen + 1])), int(offsets.diff()[chosen]))
        for offsets in (batch.history_offsets, batch.target_offsets)
    )
    row: dict[str, Any] = {
        "user_id": 0,
        "request_id": ["example"],
        "request_time_ms": [int(batch.request_time_ms[chosen])],
        "request_history_end": [num_events],
        "request_target_end": [num_targets],
    }
    row |= {f"user_{name}": values[chosen].tolist() for name, values in batch.user.items()}
    row |= {f"history_{name}": values[events].flatten().tolist() for name, values in batch.history.items()}
    row |= {f"target_{name}": values[targets].flatten().tolist() for name, values in batch.target.items()}
    return pa.Table.from_pylist([row], schema=dataset_schemas(load_log_schema(folder)).request_table)
