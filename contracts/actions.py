"""Actions and labels: the bits that an interaction sets, and the labels made from them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError

# What a user did with an impression, as one int32 bitmask (`actions`). Values follow KuaiRand's usage in the field.
ACTIONS: dict[str, int] = {
    "click": 1,
    "like": 2,
    "follow": 4,
    "comment": 8,
    "forward": 16,
    "hate": 32,
    "long_view": 64,
    "profile_enter": 128,
}

# Labels from play time instead of an action; they share the bitmask of a target's `labels`.
PLAY_LABELS: dict[str, int] = {
    "finish": 256,  # played to the end: 0 < duration_ms <= play_ms
    "skip": 512,  # left within SKIP_MS, without an engagement
}

SKIP_MS = 3_000

# A target's labels: the bits of its actions and of its play labels, see `labels`. Each name can be a task.
LABELS: dict[str, int] = ACTIONS | PLAY_LABELS

# What counts as engagement when a source does not say otherwise: any action but a dislike.
ENGAGEMENT: tuple[str, ...] = tuple(name for name in ACTIONS if name != "hate")


def action_mask(names: Iterable[str]) -> int:
    """The bitmask of the named actions, e.g. `["click", "like"]` -> 3.

    Raises:
        LongreelError: a name is not an action.
    """
    mask = 0
    for name in names:
        if name not in ACTIONS:
            raise LongreelError(f"unknown action {name!r}; expected one of {', '.join(ACTIONS)}")
        mask |= ACTIONS[name]
    return mask


def labels(actions: NDArray[np.int32], play_ms: NDArray[np.int64], duration_ms: NDArray[np.int64]) -> NDArray[np.int32]:
    """The label bits of impressions [n], from their actions and their play time.

    finish  0 < duration_ms <= play_ms
    skip    play_ms <= SKIP_MS, no engagement (any action but hate) and no finish
    others  the action of the same name
    """
    finish = (duration_ms > 0) & (play_ms >= duration_ms)
    skip = (play_ms <= SKIP_MS) & (actions & action_mask(ENGAGEMENT) == 0) & ~finish
    return np.asarray(actions | finish * PLAY_LABELS["finish"] | skip * PLAY_LABELS["skip"], np.int32)
