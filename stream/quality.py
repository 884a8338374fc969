"""How good a grouping is: by its geometry, and against known truth. numpy only, equal to scikit-learn.

Distances are computed in blocks, so 2,048 rows cost about 20 ms and never more than `BLOCK` rows of memory.
A measure that is not defined (fewer than two groups, nothing to measure) is nan: it is not bad, it is unknown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import F64

BLOCK = 256
Labels = NDArray[Any]


def silhouette(z: NDArray[Any], labels: Labels) -> float:
    """Mean silhouette, -1 .. 1, larger is better; z (n, d), labels (n,).

    A row alone in its group counts 0. nan with fewer than two groups or as many groups as rows.
    Rousseeuw 1987; not River's `metrics.Silhouette`, which is a ratio where smaller is better.
    """
    groups, own = np.unique(labels, return_inverse=True)
    n, g = len(own), len(groups)
    if not 2 <= g < n:
        return float("nan")
    rows = np.asarray(z, np.float64)
    rows = rows - rows.mean(axis=0)  # far from the origin the products below would cancel
    sizes = np.bincount(own, minlength=g)
    member = np.eye(g)[own]  # (n, g)
    total = 0.0
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        sums = _distances(rows[start:stop], rows, start) @ member  # (b, g) summed distance to each group
        total += _silhouettes(sums, own[start:stop], sizes).sum()
    return float(total / n)


def _silhouettes(sums: F64, own: Labels, sizes: Labels) -> F64:
    at = np.arange(len(own))
    others = sizes[own] - 1
    a = sums[at, own] / np.maximum(others, 1)
    means = sums / sizes
    means[at, own] = np.inf
    b = means.min(axis=1)
    larger = np.maximum(a, b)
    s = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    return np.where(others > 0, s, 0.0)


def _distances(block: F64, rows: F64, start: int) -> F64:
    """Euclidean distances (b, n) of rows[start : start + b] to all rows; exactly 0 to itself."""
    squared = (block**2).sum(axis=1)[:, None] - 2 * block @ rows.T + (rows**2).sum(axis=1)
    at = np.arange(len(block))
    squared[at, start + at] = 0.0
    distances: F64 = np.sqrt(np.maximum(squared, 0.0))
    return distances


def davies_bouldin(z: NDArray[Any], labels: Labels) -> float:
    """Davies-Bouldin index, 0 and up, smaller is better; nan with fewer than two groups."""
    groups, own = np.unique(labels, return_inverse=True)
    g = len(groups)
    if g < 2:
        return float("nan")
    rows = np.asarray(z, np.float64)
    sizes = np.bincount(own, minlength=g)
    centres = np.zeros((g, rows.shape[1]))
    np.add.at(centres, own, rows)
    centres /= sizes[:, None]
    scatter = np.bincount(own, np.linalg.norm(rows - centres[own], axis=1), g) / sizes
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    if np.allclose(scatter, 0) or np.allclose(apart, 0):
        return 0.0
    apart[apart == 0] = np.inf
    return float(((scatter[:, None] + scatter) / apart).max(axis=1).mean())


def inertia(z: NDArray[Any], labels: Labels, centres: F64) -> F64:
    """(k,) mean squared distance of each centre's members to it; 0 where it has none."""
    k = len(centres)
    gaps = ((np.asarray(z, np.float64) - centres[labels]) ** 2).sum(axis=1)
    sizes = np.bincount(labels, minlength=k)
    result: F64 = np.bincount(labels, gaps, k) / np.maximum(sizes, 1)
    return result


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Agreement of two groupings of the same rows, corrected for chance; 1: the same, 0: by chance.

    nan without rows. Hubert & Arabie 1985.
    """
    table = _contingency(a, b)
    n = table.sum()
    if not n:
        return float("nan")
    same_both = float((table**2).sum())
    same_a = float((table.sum(axis=1) ** 2).sum())
    same_b = float((table.sum(axis=0) ** 2).sum())
    tp, fn, fp = same_both - n, same_a - same_both, same_b - same_both
    tn = float(n) ** 2 - fp - fn - same_both
    if fn == 0 and fp == 0:
        return 1.0
    return float(2.0 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn)))


def normalised_mutual_information(a: Labels, b: Labels) -> float:
    """Shared information over the mean of both entropies, 0 .. 1; 1 if both are one group, nan without rows."""
    table = _contingency(a, b).astype(np.float64)
    n = table.sum()
    if not n:
        return float("nan")
    if table.shape[0] == table.shape[1] == 1:
        return 1.0
    p = table / n
    pa, pb = p.sum(axis=1), p.sum(axis=0)
    filled = p > 0
    shared = float((p[filled] * np.log(p[filled] / np.outer(pa, pb)[filled])).sum())
    mean_entropy = (_entropy(pa) + _entropy(pb)) / 2
    return max(0.0, shared) / mean_entropy if shared > np.finfo(np.float64).eps else 0.0


def _entropy(p: F64) -> float:
    filled = p[p > 0]
    return float(-(filled * np.log(filled)).sum())


def _contingency(a: Labels, b: Labels) -> NDArray[np.int64]:
    """(groups of a, groups of b) how many rows are in both."""
    names_a, rows = np.unique(a, return_inverse=True)
    names_b, columns = np.unique(b, return_inverse=True)
    shape = (len(names_a), len(names_b))
    flat = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.int64)
