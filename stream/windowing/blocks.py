"""A user's windows as one block of bytes: only the lanes and the tiles that hold something.

    head     owner, class, room for stamps, lanes by width (three sets), buckets stamped (one set),
             for each horizon: where its first record is, how many there are, room for how many
    totals   for each horizon: the sum of its records, lane by lane
    stamps   for each bucket stamped, in order: the second at which an item of it was last touched
    records  for each horizon, oldest first, at most one a tile: the tile's number and its lanes

Theory. A lane is a quantity that the user has: a channel's count, all events, money ... A user who never bought
has no lane for purchases. A lane is 2, 4 or 8 bytes wide, in every record and every total alike, and is widened
for good before a record would hold more than `tiles` times fits into a total: so no total ever overflows. Lanes
of one width stand together, narrow ones first; those that only the longest horizon has (day parts) come last.
Always true:

1. A tile that holds no event has no record: an empty stretch costs nothing, neither memory nor time.
2. A total is the sum of its horizon's records.
3. Records of a horizon are in order of time and less than `tiles` apart, once those that left are taken out.

A tile's number is kept modulo 2**32, and read as its distance from the newest tile. In this module and its users
a block is the address of its first byte (`memory.py`); widths and sizes are in bytes.
"""

from __future__ import annotations

import numpy as np

from ..compiling import kernel
from ..events import CHANNELS
from .memory import load16, load32, load64, move, ones, store16, store32, store64, wipe
from .slabs import HEAD, find, give, take_back

EVENTS = len(CHANNELS)
MONEY, QUANTITY, DWELL, PART, WEEKEND, LANES = (EVENTS + j for j in (1, 2, 3, 4, 8, 9))
COMMON = (1 << PART) - 1
"""Lanes that every horizon has; those from PART on only the last."""

ROOM, NARROW, MIDDLE, WIDE, STAMPED, QUEUES = HEAD, HEAD + 2, HEAD + 6, HEAD + 10, HEAD + 14, HEAD + 22
FIRST, COUNT, CAP, QUEUE = 0, 2, 4, 6  # of a horizon's part of the head
ID, STAMP = 4, 4  # bytes of a tile's number in a record, and of a stamp
BUCKETS = 64

_MASK32 = 0xFFFFFFFF
_STAMPS_STEP = 4
_MAX16, _MAX32 = 32_767, 2**31 - 1


def bytes_max(tiles: tuple[int, ...]) -> int:
    """Of the largest block there can be: every lane at its widest, every tile, every bucket."""
    lanes = 8 * 3 + 4 * (PART - 3)
    parts = 4 * (LANES - PART)
    records = sum(_room_max(t) * (ID + lanes) for t in tiles) + _room_max(tiles[-1]) * parts
    return QUEUES + (QUEUE + lanes) * len(tiles) + parts + STAMP * BUCKETS + records


def _room_max(tiles: int) -> int:
    return tiles + tiles // 4 if tiles >= 16 else tiles


def reach(tiles: int) -> tuple[int, int]:
    """What a record may hold in a lane of 2 and of 4 bytes: `tiles` of them fit into the total, in any order."""
    return _MAX16 // tiles, _MAX32 // tiles


# --- lanes ---------------------------------------------------------------------------------------------


@kernel
def sets_of(block):  # type: ignore[no-untyped-def]
    """Which lanes the block has, by width: narrow, middle, wide."""
    return load32(block + NARROW), load32(block + MIDDLE), load32(block + WIDE)


@kernel
def put_sets(block, narrow, middle, wide):  # type: ignore[no-untyped-def]
    store32(block + NARROW, narrow)
    store32(block + MIDDLE, middle)
    store32(block + WIDE, wide)


@kernel
def common_bytes(narrow, middle, wide):  # type: ignore[no-untyped-def]
    return 2 * ones(narrow & COMMON) + 4 * ones(middle & COMMON) + 8 * ones(wide)


@kernel
def part_bytes(narrow, middle):  # type: ignore[no-untyped-def]
    return 2 * ones(narrow >> PART) + 4 * ones(middle >> PART)


@kernel
def lane_width(narrow, middle, wide, lane):  # type: ignore[no-untyped-def]
    bit = 1 << lane
    return 2 if narrow & bit else 4 if middle & bit else 8 if wide & bit else 0


@kernel
def lane_offset(narrow, middle, wide, lane):  # type: ignore[no-untyped-def]
    """Bytes between the first lane and this one, which the user has."""
    bit = 1 << lane
    below = bit - 1
    if lane >= PART:
        at = common_bytes(narrow, middle, wide)
        if narrow & bit:
            return at + 2 * ones((narrow & below) >> PART)
        return at + 2 * ones(narrow >> PART) + 4 * ones((middle & below) >> PART)
    if narrow & bit:
        return 2 * ones(narrow & below)
    at = 2 * ones(narrow & COMMON)
    if middle & bit:
        return at + 4 * ones(middle & below)
    return at + 4 * ones(middle & COMMON) + 8 * ones(wide & below)


@kernel
def get(at, width):  # type: ignore[no-untyped-def]
    if width == 2:
        return load16(at)
    return load32(at) if width == 4 else load64(at)


@kernel
def put(at, width, value):  # type: ignore[no-untyped-def]
    if width == 2:
        store16(at, value)
    elif width == 4:
        store32(at, value)
    else:
        store64(at, value)


@kernel
def width_for(lane, value, tiles):  # type: ignore[no-untyped-def]
    """Of a lane whose records reach `value`. Money, quantity and dwell start with 4: they soon want it."""
    if abs(value) > _MAX32 // tiles:
        return 8
    return 4 if abs(value) > _MAX16 // tiles or MONEY <= lane <= DWELL else 2


# --- places --------------------------------------------------------------------------------------------


@kernel
def totals_of(block, h):  # type: ignore[no-untyped-def]
    """Where the totals of a block of h horizons begin."""
    return block + QUEUES + QUEUE * h


@kernel
def stamps_of(block, h):  # type: ignore[no-untyped-def]
    narrow, middle, wide = sets_of(block)
    return totals_of(block, h) + h * common_bytes(narrow, middle, wide) + part_bytes(narrow, middle)


@kernel
def records_of(block, h):  # type: ignore[no-untyped-def]
    return stamps_of(block, h) + STAMP * load16(block + ROOM)


@kernel
def size_of(block, h):  # type: ignore[no-untyped-def]
    """Bytes that the block's head asks for."""
    narrow, middle, wide = sets_of(block)
    stride = ID + common_bytes(narrow, middle, wide)
    size = records_of(block, h) - block
    for i in range(h):
        size += load16(block + QUEUES + QUEUE * i + CAP) * stride
    return size + load16(block + QUEUES + QUEUE * (h - 1) + CAP) * part_bytes(narrow, middle)


@kernel
def age_of(record, head):  # type: ignore[no-untyped-def]
    """How many tiles a record is behind the newest tile there is."""
    return (head - load32(record)) & _MASK32


# --- another shape ----------------------------------------------------------------------------------------


@kernel
def _room(n, tiles):  # type: ignore[no-untyped-def]
    """Records that get room where n are needed: at least one, half as many again, few more than can be."""
    room = 1
    while room < n:
        room += max(1, room // 2)
    return max(n, min(room, tiles + tiles // 4 if tiles >= 16 else tiles))


@kernel
def refit(slabs, tiles, owner, narrow, middle, wide, growing, more_stamps):  # type: ignore[no-untyped-def]
    """The owner's block, with these lanes, and room for one more record of horizon `growing` and for
    `more_stamps`. What the old one holds goes over.
    """
    h, old = len(tiles), find(slabs, owner)
    head = np.zeros(QUEUES + QUEUE * h, np.uint8)
    new = np.int64(head.ctypes.data)
    put_sets(new, narrow, middle, wide)
    stamps = more_stamps if old == 0 else ones(load64(old + STAMPED)) + more_stamps
    store16(new + ROOM, (stamps + _STAMPS_STEP - 1) // _STAMPS_STEP * _STAMPS_STEP)
    for i in range(h):
        count = cap = np.int64(0)
        if old:
            count, cap = load16(old + QUEUES + QUEUE * i + COUNT), load16(old + QUEUES + QUEUE * i + CAP)
        count += i == growing
        if not count <= cap <= 2 * count + 2:  # what it had room for once, it may have again
            cap = _room(count, tiles[i])
        store16(new + QUEUES + QUEUE * i + CAP, cap)
    block = give(slabs, owner, size_of(new, h))
    move(block + HEAD, new + HEAD, totals_of(0, h) - HEAD)
    head[0] = 0  # until here it must live
    if old == 0:
        wipe(totals_of(block, h), records_of(block, h) - totals_of(block, h))
    else:
        transfer(old, block, h)
        take_back(slabs, old)
    return find(slabs, owner)


@kernel
def transfer(source, to, h):  # type: ignore[no-untyped-def]
    """Copy what a block holds into another one, whose head says its lanes and its room."""
    store64(to + STAMPED, load64(source + STAMPED))
    move(stamps_of(to, h), stamps_of(source, h), STAMP * ones(load64(source + STAMPED)))
    if sets_of(source) == sets_of(to):
        _transfer_whole(source, to, h)
        return
    lanes, n, common, to_common, parts, to_parts = _lanes(source, to)
    stride, to_stride = ID + common, ID + to_common
    total, to_total = totals_of(source, h), totals_of(to, h)
    record, to_record = records_of(source, h), records_of(to, h)
    for i in range(h):
        if i == h - 1:
            stride, to_stride = stride + parts, to_stride + to_parts
        _copy_lanes(total, to_total, lanes, n, i == h - 1)
        queue, to_queue = source + QUEUES + QUEUE * i, to + QUEUES + QUEUE * i
        first, count = load16(queue + FIRST), load16(queue + COUNT)
        store16(to_queue + FIRST, 0)
        store16(to_queue + COUNT, count)
        for j in range(count):
            one, other = record + (first + j) * stride, to_record + j * to_stride
            store32(other, load32(one))
            _copy_lanes(one + ID, other + ID, lanes, n, i == h - 1)
        total, to_total = total + common, to_total + to_common
        record += load16(queue + CAP) * stride
        to_record += load16(to_queue + CAP) * to_stride


@kernel
def _transfer_whole(source, to, h):  # type: ignore[no-untyped-def]
    """The totals and the records, where the lanes are the same."""
    narrow, middle, wide = sets_of(source)
    stride, record, to_record = (
        ID + common_bytes(narrow, middle, wide),
        records_of(source, h),
        records_of(to, h),
    )
    move(totals_of(to, h), totals_of(source, h), stamps_of(source, h) - totals_of(source, h))
    for i in range(h):
        if i == h - 1:
            stride += part_bytes(narrow, middle)
        queue, to_queue = source + QUEUES + QUEUE * i, to + QUEUES + QUEUE * i
        count = load16(queue + COUNT)
        move(to_record, record + load16(queue + FIRST) * stride, count * stride)
        store16(to_queue + FIRST, 0)
        store16(to_queue + COUNT, count)
        record += load16(queue + CAP) * stride
        to_record += load16(to_queue + CAP) * stride


@kernel
def _lanes(source, to):  # type: ignore[no-untyped-def]
    """(n, 5) offset and width here and there, and whether a day part, of lanes wanted; n; bytes of both kinds."""
    narrow, middle, wide = sets_of(source)
    to_narrow, to_middle, to_wide = sets_of(to)
    lanes, n = np.zeros((LANES, 5), np.int64), 0
    for lane in range(LANES):
        if (to_narrow | to_middle | to_wide) >> lane & 1:
            width = lane_width(narrow, middle, wide, lane)
            lanes[n, 0] = lane_offset(narrow, middle, wide, lane) if width else 0
            lanes[n, 1] = width
            lanes[n, 2] = lane_offset(to_narrow, to_middle, to_wide, lane)
            lanes[n, 3] = lane_width(to_narrow, to_middle, to_wide, lane)
            lanes[n, 4] = lane >= PART
            n += 1
    return (
        lanes, n, common_bytes(narrow, middle, wide), common_bytes(to_narrow, to_middle, to_wide),
        part_bytes(narrow, middle), part_bytes(to_narrow, to_middle),
    )  # fmt: skip


@kernel
def _copy_lanes(one, other, lanes, n, last):  # type: ignore[no-untyped-def]
    for j in range(n):
        if last or not lanes[j, 4]:
            value = get(one + lanes[j, 0], lanes[j, 1]) if lanes[j, 1] else np.int64(0)
            put(other + lanes[j, 2], lanes[j, 3], value)


# --- what has left ----------------------------------------------------------------------------------------


@kernel
def leave(queue, record, stride, total, sets, last, head, tiles):  # type: ignore[no-untyped-def]
    """Take the records that have left the window out of the totals."""
    first, count = load16(queue + FIRST), load16(queue + COUNT)
    one, gone = record + first * stride, 0
    while gone < count and age_of(one, head) >= tiles:
        _subtract(one + ID, total, sets, last)
        gone += 1
        one += stride
    if gone:
        store16(queue + FIRST, first + gone if gone < count else 0)
        store16(queue + COUNT, count - gone)


@kernel
def _subtract(one, total, sets, last):  # type: ignore[no-untyped-def]
    narrow, middle, wide = sets
    for _ in range(ones(narrow & COMMON)):
        store16(total, load16(total) - load16(one))
        one, total = one + 2, total + 2
    for _ in range(ones(middle & COMMON)):
        store32(total, load32(total) - load32(one))
        one, total = one + 4, total + 4
    for _ in range(ones(wide)):
        store64(total, load64(total) - load64(one))
        one, total = one + 8, total + 8
    for _ in range(ones(narrow >> PART) if last else 0):
        store16(total, load16(total) - load16(one))
        one, total = one + 2, total + 2
    for _ in range(ones(middle >> PART) if last else 0):
        store32(total, load32(total) - load32(one))
        one, total = one + 4, total + 4
