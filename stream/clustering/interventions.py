"""Whether another arrangement of the centres would serve the newest rows better, and how sure that is.

A swap gives up centre r and splits centre c in two. What is asked of it:

    found     c's rows are cut where two means explain them best: along their longest axis (power iteration),
              at the best place (exact in one dimension), then `ROUNDS` of plain 2-means. Which c and which r:
              the pair that saves most squared distance, on the even rows of the sample.
    held      the same on the odd rows, which had no say in it. The saving of a row is its squared distance
              before minus after; their sum must be `SIGMAS` times what it would be by chance (paired test),
    material  and at least `MATERIAL` of the inertia of a mean centre: an id that changes its meaning costs
              subscribers more than a slightly better fit is worth.
    trimmed   a squared distance counts as at most that which half of `left_out` of the rows exceed, before as after,
              and such rows place no centre: a heavy tail gives no evidence, and a group that small gets no
              centre (as in the warm start).

All of it is in squared distances and ratios of them: nothing changes with the unit of the rows.

A lump, for k between bounds, is what has no valley: `valley` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiling import kernel
from ..events import F64, I64, Bool
from .sample import Sample
from .seeding import left_out

ROUNDS = 3
SIGMAS = 3.0
MATERIAL = 0.1
POWER_ROUNDS = 6
TRIED = 4
PART_MIN = 3
"""Fitted rows in each part of a split at least."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Give up `centre` (-1: none, a free slot is taken); `out_of` is cut into `stays` and `leaves`."""

    centre: int
    out_of: int
    stays: F64  # (d,) the larger part
    leaves: F64  # (d,) the smaller part, which gets a centre of its own
    sizes: tuple[int, int]  # fitted rows in the two parts


def far(near: F64, k: int) -> float:
    """The squared distance that only half of `left_out` of the rows exceed, with k centres at least."""
    return float(np.quantile(near, 1.0 - left_out(k) / 2)) if len(near) else np.inf


@dataclass(frozen=True, slots=True)
class Cuts:
    """Every centre's rows cut in two."""

    halves: F64  # (k, 2, d), the larger part first
    gains: F64  # (k,) squared distance saved; 0 where nothing can be cut
    sizes: I64  # (k, 2) rows in the parts

    def at(self, out_of: int, centre: int = -1) -> Proposal:
        large, small = self.sizes[out_of].tolist()
        return Proposal(centre, out_of, self.halves[out_of, 0], self.halves[out_of, 1], (large, small))


def cut(fitted: Sample, k: int, limit: float) -> Cuts:
    """Cut every centre's rows in two; the rows are in the order of their labels."""
    bounds = np.searchsorted(fitted.label, np.arange(k + 1))
    return Cuts(*_cut_all(fitted.rows, fitted.near, bounds, limit, ROUNDS))


def needed(sample: Sample, used: Bool, limit: float) -> F64:
    """(k,) what giving up each centre would cost, in squared distance; infinite for slots not in use."""
    loss = np.minimum(sample.next, limit) - np.minimum(sample.near, limit)
    return np.where(used, np.bincount(sample.label, loss, len(used)), np.inf)


def swaps(cuts: Cuts, cost: F64) -> list[Proposal]:
    """The `TRIED` swaps that save most, each of another centre's cut; `cost` (k,) of giving up each centre."""
    found = []
    for c in np.argsort(-cuts.gains, kind="stable")[:TRIED].tolist():
        r = min((r for r in np.argsort(cost, kind="stable")[:2].tolist() if r != c), key=lambda r: cost[r])
        if cuts.gains[c] > cost[r]:
            found.append((float(cost[r] - cuts.gains[c]), cuts.at(c, r)))
    return [proposal for _, proposal in sorted(found, key=lambda one: one[0])]


def savings(judges: Sample, proposal: Proposal, limit: float) -> F64:
    """(m,) by how much nearer each row's centre would be; never too high.

    Only the two nearest centres of a row are known: where both would go, the new ones have to do.
    """
    a = ((judges.rows - proposal.stays) ** 2).sum(axis=1)
    b = ((judges.rows - proposal.leaves) ** 2).sum(axis=1)
    gone = (proposal.centre, proposal.out_of)
    first = np.isin(judges.label, gone)
    second = np.isin(judges.second, gone) | (judges.second < 0)
    kept = np.where(first, np.where(second, np.inf, judges.next), judges.near)
    after = np.minimum(kept, np.minimum(a, b))
    result: F64 = np.minimum(judges.near, limit) - np.minimum(after, limit)
    return result


def share(saved: F64, near: F64, limit: float) -> float:
    """What a change saves, as a share of the inertia of the rows it was judged by."""
    return float(saved.sum()) / max(float(np.minimum(near, limit).sum()), np.finfo(np.float64).tiny)


def is_sure(saved: F64) -> bool:
    return bool(saved.sum() > SIGMAS * np.sqrt((saved * saved).sum()))


# --- kernels -------------------------------------------------------------------------------------------


@kernel
def _cut_all(rows: Any, near: Any, bounds: Any, limit: float, rounds: int) -> Any:
    """Every centre's rows cut in two: the halves (k, 2, d), what that saves (k,), their sizes (k, 2)."""
    k, d = len(bounds) - 1, rows.shape[1]
    halves = np.zeros((k, 2, d))
    gains = np.zeros(k)
    sizes = np.zeros((k, 2), np.int64)
    for c in range(k):
        own = rows[bounds[c] : bounds[c + 1]]
        gap = near[bounds[c] : bounds[c + 1]]
        inside = own[gap <= limit]
        if len(inside) < 2 * PART_MIN:
            continue
        if not _cut_in_two(inside, halves[c], sizes[c], rounds):
            continue
        if sizes[c, 1] > sizes[c, 0]:
            halves[c] = halves[c, ::-1].copy()
            sizes[c] = sizes[c, ::-1].copy()
        for i in range(len(own)):
            after = min(_gap(own[i], halves[c, 0]), _gap(own[i], halves[c, 1]))
            gains[c] += min(gap[i], limit) - min(after, limit)
    return halves, gains, sizes


@kernel
def _gap(a: Any, b: Any) -> float:
    total = 0.0
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@kernel
def _cut_in_two(rows: Any, halves: Any, sizes: Any, rounds: int) -> bool:
    """Two means of rows (m, d); False where there is nothing to cut."""
    m = len(rows)
    along = _along_longest_axis(rows)
    order = np.argsort(along)
    if not along[order[m - 1]] > along[order[0]]:
        return False
    cut = _best_cut(along[order])
    part = np.zeros(m, np.int64)
    part[order[cut:]] = 1
    for turn in range(rounds + 1):
        halves[:] = 0.0
        sizes[:] = 0
        for i in range(m):
            sizes[part[i]] += 1
            for j in range(rows.shape[1]):
                halves[part[i], j] += rows[i, j]
        if sizes[0] < PART_MIN or sizes[1] < PART_MIN:
            return False
        halves[0] /= sizes[0]
        halves[1] /= sizes[1]
        if turn < rounds:
            for i in range(m):
                part[i] = _gap(rows[i], halves[1]) < _gap(rows[i], halves[0])
    return True


@kernel
def _along_longest_axis(rows: Any) -> Any:
    """(m,) where each row stands on the axis of largest variance, from the mean."""
    m, d = rows.shape
    mean = np.zeros(d)
    for i in range(m):
        for j in range(d):
            mean[j] += rows[i, j] / m
    farthest, most = 0, -1.0
    for i in range(m):
        gap = _gap(rows[i], mean)
        if gap > most:
            farthest, most = i, gap
    axis = rows[farthest] - mean
    along = np.zeros(m)
    for _ in range(POWER_ROUNDS):
        length = np.sqrt((axis * axis).sum())
        turned = np.zeros(d)
        for i in range(m):
            along[i] = 0.0
            for j in range(d):
                along[i] += (rows[i, j] - mean[j]) * axis[j]
            along[i] /= length if length > 0.0 else 1.0
            for j in range(d):
                turned[j] += along[i] * (rows[i, j] - mean[j])
        axis = turned
    return along


@kernel
def _best_cut(along: Any) -> int:
    """How many of these ascending numbers (m,) belong to the lower of two means; exact."""
    m = len(along)
    total = along.sum()
    below = 0.0
    best, cut = -1.0, PART_MIN
    for i in range(1, m):
        below += along[i - 1]
        if PART_MIN <= i <= m - PART_MIN:
            apart = below / i - (total - below) / (m - i)
            between = apart * apart * i * (m - i)
            if between > best:
                best, cut = between, i
    return cut
