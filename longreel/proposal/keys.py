"""Keys of a log: the columns of user, item, time and request, and what else is constant for one of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from longreel.contracts.errors import LongreelError
from longreel.proposal import words
from longreel.proposal.raw_column import Codes, RawColumn
from longreel.proposal.times import NO_TIME

PAIRS = 50  # with fewer pairs of rows, nothing is concluded of a key
UNLIKE_PAIRS = 20  # with fewer pairs by chance of unequal values, nothing is concluded of a column
MAX_REQUEST_MS = 300_000


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows that share a key, drawn at random: `left[i]` and `right[i]` are row numbers."""

    left: Codes
    right: Codes

    @staticmethod
    def of(codes: Codes, seed: int = 0) -> "Pairs":
        """Each row of a key with another of it."""
        order = np.random.default_rng(seed).permutation(len(codes))
        order = order[np.argsort(codes[order], kind="stable")]
        same = (codes[order][1:] == codes[order][:-1]) & (codes[order][1:] >= 0)
        return Pairs(order[:-1][same], order[1:][same])

    def agreement(self, codes: Codes) -> float | None:
        """How far the key decides a column: 1 it does, 0 no more than chance. None: too few pairs to say.

        Cohen's kappa of a pair's two values; a null is a value too.
        """
        values, shifted = len(self.left), codes + 1
        if values < PAIRS:
            return None
        left, right = shifted[self.left], shifted[self.right]
        share = np.bincount(np.concatenate([left, right])) / (2 * values)
        chance = float(np.sum(share**2))
        if (1 - chance) * values < UNLIKE_PAIRS:
            return None
        return (float(np.mean(left == right)) - chance) / (1 - chance)


@dataclass(frozen=True)
class Keys:
    """The chosen columns, and rows that share one. `request` is None where no column names the request."""

    user: RawColumn
    item: RawColumn
    time: RawColumn
    request: RawColumn | None
    by_user: Pairs
    by_item: Pairs
    by_request: Pairs  # rows of a request; without its column, of a user and time

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the raw columns."""
        return tuple(column.name for column in (self.user, self.item, self.time, self.request) if column is not None)


def find_keys(columns: Sequence[RawColumn], user: str | None, item: str | None, time: str | None) -> Keys:
    """The keys of a log; a name that is given is taken as it is.

    Raises:
        LongreelError: one is not found; the message says which option names it.
    """
    times = given(columns, time, "time") or _time(columns)
    users = given(columns, user, "user") or _best(columns, words.USER, {times.name, item}, "user")
    items = given(columns, item, "item") or _best(columns, words.ITEM, {times.name, users.name}, "item")
    assert times.times is not None
    row_times = np.append(times.times.ms, NO_TIME)[times.codes]
    request = _request(columns, {times.name, users.name, items.name}, users.codes, row_times)
    together = request.codes if request is not None else _joint(users.codes, row_times)
    pairs = (Pairs.of(users.codes), Pairs.of(items.codes), Pairs.of(together))
    return Keys(users, items, times, request, *pairs)


def given(columns: Sequence[RawColumn], name: str | None, what: str) -> RawColumn | None:
    """The column that an option names."""
    if name is None:
        return None
    for column in columns:
        if column.name == name:
            if what == "time" and column.times is None:
                raise LongreelError(
                    f"--time {name}: no time that can be read; expected a timestamp, a number since 1970"
                )
            return column
    raise LongreelError(f"--{what} {name}: the log has no such column; its columns are {_names(columns)}")


def _names(columns: Sequence[RawColumn]) -> str:
    return ", ".join(column.name for column in columns)


def word_score(column: RawColumn, named: tuple[str, ...]) -> float:
    """How much a name reads like the id of something: 3 for its word with or without an id's, 1 for a part."""
    hits = [word for word in column.words if word in named]
    if not hits:
        return 0
    is_only = all(word in named or word in words.ID for word in column.words)
    has_id = any(word in words.ID for word in column.words)
    return (3 if is_only else 1) + 0.5 * has_id - 0.01 * min(map(named.index, hits))


def _best(columns: Sequence[RawColumn], named: tuple[str, ...], taken: Collection[str | None], what: str) -> RawColumn:
    """The column that names users or items."""
    scores = {
        column.name: word_score(column, named)
        for column in columns
        if column.name not in taken and not column.is_list and column.null_share < 0.5 and column.distinct > 1
        and column.times is None and column.truth is None and (column.numbers is None or column.is_whole)
    }  # fmt: skip
    name = max(scores, key=lambda key: scores[key], default="")
    if not name or scores[name] < 1:
        raise LongreelError(
            f"no column of the log names its {what}s as far as can be seen; name it with --{what} COLUMN. "
            f"The columns are {_names(columns)}"
        )
    return next(column for column in columns if column.name == name)


def _time(columns: Sequence[RawColumn]) -> RawColumn:
    """The column with the time that an item was served: present in every row, and the earliest of its kind."""
    candidates = [c for c in columns if c.times is not None and c.null_share < 0.01 and c.distinct > 1]
    candidates = [c for c in candidates if c.times is not None and not c.times.zero_is_none]
    if not candidates:
        raise LongreelError(
            "no column of the log says when a row happened (a timestamp, a number since 1970 or a text, in every row); "
            f"name it with --time COLUMN. The columns are {_names(columns)}"
        )

    def score(column: RawColumn) -> tuple[bool, bool, float, int]:
        assert column.times is not None
        named = sum(word in words.SERVED for word in column.words)
        return (not column.times.is_date, column.name.lower() == "time_ms", named, column.distinct)

    return max(candidates, key=score)


def _request(columns: Sequence[RawColumn], taken: Collection[str], users: Codes, times: Codes) -> RawColumn | None:
    """The column that is equal for all items delivered together: one user each, within minutes, and several rows."""
    for column in sorted(columns, key=lambda c: -word_score(c, words.REQUEST)):
        is_id = not column.is_list and column.times is None and (column.numbers is None or column.is_whole)
        if word_score(column, words.REQUEST) < 1 or column.name in taken or not is_id or column.null_share > 0.5:
            continue
        filled = column.codes >= 0
        if column.distinct < 0.005 * filled.sum():
            continue  # a list of pages, not of requests
        pairs = Pairs.of(column.codes)
        if len(pairs.left) < PAIRS:
            if column.distinct == filled.sum() and column.name.lower() == "request_id":
                return column
            continue
        one_user = np.mean(users[pairs.left] == users[pairs.right])
        near = np.mean(np.abs(times[pairs.left] - times[pairs.right]) <= MAX_REQUEST_MS)
        if one_user >= 0.99 and near >= 0.95:
            return column
    return None


def _joint(first: Codes, second: Codes) -> Codes:
    """A number for each pair of values."""
    _, codes = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
    return codes.astype(np.int64).ravel()
