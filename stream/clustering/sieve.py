"""The float32 sieve: which centre is nearest, sixteen centres and four rows at a time, and when it cannot tell.

Distances need not be exact to name the nearest centre: it is enough that no other centre comes within the
rounding error. The sieve computes them in float32, from centres and rows that are shifted by the centres' mean
(so that data far from zero keeps its digits), and says "not sure" when two are too close to call.

What it computes is the *nearness* of centre e and row y (both shifted), of which the largest wins:
    p = 2:  -|e|^2 / 2 + sum e * y     half of |y|^2 less the squared distance: one fused product per value
    p = 1:  -sum |e - y|
Its error. Let u = 2^-24, n = |y|^2 (p = 1: sum |y|), best the largest nearness found. A centre that might be the
true nearest has |e| <= |y| + r, where r^2 = n - 2 best (p = 1: r = -best). Products, shifts and sums in any
order are within (2 d + 8) u of the sum of magnitudes, so both ends of a comparison together stay within
(2 d + 8) u (5 n + 3 r^2) = (2 d + 8) u (8 n - 6 best). `margin` is 2 (d + 16) u: a little more, for patches,
the rounding of the limit itself and terms in u^2; `TINY` covers underflow. Beyond `HUGE` float32 may overflow
and nothing is sure.

Four rows are scored against the same centres before any of them moves one: that shares each load of a centre
among four rows. A row then sees the moves of the rows before it in its block as *patches*: the moved centre's
nearness again, from its present values. Only after the block are the panels brought up to date; writing them
row by row would stall the next row's loads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..compiling import inlined
from ..events import F32, F64
from .lanes import (
    LANES,
    at_least,
    count_bits,
    fused,
    higher,
    highest,
    lowest_bit,
    one_lane,
    put,
    rounded,
    size,
    spread,
    spread_at,
    take,
    take_some,
    total,
)

ROWS = 4
HUGE = np.float32(1e30)
TINY = np.float32(1e-30)
ZERO = np.float32(0)
ONE = np.float32(1)


class Sieve(NamedTuple):
    """What the kernels work on. d and k are padded to whole lanes (D, K); arrays are flat, on 64-byte bounds."""

    own: F64 | F32  # (k, D) the centres themselves, in the precision of the mode
    middle: F64 | F32  # (D,) what centres and rows are shifted by
    panels: F32  # (K / 16, D, 16) shifted centres, sixteen side by side, feature by feature
    base: F32  # (K,) nearness before the sum over features; -inf in the padding
    near: F32  # (4, K) nearness of the rows of a block
    rows: F32  # (4, D) those rows, shifted
    moved: F32  # (4, D) the centre that each of them moved, shifted


def make_sieve(centres: F64 | F32) -> Sieve:
    """For centres (k, d), in their own precision; they are copied."""
    k, d = centres.shape
    wide, many = -(-d // LANES) * LANES, -(-k // LANES) * LANES
    own = aligned(k * wide, centres.dtype)
    own.reshape(k, wide)[:, :d] = centres
    middle = aligned(wide, centres.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # then nothing is sure, and the exact rule decides
        middle[:d] = centres.mean(axis=0)
    base = aligned(many, np.float32)
    base[:] = -np.inf
    sizes = (many * wide, ROWS * many, ROWS * wide, ROWS * wide)
    panels, near, rows, moved = (aligned(count, np.float32) for count in sizes)
    return Sieve(own, middle, panels, base, near, rows, moved)


def margin(d: int) -> float:
    """The relative error bound of the module's theory."""
    return 2.0 * (d + 16) * 2.0**-24


def aligned(count: int, dtype: Any) -> Any:
    """Zeros that begin on a 64-byte bound: a vector that crosses a cache line costs two loads."""
    size_bytes = count * np.dtype(dtype).itemsize
    raw = np.zeros(size_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size_bytes].view(dtype)


# --- kernels ------------------------------------------------------------------------------------------------


@inlined
def take_row(s: Any, z: Any, at: int, d: int, r: int, p: float) -> Any:
    """Put the row z[at : at + d] into place r of the block, shifted; n of the theory."""
    wide = len(s.middle)
    square = spread(ZERO)
    absolute = spread(ZERO)
    for j in range(0, wide, LANES):
        y = rounded(rounded(take_some(z, at + j, d - j), s.own) - take(s.middle, j), s.rows)
        put(s.rows, r * wide + j, y)
        square = fused(y, y, square)
        absolute = absolute + size(y)
    return total(square) if p == 2.0 else total(absolute)


@inlined
def renew(s: Any, c: int, r: int, p: float) -> Any:
    """Put centre c, as it is now, into place r of the moved ones; whether float32 can hold it."""
    wide = len(s.middle)
    square = spread(ZERO)
    for j in range(0, wide, LANES):
        e = rounded(take(s.own, c * wide + j) - take(s.middle, j), s.moved)
        put(s.moved, r * wide + j, e)
        square = fused(e, e, square)
    norm = total(square)
    s.base[np.uint64(c)] = np.float32(-0.5) * norm if p == 2.0 else ZERO
    return norm < HUGE


@inlined
def settle_in(s: Any, c: int, r: int, d: int) -> None:
    """Write the moved centre r into its panel, as centre c."""
    wide = len(s.middle)
    start = c // LANES * LANES * wide + c % LANES
    for j in range(d):
        s.panels[np.uint64(start + LANES * j)] = s.moved[np.uint64(r * wide + j)]


@inlined
def settle_all(s: Any, d: int, p: float) -> bool:
    """Write every centre into its panel; whether float32 can hold them all."""
    fits = True
    for c in range(len(s.own) // len(s.middle)):
        fits = renew(s, c, 0, p) and fits
        settle_in(s, c, 0, d)
    return fits


@inlined
def closer(near: Any, e: Any, y: Any, p: float) -> Any:
    """The running nearness with one more feature."""
    return fused(e, y, near) if p == 2.0 else near - size(e - y)


@inlined
def score_block(s: Any, d: int, p: float) -> None:
    """The nearness of the four rows to all centres, panel pairs first: more sums at once than one takes time."""
    panels = len(s.base) // LANES
    if panels % 2:
        _one_panel(s, panels - 1, d, p)
    for panel in range(0, panels - 1, 2):
        _two_panels(s, panel, d, p)


@inlined
def _one_panel(s: Any, panel: int, d: int, p: float) -> None:
    wide, many, at = len(s.middle), len(s.base), panel * LANES
    start = at * wide
    a0 = a1 = a2 = a3 = take(s.base, at)
    b0 = b1 = b2 = b3 = spread(ZERO)
    for j in range(0, d, 2):  # d may be odd: the padding is zeros on both sides
        e = take(s.panels, start + LANES * j)
        a0 = closer(a0, e, spread_at(s.rows, j), p)
        a1 = closer(a1, e, spread_at(s.rows, j + wide), p)
        a2 = closer(a2, e, spread_at(s.rows, j + 2 * wide), p)
        a3 = closer(a3, e, spread_at(s.rows, j + 3 * wide), p)
        e = take(s.panels, start + LANES * (j + 1))
        b0 = closer(b0, e, spread_at(s.rows, j + 1), p)
        b1 = closer(b1, e, spread_at(s.rows, j + 1 + wide), p)
        b2 = closer(b2, e, spread_at(s.rows, j + 1 + 2 * wide), p)
        b3 = closer(b3, e, spread_at(s.rows, j + 1 + 3 * wide), p)
    put(s.near, at, a0 + b0)
    put(s.near, at + many, a1 + b1)
    put(s.near, at + 2 * many, a2 + b2)
    put(s.near, at + 3 * many, a3 + b3)


@inlined
def _two_panels(s: Any, panel: int, d: int, p: float) -> None:
    wide, many, at = len(s.middle), len(s.base), panel * LANES
    first, second = at * wide, (at + LANES) * wide
    a0 = a1 = a2 = a3 = take(s.base, at)
    b0 = b1 = b2 = b3 = take(s.base, at + LANES)
    for j in range(d):
        e = take(s.panels, first + LANES * j)
        g = take(s.panels, second + LANES * j)
        y = spread_at(s.rows, j)
        a0, b0 = closer(a0, e, y, p), closer(b0, g, y, p)
        y = spread_at(s.rows, j + wide)
        a1, b1 = closer(a1, e, y, p), closer(b1, g, y, p)
        y = spread_at(s.rows, j + 2 * wide)
        a2, b2 = closer(a2, e, y, p), closer(b2, g, y, p)
        y = spread_at(s.rows, j + 3 * wide)
        a3, b3 = closer(a3, e, y, p), closer(b3, g, y, p)
    put(s.near, at, a0)
    put(s.near, at + LANES, b0)
    put(s.near, at + many, a1)
    put(s.near, at + many + LANES, b1)
    put(s.near, at + 2 * many, a2)
    put(s.near, at + 2 * many + LANES, b2)
    put(s.near, at + 3 * many, a3)
    put(s.near, at + 3 * many + LANES, b3)


@inlined
def patch(s: Any, c: Any, m: int, r: int, p: float) -> None:
    """Row m of the block moved centre c: its nearness to row r again.

    A whole vector is computed and written: to write one number, and read sixteen soon after, would stall, and so
    would a selection, which becomes such a write. (Adding the difference loses digits when a centre jumps.)
    """
    wide, at = len(s.middle), r * len(s.base) + c
    gain = spread(ZERO)
    for j in range(0, wide, LANES):
        gain = closer(gain, take(s.moved, m * wide + j), take(s.rows, r * wide + j), p)
    now = s.base[np.uint64(c)] + total(gain)
    lane = c % LANES
    kept = take(s.near, at - lane) * one_lane(lane, ZERO, ONE)
    put(s.near, at - lane, kept + one_lane(lane, now, ZERO))


@inlined
def nearest(s: Any, r: int, n: Any, error: Any) -> Any:
    """Of row r: the centre, how many centres it might be, and the nearness from which on they might."""
    many = len(s.base)
    at = r * many
    top = take(s.near, at)
    for c in range(LANES, many, LANES):
        top = higher(top, take(s.near, at + c))
    best = highest(top)
    limit = best - error * (np.float32(8) * n - np.float32(6) * best) - (TINY if error > ZERO else ZERO)
    found = winner = 0
    for c in range(many - LANES, -1, -LANES):  # backwards: of several the lowest is named
        bits = at_least(take(s.near, at + c), limit)
        found += count_bits(bits)
        if bits:
            winner = c + lowest_bit(bits)
    return winner, found, limit


@inlined
def move(s: Any, c: int, z: Any, at: int, d: int, step: float) -> None:
    """centre c += step * (z[at : at + d] - centre c), each operation rounded by itself as River's are."""
    wide = len(s.middle)
    share = rounded(spread(step), s.own)
    for j in range(0, wide, LANES):
        centre = take(s.own, c * wide + j)
        x = rounded(take_some(z, at + j, d - j), s.own)
        put(s.own, c * wide + j, centre + share * (x - centre))
