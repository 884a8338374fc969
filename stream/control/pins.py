"""Users that an operator holds in a segment.

A pin names a segment, not a slot of the model: it follows the remap when the segment's id is given up. It goes with
its user. Bounded: at the limit a new one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..events import I32, I64, Bool
from ..ports import State


class Pins:
    """user slot -> segment id, for at most `most` users."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, int] = {}
        self._sort()

    def _sort(self) -> None:
        slots = sorted(self._held)
        self._slots: I32 = np.array(slots, np.int32)
        self._segments: I64 = np.array([self._held[slot] for slot in slots], np.int64)

    def __len__(self) -> int:
        return len(self._held)

    def room(self, slot: int) -> bool:
        return slot in self._held or len(self._held) < self._most

    def put(self, slot: int, segment_id: int) -> None:
        self._held[slot] = segment_id
        self._sort()

    def clear(self, slots: Iterable[int]) -> None:
        """Let these users go, those who are held."""
        if not self._held:
            return
        before = len(self._held)
        for slot in slots:
            self._held.pop(int(slot), None)
        if len(self._held) < before:
            self._sort()

    def of(self, slots: I32) -> I64:
        """(m,) the segment each user is held in; 0: none."""
        if not self._held:
            return np.zeros(len(slots), np.int64)
        at = np.minimum(np.searchsorted(self._slots, slots), len(self._slots) - 1)
        return np.where(self._slots[at] == slots, self._segments[at], 0)

    def follow(self, remap: Iterable[tuple[int, int]]) -> None:
        """Segment ids were given up: their users are held in the heir's."""
        heirs = dict(remap)
        if not self._held or not heirs:
            return
        for slot, segment_id in self._held.items():
            while segment_id in heirs:
                segment_id = heirs[segment_id]
            self._held[slot] = segment_id
        self._sort()

    def hold(self, slots: I32, target: I32, ids: I64) -> I32:
        """(m,) the centre each user is at: where it is held, else `target` (m,). `ids` (k,) by centre."""
        held = self.of(slots)
        if not held.any():
            return target
        order = np.argsort(ids, kind="stable")
        at = np.minimum(np.searchsorted(ids[order], held), len(ids) - 1)
        centre = order[at]
        return np.where((held > 0) & (ids[centre] == held), centre, target).astype(np.int32)

    def waiting(self, segment: I64, ids: I64) -> I32:
        """Users who are not yet where they are held; `segment` (u,) by slot, `ids` (k,) by centre."""
        if not self._held:
            return self._slots
        away = segment[self._slots] != self._segments
        return self._slots[away & np.isin(self._segments, ids)]

    def explains(self, slots: I32, after: I64) -> Bool:
        """(m,) which users went to `after` because they are held there."""
        held = self.of(slots)
        return (held > 0) & (held == after)

    def snapshot(self) -> State:
        return {"slots": self._slots.copy(), "segments": self._segments.copy()}

    def restore(self, state: State) -> None:
        self._held = dict(zip(state["slots"].tolist(), state["segments"].tolist(), strict=True))
        self._sort()
