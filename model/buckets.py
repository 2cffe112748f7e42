"""Which logarithmic bucket is a time, a length or a number in? One that means the same at any window."""

import torch
from torch import Tensor

# Small features share one table of vectors of the model's width; a feature owns `size` rows from its start on.
CONTEXT_SIZES = {"surface": 64, "duration": 32, "play_ratio": 32, "age": 96, "position": 48, "window": 48}


def log_bucket(values: Tensor, per_octave: float, size: int) -> Tensor:
    """floor(per_octave * log2(1 + x)) for x >= 0, at most size - 1. Any shape -> the same shape, int32."""
    return (per_octave * torch.log2(1 + values.clamp(min=0).to(torch.float32))).int().clamp(max=size - 1)


def duration_bucket(duration_ms: Tensor) -> Tensor:
    """0 where unknown, else 1 + logarithm of the seconds, two buckets an octave."""
    size = CONTEXT_SIZES["duration"]
    return torch.where(duration_ms > 0, 1 + log_bucket(duration_ms / 1_000, 2, size - 1), 0)


def play_ratio_bucket(play_ms: Tensor, duration_ms: Tensor) -> Tensor:
    """0 where the duration is unknown, else 1 + log bucket of play over duration: finest near 0, 5 and over alike."""
    size = CONTEXT_SIZES["play_ratio"]
    ratio = play_ms / duration_ms.clamp(min=1)
    return torch.where(duration_ms > 0, 1 + log_bucket(15 * ratio, 5, size - 1), 0)


def age_bucket(age_ms: Tensor) -> Tensor:
    """Time since the event, three buckets an octave of seconds: an hour is 35, a day 49, a year 74."""
    return log_bucket(age_ms / 1_000, 3, CONTEXT_SIZES["age"])


def position_bucket(position: Tensor) -> Tensor:
    """Position counted from the newest event (0), three buckets an octave: 10,239 is 39."""
    return log_bucket(position, 3, CONTEXT_SIZES["position"])
