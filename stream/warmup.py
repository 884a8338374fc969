"""The first rows are only collected: centres drawn far from the data would never win one.

The buffer is full after `segmenter.warmup_rows` rows, or with fewer once `segmenter.warmup_ms` of stream
time has passed, or at the end of a finite input. Then scaling, encoder and centres start from it together.
Of each user only the latest row is kept: a bot that is in every step would count as much as twenty people,
and have a centre of its own.
"""

from __future__ import annotations

import numpy as np

from .config import Segmenter
from .events import F32, I32
from .ports import State


class Warmup:
    def __init__(self, config: Segmenter) -> None:
        self._rows_max = config.warmup_rows
        self._ms = config.warmup_ms
        self._rows_min = config.segments
        self._row_of: dict[int, F32] = {}  # slot -> (d,) the latest row, in order of the first
        self._rows = 0  # offered so far, at most warmup_rows
        self._first_ms: int | None = None
        self.done = False

    def offer(self, slots: I32, raw: F32, now_ms: int, closing: bool) -> F32 | None:
        """Add rows (n, d) of the users in `slots` (n,), each once.

        When it is time to start, the latest row of every user (<= warmup_rows, d), else None.
        """
        room = self._rows_max - self._rows
        for slot, row in zip(slots[:room].tolist(), raw[:room], strict=True):
            self._row_of[slot] = row.copy()
        if len(raw):
            self._rows += min(room, len(raw))
            self._first_ms = now_ms if self._first_ms is None else self._first_ms
        full = self._rows >= self._rows_max
        if not self._row_of or not (full or self.due(now_ms) or closing):
            return None
        buffer = np.stack(list(self._row_of.values()))
        self._row_of, self._rows, self.done = {}, 0, True
        return buffer

    def forget(self, slots: I32) -> bool:
        """Take out the rows of these users; whether there were any. They stay counted as offered."""
        found = [self._row_of.pop(slot, None) is not None for slot in slots.tolist()]
        return any(found)

    def holds(self, slot: int) -> bool:
        return slot in self._row_of

    def put(self, slot: int, row: F32) -> None:
        """The row (d,) of a user who is counted already."""
        self._row_of[slot] = row.copy()

    def due(self, now_ms: int) -> bool:
        """Whether the rows there are have waited long enough, without more of them."""
        waited = self._first_ms is not None and now_ms - self._first_ms >= self._ms
        return not self.done and waited and self._rows >= self._rows_min and bool(self._row_of)

    def snapshot(self) -> State:
        rows = list(self._row_of.values())
        return {
            "slots": np.array(list(self._row_of), np.int32),
            "rows": np.stack(rows) if rows else np.empty((0, 0), np.float32),
            "offered": self._rows,
            "first_ms": self._first_ms,
            "done": self.done,
        }

    def restore(self, state: State) -> None:
        slots, rows = state["slots"].tolist(), state["rows"]
        self._row_of = {slot: row.copy() for slot, row in zip(slots, rows, strict=True)}
        self._rows = state["offered"]
        self._first_ms = state["first_ms"]
        self.done = state["done"]
