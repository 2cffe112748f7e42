"""Where packed requests begin, as every kernel over requests takes it."""

from dataclasses import dataclass

from torch import Tensor

# Arguments of kernels that change from batch to batch: compiled once, not again where one is 1 or divisible by 16.
SIZES = ("num_rows", "num_events", "words", "rows", "row_stride")


@dataclass(frozen=True)
class Packing:
    """Offsets [B+1] int64 each, and the largest counts of a request."""

    target_offsets: Tensor
    history_offsets: Tensor
    max_targets: int
    max_history: int
