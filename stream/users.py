"""User slots: which row of every slab belongs to whom, who has left, and who is due for another look.

At most `users_max` users are kept. When a step brings more, the longest silent ones leave first, at least one
in a hundred at a time so that making room stays cheap; a user named in the step never makes room for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .config import Features
from .events import I32, I64, Bool, Events
from .ports import State
from .windows import window_start_ms

ANONYMOUS = "\x00"
"""First character of the name of an anonymous user; the rest is the anonymous id."""

_EXPIRY_SCAN = 1 << 14  # slots looked at per step for users whose windows are empty
_SWEEP_SCAN = 16  # slots looked at per silent row that a step may re-score
_NEVER = np.iinfo(np.int64).max


class Windowed(Protocol):
    """Who knows which users' rows have changed without an event."""

    def due(self, slots: I32, now_ms: int) -> Bool: ...  # (m,) -> (m,)


class Users:
    """Names <-> slots 0..users_max-1, and when each user was first and last seen."""

    def __init__(self, config: Features) -> None:
        self._max = config.users_max
        self._sweep_max = config.sweep_rows_max
        self._longest = config.horizons[-1]
        self._reset()

    def _reset(self) -> None:
        self._slot_of: dict[str, int] = {}
        self._name_of: list[str] = []  # by slot, up to the highest ever used; "" where free
        self._free: list[int] = []  # a stack
        self._expiry_cursor = 0
        self._sweep_cursor = 0
        self.last_ms: I64 = np.zeros(self._max, np.int64)  # (u,) newest event; 0 where free
        self.first_ms: I64 = np.zeros(self._max, np.int64)  # (u,) oldest event
        self.events_seen: I32 = np.zeros(self._max, np.int32)  # (u,) since the slot was given

    def __len__(self) -> int:
        return len(self._slot_of)

    def touch(self, events: Events) -> I32:
        """(n,) the slot of each event's user; new users get the last slot freed, else the next unused."""
        slot_of = self._slot_of
        slots = np.fromiter(
            (slot_of[name] if name in slot_of else self._allocate(name) for name in events.users),
            np.int32,
            len(events),
        )
        np.maximum.at(self.last_ms, slots, events.time_ms)
        np.minimum.at(self.first_ms, slots, events.time_ms)
        np.add.at(self.events_seen, slots, np.int32(1))
        return slots

    def _allocate(self, name: str) -> int:
        assert name, "a user without a name"
        if self._free:
            slot = self._free.pop()
            self._name_of[slot] = name
        else:
            slot = len(self._name_of)
            assert slot < self._max, f"more users than features.users_max = {self._max}: ask leaving() first"
            self._name_of.append(name)
        self._slot_of[name] = slot
        self.first_ms[slot] = _NEVER
        return slot

    def slot(self, name: str) -> int | None:
        """Where a user is kept; None for one who is not."""
        return self._slot_of.get(name)

    def names(self, slots: I32) -> list[str]:
        return [self._name_of[slot] for slot in slots.tolist()]

    def leaving(self, names_in_step: Sequence[str], watermark_ms: int) -> I32:
        """Slots to release before this step's events, ascending: empty windows first, then for lack of room.

        Only the next 16,384 slots are looked at for empty windows, in turn. Users named in the step stay.
        """
        named, new = self._named(names_in_step)
        gone = self._expired(named, watermark_ms)
        needed = len(self) - len(gone) + new - self._max
        if needed > 0:
            gone = np.concatenate([gone, self._longest_silent(max(needed, self._max // 100), named, gone)])
        return np.sort(gone).astype(np.int32)

    def _named(self, names: Sequence[str]) -> tuple[I32, int]:
        """Slots of the known users named, and how many of the names are new."""
        known: list[int] = []
        new: dict[str, None] = {}
        for name in names:
            slot = self._slot_of.get(name)
            if slot is None:
                new[name] = None
            else:
                known.append(slot)
        return np.array(known, np.int32), len(new)

    def _expired(self, named: I32, watermark_ms: int) -> I32:
        slots, self._expiry_cursor = self._turn(self._expiry_cursor, _EXPIRY_SCAN)
        last_ms = self.last_ms[slots]
        empty = (last_ms > 0) & (last_ms < window_start_ms(self._longest, watermark_ms))
        return np.setdiff1d(slots[empty], named)

    def _longest_silent(self, wanted: int, named: I32, gone: I32) -> I32:
        """The `wanted` users with the smallest (last_ms, slot), without those named or gone."""
        last_ms = self.last_ms[: len(self._name_of)].copy()
        last_ms[last_ms == 0] = _NEVER
        last_ms[named] = _NEVER
        last_ms[gone] = _NEVER
        wanted = min(wanted, int((last_ms != _NEVER).sum()))
        if not wanted:
            return np.empty(0, np.int32)
        limit_ms = np.partition(last_ms, wanted - 1)[wanted - 1]
        older = np.flatnonzero(last_ms < limit_ms)
        ties = np.flatnonzero(last_ms == limit_ms)[: wanted - len(older)]
        return np.concatenate([older, ties]).astype(np.int32)

    def _turn(self, cursor: int, length: int) -> tuple[I32, int]:
        """The next `length` slots in turn, each at most once, and where to go on."""
        n = len(self._name_of)
        if not n or not length:
            return np.empty(0, np.int32), 0
        length = min(length, n)
        slots = np.arange(cursor, cursor + length, dtype=np.int32)
        slots[slots >= n] -= n
        return slots, (cursor + length) % n

    def release(self, slots: I32) -> None:
        """Forget these users; their slots are given to the next new ones, the last one first."""
        for slot in slots.tolist():
            del self._slot_of[self._name_of[slot]]
            self._name_of[slot] = ""
            self._free.append(slot)
        for array in (self.last_ms, self.first_ms, self.events_seen):
            array[slots] = 0

    def silent(self, touched: I32, features: Windowed, now_ms: int, everybody: bool) -> I32:
        """Users without an event in this step who are due for another row, ascending.

        At most `sweep_rows_max`, in turn, of 16 times as many slots; with `everybody` all live users.
        """
        if everybody:
            return np.setdiff1d(self._live(np.arange(len(self._name_of), dtype=np.int32)), touched)
        slots, after = self._turn(self._sweep_cursor, _SWEEP_SCAN * self._sweep_max)
        waiting = self._live(slots)
        waiting = waiting[features.due(waiting, now_ms)]
        waiting = waiting[~np.isin(waiting, touched)]
        if len(waiting) > self._sweep_max:
            after = int(waiting[self._sweep_max])
            waiting = waiting[: self._sweep_max]
        self._sweep_cursor = after
        return np.sort(waiting)

    def _live(self, slots: I32) -> I32:
        return slots[self.last_ms[slots] > 0]

    def snapshot(self) -> State:
        """Up to the highest slot ever used; the free slots in the order they will be given; the cursors."""
        used = len(self._name_of)
        state: State = {name: getattr(self, name)[:used].copy() for name in _SLABS}
        state |= {"names": list(self._name_of), "free": np.array(self._free, np.int32)}
        return state | {"expiry_cursor": self._expiry_cursor, "sweep_cursor": self._sweep_cursor}

    def restore(self, state: State) -> None:
        self._reset()
        self._name_of = list(state["names"])
        self._slot_of = dict(zip(self._name_of, range(len(self._name_of)), strict=True))
        self._slot_of.pop("", None)
        self._free = state["free"].tolist()
        for name in _SLABS:
            getattr(self, name)[: len(self._name_of)] = state[name]
        self._expiry_cursor = state["expiry_cursor"]
        self._sweep_cursor = state["sweep_cursor"]


_SLABS = ("last_ms", "first_ms", "events_seen")
