"""Stream time. It comes from the events; the wall clock only bounds it, or moves it when nothing arrives.

    now        the newest believable event time so far; feature rows are built as of `now`. Never goes back.
               While nothing arrives it runs on at the pace of the wall clock, from where the events left it:
               a history that is replayed today does not age by years in its first quiet moment.
    behind     per partition, the newest time before this step: an event is late against its own partition, so
               neither a big step nor a partition that is read faster makes others late.
    watermark  the slowest active partition's newest time, less the lateness: who is declared gone is decided
               here, so that an event that is late by no more than `time.lateness_ms` cannot contradict it.

Always true: now <= as_of + skew where a wall clock is given; one event from 2099 closes nobody's window.
A file is its own clock: there, an event is from the future when its neighbours say so (`_contradicted`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import Time
from .events import I32, I64, Bool
from .ports import State

_NEIGHBOURS = 64
_NEIGHBOURS_MIN = 8
_LEAD_MS = 86_400_000
_TAIL_LEAD_MS = 366 * 86_400_000
_QUIET_STEPS = 16
"""A partition without events for this many steps does not hold the watermark back."""


@dataclass(frozen=True, slots=True)
class Clocked:
    time_ms: I64  # (n,) with future times clamped
    future: Bool  # (n,) which were
    behind_ms: I64  # (n,) newest time of the event's partition before this step; 0 where there was none


class Clock:
    """Memory: one entry per input partition."""

    def __init__(self, config: Time) -> None:
        self._lateness_ms = config.lateness_ms
        self._skew_ms = config.future_skew_ms
        self._newest_ms: dict[int, int] = {}  # partition -> newest time
        self._quiet: dict[int, int] = {}  # partition -> steps since its last event
        self._lag_ms = 0  # wall clock less `now` when events last came
        self.now_ms = 0
        self.watermark_ms = 0

    def advance(self, time_ms: I64, partitions: I32, as_of_ms: int | None, undated: bool = False) -> Clocked:
        """Clamp future times (n,), then move time. With no events, `now` moves as far as the wall clock did.

        `undated`: records came, though none with a time: no partition is silent for that.
        """
        future, cap_ms = self._future(time_ms, as_of_ms)
        clamped = np.where(future, cap_ms, time_ms)
        behind_ms = np.zeros(len(time_ms), np.int64)
        self._quiet = {partition: steps + 1 for partition, steps in self._quiet.items()}
        for partition in np.unique(partitions).tolist():
            own = partitions == partition
            behind_ms[own] = self._newest_ms.get(partition, 0)
            self._newest_ms[partition] = max(self._newest_ms.get(partition, 0), int(clamped[own].max()))
            self._quiet[partition] = 0
        if len(clamped):
            self.now_ms = max(self.now_ms, int(clamped.max()))
            self._lag_ms = 0 if as_of_ms is None else as_of_ms - self.now_ms
        elif as_of_ms is not None and self.now_ms:
            self.now_ms, _ = self.idle(as_of_ms)
            self._quiet = self._quiet if undated else {}
        self.watermark_ms = max(self.watermark_ms, self._slowest_ms() - self._lateness_ms)
        return Clocked(clamped, future, behind_ms)

    def idle(self, as_of_ms: int) -> tuple[int, int]:
        """`now` and `watermark` as a step without records would make them."""
        if not self.now_ms:
            return 0, 0
        now_ms = max(self.now_ms, as_of_ms - self._lag_ms)
        return now_ms, max(self.watermark_ms, now_ms - self._lateness_ms)

    def _future(self, time_ms: I64, as_of_ms: int | None) -> tuple[Bool, int]:
        """(n,) which times are beyond belief, and what they are clamped to."""
        if as_of_ms is not None:
            return time_ms > as_of_ms + self._skew_ms, as_of_ms
        future = _contradicted(time_ms)
        return future, max(self.now_ms, int(time_ms[~future].max(initial=0)))

    def _slowest_ms(self) -> int:
        """Newest time of the slowest partition that still speaks; `now` when none does."""
        active = [self._newest_ms[p] for p, steps in self._quiet.items() if steps < _QUIET_STEPS]
        return min(active, default=self.now_ms)

    def snapshot(self) -> State:
        partitions = sorted(self._newest_ms)
        return {
            "now_ms": self.now_ms,
            "lag_ms": self._lag_ms,
            "watermark_ms": self.watermark_ms,
            "partitions": partitions,
            "newest_ms": [self._newest_ms[p] for p in partitions],
            "quiet": [self._quiet.get(p, -1) for p in partitions],
        }

    def restore(self, state: State) -> None:
        self.now_ms = state["now_ms"]
        self._lag_ms = state["lag_ms"]
        self.watermark_ms = state["watermark_ms"]
        self._newest_ms = dict(zip(state["partitions"], state["newest_ms"], strict=True))
        self._quiet = {p: q for p, q in zip(state["partitions"], state["quiet"], strict=True) if q >= 0}


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
    for j in range(max(tail, _NEIGHBOURS_MIN), n):
        before = time_ms[max(0, j - _NEIGHBOURS) : j]
        future[j] = np.mean(before < time_ms[j] - _TAIL_LEAD_MS) >= 0.9
    return future
