"""Metrics of a binary task from sums per user: AUC, GAUC, log loss, calibration and expected calibration error.

`TaskScores` holds a task's scored targets. `user_sums` gives what each user adds to every metric and `metrics_of` turns
totals of such sums into metrics: totals over all users give the plain values, totals of bootstrap counts the
replicates. AUC is no function of sums; its replicates are a first-order expansion, with `exact_auc` as reference
implementation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longreel.model.evaluation.bootstrap import Counts, Floats

Ints = NDArray[np.int64]

ECE_BINS = 15  # as in Guo et al. 2017, of equal mass here: recommendation scores crowd near zero
_CHUNK_ELEMENTS = 1_000_000  # of a [draws, targets] block: a few MiB stay in cache


def log_sigmoid(x: Floats) -> Floats:
    """log(1 / (1 + exp(-x))) without overflow."""
    return -np.logaddexp(0, -x)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, nan where bottom is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


@dataclass(frozen=True)
class TaskScores:
    """One task's targets, lowest logit first: logits [n], labels [n], and each one's user as an ordinal [n]."""

    logits: Floats
    labels: NDArray[np.bool_]
    user: Ints

    @staticmethod
    def of(logits: Floats, labels: NDArray[np.bool_], user: Ints) -> "TaskScores":
        """Targets in any order."""
        order = np.argsort(logits, kind="stable")
        return TaskScores(logits[order], labels[order], user[order])

    def where(self, chosen: NDArray[np.bool_]) -> "TaskScores":
        """Some of the targets: chosen [n] bool in this order; users keep their ordinals."""
        return TaskScores(self.logits[chosen], self.labels[chosen], self.user[chosen])

    def placements(self) -> Floats:
        """For a positive the number of negatives below it, for a negative the number of positives above it, ties
        counting one half: [n]. Both sum to the number of pairs that are ordered rightly."""
        begins = np.append(True, self.logits[1:] != self.logits[:-1])[: len(self.logits)]
        tie = np.cumsum(begins) - 1
        count = np.bincount(tie, minlength=1) if len(tie) else np.zeros(1, np.int64)
        positive = np.bincount(tie, self.labels, minlength=1) if len(tie) else np.zeros(1)
        negative = count - positive
        below = np.cumsum(negative) - negative / 2
        above = positive.sum() - np.cumsum(positive) + positive / 2
        return np.asarray(np.where(self.labels, below[tie], above[tie]), np.float64)

    def user_auc(self) -> tuple[Ints, Floats, Floats]:
        """The users that there are [u], each one's own AUC (nan with one class only) and number of targets."""
        order = np.argsort(self.user, kind="stable")  # by user, lowest logit first
        user, logits, labels = self.user[order], self.logits[order], self.labels[order].astype(np.float64)
        users, start, totals = np.unique(user, return_index=True, return_counts=True)
        if not len(users):
            return users, np.zeros(0), np.zeros(0)
        begins = np.append(True, (user[1:] != user[:-1]) | (logits[1:] != logits[:-1]))
        tie = np.cumsum(begins) - 1
        size = np.bincount(tie)
        first = np.cumsum(size) - size
        own = np.repeat(np.arange(len(users)), totals)
        rank = first[tie] + (size[tie] - 1) / 2 - start[own]  # mid-rank from 0 within the user
        positives = np.add.reduceat(labels, start)
        pairs = np.add.reduceat(rank * labels, start) - positives * (positives - 1) / 2
        return users, ratio(pairs, positives * (totals - positives)), totals.astype(np.float64)

    def exact_auc(self, weights: Counts | None = None) -> Floats:
        """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

        weights [draws, users] -> [draws]; None -> [1]. nan where a replicate has one class only. Costs a pass over all
        targets for every replicate: the reference that tests compare `metrics_of` with.
        """
        counts = np.ones((1, int(self.user.max(initial=0)) + 1), np.uint8) if weights is None else weights
        positive, negative = self.user[self.labels], self.user[~self.labels]
        ours, theirs = self.logits[self.labels], self.logits[~self.labels]
        lower = np.searchsorted(theirs, ours, side="left")  # negatives below each positive
        upper = np.searchsorted(theirs, ours, side="right")  # and below or tied with it
        out = np.empty(len(counts))
        step = max(1, _CHUNK_ELEMENTS // max(1, len(self.logits)))
        for at in range(0, len(counts), step):
            drawn = counts[at : at + step]
            won = drawn[:, positive].astype(np.float64)
            below = np.zeros((len(drawn), len(negative) + 1))
            np.cumsum(drawn[:, negative], axis=1, out=below[:, 1:])
            pairs = np.einsum("dp,dp->d", won, below[:, lower] + below[:, upper]) / 2
            out[at : at + step] = ratio(pairs, won.sum(axis=1) * below[:, -1])
        return out


# Columns of `user_sums` before those of the calibration bins.
_TARGETS, _POSITIVES, _LOSS, _PREDICTED, _RANKED, _RANKED_TARGETS, _PLACED_POSITIVES, _PLACED_NEGATIVES = range(8)
_BINS = 8


def user_sums(scores: TaskScores, at_once: TaskScores | None = None) -> tuple[Ints, Floats]:
    """What each user adds to the metrics: the users that there are [u] and their sums [u, 8 + ECE_BINS].

    Args:
        at_once: the same targets as GAUC ranks them, where they are scored otherwise: each user's at one time.
    """
    users, own_auc, totals = (at_once or scores).user_auc()
    who = np.searchsorted(users, scores.user)
    sums = np.zeros((len(users), _BINS + ECE_BINS))
    if not len(users):
        return users, sums

    def add(column: int, values: Floats) -> None:
        sums[:, column] = np.bincount(who, values, minlength=len(users))

    labels = scores.labels.astype(np.float64)
    chance = np.exp(log_sigmoid(scores.logits))
    placed = scores.placements()
    ranked = ~np.isnan(own_auc)
    sums[:, _TARGETS] = totals
    add(_POSITIVES, labels)
    add(_LOSS, -np.where(scores.labels, log_sigmoid(scores.logits), log_sigmoid(-scores.logits)))
    add(_PREDICTED, chance)
    sums[ranked, _RANKED], sums[ranked, _RANKED_TARGETS] = (own_auc * totals)[ranked], totals[ranked]
    add(_PLACED_POSITIVES, placed * labels)
    add(_PLACED_NEGATIVES, placed * (1 - labels))
    place = who * ECE_BINS + equal_mass_bins(len(chance), ECE_BINS)
    sums[:, _BINS:] = np.bincount(place, chance - labels, minlength=len(users) * ECE_BINS).reshape(-1, ECE_BINS)
    return users, sums


def equal_mass_bins(targets: int, bins: int) -> Ints:
    """The bin of each of `targets` sorted targets: [targets] in 0 .. bins - 1, equally many in each."""
    return np.arange(targets, dtype=np.int64) * bins // max(1, targets)


def metrics_of(totals: Floats, whole: Floats) -> dict[str, Floats]:
    """Metrics of replicates: totals [draws, S] of `user_sums`, whole [S] those of everybody -> [draws] by name.

    AUC of a replicate with P positives and Q negatives, of P0 and Q0 in the whole: (positives' placements) / (P Q0) +
    (negatives' placements) / (P0 Q) - AUC. This is the first-order (Hájek) expansion that DeLong's variance comes from;
    what it leaves out is of the order 1 / users. On the whole itself it is exact. nan where a metric is undefined.
    """
    targets, positives = totals[:, _TARGETS], totals[:, _POSITIVES]
    negatives, all_positives = targets - positives, whole[_POSITIVES]
    all_negatives = whole[_TARGETS] - all_positives
    auc = ratio(whole[_PLACED_POSITIVES], all_positives * all_negatives)
    return {
        "auc": ratio(totals[:, _PLACED_POSITIVES], positives * all_negatives)
        + ratio(totals[:, _PLACED_NEGATIVES], negatives * all_positives)
        - auc,
        "gauc": ratio(totals[:, _RANKED], totals[:, _RANKED_TARGETS]),
        "log_loss": ratio(totals[:, _LOSS], targets),
        "calibration": ratio(totals[:, _PREDICTED], positives),
        "ece": ratio(np.abs(totals[:, _BINS:]).sum(axis=1), targets),
    }
