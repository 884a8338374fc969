"""Which decoded events count: not those that are too late, nor those seen before.

Ids are remembered in two generations of `dedup_max` / 2 each. When the younger is full it becomes the
older, and the older is forgotten: an id is known for at least the `dedup_max` / 2 distinct ids after it,
and memory never grows. An older id that comes again counts again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .clock import Clocked
from .compiling import kernel
from .config import Features
from .events import CHANNELS, I64, U64, Bool, Events
from .ports import State
from .windows import window_start_ms


@dataclass(frozen=True, slots=True)
class Admitted:
    """Every decoded event is exactly one of accepted, duplicate, late."""

    events: Events  # the accepted ones, with clamped times
    duplicates: int
    late: int
    future: int  # accepted, with a clamped time

    def by_type(self) -> dict[str, int]:
        """Accepted events by channel, those that occur, in the order of CHANNELS."""
        counts = np.bincount(self.events.channel, minlength=len(CHANNELS)).tolist()
        return {name: count for name, count in zip(CHANNELS, counts, strict=True) if count}


class Admission:
    """Sets late and repeated events aside. Memory: 16 to 32 bytes per id of `dedup_max`, whatever arrives.

    Ids are known by 64 bits of hash: of two that share it the second counts as a duplicate.
    """

    def __init__(self, config: Features) -> None:
        self._longest = config.horizons[-1]
        self._half = config.dedup_max // 2
        self._young, self._old = self._table(), self._table()
        self._filled = np.zeros(1, np.int64)  # ids in the younger generation

    def _table(self) -> U64:
        """An empty generation: open addressing, at most half full."""
        return np.zeros(1 << (2 * self._half - 1).bit_length(), np.uint64)

    def admit(self, decoded: Events, clocked: Clocked) -> Admitted:
        """First late: before the longest window of what its partition had reached before this step. Then
        duplicate: its id was seen, and the first one wins. The id of a late event is not remembered.
        """
        late = clocked.time_ms < window_start_ms(self._longest, clocked.behind_ms)
        fresh = self._remember(decoded.event_key, ~late)
        accepted = replace(decoded, time_ms=clocked.time_ms).take(fresh)
        n_late = int(late.sum())
        return Admitted(
            events=accepted,
            duplicates=len(decoded) - n_late - len(accepted),
            late=n_late,
            future=int((clocked.future & fresh).sum()),
        )

    def _remember(self, keys: U64, candidates: Bool) -> Bool:
        """(n,) which candidates are new; they are remembered from here on."""
        fresh = np.zeros(len(keys), np.bool_)
        start = 0
        while start < len(keys):
            start = _insert(self._young, self._old, self._filled, self._half, keys, candidates, fresh, start)
            if self._filled[0] >= self._half:
                self._young, self._old = self._old, self._young
                self._young[:] = 0
                self._filled[0] = 0
        return fresh

    def snapshot(self) -> State:
        """The ids of both generations, sorted: a set has no order of its own."""
        return {"young": np.sort(self._young[self._young != 0]), "old": np.sort(self._old[self._old != 0])}

    def restore(self, state: State) -> None:
        self._young, self._old = self._table(), self._table()
        for table, keys in ((self._young, state["young"]), (self._old, state["old"])):
            for_all = np.ones(len(keys), np.bool_)
            _insert(table, table, np.zeros(1, np.int64), len(keys) + 1, keys, for_all, for_all.copy(), 0)
        self._filled = np.array([len(state["young"])], np.int64)


@kernel
def _find(table, key):  # type: ignore[no-untyped-def]
    """Where `key` is, or the free cell where it belongs."""
    mask = np.uint64(len(table) - 1)
    at = (key ^ (key >> np.uint64(32))) & mask
    while table[at] != np.uint64(0) and table[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@kernel
def _insert(
    young: U64, old: U64, filled: I64, half: int, keys: U64, candidates: Bool, fresh: Bool, start: int
) -> int:
    """Mark and remember new ids from `start` until the generation is full; the index where it stopped."""
    for i in range(start, len(keys)):
        if not candidates[i]:
            continue
        key = keys[i] if keys[i] != np.uint64(0) else np.uint64(1)  # 0 marks a free cell
        if old[_find(old, key)] == key:
            continue
        at = _find(young, key)
        if young[at] == key:
            continue
        young[at] = key
        fresh[i] = True
        filled[0] += 1
        if filled[0] >= half:
            return i + 1
    return len(keys)
