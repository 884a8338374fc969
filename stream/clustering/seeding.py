"""Where centres start: robust k-means++ on the warm-up buffer, then a few Lloyd rounds; the best of some tries.

Centres drawn without looking at the data mostly never win a row (50-99 % dead, measured on River's default).
k-means++ in turn likes what is far away: three bots in a thousand users got a centre of their own, and two
groups of people had to share one. So the farthest 1 % of the rows are left out, of the draw and of every
round, and of the inertia by which one try is compared with another.

References: Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; the greedy variant
tries a few candidates per centre and keeps the best, as scikit-learn does. Chawla & Gionis, "k-means--: a
unified approach to clustering and outlier detection", 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ..events import F64

LLOYD_ROUNDS = 10
TRIES_MAX = 8
LEFT_OUT = 0.01
"""Share of the rows, the farthest ones, that no centre is drawn for: groups that small get none at first."""
JITTER = 1e-3
WORK_MAX = 1 << 28
"""Distances computed while seeding, at most about this many: a larger buffer has fewer tries, then is thinned."""


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
    per_row = k * (trials + LLOYD_ROUNDS)
    rows = np.ascontiguousarray(rows[:: -(-len(rows) // max(WORK_MAX // per_row, k))])
    tries = min(max(WORK_MAX // (per_row * len(rows)), 1), TRIES_MAX)
    centres, distinct = _best(rows, rng.random((tries, k, trials)))
    spread = float(rows.std(axis=0).mean()) or 1.0
    copies = rows[rng.integers(0, len(rows), k - distinct)]
    centres[distinct:] = copies + JITTER * spread * rng.standard_normal(copies.shape)
    return np.asarray(centres, np.float64)


def _best(rows: F64, uniform: F64) -> tuple[F64, int]:
    """The try with the least inertia of uniform (tries, k, trials); centres, and how many are distinct."""
    out = int(LEFT_OUT * len(rows))
    found = []
    for draws in uniform:
        centres, distinct = _draw(rows, draws, out)
        inertia = _lloyd(rows, centres[:distinct], LLOYD_ROUNDS, out)
        found.append((inertia, centres, distinct))
    _, centres, distinct = min(found, key=lambda one: one[0])
    return centres, distinct


@njit(cache=True)
def _gap(a: Any, b: Any) -> float:
    total = 0.0
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@njit(cache=True)
def _without(gaps: Any, out: int) -> Any:
    """Squared distances (n,) with the `out` largest of them, or a few more where equal, as 0."""
    if out == 0:
        return gaps
    limit = np.partition(gaps, len(gaps) - out)[len(gaps) - out]
    kept = np.where(gaps < limit, gaps, 0.0)
    return kept if kept.sum() > 0.0 else gaps


@njit(cache=True)
def _draw(rows: Any, uniform: Any, out: int) -> Any:
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
        best_weights = weights
        for t in range(trials):
            pick = _pick(weights, uniform[c, t] * total)
            after = np.empty(n, np.float64)
            for i in range(n):
                after[i] = min(nearest[i], _gap(rows[i], rows[pick]))
            after_weights = _without(after, out)
            after_total = after_weights.sum()
            if after_total < best_total:
                best_total = after_total
                best = after
                best_weights = after_weights
                centres[c] = rows[pick]
        nearest = best
        weights = best_weights
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
def _lloyd(rows: Any, centres: Any, rounds: int, out: int) -> float:
    """Plain k-means rounds without the `out` farthest rows, in place; a centre without rows stays.

    The inertia of the rows that are left.
    """
    k, d = centres.shape
    n = len(rows)
    label = np.empty(n, np.int64)
    gaps = np.empty(n, np.float64)
    for turn in range(rounds + 1):
        for i in range(n):
            label[i] = 0
            gaps[i] = np.inf
            for c in range(k):
                gap = _gap(rows[i], centres[c])
                if gap < gaps[i]:
                    label[i], gaps[i] = c, gap
        limit = np.inf if out == 0 else np.partition(gaps, n - out - 1)[n - out - 1]
        if turn == rounds:
            break
        sums = np.zeros((k, d), np.float64)
        sizes = np.zeros(k, np.int64)
        for i in range(n):
            if gaps[i] <= limit:
                sums[label[i]] += rows[i]
                sizes[label[i]] += 1
        for c in range(k):
            if sizes[c]:
                centres[c] = sums[c] / sizes[c]
    inertia = 0.0
    for i in range(n):
        if gaps[i] <= limit:
            inertia += gaps[i]
    return inertia
