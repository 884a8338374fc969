"""Whether two centres stand in two lumps of rows, or share one. No variance is looked at, only a valley.

Between any two points, a density with a single top is nowhere lower than at the lower of the two. So rows are
laid on the line through both centres (0 at one, 1 at the other) and counted in windows a fifth as wide as the
gap: if the emptiest window in between holds fewer rows than the emptier of those round the two centres, by
more than Poisson counts allow, there are two lumps. Elongated, heavy-tailed and very unequal groups are no
exceptions; in a cloud without structure there is no valley wherever it is cut.

What it cannot see: many centres in one lump of many dimensions. The others take a bite out of the middle of
the rows of any two, and that looks like a valley; so too little is merged, never too much. Only the rows whose
two nearest centres are the pair lie in a convex region and would show none, but they are so few that true
lumps were merged one after the other (tried: 16 centres became 2).

Compare Hartigan & Hartigan, "The dip test of unimodality", 1985; and Kalogeratos & Likas, "Dip-means", 2012.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiling import kernel
from ..events import F64, I32, Bool
from .sample import Sample

TWO = 2.5
"""From this many deviations on there are two lumps."""
ONE = 0.5
"""Up to this many there is one; in between nothing is done (hysteresis)."""
UNKNOWN = 1.5
ENOUGH = 8
"""Rows at the emptier centre without which nothing is said: none at all in the valley would then be 2.8 deviations."""

_BIN = 0.05  # of the gap
_WINDOW = 4  # bins
_BINS = 24  # from -0.1 to 1.1


def valley(rows: F64, a: F64, b: F64) -> float:
    """Deviations by which rows (n, d) are fewer between a (d,) and b (d,) than at the emptier of the two."""
    return _depth(*_lowest_and_top(rows, a, b))


def _lowest_and_top(rows: F64, a: F64, b: F64) -> tuple[int, int]:
    counts = _along(rows, a, b)
    windows = np.convolve(counts, np.ones(_WINDOW, np.int64), "valid")  # (bins - 3,) rows from bin i on
    return int(windows[_WINDOW:-_WINDOW].min()), int(min(windows[0], windows[-1]))


def _depth(lowest: int, top: int) -> float:
    return float((top - lowest) / np.sqrt(max(top + lowest, 1)))


def neighbours(sample: Sample, centres: F64, used: Bool) -> I32:
    """(k,) for each centre the one that would take most of its rows; the nearest centre where it has none."""
    k = len(used)
    heirs = np.full(k, -1, np.int32)
    if used.sum() < 2:
        return heirs
    known = sample.second >= 0
    pairs, votes = np.unique(
        sample.label[known].astype(np.int64) * k + sample.second[known], return_counts=True
    )
    strongest = np.lexsort((pairs, -votes, pairs // k))  # by centre; the first of each is its heir
    voting, first = np.unique((pairs // k)[strongest], return_index=True)
    heirs[voting] = (pairs % k)[strongest][first]
    for c in np.flatnonzero(used & (heirs < 0)).tolist():
        gaps = np.where(used, ((centres - centres[c]) ** 2).sum(axis=1), np.inf)
        gaps[c] = np.inf
        heirs[c] = gaps.argmin()
    heirs[~used] = -1
    return heirs


def valleys(sample: Sample, centres: F64, heirs: I32) -> F64:
    """(k,) the valley between each centre and its heir; `UNKNOWN` with too few rows, infinite without an heir."""
    order = np.argsort(sample.label, kind="stable")
    start = np.searchsorted(sample.label[order], np.arange(len(centres) + 1))
    found = np.full(len(centres), np.inf)
    for c in np.flatnonzero(heirs >= 0).tolist():
        own = np.concatenate([order[start[i] : start[i + 1]] for i in (c, heirs[c])])
        lowest, top = _lowest_and_top(sample.rows[own], centres[c], centres[heirs[c]])
        depth = _depth(lowest, top)
        found[c] = depth if top >= ENOUGH or depth >= TWO else UNKNOWN
    return found


@kernel
def _along(rows: Any, a: Any, b: Any) -> Any:
    """(bins,) how many rows lie in each stretch of the line from a to b."""
    counts = np.zeros(_BINS, np.int64)
    axis = b - a
    length = 0.0
    for j in range(len(a)):
        length += axis[j] * axis[j]
    if not length > 0.0:
        return counts
    for i in range(len(rows)):
        at = 0.0
        for j in range(len(a)):
            at += (rows[i, j] - a[j]) * axis[j]
        place = np.floor((at / length + 0.1) / _BIN)
        if 0 <= place < _BINS:
            counts[int(place)] += 1
    return counts
