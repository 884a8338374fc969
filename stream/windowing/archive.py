"""Blocks into a snapshot, and back: each in the one shape that its content has.

Nothing that has left, no lane that is all zero, no wider than need be, no room, users in order: two histories
with the same content give the same bytes, whatever shape the blocks have in memory and wherever they lie.
"""

from __future__ import annotations

import numpy as np

from ..compiling import kernel
from .blocks import (
    BUCKETS,
    CAP,
    COUNT,
    FIRST,
    ID,
    LANES,
    PART,
    QUEUE,
    QUEUES,
    ROOM,
    STAMPED,
    common_bytes,
    get,
    lane_offset,
    lane_width,
    part_bytes,
    put_sets,
    records_of,
    sets_of,
    size_of,
    transfer,
    width_for,
)  # fmt: skip
from .memory import load16, load32, load64, move, ones, store16, store32
from .slabs import CLASS, OWNER, SPARE_MIN, find, give
from .stamps import forget_stamps
from .tallies import catch_up


@kernel
def export_blocks(slabs, grid, owners, work, body):  # type: ignore[no-untyped-def]
    """Write the blocks of these owners into `body`; how many bytes. `work` holds any one block."""
    h, here, to = len(grid.tiles), np.int64(work.ctypes.data), np.int64(body.ctypes.data)
    begin, widths, counts = to, np.zeros(LANES, np.int64), np.zeros(h, np.int64)
    for owner in owners:
        block = find(slabs, owner)
        move(here, block, size_of(block, h))
        catch_up(here, grid)
        forget_stamps(here, h, grid.starts_s.min())
        _measure(here, grid.tiles, widths, counts)
        stamps = ones(load64(here + STAMPED))
        if stamps or counts.sum():
            put_head(to, owner, widths, counts, stamps)
            transfer(here, to, h)
            to += size_of(to, h)
    return to - begin


@kernel
def put_head(block, owner, widths, counts, stamps):  # type: ignore[no-untyped-def]
    """Head of a block without spare room."""
    narrow = middle = wide = 0
    for lane in range(LANES):
        narrow |= (widths[lane] == 2) << lane
        middle |= (widths[lane] == 4) << lane
        wide |= (widths[lane] == 8) << lane
    store32(block + OWNER, owner)
    store16(block + CLASS, 0)
    store16(block + ROOM, stamps)
    put_sets(block, narrow, middle, wide)
    for g in range(len(counts)):
        store16(block + QUEUES + QUEUE * g + CAP, counts[g])


@kernel
def _measure(block, tiles, widths, counts):  # type: ignore[no-untyped-def]
    """The width that each lane needs, 0 where it is all zero, and the records of each horizon."""
    h = len(tiles)
    for g in range(h):
        counts[g] = load16(block + QUEUES + QUEUE * g + COUNT)
    narrow, middle, wide = sets_of(block)
    common = common_bytes(narrow, middle, wide)
    for lane in range(LANES):
        widths[lane] = 0
        width = lane_width(narrow, middle, wide, lane)
        if not width:
            continue
        at, stride = records_of(block, h) + ID + lane_offset(narrow, middle, wide, lane), ID + common
        for g in range(h):
            if g == h - 1:
                stride += part_bytes(narrow, middle)
            queue = block + QUEUES + QUEUE * g
            first = load16(queue + FIRST)
            for j in range(first, first + counts[g] if lane < PART or g == h - 1 else first):
                value = get(at + j * stride, width)
                if value != 0:
                    widths[lane] = max(widths[lane], width_for(lane, value, tiles[g]))
            at += load16(queue + CAP) * stride


@kernel
def _checked_size(slabs, tiles, block, left):  # type: ignore[no-untyped-def]
    """Bytes of a block, of which `left` can be read; -1 where no block is like that."""
    h = len(tiles)
    if left < QUEUES + QUEUE * h:
        return -1
    owner, room = load32(block + OWNER), load16(block + ROOM)
    narrow, middle, wide = sets_of(block)
    if not 0 <= owner < len(slabs.place) or slabs.place[owner] != 0:
        return -1
    if narrow & middle or narrow & wide or middle & wide or (narrow | middle | wide) >> LANES or wide >> PART:
        return -1
    if not 0 <= ones(load64(block + STAMPED)) <= room <= BUCKETS:
        return -1
    for g in range(h):
        queue = block + QUEUES + QUEUE * g
        first, count, cap = load16(queue + FIRST), load16(queue + COUNT), load16(queue + CAP)
        if not 0 <= first <= first + count <= cap <= tiles[g] + tiles[g] // 4 or count < 0:
            return -1
    size = size_of(block, h)
    return size if 0 < size <= min(left, slabs.sizes[-1]) else -1


@kernel
def import_blocks(slabs, tiles, body, begin):  # type: ignore[no-untyped-def]
    """Give every block of `body`, from byte `begin`, a place; where it stopped for want of spare memory.

    -1 where `body` holds something else than blocks for these windows: kernels would believe it.
    """
    at = begin
    while at < len(body) and slabs.spare[1] >= SPARE_MIN:
        block = np.int64(body.ctypes.data) + at
        size = _checked_size(slabs, tiles, block, len(body) - at)
        if size < 0:
            return -1
        to = give(slabs, load32(block + OWNER), size)
        move(to + CLASS + 2, block + CLASS + 2, size - CLASS - 2)
        at += size
    return at
