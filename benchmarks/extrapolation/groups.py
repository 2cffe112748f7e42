"""Groups of requests of similar length, padded: readers that compare every pair of events need rectangles."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from longreel.contracts.jagged import Ints, ranges
from longreel.contracts.log_schema import UNKNOWN

SHORT = 256  # requests of no more events are padded to one length; longer ones to less than twice their own


@dataclass(frozen=True)
class Group:
    """B requests padded to one length L and one number of targets m.

    Padding points at any rows, each as often as the others: gradients of a row named often are added one by one.
    """

    targets: Tensor  # [B, m], places in the batch's targets
    events: Tensor  # [B, L]
    there: Tensor  # [B, L] bool: no padding
    lengths: Tensor  # [B]: events, at least 1
    equal: Tensor | None  # [fields, B, m, L] bool: which ids are; None where ids are not compared


class Packed:
    """Requests lying behind one another: target offsets, history offsets [B+1], and the ids that may be equal:
    of targets [T, fields] and of events [H, fields]."""

    def __init__(self, target_offsets: Tensor, history_offsets: Tensor, ids: tuple[Tensor, Tensor] | None) -> None:
        self.targets, self.events = target_offsets.cpu().numpy(), history_offsets.cpu().numpy()
        self.device, self.ids, self.history_offsets = target_offsets.device, ids, history_offsets

    @cached_property
    def groups(self) -> list[Group]:
        """The requests by length, the longest first."""
        return [self._group(members) for members in self._members]

    @cached_property
    def _members(self) -> list[Ints]:
        """The numbers of each group's requests."""
        lengths = np.diff(self.events)
        by_length = np.argsort(-lengths, kind="stable")
        members: list[Ints] = []
        while len(by_length):
            longest = lengths[by_length[0]]
            alike = by_length[(lengths[by_length] > longest // 2) | (longest <= SHORT)]
            members.append(alike)
            by_length = by_length[len(alike) :]
        return members

    def _group(self, members: Ints) -> Group:
        targets, events, there = (
            tensor.to(self.device)
            for tensor in (self._padded(self.targets, members)[0], *self._padded(self.events, members))
        )
        lengths = torch.from_numpy(np.maximum(np.diff(self.events)[members], 1)).to(self.device)
        equal = None
        if self.ids is not None:
            target_ids, event_ids = self.ids[0][targets].movedim(-1, 0), self.ids[1][events].movedim(-1, 0)
            is_known = (target_ids != UNKNOWN)[..., None] & there[:, None]
            equal = (target_ids[..., None] == event_ids[..., None, :]) & is_known
        return Group(targets, events, there, lengths, equal)

    @staticmethod
    def _padded(offsets: Ints, members: Ints) -> tuple[Tensor, Tensor]:
        """Places of the members' rows [B, n], and which are no padding."""
        counts = np.diff(offsets)[members]
        steps = np.arange(counts.max(initial=0))
        there = steps < counts[:, None]
        anywhere = np.arange(there.size).reshape(there.shape) % max(1, offsets[-1])
        return torch.from_numpy(np.where(there, offsets[members][:, None] + steps, anywhere)), torch.from_numpy(there)

    def joined(self, padded: list[Tensor], of_targets: bool) -> Tensor:
        """What each group gave, [B, m or L, ...], in the order of the batch: [T or H, ...]."""
        return torch.cat([tensor.flatten(0, 1) for tensor in padded])[self._places[0 if of_targets else 1]]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Where targets and events lie among the rows of all groups, padding included."""
        places = []
        for offsets in (self.targets, self.events):
            counts, begins, begun = np.diff(offsets), np.zeros(len(offsets) - 1, np.int64), 0
            for some in self._members:
                wide = int(counts[some].max(initial=0))
                begins[some] = begun + wide * np.arange(len(some))
                begun += wide * len(some)
            places.append(torch.from_numpy(ranges(begins, counts)).to(self.device))
        return places[0], places[1]

    @property
    def longest(self) -> int:
        """Events of the longest request."""
        return int(np.diff(self.events).max(initial=0))
