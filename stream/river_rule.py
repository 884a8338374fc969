"""River's KMeans rule as arithmetic: compiled, and bit for bit what River's own Python computes.

How it is fast and still exact. River raises with `**`, which is libm's `pow`; about one square in a thousand
differs there from v * v in the last bit (and from 3.12 on, Python's `sum` compensates). So distances are
computed with v * v, feature by feature for all centres at once, and their rounding error is bounded: when no
other centre is within the bound of the nearest one, River must name the same winner. Otherwise, and only
then, the candidates are computed again River's way (`_river_distance`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .events import F64, I32

COMPENSATED = sum([0.1] * 10) == 1.0
"""Whether this Python's `sum` of floats is compensated (3.12 and later): River's near-ties depend on it."""

VALUE_MAX = 1e100
"""Larger values count as not finite: their square overflows in River, as an exception."""


def checked_centres(centres: F64, k: int, d: int) -> F64:
    """A copy of our own; the shape and finiteness are invariants."""
    own = np.array(centres, np.float64, order="C")
    assert own.shape == (k, d), f"centres are {own.shape}, this segmenter has {(k, d)}"
    assert np.isfinite(own).all(), "a centre is not finite"
    return own


def score_rows(centres: F64, z: F64, p: int) -> tuple[I32, F64]:
    """Nearest centre (n,) and distances (n, k) of rows (n, d) to centres (k, d)."""
    nearest = np.empty(len(z), np.int32)
    distances = np.empty((len(z), len(centres)), np.float64)
    _score(centres, z, float(p), COMPENSATED, nearest, distances)
    return nearest, distances


def learn_rows(centres: F64, z: F64, step: float, p: int) -> tuple[I32, int]:
    """Move the centres (k, d), in place, by rows (n, d) in order: the winners (n,), and how many were skipped."""
    winners, skipped = _learn(centres, z, step, float(p), COMPENSATED)
    return winners, int(skipped)


# --- kernels: no fastmath, sums in feature order --------------------------------------------------------


@njit(cache=True)
def _finite(x: Any) -> bool:
    for value in x:  # noqa: SIM110 - numba compiles the loop, not the generator
        if not abs(value) <= VALUE_MAX:  # NaN fails every comparison
            return False
    return True


@njit(cache=True)
def _distances(columns: Any, x: Any, p: float, out: Any) -> None:
    """Distances of x to all centres at once; `columns` are the centres feature by feature (d, k)."""
    out[:] = 0.0
    for j in range(len(x)):
        column = columns[j]
        value = x[j]
        if p == 2.0:
            for c in range(len(out)):
                gap = column[c] - value
                out[c] += gap * gap
        else:
            for c in range(len(out)):
                out[c] += abs(column[c] - value)


@njit(cache=True)
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


@njit(cache=True)
def _winner(columns: Any, x: Any, p: float, compensated: bool, distances: Any) -> int:
    """The centre that River names: from `distances` where they decide, else computed again River's way."""
    best = 0
    for c in range(1, len(distances)):
        if distances[c] < distances[best]:
            best = c
    # Each term is within 2 ulp of River's and a sum of d of them within d more: 4 (d + 4) covers both sides.
    bound = distances[best] * (1.0 + 4.0 * (len(x) + 4) * 2.220446049250313e-16)
    close = 0
    for c in range(len(distances)):
        close += distances[c] <= bound
    if close == 1:
        return best
    nearest = np.inf
    for c in range(len(distances)):
        if distances[c] <= bound:
            exact = _river_distance(columns, c, x, p, compensated)
            if exact < nearest:
                best, nearest = c, exact
    return best


@njit(cache=True)
def _learn(centres: Any, z: Any, step: float, p: float, compensated: bool) -> Any:
    columns = centres.T.copy()  # (d, k)
    winners = np.empty(len(z), np.int32)
    distances = np.empty(columns.shape[1], np.float64)
    skipped = 0
    for i in range(len(z)):
        x = z[i]
        if not _finite(x):
            winners[i] = -1
            skipped += 1
            continue
        _distances(columns, x, p, distances)
        w = _winner(columns, x, p, compensated, distances)
        for j in range(len(x)):
            columns[j, w] += step * (x[j] - columns[j, w])
        winners[i] = w
    centres[:] = columns.T
    return winners, skipped


@njit(cache=True)
def _score(centres: Any, z: Any, p: float, compensated: bool, nearest: Any, distances: Any) -> None:
    columns = centres.T.copy()  # (d, k)
    for i in range(len(z)):
        if _finite(z[i]):
            _distances(columns, z[i], p, distances[i])
            nearest[i] = _winner(columns, z[i], p, compensated, distances[i])
        else:
            nearest[i] = 0
            distances[i] = np.inf
