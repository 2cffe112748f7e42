"""How good is a ranking? AUC, GAUC, log loss and calibration, each with user-bootstrap replicates.

One `TaskScores` holds a task's scored targets; its methods take weights per user and draw, so that 200 replicates cost
a few matrix products. Without weights they give the plain value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK_ELEMENTS = 1_000_000  # of a [draws, targets] block: a few MiB stay in cache


def bootstrap_weights(num_users: int, draws: int, seed: int) -> NDArray[np.int32]:
    """How often each user is drawn in each replicate: [draws, users], every row summing to `num_users`.

    Depends on the arguments alone, so two models judged on the same users get the same replicates: paired.
    """
    weights = np.empty((draws, num_users), np.int32)
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        weights[draw] = np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)
    return weights


def _log_sigmoid(x: Floats) -> Floats:
    return -np.logaddexp(0, -x)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, nan where bottom is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


@dataclass(frozen=True)
class TaskScores:
    """One task's targets: logits [n], labels [n], and each one's user as an ordinal [n] below num_users."""

    logits: Floats
    labels: NDArray[np.bool_]
    user: Ints
    num_users: int

    def _weights(self, weights: NDArray[np.int32] | None) -> NDArray[np.int32]:
        return np.ones((1, self.num_users), np.int32) if weights is None else weights

    def _per_user(self, values: NDArray[np.float64]) -> Floats:
        return np.asarray(np.bincount(self.user, values, minlength=self.num_users), np.float64)

    def auc(self, weights: NDArray[np.int32] | None = None) -> Floats:
        """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

        weights [draws, users] -> [draws]; None -> [1]. nan where a replicate has one class only.
        """
        counts = self._weights(weights)
        order = np.argsort(self.logits, kind="stable")
        scores, labels, user = self.logits[order], self.labels[order], self.user[order]
        positive, negative = user[labels], user[~labels]
        lower = np.searchsorted(scores[~labels], scores[labels], side="left")  # negatives below each positive
        upper = np.searchsorted(scores[~labels], scores[labels], side="right")  # and below or tied with it
        out = np.empty(len(counts))
        step = max(1, _CHUNK_ELEMENTS // max(1, len(scores)))
        for at in range(0, len(counts), step):
            drawn = counts[at : at + step]
            won = drawn[:, positive].astype(np.float64)
            below = np.zeros((len(drawn), len(negative) + 1))
            np.cumsum(drawn[:, negative], axis=1, out=below[:, 1:])
            pairs = np.einsum("dp,dp->d", won, below[:, lower] + below[:, upper]) / 2
            out[at : at + step] = _ratio(pairs, won.sum(axis=1) * below[:, -1])
        return out

    def user_auc(self) -> tuple[Floats, Floats]:
        """Each user's own AUC (nan with one class only) and number of targets: [users] each."""
        order = np.lexsort((self.logits, self.user))
        scores, labels, user = self.logits[order], self.labels[order].astype(np.float64), self.user[order]
        totals, positives = self._per_user(np.ones(len(user))), self._per_user(self.labels.astype(np.float64))
        if not len(user):
            return np.full(self.num_users, np.nan), totals
        begins = np.append(True, (user[1:] != user[:-1]) | (scores[1:] != scores[:-1]))
        tie = np.cumsum(begins) - 1
        size = np.bincount(tie)
        first = np.cumsum(size) - size
        start = np.cumsum(totals) - totals  # where each user's targets begin
        rank = first[tie] + (size[tie] - 1) / 2 - start[user]  # mid-rank from 0 within the user
        ranks = np.bincount(user, rank * labels, minlength=self.num_users)
        pairs = ranks - positives * (positives - 1) / 2
        return _ratio(pairs, positives * (totals - positives)), totals

    def gauc(self, weights: NDArray[np.int32] | None = None) -> Floats:
        """Impression-weighted mean of per-user AUC over the users with both classes. As `auc` otherwise."""
        per_user, totals = self.user_auc()
        defined = ~np.isnan(per_user)
        counts = self._weights(weights)[:, defined].astype(np.float64)
        return _ratio(counts @ (per_user * totals)[defined], counts @ totals[defined])

    def log_loss(self, weights: NDArray[np.int32] | None = None) -> Floats:
        """Mean binary cross-entropy over targets, natural log. As `auc` otherwise; nan without targets."""
        losses = -np.where(self.labels, _log_sigmoid(self.logits), _log_sigmoid(-self.logits))
        counts = self._weights(weights).astype(np.float64)
        return _ratio(counts @ self._per_user(losses), counts @ self._per_user(np.ones(len(losses))))

    def calibration(self, weights: NDArray[np.int32] | None = None) -> Floats:
        """Mean prediction over observed rate. As `auc` otherwise; nan without positives."""
        counts = self._weights(weights).astype(np.float64)
        predicted = self._per_user(np.exp(_log_sigmoid(self.logits)))
        return _ratio(counts @ predicted, counts @ self._per_user(self.labels.astype(np.float64)))

    def of_users(self, chosen: NDArray[np.bool_]) -> "TaskScores":
        """The targets of some users only [users] bool; users keep their ordinals, so weights stay the same."""
        kept = chosen[self.user]
        return TaskScores(self.logits[kept], self.labels[kept], self.user[kept], self.num_users)
