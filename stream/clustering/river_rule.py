"""River's KMeans rule as arithmetic: compiled, and bit for bit what River's own Python computes.

How it is fast and still exact: three judges, each asked only when the one before it is not sure.

1. The float32 sieve (`sieve.py`) names the winner where no other centre is within its error bound: nearly always.
2. Distances with v * v in float64, whose error is bounded too, decide among the centres that are left.
3. What is still too close is computed River's way: `**` is libm's `pow`, where about one square in a thousand
   differs from v * v in the last bit, and from 3.12 on Python's `sum` compensates (`_river_distance`).

Centres move in float64, each operation rounded by itself as the interpreter does. So labels and centres are
River's on every machine, however the sieve rounds there.

In float32 the first judge decides alone, and centres are float32. That is not River's result any more: rows nearly
as close to another centre may get its label, also when the same rows are cut into calls in another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiling import inlined, kernel
from ..events import F32, F64, I32
from .lanes import (
    LANES,
    at_least,
    count_bits,
    higher,
    highest,
    lowest_bit,
    put_some,
    size,
    spread,
    spread_at,
    take,
    take_some,
)
from .sieve import (
    HUGE,
    ROWS,
    make_sieve,
    margin,
    move,
    nearest,
    patch,
    renew,
    score_block,
    settle_all,
    settle_in,
    take_row,
)

Floats = F32 | F64

COMPENSATED = sum([0.1] * 10) == 1.0
"""Whether this Python's `sum` of floats is compensated (3.12 and later): River's near-ties depend on it."""

VALUE_MAX = 1e100
"""Larger values count as not finite: their square overflows in River, as an exception."""


def checked_centres(centres: Floats, k: int, d: int, dtype: Any = np.float64) -> Any:
    """A copy of our own; the shape and finiteness are invariants."""
    own = np.array(centres, dtype, order="C")
    assert own.shape == (k, d), f"centres are {own.shape}, this segmenter has {(k, d)}"
    assert np.isfinite(own).all(), "a centre is not finite"
    return own


def score_rows(centres: Floats, z: Floats, p: int) -> tuple[I32, F64]:
    """Nearest centre (n,) and distances (n, k) of rows (n, d) to centres (k, d), in float64."""
    centres, z = np.ascontiguousarray(centres, np.float64), np.ascontiguousarray(z, np.float64)
    nearest = np.empty(len(z), np.int32)
    distances = np.empty((len(z), len(centres)), np.float64)
    _score(centres, z, float(p), COMPENSATED, nearest, distances)
    return nearest, distances


def learn_rows(centres: Floats, z: Floats, steps: float | F64, p: int) -> tuple[I32, int]:
    """Move the centres (k, d), in place, by rows (n, d) in order: the winners (n,), and how many were skipped.

    `steps`: one step for all, or one per centre (k,), which is River's rule with `halflife` set, before each
    row, to the step of the centre that is about to win. Centres in float32 ask for the float32 mode. Rows may be
    float32 or float64 in either mode. A call costs about as much as k / 2 rows before its first row.
    """
    k, d = centres.shape
    own = np.ascontiguousarray(np.broadcast_to(np.asarray(steps, np.float64), k))
    sieve = make_sieve(centres)
    winners = _learn(sieve, np.ascontiguousarray(z), own, float(p), _error(centres), COMPENSATED)
    centres[:] = sieve.own.reshape(k, -1)[:, :d]
    return winners, int((winners < 0).sum())


def label_rows(centres: Floats, z: Floats, p: int) -> I32:
    """The nearest centre (n,) of rows (n, d), and nothing else; -1 for rows that are not finite."""
    return _label(make_sieve(centres), np.ascontiguousarray(z), float(p), _error(centres), COMPENSATED)


def nearest_row(centres: F64, x: F64, p: float) -> int:
    """The centre that River names for one row (d,), whatever p; the row is finite. For many rows: `label_rows`."""
    return int(_nearest_row(centres, x, float(p), COMPENSATED))


def _error(centres: Floats) -> float:
    return margin(centres.shape[1]) if centres.dtype == np.float64 else 0.0


# --- kernels: no fastmath, sums in feature order --------------------------------------------------------


@kernel
def _finite(x: Any) -> bool:
    for value in x:  # noqa: SIM110 - numba compiles the loop, not the generator
        if not abs(value) <= VALUE_MAX:  # NaN fails every comparison
            return False
    return True


@kernel
def _distances(columns: Any, x: Any, p: float, out: Any) -> None:
    """Distances of x to all centres, sixteen at a time; `columns` are the centres feature by feature (d, k)."""
    k = len(out)
    for c in range(0, k, LANES):
        if p == 2.0:
            put_some(out, c, k - c, _squares(columns, x, c, k))
        else:
            put_some(out, c, k - c, _sizes(columns, x, c, k))


@inlined
def _squares(columns: Any, x: Any, c: int, k: int) -> Any:
    total = spread(0.0)
    for j in range(len(x)):
        gap = take_some(columns, j * k + c, k - c) - spread_at(x, j)
        total = total + gap * gap
    return total


@inlined
def _sizes(columns: Any, x: Any, c: int, k: int) -> Any:
    total = spread(0.0)
    for j in range(len(x)):
        total = total + size(take_some(columns, j * k + c, k - c) - spread_at(x, j))
    return total


@kernel
def _river_distance(columns: Any, c: int, x: Any, p: float, compensated: bool) -> float:
    """sum(abs(centre[j] - x[j]) ** p) as the interpreter computes it: libm's pow, and its kind of sum."""
    total = 0.0
    lost = 0.0
    for j in range(len(x)):
        term = abs(columns[j, c] - x[j]) ** p
        grown = total + term
        if compensated:  # Neumaier, as CPython
            if abs(total) >= abs(term):
                lost += (total - grown) + term
            else:
                lost += (term - grown) + total
        total = grown
    return total + lost


@kernel
def _winner(columns: Any, x: Any, p: float, compensated: bool, distances: Any) -> int:
    """The centre that River names: from `distances` where they decide, else computed again River's way."""
    # Each term is within 2 ulp of River's and a sum of d of them within d more: 4 (d + 4) covers both sides.
    bound = _smallest(distances) * (1.0 + 4.0 * (len(x) + 4) * 2.220446049250313e-16)
    best = close = 0
    for c in range(0, len(distances), LANES):
        bits = at_least(spread(0.0) - take_some(distances, c, len(distances) - c), -bound)
        bits &= (1 << min(LANES, len(distances) - c)) - 1
        close += count_bits(bits)
        if bits:
            best = c + lowest_bit(bits)
    if close == 1:
        return best
    nearest = np.inf
    for c in range(len(distances)):
        if distances[c] <= bound:
            exact = _river_distance(columns, c, x, p, compensated)
            if exact < nearest:
                best, nearest = c, exact
    return best


@inlined
def _smallest(values: Any) -> float:
    whole = len(values) // LANES * LANES
    smallest = np.inf
    if whole:
        top = spread(0.0) - take(values, 0)
        for c in range(LANES, whole, LANES):
            top = higher(top, spread(0.0) - take(values, c))
        smallest = -highest(top)
    for c in range(whole, len(values)):
        smallest = min(smallest, values[c])
    return smallest


@kernel
def _learn(s: Any, z: Any, steps: Any, p: float, error: float, compensated: bool) -> Any:
    n, d = z.shape
    values = z.ravel()
    winners = np.empty(n, np.int32)
    sizes = np.empty(ROWS, np.float32)
    exact, margin32 = error > 0.0, np.float32(error)
    fits = settle_all(s, d, p)
    for i in range(0, n, ROWS):
        count = min(ROWS, n - i)
        _take_block(s, values, i, count, d, p, sizes)
        for r in range(count):
            for m in range(r):
                if winners[i + m] >= 0:
                    patch(s, np.int64(winners[i + m]), m, r, p)
            held = fits and sizes[r] < HUGE
            w, found, limit = nearest(s, r, sizes[r], margin32)
            if not held or (exact and found != 1):
                w = _judged(s, z, i + r, r, limit, held, p, exact, compensated)
            winners[i + r] = w
            if w >= 0:
                move(s, w, values, (i + r) * d, d, steps[w])
                fits = renew(s, w, r, p) and fits
                settle_in(s, w, r, d)
    return winners


@kernel
def _label(s: Any, z: Any, p: float, error: float, compensated: bool) -> Any:
    n, d = z.shape
    values = z.ravel()
    labels = np.empty(n, np.int32)
    sizes = np.empty(ROWS, np.float32)
    exact, margin32 = error > 0.0, np.float32(error)
    fits = settle_all(s, d, p)
    for i in range(0, n, ROWS):
        count = min(ROWS, n - i)
        _take_block(s, values, i, count, d, p, sizes)
        for r in range(count):
            held = fits and sizes[r] < HUGE
            w, found, limit = nearest(s, r, sizes[r], margin32)
            if not held or (exact and found != 1):
                w = _judged(s, z, i + r, r, limit, held, p, exact, compensated)
            labels[i + r] = w
    return labels


@inlined
def _take_block(s: Any, values: Any, i: int, count: int, d: int, p: float, sizes: Any) -> None:
    """Rows i ... i + count - 1, and rows of zeros where the block is not full."""
    for r in range(ROWS):
        sizes[r] = take_row(s, values, (i + r) * d, d if r < count else 0, r, p)
    score_block(s, d, p)


@kernel
def _judged(
    s: Any, z: Any, i: int, r: int, limit: Any, fits: bool, p: float, exact: bool, compensated: bool
) -> int:
    """The winner of row i, row r of its block, where the sieve is not sure; -1 for a row that is not finite."""
    if not fits and (not exact or not _finite(z[i])):
        return -1
    return _judge(s, z[i], r, limit if fits else np.float32(-np.inf), p, compensated)


@kernel
def _judge(s: Any, x: Any, r: int, limit: Any, p: float, compensated: bool) -> int:
    """The winner of row x among the centres with a nearness of at least `limit`, in float64."""
    wide, many = len(s.middle), len(s.base)
    centres = s.own.reshape(len(s.own) // wide, wide)
    columns = centres.T[: len(x)]
    distances = np.full(len(centres), np.inf)
    for c in range(len(centres)):
        if not s.near[r * many + c] < limit:  # also where it is not a number
            distances[c] = _square_distance(centres[c], x, p)
    return _winner(columns, x, p, compensated, distances)


@kernel
def _nearest_row(centres: Any, x: Any, p: float, compensated: bool) -> int:
    distances = np.zeros(len(centres))  # all the same, for other p: then all are computed River's way
    if p == 1.0 or p == 2.0:
        for c in range(len(centres)):
            distances[c] = _square_distance(centres[c], x, p)
    return _winner(centres.T, x, p, compensated, distances)


@kernel
def _square_distance(centre: Any, x: Any, p: float) -> float:
    total = 0.0
    for j in range(len(x)):
        gap = abs(centre[j] - x[j])
        total += gap * gap if p == 2.0 else gap
    return total


@kernel
def _score(centres: Any, z: Any, p: float, compensated: bool, nearest: Any, distances: Any) -> None:
    columns = centres.T.copy()  # (d, k)
    for i in range(len(z)):
        if _finite(z[i]):
            _distances(columns, z[i], p, distances[i])
            nearest[i] = _winner(columns, z[i], p, compensated, distances[i])
        else:
            nearest[i] = 0
            distances[i] = np.inf
