"""Bits that say which events have a target's ids, one for each target and compared field, for all layers and passes.

Bit t % 32 of bits[c, t // 32, h] says whether event h has the id of its request's target t in field c. A score then
tests a bit, where comparing 64-bit ids of every pair cost a sixth of the kernels' time in each of a dozen passes.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from longreel.model.kernels.packing import SIZES, Packing

BLOCK = 128  # events of a program


@triton.jit(do_not_specialize=SIZES)
def _set_bits(
    target_ids,
    event_ids,
    target_offsets,
    history_offsets,
    bits,
    num_events,
    words,
    C: tl.constexpr,
    BN: tl.constexpr,
):
    """All bits of one block of events. Words behind a request's last target stay as they are: no row reads them."""
    b, first = tl.program_id(0), tl.program_id(1) * BN
    t0, h0 = tl.load(target_offsets + b), tl.load(history_offsets + b)
    targets = (tl.load(target_offsets + b + 1) - t0).to(tl.int32)
    length = (tl.load(history_offsets + b + 1) - h0).to(tl.int32)
    if first >= length:
        return
    offs_n, offs_t = first + tl.arange(0, BN), tl.arange(0, 32)
    n_ok = offs_n < length
    for c in tl.static_range(C):
        event = tl.load(event_ids + (h0 + offs_n) * C + c, mask=n_ok, other=-1)
        for t in range(0, targets, 32):
            target = tl.load(target_ids + (t0 + t + offs_t) * C + c, mask=t + offs_t < targets, other=-(2**63))
            equal = tl.where(event[:, None] == target[None, :], 1 << offs_t[None, :], 0)
            word = (c * words + t // 32).to(tl.int64) * num_events
            tl.store(bits + word + h0 + offs_n, tl.sum(equal, 1).to(tl.int32), mask=n_ok)


@triton.jit
def row_bits(target, row_ok):
    """The bit of each row's target, none for rows that are not there; and the word that it is in."""
    return tl.where(row_ok, 1 << (target % 32), 0), target // 32


@triton.jit
def equal_ids(
    bits,
    num_events,
    words,
    event,
    event_ok,
    bit,
    word,
    channel,
    first_word,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    ONE: tl.constexpr,
    EVENTS_FIRST: tl.constexpr,
):
    """[rows, events] bool, or [events, rows]: has the event the id of the row's target in the row's channel?

    `event` counts from the batch's first; the rows' words are first_word .. first_word + WORDS - 1.
    ONE: `channel` is a number, that of all rows.
    """
    if EVENTS_FIRST:
        equal = tl.zeros([event.shape[0], bit.shape[0]], tl.int32)
    else:
        equal = tl.zeros([bit.shape[0], event.shape[0]], tl.int32)
    for c in tl.static_range(1 if ONE else C):
        for w in tl.static_range(WORDS):
            at = first_word + w
            if ONE:
                of_row = tl.where(word == at, bit, 0)
                plane = channel * words + at
            else:
                of_row = tl.where((channel == c) & (word == at), bit, 0)
                plane = c * words + at
            of_event = tl.load(bits + plane.to(tl.int64) * num_events + event, mask=event_ok & (at < words), other=0)
            if EVENTS_FIRST:
                equal |= of_event[:, None] & of_row[None, :]
            else:
                equal |= of_row[:, None] & of_event[None, :]
    return equal != 0


def words_of_tile(rows: int, rows_a_target: int) -> int:
    """How many words the targets of `rows` consecutive rows can lie in, for tiles that start at a multiple of them."""
    if rows % rows_a_target == 0:  # then both are powers of two, and tiles do not straddle words
        return max(1, rows // rows_a_target // 32)
    return (rows - 2) // rows_a_target // 32 + 2


@dataclass(frozen=True)
class MatchBits:
    """bits [C, words, H] int32 as above, head_channel [N] int32: the field that each head looks at."""

    bits: Tensor
    head_channel: Tensor

    @property
    def channels(self) -> int:
        """C."""
        return self.bits.shape[0]

    @property
    def words(self) -> int:
        """Words an event and field."""
        return self.bits.shape[1]


def match_bits(target_ids: Tensor, event_ids: Tensor, packing: Packing) -> Tensor:
    """Bits [C, words, H] int32 from ids [T, C] and [H, C] int64."""
    (num_events, channels), requests = event_ids.shape, packing.history_offsets.shape[0] - 1
    words = triton.cdiv(packing.max_targets, 32)
    bits = torch.empty(channels, words, num_events, dtype=torch.int32, device=event_ids.device)
    _set_bits[(requests, triton.cdiv(packing.max_history, BLOCK))](
        target_ids.contiguous(), event_ids.contiguous(), packing.target_offsets, packing.history_offsets,
        bits, num_events, words, C=channels, BN=BLOCK, num_warps=4,
    )  # fmt: skip
    return bits
