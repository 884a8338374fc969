"""Where centres start: greedy k-means++ on the warm-up buffer, then a few Lloyd rounds.

Centres drawn without looking at the data mostly never win a row (50-99 % dead, measured on River's default).
Reference: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; the greedy variant
tries a few candidates per centre and keeps the best, as scikit-learn does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .events import F64

LLOYD_ROUNDS = 10
JITTER = 1e-3
WORK_MAX = 1 << 28
"""Distances computed while seeding, at most about this many: a larger buffer is thinned evenly."""


def kmeans_plus_plus(z: F64, k: int, seed: int) -> F64:
    """Centres (k, d) from a buffer (n, d), n >= 1; all finite, and the same for the same buffer and seed.

    Rows that are not finite are left out. With fewer distinct rows than k, the centres left over are copies
    of drawn rows moved by noise of 0.1 % of the buffer's spread, so that each can win a row later.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = z[np.isfinite(z).all(axis=1)]
    if not len(rows):
        rows = np.zeros((1, z.shape[1]), np.float64)
    trials = 2 + int(np.log(k))
    keep_max = max(WORK_MAX // (k * (trials + LLOYD_ROUNDS)), k)
    rows = np.ascontiguousarray(rows[:: -(-len(rows) // keep_max)])
    centres, distinct = _draw(rows, rng.random((k, trials)))
    if distinct:
        centres[:distinct] = _lloyd(rows, centres[:distinct].copy(), LLOYD_ROUNDS)
    spread = float(rows.std(axis=0).mean()) or 1.0
    copies = rows[rng.integers(0, len(rows), k - distinct)]
    centres[distinct:] = copies + JITTER * spread * rng.standard_normal(copies.shape)
    return np.asarray(centres, np.float64)


@njit(cache=True)
def _gap(a: Any, b: Any) -> float:
    total = 0.0
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@njit(cache=True)
def _draw(rows: Any, uniform: Any) -> Any:
    """k-means++ draws by inverse transform of `uniform` (k, trials); centres, and how many are distinct."""
    n, d = rows.shape
    k, trials = uniform.shape
    centres = np.zeros((k, d), np.float64)
    nearest = np.full(n, np.inf)  # squared distance to the nearest centre so far
    weights = np.ones(n, np.float64)
    for c in range(k):
        total = weights.sum()
        if not total > 0.0:
            return centres, c
        best_total = np.inf
        best = nearest
        for t in range(trials):
            pick = _pick(weights, uniform[c, t] * total)
            after = np.empty(n, np.float64)
            after_total = 0.0
            for i in range(n):
                after[i] = min(nearest[i], _gap(rows[i], rows[pick]))
                after_total += after[i]
            if after_total < best_total:
                best_total = after_total
                best = after
                centres[c] = rows[pick]
        nearest = best
        weights = best
    return centres, k


@njit(cache=True)
def _pick(weights: Any, target: float) -> int:
    """The first index whose running sum exceeds `target`; the last one with weight if rounding passes it."""
    running = 0.0
    last = 0
    for i in range(len(weights)):
        if weights[i] > 0.0:
            running += weights[i]
            last = i
            if running > target:
                return i
    return last


@njit(cache=True)
def _lloyd(rows: Any, centres: Any, rounds: int) -> Any:
    """Plain k-means rounds; a centre without rows stays where it is."""
    k, d = centres.shape
    for _ in range(rounds):
        sums = np.zeros((k, d), np.float64)
        sizes = np.zeros(k, np.int64)
        for i in range(len(rows)):
            best = 0
            best_gap = np.inf
            for c in range(k):
                gap = _gap(rows[i], centres[c])
                if gap < best_gap:
                    best, best_gap = c, gap
            sums[best] += rows[i]
            sizes[best] += 1
        for c in range(k):
            if sizes[c]:
                centres[c] = sums[c] / sizes[c]
    return centres
