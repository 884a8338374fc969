"""Which segment a small one is folded into, by the centres alone: the nearest group, the smallest goes first."""

from __future__ import annotations

import numpy as np

from ..events import F64, I32, I64


def fold(centres: F64, ids: I64, sizes: I64, floor: int) -> I32:
    """(k,) the centre that each centre (k, e) with `ids` (k,) is published as; -1: not in use, or all too few.

    Groups below the floor join the group whose largest member is nearest to theirs, the smallest group first; ties
    go to the lowest id. Cost: one pass over the centres for each group that joins another.

    >>> fold(np.array([[0.0], [9.0], [10.0]]), np.array([1, 2, 3]), np.array([50, 4, 30]), 20).tolist()
    [0, 2, 2]
    """
    used = np.flatnonzero(ids)
    order = used[np.argsort(ids[used], kind="stable")]  # (n,)
    group = np.arange(len(order))  # (n,) index of the member that stands for each
    total = sizes[order].astype(np.int64)  # (n,) of the group that each stands for; 0: it stands for none
    alive = np.ones(len(order), np.bool_)
    while True:
        thin = np.flatnonzero(alive & (total < floor))
        if not len(thin):
            break
        if alive.sum() == 1:
            return np.full(len(ids), -1, np.int32)
        one = int(thin[np.argmin(total[thin])])
        gaps = np.square(centres[order] - centres[order[one]]).sum(axis=1)
        gaps[~alive] = np.inf
        gaps[one] = np.inf
        other = int(np.argmin(gaps))
        stays, goes = (one, other) if sizes[order[one]] > sizes[order[other]] else (other, one)
        group[group == goes] = stays
        total[stays] += total[goes]
        total[goes], alive[goes] = 0, False
    out = np.full(len(ids), -1, np.int32)
    out[order] = order[group]
    return out
