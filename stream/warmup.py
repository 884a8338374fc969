"""The first rows are only collected: centres drawn far from the data would never win one.

The buffer is full after `segmenter.warmup_rows` rows, or with fewer once `segmenter.warmup_ms` of stream
time has passed, or at the end of a finite input. Then scaling, encoder and centres start from it together.
"""

from __future__ import annotations

import numpy as np

from .config import Segmenter
from .events import F32
from .ports import State


class Warmup:
    def __init__(self, config: Segmenter) -> None:
        self._rows_max = config.warmup_rows
        self._ms = config.warmup_ms
        self._rows_min = config.segments
        self._chunks: list[F32] = []
        self._rows = 0
        self._first_ms: int | None = None
        self.done = False

    def offer(self, raw: F32, now_ms: int, closing: bool) -> F32 | None:
        """Add rows (n, d); the whole buffer (<= warmup_rows, d) when it is time to start, else None."""
        room = self._rows_max - self._rows
        if len(raw):
            self._chunks.append(raw[:room].copy())
            self._rows += len(self._chunks[-1])
            self._first_ms = now_ms if self._first_ms is None else self._first_ms
        waited = self._first_ms is not None and now_ms - self._first_ms >= self._ms
        full = self._rows >= self._rows_max
        if not (full or (self._rows >= self._rows_min and waited) or (closing and self._rows)):
            return None
        buffer = np.concatenate(self._chunks)
        self._chunks, self._rows, self.done = [], 0, True
        return buffer

    def snapshot(self) -> State:
        rows = np.concatenate(self._chunks) if self._chunks else np.empty((0, 0), np.float32)
        return {"rows": rows, "first_ms": self._first_ms, "done": self.done}

    def restore(self, state: State) -> None:
        rows = state["rows"]
        self._chunks = [rows] if len(rows) else []
        self._rows = len(rows)
        self._first_ms = state["first_ms"]
        self.done = state["done"]
