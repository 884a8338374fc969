"""When the newest rows are looked at for interventions, and how many of them count.

    calm      every full sample of new rows, at all of it
    alarmed   when the newest rows lie farther from their centres than those before them, by `ALARM` deviations:
              whatever the newest 1, 2, 4 ... portions are. Then only rows since that change count (the older
              ones would speak for centres that nobody needs any more), and they are looked at again whenever
              there is a fourth more of them, from `SCOPE_MIN` on until they fill the sample.

An alarm decides nothing: it only makes the looking quicker. The means are trimmed at `limit`, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ..ports import State
from .sample import RecentRows

ALARM = 2.5
"""Deviations. A false alarm costs a few looks."""
SCOPE_PER_CENTRE, SCOPE_MIN = 16, 256
"""Fewer rows are not looked at: the mix of people changes by the hour too, and a centre whose rows are asleep is
not dead (in simulated shops, looks at 128 rows moved centres to and fro between night and day)."""
PORTION_PER_CENTRE, PORTION_MIN, PORTION_MAX = 8, 128, 1024


class Attention:
    def __init__(self, k: int, rows_max: int) -> None:
        self._portion = min(max(PORTION_PER_CENTRE * k, PORTION_MIN), PORTION_MAX)
        self._scope_min = max(SCOPE_PER_CENTRE * k, SCOPE_MIN)
        self._rows_max = rows_max
        self._glanced = 0  # `seen` of the sample at the latest glance, look, and at the latest change
        self._looked = 0
        self._changed = -rows_max

    def begin(self, seen: int) -> None:
        """Calm, from here on."""
        self._glanced = self._looked = seen
        self._changed = seen - self._rows_max

    def due(self, recent: RecentRows, limit: float) -> int:
        """How many of the newest rows are to be looked at now; 0: none. Cheap: most calls only compare two numbers."""
        if recent.seen - self._glanced < self._portion:
            return 0
        self._glanced = recent.seen
        alarmed = recent.seen - self._changed < self._rows_max
        if not alarmed and (changed := self._farther(recent, limit)):
            self._changed = recent.seen - changed
            alarmed = True
        scope = min(recent.seen - self._changed, len(recent))
        if scope < self._scope_min:
            return 0
        lately = self._looked - self._changed < self._rows_max  # the latest look was at new rows only
        if recent.seen - self._looked < (scope // 4 if alarmed or lately else self._rows_max):
            return 0
        self._looked = recent.seen
        return scope

    def _farther(self, recent: RecentRows, limit: float) -> int:
        """How many of the newest rows lie farther out than those before them; 0: none."""
        return int(_farther(recent.near(len(recent)), limit, self._portion, ALARM))

    def counters(self) -> tuple[int, int, int]:
        return self._glanced, self._looked, self._changed

    def snapshot(self) -> State:
        return {"glanced": self._glanced, "looked": self._looked, "changed": self._changed}

    def restore(self, state: State) -> None:
        self._glanced, self._looked, self._changed = state["glanced"], state["looked"], state["changed"]


@njit(cache=True)
def _farther(near: Any, limit: float, portion: int, alarm: float) -> int:
    """The first of portion, 2 portion, 4 portion ... newest rows whose mean is too high; one pass per size."""
    m = len(near)
    total, squares = 0.0, 0.0
    for value in near:
        total += min(value, limit)
        squares += min(value, limit) ** 2
    new, new_squares, at, newest = 0.0, 0.0, m, portion
    while newest <= m // 2:
        while at > m - newest:
            at -= 1
            new += min(near[at], limit)
            new_squares += min(near[at], limit) ** 2
        rest = m - newest
        mean, before = new / newest, (total - new) / rest
        spread = new_squares / newest - mean * mean
        spread_before = (squares - new_squares) / rest - before * before
        deviation = np.sqrt(max(spread, 0.0) / newest + max(spread_before, 0.0) / rest)
        if mean - before > alarm * deviation:
            return newest
        newest *= 2
    return 0
