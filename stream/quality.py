"""How good a grouping is: by its geometry, and against known truth. Equal to scikit-learn.

A measure that is not defined (fewer than two groups, nothing to measure) is nan: it is not bad, it is unknown.

The silhouette asks for every pair's distance. They are taken once each, from differences (no products that
cancel far from the origin), and added up at once: 2,048 rows of 16 cost 6 ms and (groups, rows) of memory. A
matrix of distances, also in blocks, cost 20 to 200 ms, most of it for memory touched for the first time.
Distances of float32 rows are float32 (exactly 0 where rows are the same; the silhouette is within 1e-6), all
sums are float64. Rows so large or small that squares leave float32's range are taken as float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiling import kernel
from .events import F64

Labels = NDArray[Any]
_LEAST, _LARGEST = 1e-6, 1e15  # of a set of float32 rows whose squared distances are float32 too
_FOUR = 4  # columns taken together


def silhouette(z: NDArray[Any], labels: Labels) -> float:
    """Mean silhouette, -1 .. 1, larger is better; z (n, d), labels (n,).

    A row alone in its group counts 0. nan with fewer than two groups or as many groups as rows.
    Rousseeuw 1987; not River's `metrics.Silhouette`, which is a ratio where smaller is better.
    """
    groups, own = np.unique(labels, return_inverse=True)
    n, g = len(own), len(groups)
    if not 2 <= g < n:
        return float("nan")
    order = np.argsort(own, kind="stable")
    own, sizes = own[order], np.bincount(own, minlength=g)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    sums = np.zeros((g, n))
    _add_distances(_columns(z, order), starts, sums)
    return float(_silhouettes(sums, own, sizes).mean())


def _columns(z: NDArray[Any], order: Labels) -> NDArray[Any]:
    """(n, d) -> (d rounded up to fours, n): a column's values side by side, rows of a group side by side."""
    n, d = z.shape
    largest = float(np.abs(z).max(initial=0.0))
    single = z.dtype == np.float32 and _LEAST < largest < _LARGEST
    columns = np.zeros((-(-d // _FOUR) * _FOUR, n), np.float32 if single else np.float64)
    columns[:d] = z[order].T
    return columns


def _silhouettes(sums: F64, own: Labels, sizes: Labels) -> F64:
    """(g, n) summed distances of every row to each group -> (n,)."""
    at = np.arange(len(own))
    others = sizes[own] - 1
    a = sums[own, at] / np.maximum(others, 1)
    means = sums / sizes[:, None]
    means[own, at] = np.inf
    b = means.min(axis=0)
    larger = np.maximum(a, b)
    s = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    return np.where(others > 0, s, 0.0)


@kernel
def _add_distances(columns, starts, sums):  # type: ignore[no-untyped-def]
    """Add to sums (g, n) every row's distances to the rows starts[c] : starts[c + 1] of each group c.

    Each pair once: row i meets the rows after it, adds what it finds to them and to itself.
    """
    d, n = columns.shape
    far = np.zeros(n, columns.dtype)
    for own in range(len(starts) - 1):
        for i in range(starts[own], starts[own + 1]):
            later, sums_of_later = far[i + 1 :], sums[own, i + 1 :]
            later[:] = 0
            for f in range(0, d, _FOUR):
                x0, x1, x2, x3 = columns[f, i], columns[f + 1, i], columns[f + 2, i], columns[f + 3, i]
                c0, c1 = columns[f, i + 1 :], columns[f + 1, i + 1 :]
                c2, c3 = columns[f + 2, i + 1 :], columns[f + 3, i + 1 :]
                for j in range(len(later)):
                    g0, g1, g2, g3 = c0[j] - x0, c1[j] - x1, c2[j] - x2, c3[j] - x3
                    later[j] += (g0 * g0 + g1 * g1) + (g2 * g2 + g3 * g3)
            for j in range(len(later)):
                later[j] = np.sqrt(later[j])
                sums_of_later[j] += later[j]
            for other in range(own, len(starts) - 1):
                total = 0.0
                for j in range(max(starts[other], i + 1), starts[other + 1]):
                    total += far[j]
                sums[other, i] += total


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
