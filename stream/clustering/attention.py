"""When the newest rows are looked at for interventions, and how many of them count.

    calm      a quarter of the sample, whenever there is as much of it that is new; all of it, when all is new.
              A quarter is a turn of everybody at least, however many they are (`sample.py`)
    alarmed   when the newest rows lie farther from their centres than those before them, by `ALARM` deviations:
              whatever the newest 1, 2, 4 ... portions are. Then only rows since that change count (the older
              ones would speak for centres that nobody needs any more), and they are looked at again whenever
              there is a fourth more of them, from `SCOPE_MIN` on until they fill half the sample. Another
              change in this time is told by the rows since the first.

An alarm decides nothing: it only makes the looking quicker. The means are trimmed at `limit`, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiling import kernel
from ..ports import State
from .sample import RecentRows

ALARM = 2.5
"""Deviations. A false alarm costs a few looks."""
SCOPE_PER_CENTRE, SCOPE_MIN = 16, 256
"""Fewer rows are not looked at: the mix of people changes by the hour too, and a centre whose rows are asleep is
not dead (in simulated shops, looks at 128 rows moved centres to and fro between night and day)."""
PORTION_PER_CENTRE, PORTION_MIN, PORTION_MAX = 8, 128, 1024

COMPARED = 16
"""Portions that a glance takes in at most."""
CALM = 4
"""Calm looks while the sample fills once, the last of them at all of it."""
ALARM_SHARE = 2
"""An alarm is over when the rows since the change fill this part of the sample."""


class Attention:
    def __init__(self, k: int, rows_max: int) -> None:
        self._portion = min(max(PORTION_PER_CENTRE * k, PORTION_MIN), PORTION_MAX)
        self._scope_min = max(SCOPE_PER_CENTRE * k, SCOPE_MIN)
        self._rows_max = rows_max
        self.calm = rows_max // CALM  # rows that a calm look takes in
        self._glanced = 0  # `seen` of the sample at the latest glance, look, and at the latest change
        self._looked = 0
        self._judged = 0  # and at the latest look at all of it
        self._changed = -rows_max

    def begin(self, seen: int) -> None:
        """Calm, from here on."""
        self._glanced = self._looked = self._judged = seen
        self._changed = seen - self._rows_max

    def due(self, recent: RecentRows, limit: float) -> int:
        """How many of the newest rows are to be looked at now; 0: none. Cheap: most calls only compare two numbers."""
        if recent.seen - self._glanced < self._portion:
            return 0
        self._glanced = recent.seen
        if changed := self._farther(recent, limit):
            self._changed = recent.seen - changed
        alarmed = recent.seen - self._changed < self._rows_max // ALARM_SHARE
        scope = min(recent.seen - self._changed, len(recent)) if alarmed else self.calm
        if scope < self._scope_min or recent.seen - self._looked < (scope // 4 if alarmed else scope):
            return 0
        self._looked = recent.seen
        if not alarmed and recent.seen - self._judged >= self._rows_max:
            self._judged, scope = recent.seen, len(recent)
        return scope

    def _farther(self, recent: RecentRows, limit: float) -> int:
        """How many of the newest rows lie farther out than those before them, since the latest change; 0: none."""
        compared = min(recent.seen - self._changed, COMPARED * self._portion, len(recent))
        return int(_farther(recent.near(compared), limit, self._portion, ALARM))

    def counters(self) -> tuple[int, int, int, int]:
        return self._glanced, self._looked, self._judged, self._changed

    def snapshot(self) -> State:
        return dict(zip(_COUNTERS, self.counters(), strict=True))

    def restore(self, state: State) -> None:
        self._glanced, self._looked, self._judged, self._changed = (state[name] for name in _COUNTERS)


_COUNTERS = ("glanced", "looked", "judged", "changed")


@kernel
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
