"""Stream time. It comes from the events; the wall clock only bounds it, or moves it when nothing arrives.

    now        the newest believable event time so far; feature rows are built as of `now`. Never goes back.
    watermark  now - lateness: who is declared gone is decided here, so that an event that is late by no
               more than `time.lateness_ms` cannot contradict it.

Always true: now <= as_of + skew where a wall clock is given; one event from 2099 closes nobody's window.
A file is its own clock: there, an event is from the future when its neighbours say so (`_contradicted`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import Time
from .events import I64, Bool
from .ports import State

_NEIGHBOURS = 64
_NEIGHBOURS_MIN = 8
_LEAD_MS = 86_400_000
_TAIL_LEAD_MS = 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class Clocked:
    time_ms: I64  # (n,) with future times clamped
    future: Bool  # (n,) which were


class Clock:
    def __init__(self, config: Time) -> None:
        self._lateness_ms = config.lateness_ms
        self._skew_ms = config.future_skew_ms
        self.now_ms = 0

    @property
    def watermark_ms(self) -> int:
        return max(0, self.now_ms - self._lateness_ms)

    def advance(self, time_ms: I64, as_of_ms: int | None) -> Clocked:
        """Clamp future times, then move `now`. With no events, `now` follows the wall clock."""
        if as_of_ms is None:
            future = _contradicted(time_ms)
            cap = max(self.now_ms, int(time_ms[~future].max(initial=0)))
        else:
            future = time_ms > as_of_ms + self._skew_ms
            cap = as_of_ms
        clamped = np.where(future, cap, time_ms)
        if len(clamped):
            self.now_ms = max(self.now_ms, int(clamped.max()))
        elif as_of_ms is not None:
            self.now_ms = max(self.now_ms, as_of_ms)
        return Clocked(clamped, future)

    def snapshot(self) -> State:
        return {"now_ms": self.now_ms}

    def restore(self, state: State) -> None:
        self.now_ms = state["now_ms"]


def _contradicted(time_ms: I64) -> Bool:
    """(n,) which events lead nine in ten of the 64 after them by over a day.

    The last few of a step have nobody after them: they are held against those before, with a year's grace,
    because there a long pause in the input looks the same.
    """
    n = len(time_ms)
    future = np.zeros(n, np.bool_)
    if n <= _NEIGHBOURS_MIN:
        return future
    oldest_after = np.minimum.accumulate(time_ms[::-1])[::-1]
    tail = n - _NEIGHBOURS_MIN
    suspects = np.flatnonzero(time_ms[:tail] - oldest_after[:tail] > _LEAD_MS)
    for i in suspects:
        after = time_ms[i + 1 : i + 1 + _NEIGHBOURS]
        future[i] = np.mean(after < time_ms[i] - _LEAD_MS) >= 0.9
    for i in range(max(tail, _NEIGHBOURS_MIN), n):
        before = time_ms[max(0, i - _NEIGHBOURS) : i]
        future[i] = np.mean(before < time_ms[i] - _TAIL_LEAD_MS) >= 0.9
    return future
