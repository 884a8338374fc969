"""Lag in seconds, from lag in records: how long ago was the newest record we have read the newest there was?

Each partition keeps a few observations (time, end of the log). Lag is now minus the time at which the log
ended where we are now, interpolated. No call to the broker, no look into the records.
What waited before the first observation counts from that observation: a lower bound, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..events import Range

SAMPLES_MAX = 64
"""Observations kept per partition; at the limit every second one is dropped, so the span doubles."""
PARTITIONS_MAX = 4096
"""Partitions watched; those beyond get no lag in seconds (their records still count)."""


Ends = list[tuple[float, int]]  # (when, end of the log), both rising


class Lag:
    """Per partition: records read since the start, and when the log ended where."""

    def __init__(self) -> None:
        self._read: dict[int, int] = {}
        self._ends: dict[int, Ends] = {}

    def read(self, ranges: Sequence[Range]) -> None:
        """These offsets were read and committed."""
        for r in ranges:
            self._read[r.partition] = self._read.get(r.partition, 0) + r.end - r.start

    def observe(self, lag: Mapping[int, int], now_s: float) -> dict[int, float]:
        """Partition -> lag in seconds (>= 0), from lag in records at `now_s`."""
        return {
            partition: self._observe(partition, records, now_s)
            for partition, records in lag.items()
            if partition in self._ends or len(self._ends) < PARTITIONS_MAX
        }

    def _observe(self, partition: int, records: int, now_s: float) -> float:
        here = self._read.get(partition, 0)
        end = here + max(0, records)
        ends = self._ends.setdefault(partition, [])
        if not ends or end > ends[-1][1]:
            ends.append((now_s, end))
        elif end == ends[-1][1] and end == here:
            ends[-1] = (now_s, end)  # caught up: the log still ended here just now
        if len(ends) > SAMPLES_MAX:
            del ends[1:-1:2]
        return max(0.0, now_s - _when(ends, here)) if records > 0 else 0.0


def _when(ends: Ends, position: int) -> float:
    """When the log ended at `position`; drops the observations that are no longer needed."""
    while len(ends) > 1 and ends[1][1] <= position:
        ends.pop(0)
    (before_s, before), (after_s, after) = ends[0], ends[1] if len(ends) > 1 else ends[0]
    if after <= before or position <= before:
        return before_s
    return before_s + (after_s - before_s) * (position - before) / (after - before)
