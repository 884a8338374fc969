"""One user's windows into another's: as if all events had been the other's from the start.

Tallies of the same tile add up, distinct items keep the later touch. Exact, in any order of events, but where a tile
has reached its type's limit: what was cut off of either is not known any more.
"""

from __future__ import annotations

import numpy as np

from ..compiling import kernel
from ..events import CHANNELS
from .blocks import (
    BUCKETS,
    CAP,
    COUNT,
    DWELL,
    FIRST,
    ID,
    LANES,
    MONEY,
    PART,
    QUANTITY,
    QUEUE,
    QUEUES,
    STAMP,
    STAMPED,
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
    stamps_of,
    totals_of,
)  # fmt: skip
from .memory import load16, load32, load64
from .slabs import find
from .stamps import SECOND_MAX, stamp
from .tallies import catch_up, furnish, record_of, widened

_INT16_MAX, _INT32_MAX, _MONEY_MAX = 32_767, 2**31 - 1, 2**53
assert len(CHANNELS) + 1 == MONEY

_DONE, _NO_ROOM, _NARROW = 0, 1, 2


@kernel
def merge_blocks(slabs, grid, source, into, due_ms):  # type: ignore[no-untyped-def]
    """Add what owner `source` has to owner `into`; the source keeps its block. Needs spare chunks."""
    if find(slabs, source) == 0:
        return
    catch_up(find(slabs, source), grid)
    h = len(grid.tiles)
    for g in range(h):
        for j in range(load16(find(slabs, source) + QUEUES + QUEUE * g + COUNT)):
            for lane in range(LANES if g == h - 1 else PART):
                age, value = _value(find(slabs, source), grid, g, j, lane)
                if value != 0:
                    _add(slabs, grid, into, g, age, lane, value)
    _merge_stamps(slabs, grid, source, into)
    due_ms[source] = 0
    due_ms[into] = catch_up(find(slabs, into), grid) if find(slabs, into) else 0


@kernel
def _value(block, grid, g, j, lane):  # type: ignore[no-untyped-def]
    """Age and tally of a lane in record j of horizon g; 0 where the block has no such lane."""
    h = len(grid.tiles)
    narrow, middle, wide = sets_of(block)
    width = lane_width(narrow, middle, wide, lane)
    stride, record = ID + common_bytes(narrow, middle, wide), records_of(block, h)
    for i in range(g):
        record += load16(block + QUEUES + QUEUE * i + CAP) * stride
    if g == h - 1:
        stride += part_bytes(narrow, middle)
    one = record + (load16(block + QUEUES + QUEUE * g + FIRST) + j) * stride
    value = get(one + ID + lane_offset(narrow, middle, wide, lane), width) if width else np.int64(0)
    return age_of(one, grid.heads[g]), value


@kernel
def _add(slabs, grid, owner, g, age, lane, value):  # type: ignore[no-untyped-def]
    """Add to one tally of the owner, whose block is reshaped as far as need be."""
    wanted = np.int64(1) << lane
    block = find(slabs, owner)
    narrow, middle, wide = sets_of(block) if block else (np.int64(0), np.int64(0), np.int64(0))
    if block == 0 or not (narrow | middle | wide) & wanted:
        block = furnish(slabs, grid.tiles, owner, block, wanted)
    while True:
        done = _enter(block, grid, g, age, lane, value)
        if done == _DONE:
            return
        narrow, middle, wide = sets_of(block)
        if done == _NO_ROOM:
            block = refit(slabs, grid.tiles, owner, narrow, middle, wide, g, 0)
        else:
            narrow, middle, wide = widened(narrow, middle, wide, lane)
            block = refit(slabs, grid.tiles, owner, narrow, middle, wide, -1, 0)


@kernel
def _enter(block, grid, g, age, lane, value):  # type: ignore[no-untyped-def]
    h, sets = len(grid.tiles), sets_of(block)
    narrow, middle, wide = sets
    common = common_bytes(narrow, middle, wide)
    stride, record = ID + common, records_of(block, h)
    for i in range(g):
        record += load16(block + QUEUES + QUEUE * i + CAP) * stride
    last = g == h - 1
    if last:
        stride += part_bytes(narrow, middle)
    queue, total = block + QUEUES + QUEUE * g, totals_of(block, h) + g * common
    leave(queue, record, stride, total, sets, last, grid.heads[g], grid.tiles[g])
    one = record_of(queue, record, stride, age, grid.heads[g])
    if one == 0:
        return _NO_ROOM
    offset, width = lane_offset(narrow, middle, wide, lane), lane_width(narrow, middle, wide, lane)
    limit = _MONEY_MAX if lane == MONEY else _INT32_MAX if lane in (QUANTITY, DWELL) else _INT16_MAX
    before = get(one + ID + offset, width)
    after = min(max(before + value, -limit), limit)
    if width < 8 and abs(after) > grid.reach[g, 0 if width == 2 else 1]:
        return _NARROW
    put(one + ID + offset, width, after)
    put(total + offset, width, get(total + offset, width) + after - before)
    return _DONE


@kernel
def _merge_stamps(slabs, grid, source, into):  # type: ignore[no-untyped-def]
    h, place = len(grid.tiles), np.int64(0)
    for bucket in range(BUCKETS):
        block = find(slabs, source)
        if not load64(block + STAMPED) >> bucket & 1:
            continue
        second = load32(stamps_of(block, h) + STAMP * place) & SECOND_MAX
        place += 1
        while find(slabs, into) and not stamp(find(slabs, into), h, bucket, second, grid.starts_s.min()):
            narrow, middle, wide = sets_of(find(slabs, into))
            refit(slabs, grid.tiles, into, narrow, middle, wide, -1, 1)
