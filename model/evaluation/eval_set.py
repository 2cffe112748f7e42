"""Evaluation set: labels, users and slices of a day's targets, without their events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.config import EvaluationConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.report import ALL_TARGETS
from longreel.lake.table import Lake
from longreel.model.data.row_groups import RowGroup, read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import splitmix64

Mask = NDArray[np.bool_]
Selection = Callable[[SampleRows], SampleRows]

HISTORY_BOUNDS = (32, 128, 512, 2_048)  # history lengths that part the users
MAX_SURFACES = 4  # surfaces with their own slice, those with the most targets; the others share one


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """The selected part of a day in stored order: T targets of R requests of U users."""

    labels: NDArray[np.float32]  # [T, tasks]
    user: Ints  # [T] ordinal of the user among the sorted ids
    request: Ints  # [T] ordinal of the request
    surface: Ints  # [T]
    history: Ints  # [U] history events before the user's latest request
    longest_group: int = 0  # the row group of the request with the longest history
    longest_request: int = 0  # that request's ordinal in its row group

    @property
    def longest_history(self) -> int:
        """Events of the longest history."""
        return int(self.history.max(initial=0))

    def slices(self) -> dict[str, Mask]:
        """The targets [T] of each slice, by name; slices without targets are among them."""
        length = self.history[self.user]
        slices = {ALL_TARGETS: np.ones(len(self.user), bool), "new users": length == 0, "returning users": length > 0}
        bounds = [0, *HISTORY_BOUNDS]
        for low, high in zip(bounds, [*HISTORY_BOUNDS, None], strict=True):
            if high is None:
                slices[f"history>={low}"] = length >= low
            else:
                name = f"history<{high}" if low == 0 else f"history {low}-{high - 1}"
                slices[name] = (length >= low) & (length < high)
        return slices | self._surface_slices()

    def _surface_slices(self) -> dict[str, Mask]:
        surfaces, counts = np.unique(self.surface, return_counts=True)
        if len(surfaces) <= 1:
            return {}
        largest = np.sort(surfaces[np.argsort(-counts, kind="stable")][:MAX_SURFACES])
        slices = {f"surface {surface}": self.surface == surface for surface in largest.tolist()}
        if len(surfaces) > MAX_SURFACES:
            slices["other surfaces"] = ~np.isin(self.surface, largest)
        return slices


def select_users(lake: Lake, groups: Sequence[RowGroup], settings: EvaluationConfig) -> Selection:
    """A filter of a row group's rows that keeps the chosen users: all, or those with the smallest hashes."""
    if not settings.max_users:
        return lambda rows: rows
    ids = np.unique(np.concatenate([read_rows(lake, [group]).user_id for group in groups] or [np.zeros(0, np.int64)]))
    rank = splitmix64(ids.astype(np.uint64) ^ splitmix64(np.array([settings.seed], np.uint64)))
    chosen = ids[np.argsort(rank, kind="stable")[: settings.max_users]]
    return lambda rows: rows.of_users(chosen)


def load_eval_set(lake: Lake, groups: Sequence[RowGroup], tasks: Sequence[str], selection: Selection) -> EvalSet:
    """Read a day's labels and users once, a row group at a time.

    Raises:
        LongreelError: the day has no targets.
    """
    labels, request_user, counts, lengths, surface = [], [], [], [], []
    longest = (0, 0, -1)  # row group, request, events
    for number, group in enumerate(groups):
        rows = selection(read_rows(lake, [group]))
        labels.append(rows.task_labels(tasks))
        request_user.append(rows.user_id[rows.request_row])
        counts.append(rows.target_counts)
        lengths.append(rows.history_lengths)
        surface.append(rows.target["surface"])
        if rows.num_requests and rows.history_lengths.max() > longest[2]:
            request = int(np.argmax(rows.history_lengths))
            longest = (number, request, int(rows.history_lengths[request]))
    if not sum(len(part) for part in labels):
        raise LongreelError("nothing to evaluate on: the day's samples hold no targets; choose another day")
    ids, user_of_request = np.unique(np.concatenate(request_user), return_inverse=True)
    history = np.zeros(len(ids), np.int64)
    np.maximum.at(history, user_of_request, np.concatenate(lengths))
    request_of_target: Ints = np.repeat(np.arange(len(user_of_request)), np.concatenate(counts))
    return EvalSet(
        labels=np.concatenate(labels),
        user=user_of_request[request_of_target],
        request=request_of_target,
        surface=np.concatenate(surface),
        history=history,
        longest_group=longest[0],
        longest_request=longest[1],
    )
