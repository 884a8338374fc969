"""User slots: which row of every slab belongs to whom, who has left, and who is due for another look.

At most `users_max` users are kept. When a step brings more, the longest silent ones leave first, at least one
in a hundred at a time so that making room stays cheap; a user named in the step never makes room for another.
Who is silent for `keep_ms` leaves anyhow. That is longer than any window: what somebody likes outlasts what they
did lately, and who comes back after two months is no stranger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .compiling import kernel
from .config import Features
from .events import I32, I64, Bool, Events
from .ports import State
from .windowing.roster import Roster
from .windows import window_start_ms

ANONYMOUS = "\x00"
"""First character of the name of an anonymous user; the rest is the anonymous id."""

_EXPIRY_SCAN = 1 << 14  # slots looked at per step for users silent for too long
_SWEEP_SCAN = 16  # slots looked at per silent row that a step may re-score
_NEVER = np.iinfo(np.int64).max


class Windowed(Protocol):
    """Who knows which users' rows have changed without an event."""

    def due(self, slots: I32, now_ms: int) -> Bool: ...  # (m,) -> (m,)


class Users:
    """Names <-> slots 0..users_max-1, and when each user was first and last seen."""

    def __init__(self, config: Features, salt: int = 0) -> None:
        """`salt`: anything that people outside cannot know; no result depends on it."""
        self._max, self._salt = config.users_max, salt
        self._sweep_max = config.sweep_rows_max
        self._longest = config.horizons[-1]
        self._keep_ms = config.keep_ms
        self._asked: tuple[Sequence[str], tuple[list[str], I32]] = ((), ([], np.empty(0, np.int32)))
        self._reset()

    def _reset(self) -> None:
        self._roster = Roster(self._max, self._salt)
        self._expiry_cursor = 0
        self._sweep_cursor = 0
        self.last_ms: I64 = np.zeros(self._max, np.int64)  # (u,) newest event; 0 where free
        self.first_ms: I64 = np.zeros(self._max, np.int64)  # (u,) oldest event
        self.events_seen: I32 = np.zeros(self._max, np.int32)  # (u,) since the slot was given

    def __len__(self) -> int:
        return len(self._roster)

    def touch(self, events: Events) -> I32:
        """(n,) the slot of each event's user; new users get the last slot freed, else the next unused."""
        names, index = self._distinct(events.users)
        slots = self._roster.add(names)[index]
        _see(slots, events.time_ms, self.first_ms, self.last_ms, self.events_seen)
        return slots

    def slot(self, name: str) -> int | None:
        """Where a user is kept; None for one who is not."""
        slot = int(self._roster.find([name])[0])
        return None if slot < 0 else slot

    def names(self, slots: I32) -> list[str]:
        """Who has these slots; "" where nobody does."""
        return self._roster.names(slots)

    def leaving(self, names_in_step: Sequence[str], watermark_ms: int) -> I32:
        """Slots to release before this step's events, ascending: silent for too long, then for lack of room.

        Only the next 16,384 slots are looked at for long silence, in turn. Users named in the step stay.
        """
        named, new = self._named(names_in_step)
        gone = self._expired(named, watermark_ms)
        needed = len(self) - len(gone) + new - self._max
        if needed > 0:
            gone = np.concatenate([gone, self._longest_silent(max(needed, self._max // 100), named, gone)])
        return np.sort(gone).astype(np.int32)

    def _named(self, names: Sequence[str]) -> tuple[I32, int]:
        """Slots of the known users named, and how many of the names are new."""
        slots = self._roster.find(self._distinct(names)[0])
        return slots[slots >= 0], int((slots < 0).sum())

    def _distinct(self, names: Sequence[str]) -> tuple[list[str], I32]:
        """The names, each once, in order of appearance; (n,) which of them each is. A step asks twice: remembered."""
        if self._asked[0] is not names:
            distinct = list(dict.fromkeys(names))
            place = {name: i for i, name in enumerate(distinct)}
            index = np.fromiter(map(place.__getitem__, names), np.int32, len(names))
            self._asked = names, (distinct, index)
        return self._asked[1]

    def _expired(self, named: I32, watermark_ms: int) -> I32:
        slots, self._expiry_cursor = self._turn(self._expiry_cursor, _EXPIRY_SCAN)
        return np.setdiff1d(slots[self.expired(slots, watermark_ms)], named)

    def expired(self, slots: I32, watermark_ms: int) -> Bool:
        """(m,) who is there, has been silent for `keep_ms`, and has nothing left in any window."""
        last_ms = self.last_ms[slots]
        limit_ms = min(window_start_ms(self._longest, watermark_ms), watermark_ms - self._keep_ms)
        return (last_ms > 0) & (last_ms < limit_ms)

    def _longest_silent(self, wanted: int, named: I32, gone: I32) -> I32:
        """The `wanted` users with the smallest (last_ms, slot), without those named or gone."""
        last_ms = self.last_ms[: self._roster.used].copy()
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
        n = self._roster.used
        if not n or not length:
            return np.empty(0, np.int32), 0
        length = min(length, n)
        slots = np.arange(cursor, cursor + length, dtype=np.int32)
        slots[slots >= n] -= n
        return slots, (cursor + length) % n

    def release(self, slots: I32) -> None:
        """Forget these users; their slots are given to the next new ones, the last one first."""
        self._roster.remove(slots)
        for array in (self.last_ms, self.first_ms, self.events_seen):
            array[slots] = 0

    def merge(self, source: int, into: int) -> None:
        """User `into` has also seen what user `source` has; the source is to be released."""
        self.first_ms[into] = min(self.first_ms[into], self.first_ms[source])
        self.last_ms[into] = max(self.last_ms[into], self.last_ms[source])
        self.events_seen[into] += self.events_seen[source]

    def rename(self, slot: int, name: str) -> None:
        """Who has this slot is called `name`, whom nobody here is called."""
        self._roster.remove(np.array([slot], np.int32))
        (given,) = self._roster.add([name]).tolist()
        assert given == slot, f"slot {slot} was freed last, but {given} was given"

    def scrub(self) -> None:
        """Overwrite what is left in memory of the names of users who were released."""
        self._roster.scrub()
        self._asked = (), ([], np.empty(0, np.int32))

    def silent(self, touched: I32, features: Windowed, now_ms: int, everybody: bool) -> I32:
        """Users without an event in this step who are due for another row, ascending.

        At most `sweep_rows_max`, in turn, of 16 times as many slots; with `everybody` all live users.
        """
        if everybody:
            return np.setdiff1d(self._live(np.arange(self._roster.used, dtype=np.int32)), touched)
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
        used = self._roster.used
        state: State = {name: getattr(self, name)[:used].copy() for name in _SLABS}
        names = self._roster.names(np.arange(used, dtype=np.int32))
        state |= {"names": names, "free": self._roster.freed.copy()}
        return state | {"expiry_cursor": self._expiry_cursor, "sweep_cursor": self._sweep_cursor}

    def restore(self, state: State) -> None:
        self._reset()
        self._roster.restore(state["names"], state["free"])
        for name in _SLABS:
            getattr(self, name)[: self._roster.used] = state[name]
        self._expiry_cursor = state["expiry_cursor"]
        self._sweep_cursor = state["sweep_cursor"]


_SLABS = ("last_ms", "first_ms", "events_seen")


@kernel
def _see(slots, time_ms, first_ms, last_ms, events_seen):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        u = slots[i]
        if events_seen[u] == 0 or time_ms[i] < first_ms[u]:
            first_ms[u] = time_ms[i]
        last_ms[u] = max(last_ms[u], time_ms[i])
        events_seen[u] += 1
