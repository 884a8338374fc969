"""Where centres start: robust k-means++ on the warm-up buffer, then a few Lloyd rounds; the best of some tries.

Centres drawn without looking at the data mostly never win a row (50-99 % dead, measured on River's default).
k-means++ in turn likes what is far away: three bots in a thousand users got a centre of their own, and two
groups of people had to share one. So the farthest rows (`left_out`) are left out, of the draw and of every
round, and of the inertia by which one try is compared with another.

References: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; the greedy variant
tries a few candidates per centre and keeps the best, as scikit-learn does. Chawla & Gionis, "k-means--: a
unified approach to clustering and outlier detection", 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiling import kernel
from ..events import F64, I64

LLOYD_ROUNDS = 10
TRIES_MAX = 8
LEFT_OUT, LEFT_OUT_MAX = 0.08, 0.01
"""Of a mean centre's rows: groups that small get no centre. And of all rows, at most."""
JITTER = 1e-3
WORK_MAX = 1 << 28
"""Distances computed while seeding, at most about this many: a larger buffer has fewer tries, then is thinned."""


def left_out(k: int) -> float:
    """Share of the rows, the farthest ones, that have no say in where k centres stand.

    >>> left_out(2), left_out(8), left_out(32)
    (0.01, 0.01, 0.0025)
    """
    return min(LEFT_OUT / k, LEFT_OUT_MAX)


def kmeans_plus_plus(z: F64, k: int, seed: int, fewest: int | None = None) -> F64:
    """Centres (k, d) from a buffer (n, d), n >= 1; all finite, and the same for the same buffer and seed.

    Rows that are not finite are left out. With fewer distinct rows than k, the centres left over are copies
    of drawn rows moved by noise of 0.1 % of the buffer's spread, so that each can win a row later.
    `fewest`: how many of the k centres will be kept at least; all by default.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = z[np.isfinite(z).all(axis=1)]
    if not len(rows):
        rows = np.zeros((1, z.shape[1]), np.float64)
    trials = 2 + int(np.log(k))
    per_row = k * (trials + LLOYD_ROUNDS)
    rows = np.ascontiguousarray(rows[:: -(-len(rows) // max(WORK_MAX // per_row, k))])
    tries = min(max(WORK_MAX // (per_row * len(rows)), 1), TRIES_MAX)
    out = int(left_out(fewest or k) * len(rows))
    centres, distinct = _best(rows, rng.random((tries, k, trials)), out)
    spread = float(rows.std(axis=0).mean()) or 1.0
    copies = rows[rng.integers(0, len(rows), k - distinct)]
    centres[distinct:] = copies + JITTER * spread * rng.standard_normal(copies.shape)
    return np.asarray(centres, np.float64)


def _best(rows: F64, uniform: F64, out: int) -> tuple[F64, int]:
    """The try with the least inertia of uniform (tries, k, trials); centres, and how many are distinct."""
    found = []
    for draws in uniform:
        centres, distinct = _draw(rows, draws, out)
        inertia = _lloyd(rows, centres[:distinct], LLOYD_ROUNDS, out)
        found.append((inertia, centres, distinct))
    _, centres, distinct = min(found, key=lambda one: one[0])
    return centres, distinct


def _without(gaps: F64, out: int) -> F64:
    """Squared distances (n,) with the `out` largest of them, or a few more where equal, as 0."""
    if out == 0:
        return gaps
    limit = np.partition(gaps, len(gaps) - out)[len(gaps) - out]
    kept = np.where(gaps < limit, gaps, 0.0)
    return kept if kept.any() else gaps


def _draw(rows: F64, uniform: F64, out: int) -> tuple[F64, int]:
    """k-means++ draws by inverse transform of `uniform` (k, trials); centres, and how many are distinct."""
    centres = np.zeros((len(uniform), rows.shape[1]))
    nearest = np.full(len(rows), np.inf)  # squared distance to the nearest centre so far
    weights = np.ones(len(rows))
    for c, draws in enumerate(uniform):
        if not weights.any():
            return centres, c
        tried = []
        for pick in _picks(weights, draws).tolist():
            after = np.minimum(nearest, _gaps(rows, rows[pick]))
            kept = _without(after, out)
            tried.append((float(kept.sum()), pick, after, kept))
        _, best, nearest, weights = min(tried, key=lambda one: one[0])
        centres[c] = rows[best]
    return centres, len(centres)


def _picks(weights: F64, uniform: F64) -> I64:
    """For each number below 1 the row it falls on; the last one with weight if rounding passes that."""
    running = np.cumsum(weights)
    found = np.searchsorted(running, uniform * running[-1], side="right")
    return np.minimum(found, np.flatnonzero(weights)[-1])


def _lloyd(rows: F64, centres: F64, rounds: int, out: int) -> float:
    """Plain k-means rounds without the `out` farthest rows, in place; a centre without rows stays.

    The inertia of the rows that are left.
    """
    n, k = len(rows), len(centres)
    label, gaps = np.empty(n, np.int64), np.empty(n)
    for turn in range(rounds + 1):
        _assign(rows, centres, label, gaps)
        kept = gaps <= np.partition(gaps, n - out - 1)[n - out - 1]
        if turn < rounds:
            sums, sizes = np.zeros_like(centres), np.zeros(k, np.int64)
            _sum_up(rows, label, kept, sums, sizes)
            centres[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None]
    return float(gaps[kept].sum())


# --- kernels: distances and sums only; what sorts is numpy's, which need not be compiled ---------------------


@kernel
def _gaps(rows: Any, point: Any) -> Any:
    """(n,) squared distances of the rows to a point."""
    gaps = np.zeros(len(rows), np.float64)
    for i in range(len(rows)):
        for j in range(len(point)):
            gaps[i] += (rows[i, j] - point[j]) ** 2
    return gaps


@kernel
def _assign(rows: Any, centres: Any, label: Any, gaps: Any) -> None:
    """Each row's nearest centre and its squared distance."""
    for i in range(len(rows)):
        gaps[i] = np.inf
        for c in range(len(centres)):
            gap = 0.0
            for j in range(rows.shape[1]):
                gap += (rows[i, j] - centres[c, j]) ** 2
            if gap < gaps[i]:
                label[i], gaps[i] = c, gap


@kernel
def _sum_up(rows: Any, label: Any, kept: Any, sums: Any, sizes: Any) -> None:
    """Sums (k, d) and numbers (k,) of the kept rows of each centre."""
    for i in range(len(rows)):
        if kept[i]:
            sizes[label[i]] += 1
            for j in range(rows.shape[1]):
                sums[label[i], j] += rows[i, j]
