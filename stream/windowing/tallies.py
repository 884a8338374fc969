"""Events into blocks: the kernel behind `Windows.update`.

What an event does to a user is a short list of deltas, the same for every horizon. They are entered into the
record of its tile, which is nearly always the newest; if not, it is found by halving. A record that is missing
is made in its place, and the block gets another shape (`refit`) where there is no room, no lane, or a lane too
narrow: then every address is looked up again, and the work goes on where it was.

Where spare memory runs short, a kernel returns the number of the event it has not begun, and is called again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..compiling import kernel
from ..events import CHANNELS, I64
from .blocks import (
    CAP,
    COUNT,
    DWELL,
    EVENTS,
    FIRST,
    ID,
    MONEY,
    PART,
    QUANTITY,
    QUEUE,
    QUEUES,
    WEEKEND,
    age_of,
    common_bytes,
    get,
    lane_offset,
    lane_width,
    leave,
    part_bytes,
    put,
    records_of,
    refit,
    sets_of,
    totals_of,
    width_for,
)  # fmt: skip
from .memory import (
    load16,
    load64,
    lowest,
    move,
    prefetch,
    store16,
    store32,
    store64,
    wipe,
)  # fmt: skip
from .slabs import CLASS, SPARE_MIN, find
from .stamps import SECOND_MAX, stamp

_PURCHASE, _IMPRESSION = CHANNELS.index("purchase"), CHANNELS.index("impression")
_INT16_MAX, _INT32_MAX, _MONEY_MAX = 32_767, 2**31 - 1, 2**53
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_AHEAD = 4  # places between two turns of asking memory for a block before it is wanted
_LINE, _SMALL = 64, 768  # bytes

LANE, DELTA, LIMIT, OFFSET, WIDTH, ENTRY = 0, 8, 16, 24, 32, 40  # of a delta: bytes
DELTAS_MAX = 8


class Grid(NamedTuple):
    """The shape of the windows, and how far they have got."""

    tile_ms: I64  # (h,)
    tiles: I64  # (h,)
    heads: I64  # (h,) the newest tile anybody has reached
    starts_s: I64  # (h,) second at which the window at `heads` begins, at least 1
    reach: I64  # (h, 2) what a record may hold in a lane of 2 and of 4 bytes
    deltas: I64  # (8, 5) of the event at hand


@kernel
def add_events(  # type: ignore[no-untyped-def]
    slabs, grid, slots, channel, sign, time_ms, cents, milli, dwell_ms, item, due_ms, begin
):
    start_s, deltas = grid.starts_s.min(), np.int64(grid.deltas.ctypes.data)
    for i in range(begin, len(slots)):
        if slabs.spare[1] < SPARE_MIN:
            return i
        expect(slabs, slots, i, len(grid.tiles))
        end = _list_deltas(deltas, channel[i], sign[i], time_ms[i], cents[i], milli[i], dwell_ms[i])
        block = find(slabs, slots[i])
        wanted = _unknown(block, deltas, end)
        if wanted or block == 0:
            block = furnish(slabs, grid.tiles, slots[i], block, wanted)
        if item[i] != 0 and sign[i] > 0 and channel[i] != _IMPRESSION:
            second = min(time_ms[i] // 1000, SECOND_MAX)
            bucket = np.int64(item[i] >> np.uint64(58))
            while not stamp(block, len(grid.tiles), bucket, second, start_s):
                narrow, middle, wide = sets_of(block)
                block = refit(slabs, grid.tiles, slots[i], narrow, middle, wide, -1, 1)
        g, done = 0, deltas
        while True:
            g, done, first_ms = _enter(block, grid, time_ms[i], deltas, end, g, done)
            if g == len(grid.tiles):
                break
            narrow, middle, wide = sets_of(block)
            if done == 0:  # no room for a record
                done = deltas
                block = refit(slabs, grid.tiles, slots[i], narrow, middle, wide, g, 0)
            else:
                narrow, middle, wide = widened(narrow, middle, wide, load64(done + LANE))
                block = refit(slabs, grid.tiles, slots[i], narrow, middle, wide, -1, 0)
        due_ms[slots[i]] = first_ms
    return len(slots)


@kernel
def expect(slabs, slots, i, h):  # type: ignore[no-untyped-def]
    """Ask for what the users some places behind i will need, so that memory answers while others have their turn.

    In three turns, for each needs what the one before has brought: where the block is, its head, the rest.
    """
    n = len(slots)
    if i + 3 * _AHEAD < n:
        prefetch(np.int64(slabs.place.ctypes.data) + 4 * slots[i + 3 * _AHEAD])
    if i + 2 * _AHEAD < n:
        block = find(slabs, slots[i + 2 * _AHEAD])
        prefetch(block)
        prefetch(block + _LINE)
    if i + _AHEAD < n:
        block = find(slabs, slots[i + _AHEAD])
        if block:
            _expect_rest(block, h, slabs.sizes[load16(block + CLASS)])


@kernel
def _expect_rest(block, h, size):  # type: ignore[no-untyped-def]
    """All of a small block; of a large one the totals, and both ends of its records."""
    if size <= _SMALL:
        for at in range(2 * _LINE, size, _LINE):
            prefetch(block + at)
        return
    narrow, middle, wide = sets_of(block)
    stride, record = ID + common_bytes(narrow, middle, wide), records_of(block, h)
    for at in range(block + 2 * _LINE, record, _LINE):
        prefetch(at)
    for g in range(h):
        queue = block + QUEUES + QUEUE * g
        if g == h - 1:
            stride += part_bytes(narrow, middle)
        first, count = record + load16(queue + FIRST) * stride, load16(queue + COUNT) * stride
        prefetch(first)
        prefetch(first + stride)
        prefetch(first + count)
        prefetch(first + count + stride)
        record += load16(queue + CAP) * stride


@kernel
def _list_deltas(deltas, channel, sign, time_ms, cents, milli, dwell_ms):  # type: ignore[no-untyped-def]
    """What the event adds: lane, delta, limit; day parts last. Where the list ends."""
    end = _note(deltas, channel, sign, _INT16_MAX)
    end = _note(end, EVENTS, 1, _INT16_MAX)
    if channel == _PURCHASE:
        if cents != 0:
            end = _note(end, MONEY, sign * cents, _MONEY_MAX)
        if milli != 0:
            end = _note(end, QUANTITY, sign * milli, _INT32_MAX)
    if dwell_ms != 0:  # time spent taking something back is spent all the same
        end = _note(end, DWELL, dwell_ms, _INT32_MAX)
    end = _note(end, PART + time_ms // (6 * _HOUR_MS) % 4, 1, _INT16_MAX)
    if (time_ms // _DAY_MS + 3) % 7 >= 5:  # 1970-01-01 was a Thursday; Monday is 0
        end = _note(end, WEEKEND, 1, _INT16_MAX)
    return end


@kernel
def _note(at, lane, delta, limit):  # type: ignore[no-untyped-def]
    store64(at + LANE, lane)
    store64(at + DELTA, delta)
    store64(at + LIMIT, limit)
    return at + ENTRY


@kernel
def _unknown(block, deltas, end):  # type: ignore[no-untyped-def]
    """Lanes that the deltas need and the block lacks."""
    wanted, at = np.int64(0), deltas
    while at < end:
        wanted |= np.int64(1) << load64(at + LANE)
        at += ENTRY
    if block == 0:
        return wanted
    narrow, middle, wide = sets_of(block)
    return wanted & ~(narrow | middle | wide)


@kernel
def furnish(slabs, tiles, owner, block, wanted):  # type: ignore[no-untyped-def]
    narrow, middle, wide = sets_of(block) if block else (np.int64(0), np.int64(0), np.int64(0))
    while wanted:
        lane = lowest(wanted)
        if width_for(lane, 1, 1) == 2:
            narrow |= 1 << lane
        else:
            middle |= 1 << lane
        wanted &= wanted - 1
    return refit(slabs, tiles, owner, narrow, middle, wide, -1, 0)


@kernel
def widened(narrow, middle, wide, lane):  # type: ignore[no-untyped-def]
    bit = 1 << lane
    if narrow & bit:
        return narrow ^ bit, middle | bit, wide
    return narrow, middle ^ bit, wide | bit


@kernel
def _enter(block, grid, time_ms, deltas, end, i, done):  # type: ignore[no-untyped-def]
    """Add the deltas, from `done` on in horizon i, to the record of the event's tile and to the total.

    Returns (h, _, when a window next loses a tile) after the last horizon. Else the horizon it stopped in, and
    the delta whose lane is too narrow, or 0 where there is no room for a record.
    """
    h, sets = len(grid.tiles), sets_of(block)
    narrow, middle, wide = sets
    parts = _survey(deltas, end, narrow, middle, wide)
    common = common_bytes(narrow, middle, wide)
    stride, total, record = ID + common, totals_of(block, h), records_of(block, h)
    first_ms = np.int64(0)
    for g in range(h):
        queue, head, width_ms, tiles = (
            block + QUEUES + QUEUE * g,
            grid.heads[g],
            grid.tile_ms[g],
            grid.tiles[g],
        )
        last = g == h - 1
        if last:
            stride += part_bytes(narrow, middle)
        age = head - time_ms // width_ms if g >= i else tiles
        if age < tiles:
            leave(queue, record, stride, total, sets, last, head, tiles)
            one = record_of(queue, record, stride, age, head)
            if one == 0:
                return g, np.int64(0), first_ms
            stop = end if last else parts
            done = _add(one + ID, total, done, stop, grid.reach[g, 0], grid.reach[g, 1])
            if done < stop:
                return g, done, first_ms
            done = deltas
        if load16(queue + COUNT):
            oldest = head - age_of(record + load16(queue + FIRST) * stride, head)
            leaves_ms = (oldest + tiles) * width_ms
            if first_ms == 0 or leaves_ms < first_ms:
                first_ms = leaves_ms
        total += common
        record += load16(queue + CAP) * stride
    return h, deltas, first_ms


@kernel
def _survey(deltas, end, narrow, middle, wide):  # type: ignore[no-untyped-def]
    """Look up where the lanes to be changed are; where the day parts begin in the list."""
    at = parts = deltas
    while at < end:
        lane = load64(at + LANE)
        store64(at + OFFSET, lane_offset(narrow, middle, wide, lane))
        store64(at + WIDTH, lane_width(narrow, middle, wide, lane))
        at += ENTRY
        if lane < PART:
            parts = at
    return parts


@kernel
def _add(one, total, at, stop, reach_2, reach_4):  # type: ignore[no-untyped-def]
    """Add the deltas from `at` to a record, no further than their limits, and what was added to the total."""
    while at < stop:
        offset, width, limit = load64(at + OFFSET), load64(at + WIDTH), load64(at + LIMIT)
        before = get(one + offset, width)
        after = min(max(before + load64(at + DELTA), -limit), limit)
        if width < 8 and abs(after) > (reach_2 if width == 2 else reach_4):
            return at
        put(one + offset, width, after)
        put(total + offset, width, get(total + offset, width) + after - before)
        at += ENTRY
    return at


@kernel
def record_of(queue, records, stride, age, head):  # type: ignore[no-untyped-def]
    """The record of the tile `age` tiles behind `head`, made if it is missing; 0: there is no room."""
    first, count = load16(queue + FIRST), load16(queue + COUNT)
    place = count  # of the first record that is not older
    if count:
        newest = records + (first + count - 1) * stride
        behind = age_of(newest, head)
        if behind == age:
            return newest
        if behind < age:
            place = _search(records + first * stride, stride, count, age, head)
            one = records + (first + place) * stride
            if age_of(one, head) == age:
                return one
    if first + count == load16(queue + CAP):
        if first == 0:
            return np.int64(0)
        move(records, records + first * stride, count * stride)
        store16(queue + FIRST, 0)
        first = np.int64(0)
    one = records + (first + place) * stride
    move(one + stride, one, (count - place) * stride)
    wipe(one, stride)
    store32(one, head - age)
    store16(queue + COUNT, count + 1)
    return one


@kernel
def _search(oldest, stride, count, age, head):  # type: ignore[no-untyped-def]
    """How many of `count` records are older than `age`."""
    low, high = np.int64(0), count
    while low < high:
        middle = (low + high) // 2
        if age_of(oldest + middle * stride, head) > age:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def catch_up(block, grid):  # type: ignore[no-untyped-def]
    """Take out what has left the windows; when they next lose a tile (0: never).

    One number a user, instead of a look at every window: a step asks this of thousands of silent users.
    """
    h, sets = len(grid.tiles), sets_of(block)
    narrow, middle, wide = sets
    common = common_bytes(narrow, middle, wide)
    stride, total, record = ID + common, totals_of(block, h), records_of(block, h)
    first_ms = np.int64(0)
    for g in range(h):
        queue, head, tiles = block + QUEUES + QUEUE * g, grid.heads[g], grid.tiles[g]
        if g == h - 1:
            stride += part_bytes(narrow, middle)
        leave(queue, record, stride, total, sets, g == h - 1, head, tiles)
        if load16(queue + COUNT):
            oldest = head - age_of(record + load16(queue + FIRST) * stride, head)
            leaves_ms = (oldest + tiles) * grid.tile_ms[g]
            if first_ms == 0 or leaves_ms < first_ms:
                first_ms = leaves_ms
        total += common
        record += load16(queue + CAP) * stride
    return first_ms
