"""Bootstrap replicates over users, from sums per user.

A user is drawn with all their targets. A function of sums over targets is a function of sums per user, so a replicate
costs one product of the drawn counts with a [users, sums] matrix, for any number of targets.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.uint8]

_BLOCK_USERS = 8_192  # users whose counts are widened to float64 at a time: tens of MiB with a thousand draws


def bootstrap_weights(num_users: int, draws: int, seed: int) -> Counts:
    """How often each user is drawn in each replicate: [draws, users], every row summing to `num_users`.

    Depends on the arguments alone, so two models evaluated on the same users get the same replicates: paired. One byte
    per count: a user is drawn once on average, and 256 times practically never.
    """
    weights = np.empty((draws, num_users), np.uint8)
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        weights[draw] = np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)
    return weights


def weighted_totals(weights: Counts, users: NDArray[np.int64], sums: Floats) -> Floats:
    """Totals of every replicate: weights [draws, all users], users [u] their ordinals, sums [u, S] -> [draws, S].

    Memory is bounded by a block of users, for any number of users.
    """
    totals = np.zeros((len(weights), sums.shape[1]))
    for start in range(0, len(users), _BLOCK_USERS):
        block = users[start : start + _BLOCK_USERS]
        totals += weights[:, block].astype(np.float64) @ sums[start : start + _BLOCK_USERS]
    return totals
