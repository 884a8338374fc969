"""Blocks into rows: the kernel behind `Windows.fill`.

A row is written lane by lane as lanes lie in the block; what the user does not have stays 0.
"""

from __future__ import annotations

import numpy as np

from ..compiling import kernel
from .blocks import (
    COMMON,
    LANES,
    MONEY,
    PART,
    QUANTITY,
    STAMP,
    STAMPED,
    common_bytes,
    get,
    lane_offset,
    lane_width,
    sets_of,
    size_of,
    stamps_of,
    totals_of,
)  # fmt: skip
from .memory import load16, load32, load64, lowest, move, ones, store_float, wipe
from .slabs import find
from .stamps import SECOND_MAX
from .tallies import catch_up, expect

_CENTS, _MILLI = 100.0, 1000.0
_PRIOR = 4.0  # events' worth of an even day mixed into the shares: one visit is not a habit
_PER_HORIZON = PART + 1  # common lanes and distinct items


@kernel
def fill_rows(slabs, grid, estimate, slots, out, due_ms):  # type: ignore[no-untyped-def]
    """Columns of these users into out (m, >= columns), whose rows lie without gaps."""
    columns, parts = len(grid.tiles) * _PER_HORIZON, np.empty(LANES - PART)
    for i in range(len(slots)):
        expect(slabs, slots, i, len(grid.tiles))
        block, row = find(slabs, slots[i]), np.int64(out.ctypes.data) + i * out.strides[0]
        wipe(row, 4 * columns)
        parts[:] = 0
        due_ms[slots[i]] = 0  # who has no block may still have been due: a snapshot keeps no empty ones
        if block:
            due_ms[slots[i]] = catch_up(block, grid)
            _fill(block, grid.starts_s, estimate, row, parts)
        _shares(parts, row + 4 * columns)


@kernel
def look_rows(slabs, grid, estimate, slots, work, out):  # type: ignore[no-untyped-def]
    """The same columns from copies of the blocks: nothing leaves, nobody is less due. `work` holds any one block."""
    h, here, parts = len(grid.tiles), np.int64(work.ctypes.data), np.empty(LANES - PART)
    columns = h * _PER_HORIZON
    for i in range(len(slots)):
        block, row = find(slabs, slots[i]), np.int64(out.ctypes.data) + i * out.strides[0]
        wipe(row, 4 * columns)
        parts[:] = 0
        if block:
            move(here, block, size_of(block, h))
            catch_up(here, grid)
            _fill(here, grid.starts_s, estimate, row, parts)
        _shares(parts, row + 4 * columns)


@kernel
def _fill(block, starts_s, estimate, row, parts):  # type: ignore[no-untyped-def]
    h = len(starts_s)
    narrow, middle, wide = sets_of(block)
    common, totals = common_bytes(narrow, middle, wide), totals_of(block, h)
    left, at = narrow & COMMON, totals
    while left:  # counts that are small: nearly all there is
        cell = row + 4 * lowest(left)
        for g in range(h):
            store_float(cell + 4 * g * _PER_HORIZON, np.float64(load16(at + g * common)))
        at += 2
        left &= left - 1
    left = (middle & COMMON) | wide
    while left:
        lane = lowest(left)
        width, at = lane_width(narrow, middle, wide, lane), totals + lane_offset(narrow, middle, wide, lane)
        unit = _CENTS if lane == MONEY else _MILLI if lane == QUANTITY else 1.0
        for g in range(h):
            store_float(row + 4 * (g * _PER_HORIZON + lane), get(at + g * common, width) / unit)
        left &= left - 1
    for lane in range(PART, LANES):  # day parts: of two widths at most
        size = lane_width(narrow, middle, wide, lane)
        if size:
            parts[lane - PART] = get(
                totals + (h - 1) * common + lane_offset(narrow, middle, wide, lane), size
            )
    stamps, n = stamps_of(block, h), ones(load64(block + STAMPED))
    for g in range(h):
        touched, start_s = 0, starts_s[g]
        for j in range(n):
            touched += (load32(stamps + STAMP * j) & SECOND_MAX) >= start_s
        store_float(row + 4 * (g * _PER_HORIZON + PART), np.float64(estimate[touched]))


@kernel
def _shares(totals, row):  # type: ignore[no-untyped-def]
    events = totals[0] + totals[1] + totals[2] + totals[3] + _PRIOR
    for part in range(4):
        store_float(row + 4 * part, (totals[part] + _PRIOR / 4) / events)
    store_float(row + 16, (totals[4] + _PRIOR * 2 / 7) / events)
