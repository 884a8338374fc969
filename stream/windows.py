"""Sliding windows over event time: per user and horizon, running totals over tiles.

Theory. A horizon of W ms and T tiles has tiles of W/T ms; an event lies in tile floor(time / tile_ms). The
window at `now` is the tiles (head - T, head] with head = floor(now / tile_ms). Always true:

1. `heads[h]` is the newest tile anybody has reached. It never goes back, and never passes `now`.
2. A total is the sum of the user's tiles; tiles that hold nothing are not kept (see `windowing/blocks.py`).
3. Tiles leave lazily, when their user is touched or read: each once, and an event costs the same for any T.

All sums are of integers: they depend neither on order nor on how events were cut into steps. A user's columns
are a function of (set of accepted events, now): an event too old for a head is too old for every later row.
Distinct items are kept by the second: exact where tiles are whole seconds, else an item may stay one longer.

Memory. A user's block grows with what the user does: event types and tiles that hold something, distinct items.
It has at most `bytes_per_user`; nobody else's behaviour makes it larger (`windowing/slabs.py`).

Limits. One tile holds at most +-32,767 of a count, 2**31 - 1 ms of dwell and 2,147,483 of quantity, and stays
there; only then does the order of positive and negative events matter. Day parts and weekends are UTC.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from .config import Features, Horizon
from .events import CHANNELS, F32, I32, I64, Bool, Events
from .ports import State
from .windowing.archive import export_blocks, import_blocks
from .windowing.blocks import BUCKETS, bytes_max, reach
from .windowing.merging import merge_blocks
from .windowing.rows import fill_rows, look_rows
from .windowing.slabs import Pool, drop
from .windowing.tallies import DELTAS_MAX, ENTRY, Grid, add_events

Times = TypeVar("Times", int, I64)

COUNTS: tuple[str, ...] = (*(f"{channel}_count" for channel in CHANNELS), "events")
PARTS: tuple[str, ...] = ("night_share", "morning_share", "afternoon_share", "evening_share", "weekend_share")

_CENTS, _MILLI = 100.0, 1000.0


def tile_ms(horizon: Horizon) -> int:
    """Width of a tile: also how much longer than asked for nothing is remembered."""
    return horizon.window_ms // horizon.tiles


def window_start_ms(horizon: Horizon, now_ms: Times) -> Times:
    """Elementwise: start of the oldest tile of the window at `now_ms`: what is older is outside."""
    width_ms = tile_ms(horizon)
    return (now_ms // width_ms - horizon.tiles + 1) * width_ms


class Windows:
    """Windowed counts, sums, shapes and distinct items of `users_max` users."""

    def __init__(self, config: Features) -> None:
        self._users_max = config.users_max
        self._grid = _grid(config.horizons)
        self._block_bytes_max = bytes_max(tuple(h.tiles for h in config.horizons))
        self.names = _names(config.horizons)
        self.bytes_per_user = self._block_bytes_max + 12  # at most; 12 to find the block and when it is due
        self._reset()

    def _reset(self) -> None:
        self._pool = Pool(self._users_max, self._block_bytes_max)
        self._due_ms = np.zeros(self._users_max, np.int64)  # (u,) when a window next loses a tile; 0: never
        self._used = 0  # slots from here on were never touched: nobody reads their pages

    @property
    def nbytes(self) -> int:
        """Memory that the users there are take now."""
        return self._pool.nbytes + 12 * self._used

    def update(self, slots: I32, events: Events) -> None:
        """Add events (n,) of the users in `slots` (n,). Events outside a window are left out of it."""
        if not len(slots):
            return
        self._advance(int(events.time_ms.max()))
        self._used = max(self._used, int(slots.max()) + 1)
        cents = np.rint(np.clip(events.value, 0, 1e13) * _CENTS).astype(np.int64)
        milli = np.rint(np.clip(events.quantity, 0, 2e6) * _MILLI).astype(np.int64)
        done = 0
        while done < len(slots):
            self._pool.reserve()
            done = add_events(
                self._pool.slabs, self._grid, slots, events.channel, events.sign, events.time_ms,
                cents, milli, events.dwell_ms, events.item, self._due_ms, done,
            )  # fmt: skip

    def fill(self, slots: I32, now_ms: int, out: F32) -> None:
        """Write the users' columns (`names`) as of `now_ms` into `out` (m, >= len(names)).

        `now_ms` must not be older than any event or row before it; it forgets what has left the windows.
        """
        assert not len(out) or out.strides[1] == out.itemsize == 4, "rows of float32 without gaps"
        self._advance(now_ms)
        fill_rows(self._pool.slabs, self._grid, _ESTIMATE, slots, out, self._due_ms)

    def look(self, slots: I32, out: F32) -> None:
        """What `fill` would write at the latest time it was asked for; nothing changes. For those who ask."""
        assert not len(out) or out.strides[1] == out.itemsize == 4, "rows of float32 without gaps"
        work = np.empty(self._block_bytes_max, np.uint8)
        look_rows(self._pool.slabs, self._grid, _ESTIMATE, slots, work, out)

    def peek(self, slots: I32, now_ms: int, out: F32) -> None:
        """As `fill`, for somebody who only wants to know: who was due stays due."""
        due_ms = self._due_ms[slots].copy()
        self.fill(slots, now_ms, out)
        self._due_ms[slots] = due_ms

    def due(self, slots: I32, now_ms: int) -> Bool:
        """(m,) whose windows have lost something since they were last touched or read. `now_ms` as in `fill`."""
        due_ms = self._due_ms[slots]
        return (due_ms > 0) & (due_ms <= now_ms)

    def clear(self, slots: I32) -> None:
        """Forget these users: their slots will be given to others."""
        drop(self._pool.slabs, slots)
        self._due_ms[slots] = 0

    def merge(self, source: int, into: int) -> None:
        """Add what user `source` did to what user `into` did; the source is to be cleared."""
        self._used = max(self._used, source + 1, into + 1)
        self._pool.reserve()
        merge_blocks(self._pool.slabs, self._grid, source, into, self._due_ms)

    def scrub(self) -> None:
        """Overwrite what is left in memory of blocks that are not in use."""
        self._pool.scrub()

    def _advance(self, now_ms: int) -> None:
        grid = self._grid
        np.maximum(grid.heads, now_ms // grid.tile_ms, out=grid.heads)
        np.maximum((grid.heads - grid.tiles + 1) * grid.tile_ms // 1000, 1, out=grid.starts_s)

    def snapshot(self) -> State:
        """The users' blocks in slot order, each in the one shape that its content has; not where they lay."""
        owners = np.flatnonzero(self._pool.slabs.place[: self._used])
        body = np.empty(self._pool.live_bytes(), np.uint8)
        work = np.empty(self._block_bytes_max, np.uint8)
        end = export_blocks(self._pool.slabs, self._grid, owners, work, body)
        due_ms = self._due_ms[: self._used]
        return {
            "heads": self._grid.heads.copy(),
            "blocks": body[:end],
            "due_ms": due_ms[: int(due_ms.nonzero()[0].max(initial=-1)) + 1].copy(),
        }

    def restore(self, state: State) -> None:
        self._reset()
        self._grid.heads[:] = state["heads"]
        self._advance(0)
        body, done = state["blocks"], 0
        while done < len(body):
            self._pool.reserve()
            done = import_blocks(self._pool.slabs, self._grid.tiles, body, done)
            assert done > 0, f"{len(body)} bytes of a snapshot are no blocks of these windows"
        self._due_ms[: len(state["due_ms"])] = state["due_ms"]
        owners = np.flatnonzero(self._pool.slabs.place)
        self._used = max(len(state["due_ms"]), int(owners.max(initial=-1)) + 1)


def _grid(horizons: tuple[Horizon, ...]) -> Grid:
    return Grid(
        tile_ms=np.array([tile_ms(h) for h in horizons], np.int64),
        tiles=np.array([h.tiles for h in horizons], np.int64),
        heads=np.zeros(len(horizons), np.int64),
        starts_s=np.ones(len(horizons), np.int64),
        reach=np.array([reach(h.tiles) for h in horizons], np.int64),
        deltas=np.zeros(DELTAS_MAX * ENTRY // 8, np.int64),
    )


def _names(horizons: tuple[Horizon, ...]) -> tuple[str, ...]:
    quantities = (*COUNTS, "money", "quantity", "dwell_ms", "distinct_items")
    return (*(f"{quantity}_{h.name}" for h in horizons for quantity in quantities), *PARTS)


_EMPTY = np.maximum(BUCKETS - np.arange(BUCKETS + 1), 0.5)  # a full table: as if half a bucket were empty
_ESTIMATE: F32 = (BUCKETS * np.log(BUCKETS / _EMPTY)).astype(np.float32)
"""Touched buckets -> distinct items. Whang, Vander-Zanden and Taylor (1990), linear-time counting."""
