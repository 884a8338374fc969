"""The policies that Shoal's is compared with: what others do, and what it did before."""

from __future__ import annotations

import numpy as np

from ..config import Membership as Config
from ..events import I32, I64, Bool, Scored
from ..policy import Policy
from .flapping_play import Rule

NEAREST, MARGIN, BEFORE, SHOAL = "nearest", "margin", "confirmed", "shoal"
RULES = {
    NEAREST: "the plain nearest centre",
    MARGIN: "nearer by a tenth of the distance",
    BEFORE: "the same in two scorings in a row: Shoal's default until 0.1",
    SHOAL: "evidence, as configured",
}


class Nearer:
    """To the nearest centre when it was nearer by `margin` of the distance `confirmations` times in a row."""

    def __init__(self, margin: float, confirmations: int, users: int) -> None:
        self._margin = margin
        self._confirmations = confirmations
        self._pending: I32 = np.full(users, -1, np.int32)
        self._confirmed: I32 = np.zeros(users, np.int32)

    def decide(self, scored: Scored, current: I32, since_ms: I64, now_ms: int) -> I32:
        slots, nearest = scored.slots, scored.nearest
        nearer = (current >= 0) & self._nearer(scored, current)
        again = self._pending[slots] == nearest
        confirmed = np.where(nearer, np.where(again, self._confirmed[slots] + 1, 1), 0)
        goes = (current < 0) | (nearer & (confirmed >= self._confirmations))
        waits = nearer & ~goes
        self._pending[slots] = np.where(waits, nearest, -1)
        self._confirmed[slots] = np.where(waits, confirmed, 0)
        return np.where(goes, nearest, current)

    def _nearer(self, scored: Scored, current: I32) -> Bool:
        rows = np.arange(len(current))
        d_new = np.sqrt(scored.distances[rows, scored.nearest])
        d_current = np.sqrt(scored.distances[rows, current])
        return (scored.nearest != current) & (d_new <= (1.0 - self._margin) * d_current)

    def doubt(self, centre: int) -> None:
        doubtful = self._pending == centre
        self._pending[doubtful] = -1
        self._confirmed[doubtful] = 0


def rules(config: Config, users: int) -> dict[str, Rule]:
    """A fresh one of each, for this many users."""
    return {
        NEAREST: Nearer(0.0, 1, users),
        MARGIN: Nearer(0.1, 1, users),
        BEFORE: Nearer(0.1, 2, users),
        SHOAL: Policy(config, users),
    }
