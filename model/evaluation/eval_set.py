"""Evaluation set: labels, users and slices of a day's targets, without their events.

Slices are by history length, and by every declared category of items, requests and users, with the names that its
values have in the log.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.config import EvaluationConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import UNKNOWN, Field, LogSchema
from longreel.contracts.report import ALL_TARGETS
from longreel.lake.table import Lake
from longreel.model.data.row_groups import RowGroup, read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import splitmix64

Mask = NDArray[np.bool_]
Codes = NDArray[np.int32]
Names = dict[str, dict[int, str]]  # of the codes of category fields
Selection = Callable[[SampleRows], SampleRows]

HISTORY_BOUNDS = (32, 128, 512, 2_048)  # history lengths that part the users
MAX_VALUES = 4  # values of a category with their own slice, those with the most targets; the others share one


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """The selected part of a day in stored order: T targets of R requests of U users."""

    labels: NDArray[np.float32]  # [T, tasks]
    user: Ints  # [T] ordinal of the user among the sorted ids
    request: Ints  # [T] ordinal of the request
    history: Ints  # [U] history events before the user's latest request
    categories: dict[str, Codes] = field(default_factory=dict)  # by field name, each [T]
    names: Names = field(default_factory=dict)
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
        for name in self.categories:
            slices |= self._category_slices(name)
        return slices

    def _category_slices(self, name: str) -> dict[str, Mask]:
        """The slices of a category's most frequent values, and of all others; none where it has one value."""
        codes, names = self.categories[name], self.names.get(name, {})
        values, counts = np.unique(codes, return_counts=True)
        if len(values) <= 1:
            return {}
        frequent = values[np.argsort(-counts, kind="stable")][:MAX_VALUES]
        slices = {
            f"{name}={'unknown' if code == UNKNOWN else names.get(code, code)}": codes == code
            for code in frequent.tolist()
        }
        if len(values) > MAX_VALUES:
            slices[f"other {name}"] = ~np.isin(codes, frequent)
        return slices


def category_names(lake: Lake, day: date) -> Names:
    """Names of the values of category fields, by field and code, from the manifests of a day's events and users."""
    manifests = [lake.manifest(dataset, day) for dataset in ("events", "users")]
    categories = [manifest.details.get("categories", {}) for manifest in manifests if manifest is not None]
    return {
        field: {code: text for code, text, _ in values} for by_field in categories for field, values in by_field.items()
    }


def select_users(lake: Lake, groups: Sequence[RowGroup], settings: EvaluationConfig) -> Selection:
    """A filter of a row group's rows that keeps the chosen users: all, or those with the smallest hashes."""
    if not settings.max_users:
        return lambda rows: rows
    ids = np.unique(np.concatenate([_user_ids(lake, group) for group in groups] or [np.zeros(0, np.int64)]))
    rank = splitmix64(ids.astype(np.uint64) ^ splitmix64(np.array([settings.seed], np.uint64)))
    chosen = ids[np.argsort(rank, kind="stable")[: settings.max_users]]
    return lambda rows: rows.of_users(chosen)


def _user_ids(lake: Lake, group: RowGroup) -> Ints:
    with lake.open_parquet(group.file) as file:
        table = file.read_row_group(group.index, columns=["user_id"])
    return np.asarray(table.column("user_id").to_numpy())


def _codes(rows: SampleRows, category: Field) -> Codes:
    """A category's value of each target: [T]."""
    if category.place == "user":
        return rows.user[category.name][np.repeat(rows.request_row, rows.target_counts)]
    return rows.target[category.name]


def load_eval_set(
    lake: Lake,
    groups: Sequence[RowGroup],
    tasks: Sequence[str],
    selection: Selection,
    *,
    log_schema: LogSchema | None = None,
    names: Names | None = None,
) -> EvalSet:
    """Read a day's labels, users and categories once, a row group at a time.

    Args:
        log_schema: of the fields that make slices, a model's; by default the lake's.
        names: as `category_names` reads them.

    Raises:
        LongreelError: the day has no targets.
    """
    log_schema = log_schema or lake.log_schema
    slice_fields = [f for f in log_schema.of_place("item", "request", "user") if f.kind == "category"]
    labels, request_user, counts, lengths = [], [], [], []
    categories: dict[str, list[Codes]] = {f.name: [] for f in slice_fields}
    longest = (0, 0, -1)  # row group, request, events
    for number, group in enumerate(groups):
        rows = selection(read_rows(lake, [group], log_schema))
        labels.append(rows.task_labels(tasks))
        request_user.append(rows.user_id[rows.request_row])
        counts.append(rows.target_counts)
        lengths.append(rows.history_lengths)
        for f in slice_fields:
            categories[f.name].append(_codes(rows, f))
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
        history=history,
        categories={name: np.concatenate(parts) for name, parts in categories.items()},
        names=names or {},
        longest_group=longest[0],
        longest_request=longest[1],
    )
