"""Users that an operator holds in a segment.

A pin names a segment, not a slot of the model: it follows the remap when the segment's id is given up. It goes with
its user. Bounded: at the limit a new one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..events import I32, I64, Bool
from ..lineage import centres_of
from ..ports import State


class Pins:
    """user slot -> segment id, for at most `most` users."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, int] = {}
        self._columns: tuple[I32, I64] | None = None  # slots, ascending, and their segments; None: not known

    def _sorted(self) -> tuple[I32, I64]:
        if self._columns is None:
            slots = sorted(self._held)
            segments = np.array([self._held[slot] for slot in slots], np.int64)
            self._columns = np.array(slots, np.int32), segments
        return self._columns

    def __len__(self) -> int:
        return len(self._held)

    def room(self, slot: int) -> bool:
        return slot in self._held or len(self._held) < self._most

    def put(self, slot: int, segment_id: int) -> None:
        self._held[slot] = segment_id
        self._columns = None

    def clear(self, slots: Iterable[int]) -> None:
        """Let these users go, those who are held."""
        if not self._held:
            return
        for slot in slots:
            if self._held.pop(int(slot), None) is not None:
                self._columns = None

    def of(self, slots: I32) -> I64:
        """(m,) the segment each user is held in; 0: none."""
        if not self._held:
            return np.zeros(len(slots), np.int64)
        own, segments = self._sorted()
        at = np.minimum(np.searchsorted(own, slots), len(own) - 1)
        return np.where(own[at] == slots, segments[at], 0)

    def follow(self, remap: Iterable[tuple[int, int]]) -> None:
        """Segment ids were given up: their users are held in the heir's."""
        heirs = dict(remap)
        if not self._held or not heirs:
            return
        for slot, segment_id in self._held.items():
            while segment_id in heirs:
                segment_id = heirs[segment_id]
            self._held[slot] = segment_id
        self._columns = None

    def hold(self, slots: I32, target: I32, ids: I64) -> I32:
        """(m,) the centre each user is at: where it is held, else `target` (m,). `ids` (k,) by centre."""
        held = self.of(slots)
        if not held.any():
            return target
        centre = centres_of(ids, held)
        return np.where(centre >= 0, centre, target).astype(np.int32)

    def waiting(self, segment: I64, ids: I64, public: I64) -> I32:
        """Users who do not know yet where they are held; what they know is `segment` (u,), by slot.

        `ids` (k,) by centre, `public` (k,) what people are told of each.
        """
        slots, segments = self._sorted()
        if not len(slots):
            return slots
        centre = centres_of(ids, segments)
        wanted = np.where(centre >= 0, public[centre], 0)
        return slots[(wanted > 0) & (segment[slots] != wanted)]

    def explains(self, slots: I32, after: I64, ids: I64, public: I64) -> Bool:
        """(m,) which users went to `after` because they are held there, under the id that is published."""
        held = self.of(slots)
        if not held.any():
            return held > 0
        centre = centres_of(ids, held)
        return (centre >= 0) & (public[centre] == after)

    def snapshot(self) -> State:
        slots, segments = self._sorted()
        return {"slots": slots.copy(), "segments": segments.copy()}

    def restore(self, state: State) -> None:
        self._held = dict(zip(state["slots"].tolist(), state["segments"].tolist(), strict=True))
        self._columns = None
