"""When a user goes to another centre: the nearest one, made free of flapping.

Per scored user:

    first     a user in no segment takes the nearest centre at once
    margin    later, another centre counts only when it is nearer by `margin` of the distance:
              d_new <= (1 - margin) * d_current, on distances, not on their squares
    confirm   it must count in `confirmations` scorings in a row; one that disagrees starts over
    dwell     and the user must have been in its segment for `dwell_ms` of stream time

A silent re-scoring (rows >= `scored.touched`) confirms like any other: a user who falls silent sends no
event, and would otherwise never drift out of "frequent buyers".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import Membership as Config
from .events import F64, I32, I64, Bool, Scored
from .ports import State


class Policy:
    """What each user is about to do. One row per user slot, allocated once: 8 bytes times `features.users_max`."""

    def __init__(self, config: Config, users_max: int) -> None:
        self._config = config
        self._pending: I32 = np.full(users_max, -1, np.int32)
        self._confirmed: I32 = np.zeros(users_max, np.int32)

    def decide(self, scored: Scored, current: I32, since_ms: I64, now_ms: int) -> I32:
        """(m,) the centre each scored user is at from now on; `current` (m,), -1: at none, since `since_ms` (m,)."""
        slots, nearest = scored.slots, scored.nearest
        first = current < 0
        nearer = ~first & self._nearer(scored, current)
        again = self._pending[slots] == nearest
        confirmed = np.where(nearer, np.where(again, self._confirmed[slots] + 1, 1), 0)  # (m,)
        stayed = now_ms - since_ms >= self._config.dwell_ms
        goes = first | (nearer & stayed & (confirmed >= self._config.confirmations))
        waits = nearer & ~goes
        self._pending[slots] = np.where(waits, nearest, -1)
        self._confirmed[slots] = np.where(waits, confirmed, 0)
        return np.where(goes, nearest, current)

    def _nearer(self, scored: Scored, current: I32) -> Bool:
        """(m,) where the nearest centre is not the user's own and beats it by the margin."""
        return self.would_move(scored.distances, scored.nearest, current)

    def would_move(self, distances: F64, nearest: I32, current: I32) -> Bool:
        """(m,) whether one look at squared distances (m, k) speaks against `current`, each a centre in use."""
        rows = np.arange(len(current))
        d_new, d_current = np.sqrt(distances[rows, nearest]), np.sqrt(distances[rows, current])
        return (nearest != current) & (d_new <= (1.0 - self._config.margin) * d_current)

    def waiting(self, slot: int) -> tuple[int, float]:
        """The centre that this user may be about to go to, -1 for none, and the share of what it takes, 0..1."""
        share = float(self._confirmed[slot]) / self._config.confirmations
        return int(self._pending[slot]), min(share, 1.0)

    def doubt(self, centre: int) -> None:
        """A centre is elsewhere now: whoever was about to go there thinks again."""
        doubtful = self._pending == centre
        self._pending[doubtful] = -1
        self._confirmed[doubtful] = 0

    def clear(self, slots: I32) -> None:
        """Forget these users."""
        for name, empty in _SLABS.items():
            getattr(self, name)[slots] = empty

    def snapshot(self, used: int) -> State:
        """Of the first `used` slots; those above are empty."""
        return {name: getattr(self, name)[:used].copy() for name in _SLABS}

    def restore(self, state: State) -> None:
        for name, empty in _SLABS.items():
            slab = getattr(self, name)
            slab[:] = empty
            slab[: len(state[name])] = state[name]


_SLABS: Mapping[str, int] = {"_pending": -1, "_confirmed": 0}
"""Slabs by user slot, and what an empty slot holds."""
