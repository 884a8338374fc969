"""Sliding windows over event time: per user and horizon, running totals over a ring of tiles.

Theory. A horizon of W ms and T tiles has tiles of W/T ms; an event lies in tile floor(time / tile_ms). The
window at `now` is the tiles (head - T, head] with head = floor(now / tile_ms). Always true:

1. `heads[h]` is the newest tile anybody has reached. It never goes back, and never passes `now`.
2. The tiles of a user that hold anything lie within T of each other: each is alone at its place, tile mod T.
3. A total is the sum of the user's tiles; `oldest` is the first tile that holds anything (if `events` > 0).
4. Tiles leave lazily, when their user is touched or read: each is cleared once, and an event costs the same
   for any T. (Passing an empty tile costs one look at one counter.)

All sums are of integers: they depend neither on order nor on how events were cut into steps. A user's columns
are a function of (set of accepted events, now): an event too old for a head is too old for every later row.
Distinct items are kept by the second: exact where tiles are whole seconds, else an item may stay one longer.

Limits. One tile holds at most +-32,767 of a count, 2**31 - 1 ms of dwell and 2,147,483 of quantity, and stays
there; only then does the order of positive and negative events matter. Day parts and weekends are UTC.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .config import Features, Horizon
from .events import CHANNELS, F32, I32, I64, Bool, Events
from .ports import State

Times = TypeVar("Times", int, I64)

COUNTS: tuple[str, ...] = (*(f"{channel}_count" for channel in CHANNELS), "events")
PARTS: tuple[str, ...] = ("night_share", "morning_share", "afternoon_share", "evening_share", "weekend_share")
BUCKETS = 64
"""Of the linear counting of distinct items: within a tenth up to about 100 items, full at about 300."""

_C = len(COUNTS)
_ALL = _C - 1
_PURCHASE, _IMPRESSION = CHANNELS.index("purchase"), CHANNELS.index("impression")
_PER_HORIZON = _C + 4  # counts, money, quantity, dwell, distinct items
_CENTS, _MILLI = 100.0, 1000.0
_INT16_MAX, _INT32_MAX, _MONEY_MAX = 32_767, 2**31 - 1, 2**53
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_PRIOR = 4.0  # events' worth of an even day mixed into the shares: one visit is not a habit


def tile_ms(horizon: Horizon) -> int:
    """Width of a tile: also how much longer than asked for nothing is remembered."""
    return horizon.window_ms // horizon.tiles


def window_start_ms(horizon: Horizon, now_ms: Times) -> Times:
    """Elementwise: start of the oldest tile of the window at `now_ms`: what is older is outside."""
    width_ms = tile_ms(horizon)
    return (now_ms // width_ms - horizon.tiles + 1) * width_ms


class Grid(NamedTuple):
    """The shape of the rings."""

    tile_ms: I64  # (h,)
    tiles: I64  # (h,)
    first: I64  # (h,) where the ring of a horizon starts among the s tiles of all horizons


class Slab(NamedTuple):
    """State of u users, h horizons, s tiles in all. Untouched pages of a large slab cost no memory."""

    oldest: I64  # (u, h) first tile that holds anything; meaningless where `events` is 0
    counts: NDArray[np.int16]  # (u, s, 18) signed counts per channel; `events` counts every event once
    money: I64  # (u, s, 1) hundredths: purchases minus refunds
    work: I32  # (u, s, 2) quantity in thousandths (purchases minus refunds), dwell in ms
    parts: NDArray[np.int16]  # (u, t, 5) events by day part, and at the weekend; longest horizon only
    count_totals: I32  # (u, h, 18)
    money_totals: I64  # (u, h, 1)
    work_totals: I64  # (u, h, 2)
    part_totals: I32  # (u, 1, 5)
    stamps: NDArray[np.uint32]  # (u, 64) second at which an item of the bucket was last touched; 0: never

    @staticmethod
    def zeros(u: int, h: int, s: int, t: int) -> Slab:
        return Slab(
            oldest=np.zeros((u, h), np.int64),
            counts=np.zeros((u, s, _C), np.int16),
            money=np.zeros((u, s, 1), np.int64),
            work=np.zeros((u, s, 2), np.int32),
            parts=np.zeros((u, t, len(PARTS)), np.int16),
            count_totals=np.zeros((u, h, _C), np.int32),
            money_totals=np.zeros((u, h, 1), np.int64),
            work_totals=np.zeros((u, h, 2), np.int64),
            part_totals=np.zeros((u, 1, len(PARTS)), np.int32),
            stamps=np.zeros((u, BUCKETS), np.uint32),
        )


class Windows:
    """Windowed counts, sums, shapes and distinct items of `users_max` users."""

    def __init__(self, config: Features) -> None:
        horizons = config.horizons
        tiles = np.array([h.tiles for h in horizons], np.int64)
        widths_ms = np.array([tile_ms(h) for h in horizons], np.int64)
        self._grid = Grid(widths_ms, tiles, np.cumsum(tiles) - tiles)
        self._shape = (config.users_max, len(horizons), int(tiles.sum()), int(tiles[-1]))
        self._slab = Slab.zeros(*self._shape)
        self._heads = np.zeros(len(horizons), np.int64)
        self._due_ms = np.zeros(config.users_max, np.int64)  # (u,) when a window next loses a tile; 0: never
        self._used = 0  # slots from here on were never touched: nobody reads their pages
        self.names = _names(horizons)
        self.bytes_per_user = sum(array[:1].nbytes for array in self._slab)

    def update(self, slots: I32, events: Events) -> None:
        """Add events (n,) of the users in `slots` (n,). Events outside a window are left out of it."""
        if not len(slots):
            return
        self._advance(int(events.time_ms.max()))
        self._used = max(self._used, int(slots.max()) + 1)
        cents = np.rint(np.clip(events.value, 0, 1e13) * _CENTS).astype(np.int64)
        milli = np.rint(np.clip(events.quantity, 0, 2e6) * _MILLI).astype(np.int64)
        _update(
            self._slab, self._grid, self._heads, slots, events.channel, events.sign, events.time_ms,
            cents, milli, events.dwell_ms, events.item,
        )  # fmt: skip
        self._note_due(slots)

    def fill(self, slots: I32, now_ms: int, out: F32) -> None:
        """Write the users' columns (`names`) as of `now_ms` into `out` (m, >= len(names)).

        `now_ms` must not be older than any event or row before it; it forgets what has left the windows.
        """
        self._advance(now_ms)
        _fill(self._slab, self._grid, self._heads, _ESTIMATE, slots, out)
        self._note_due(slots)

    def due(self, slots: I32, now_ms: int) -> Bool:
        """(m,) whose windows have lost something since they were last touched or read. `now_ms` as in `fill`."""
        due_ms = self._due_ms[slots]
        return (due_ms > 0) & (due_ms <= now_ms)

    def _note_due(self, slots: I32) -> None:
        _next_due(self._slab.count_totals, self._slab.oldest, self._grid, slots, self._due_ms)

    def clear(self, slots: I32) -> None:
        """Forget these users: their slots will be given to others."""
        for array in self._slab:
            array[slots] = 0
        self._due_ms[slots] = 0

    def _advance(self, now_ms: int) -> None:
        np.maximum(self._heads, now_ms // self._grid.tile_ms, out=self._heads)

    def snapshot(self) -> State:
        """Positions and values of what is not zero: most cells of most users are."""
        state: State = {"heads": self._heads.copy(), "used": self._used}
        for name, array in self._slab._asdict().items():
            flat = array[: self._used].reshape(-1)
            at = np.flatnonzero(flat)
            state[name] = {"at": at.astype(np.uint32 if flat.size < 2**32 else np.int64), "value": flat[at]}
        return state

    def restore(self, state: State) -> None:
        self._slab = Slab.zeros(*self._shape)
        self._heads = state["heads"].copy()
        self._used = state["used"]
        for name, array in self._slab._asdict().items():
            array.reshape(-1)[state[name]["at"]] = state[name]["value"]
        self._due_ms[:] = 0
        self._note_due(np.arange(self._used, dtype=np.int32))


def _names(horizons: tuple[Horizon, ...]) -> tuple[str, ...]:
    quantities = (*COUNTS, "money", "quantity", "dwell_ms", "distinct_items")
    return (*(f"{quantity}_{h.name}" for h in horizons for quantity in quantities), *PARTS)


_EMPTY = np.maximum(BUCKETS - np.arange(BUCKETS + 1), 0.5)  # a full table: as if half a bucket were empty
_ESTIMATE: F32 = (BUCKETS * np.log(BUCKETS / _EMPTY)).astype(np.float32)
"""Touched buckets -> distinct items. Whang, Vander-Zanden and Taylor (1990), linear-time counting."""


# --- kernels -------------------------------------------------------------------------------------------


@njit(cache=True)
def _put(tiles, totals, u, at, total_at, lane, delta, limit):  # type: ignore[no-untyped-def]
    """Add `delta` to a tile, no further than +-limit, and what was added to its total."""
    before = np.int64(tiles[u, at, lane])
    after = min(max(before + np.int64(delta), -limit), limit)
    tiles[u, at, lane] = after
    totals[u, total_at, lane] += after - before


@njit(cache=True)
def _update(slab, grid, heads, slots, channel, sign, time_ms, cents, milli, dwell_ms, item):  # type: ignore[no-untyped-def]
    last = len(heads) - 1
    for i in range(len(slots)):
        u = slots[i]
        for h in range(len(heads)):
            tile = time_ms[i] // grid.tile_ms[h]
            if tile <= heads[h] - grid.tiles[h]:
                continue
            if _stale(slab.count_totals, slab.oldest, u, h, heads[h] - grid.tiles[h]):
                _expire(slab, grid, u, h, heads[h])
            if slab.count_totals[u, h, _ALL] == 0 or tile < slab.oldest[u, h]:
                slab.oldest[u, h] = tile
            ring = tile % grid.tiles[h]
            s = grid.first[h] + ring
            _put(slab.counts, slab.count_totals, u, s, h, channel[i], sign[i], _INT16_MAX)
            _put(slab.counts, slab.count_totals, u, s, h, _ALL, 1, _INT16_MAX)
            if channel[i] == _PURCHASE:
                _put(slab.money, slab.money_totals, u, s, h, 0, sign[i] * cents[i], _MONEY_MAX)
                _put(slab.work, slab.work_totals, u, s, h, 0, sign[i] * milli[i], _INT32_MAX)
            if dwell_ms[i] != 0:  # time spent taking something back is spent all the same
                _put(slab.work, slab.work_totals, u, s, h, 1, dwell_ms[i], _INT32_MAX)
            if h == last:
                _shape(slab.parts, slab.part_totals, u, ring, time_ms[i])
        if item[i] != 0 and sign[i] > 0 and channel[i] != _IMPRESSION:
            _stamp(slab.stamps, u, item[i], time_ms[i])


@njit(cache=True)
def _shape(parts, totals, u, ring, time_ms):  # type: ignore[no-untyped-def]
    _put(parts, totals, u, ring, 0, time_ms // (6 * _HOUR_MS) % 4, 1, _INT16_MAX)
    if (time_ms // _DAY_MS + 3) % 7 >= 5:  # 1970-01-01 was a Thursday; Monday is 0
        _put(parts, totals, u, ring, 0, 4, 1, _INT16_MAX)


@njit(cache=True)
def _stamp(stamps, u, item, time_ms):  # type: ignore[no-untyped-def]
    bucket = np.int64(item >> np.uint64(58))
    second = min(time_ms // 1000, np.int64(2**32 - 1))
    if second > np.int64(stamps[u, bucket]):
        stamps[u, bucket] = second


@njit(cache=True)
def _stale(count_totals, oldest, u, h, edge):  # type: ignore[no-untyped-def]
    """Whether the window holds tiles up to `edge`, which have left it."""
    return oldest[u, h] <= edge and count_totals[u, h, _ALL] != 0


@njit(cache=True)
def _expire(slab, grid, u, h, head):  # type: ignore[no-untyped-def]
    """Take the tiles that have left the window at `head` out of the totals; move `oldest` to the next.

    Only for stale windows: handing over the slab costs more than adding an event (measured: 15x).
    """
    edge = head - grid.tiles[h]
    tile = slab.oldest[u, h]
    while True:
        s = grid.first[h] + tile % grid.tiles[h]
        if slab.counts[u, s, _ALL] != 0:
            if tile > edge:
                break
            _take_out(slab.counts, slab.count_totals, u, s, h)
            _take_out(slab.money, slab.money_totals, u, s, h)
            _take_out(slab.work, slab.work_totals, u, s, h)
            if h == len(grid.tiles) - 1:
                _take_out(slab.parts, slab.part_totals, u, tile % grid.tiles[h], 0)
            if slab.count_totals[u, h, _ALL] == 0:
                break
        tile += 1
    slab.oldest[u, h] = tile


@njit(cache=True)
def _take_out(tiles, totals, u, at, total_at):  # type: ignore[no-untyped-def]
    for lane in range(tiles.shape[2]):
        totals[u, total_at, lane] -= tiles[u, at, lane]
        tiles[u, at, lane] = 0


@njit(cache=True)
def _fill(slab, grid, heads, estimate, slots, out):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        u = slots[i]
        for h in range(len(heads)):
            if _stale(slab.count_totals, slab.oldest, u, h, heads[h] - grid.tiles[h]):
                _expire(slab, grid, u, h, heads[h])
            at = h * _PER_HORIZON
            for lane in range(_C):
                out[i, at + lane] = slab.count_totals[u, h, lane]
            out[i, at + _C] = slab.money_totals[u, h, 0] / _CENTS
            out[i, at + _C + 1] = slab.work_totals[u, h, 0] / _MILLI
            out[i, at + _C + 2] = slab.work_totals[u, h, 1]
            start_s = (heads[h] - grid.tiles[h] + 1) * grid.tile_ms[h] // 1000
            touched = 0
            for bucket in range(BUCKETS):
                touched += np.int64(slab.stamps[u, bucket]) >= max(start_s, 1)
            out[i, at + _C + 3] = estimate[touched]
        _shares(slab.part_totals[u, 0], out[i], len(heads) * _PER_HORIZON)


@njit(cache=True)
def _shares(totals, row, at):  # type: ignore[no-untyped-def]
    events = totals[0] + totals[1] + totals[2] + totals[3] + _PRIOR
    for part in range(4):
        row[at + part] = (totals[part] + _PRIOR / 4) / events
    row[at + 4] = (totals[4] + _PRIOR * 2 / 7) / events


@njit(cache=True)
def _next_due(count_totals, oldest, grid, slots, due_ms):  # type: ignore[no-untyped-def]
    """One number per user instead of a look at every window: a step asks this of thousands of silent users."""
    for i in range(len(slots)):
        u = slots[i]
        first_ms = np.int64(0)
        for h in range(len(grid.tiles)):
            if count_totals[u, h, _ALL] != 0:
                leaves_ms = (oldest[u, h] + grid.tiles[h]) * grid.tile_ms[h]
                if first_ms == 0 or leaves_ms < first_ms:
                    first_ms = leaves_ms
        due_ms[u] = first_ms
