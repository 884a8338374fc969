"""Which segments are near each other: a tree by Ward's rule over their mean rows and sizes.

Two groups are joined when that adds least to the sum of squared distances of members to their group's mean,

    cost(a, b) = w_a w_b / (w_a + w_b) * |m_a - m_b|^2        (Ward 1963)

starting from the segments themselves; an empty segment weighs as one user, so that it has a place too. The
tree is found by the nearest-neighbour chain (Murtagh 1983): follow nearest neighbours until two are each
other's, join them, go on from there. It stands for mean rows and not for the encoder's centres: a new encoder
does not shake it.

Always true: segments are taken in the order of their ids, ties go to the lowest, so the tree depends neither
on which centres they have nor on what the tree was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .compiling import kernel
from .events import F64, I64
from .ports import Intervention, State

LEVELS = (2, 4, 8, 16)
"""The tree is published cut into so many groups, where there are more segments than that."""


class Hierarchy:
    """The tree as of the last `build`. Cost: some 3 k^2 d operations for k segments of d features, no matrix kept.

    With 90 features that is 0.2 ms for 32 segments, 60 ms for 1,024, 2 s for 4,096, per catalog update.
    """

    def __init__(self, k: int, d: int) -> None:
        self._k = k
        self._put(np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros((k, d)))

    def build(self, ids: I64, sizes: I64, means: F64) -> None:
        """The tree of the segments `ids` (k,) by centre, 0: none, with `sizes` (k,) and mean rows (k, d)."""
        self._put(ids.copy(), sizes.copy(), np.array(means, np.float64))

    def _put(self, ids: I64, sizes: I64, means: F64) -> None:
        self._ids, self._sizes, self._means = ids, sizes, means
        live = np.flatnonzero(ids)
        self._centres: I64 = live[np.argsort(ids[live], kind="stable")]  # (n,) leaf -> centre, by id
        self._merges = _tree(means[self._centres], _weights(sizes[self._centres]))  # (n - 1, 2) node pairs

    def __len__(self) -> int:
        """Segments in the tree."""
        return len(self._centres)

    def intervene(self, interventions: Sequence[Intervention], ids: I64) -> None:
        """Centres stand for `ids` (k,) now: a new segment stands where its parent does until the next `build`.

        One without a parent stands in the middle of all.
        """
        if not interventions or not len(self):
            return
        middle = np.average(self._means[self._centres], axis=0, weights=_weights(self._sizes[self._centres]))
        for one in interventions:
            if one.ends:
                self._sizes[one.into] += self._sizes[one.centre]
            if one.begins:
                self._means[one.centre] = self._means[one.out_of] if one.out_of >= 0 else middle
                self._sizes[one.centre] = 0
        self._put(ids.copy(), self._sizes, self._means)

    def groups(self) -> dict[int, dict[str, str]]:
        """Segment id -> level -> its group there: the level and the smallest segment id in the group.

        >>> tree = Hierarchy(3, 1)
        >>> tree.build(np.array([5, 6, 7]), np.array([9, 9, 9]), np.array([[0.0], [9.0], [8.0]]))
        >>> tree.groups()
        {5: {'2': '2:5'}, 6: {'2': '2:6'}, 7: {'2': '2:6'}}
        """
        ids = self._ids[self._centres]
        found: dict[int, dict[str, str]] = {segment: {} for segment in ids.tolist()}
        for level in LEVELS:
            if level < len(self):
                first = ids[_cut(self._merges, len(self), level)]  # (n,) smallest id of each one's group
                for segment, group in zip(ids.tolist(), first.tolist(), strict=True):
                    found[segment][str(level)] = f"{level}:{group}"
        return found

    def nearest(self) -> Mapping[int, int]:
        """Segment id -> the one it would cost least to join; empty for a segment that is alone."""
        if len(self) < 2:
            return {}
        at = self._centres
        other = _cheapest(self._means[at], _weights(self._sizes[at]))
        return dict(zip(self._ids[at].tolist(), self._ids[at[other]].tolist(), strict=True))

    def snapshot(self) -> State:
        return {"ids": self._ids.copy(), "sizes": self._sizes.copy(), "means": self._means.copy()}

    def restore(self, state: State) -> None:
        """The tree follows from these three."""
        self.build(state["ids"], state["sizes"], state["means"])


def _weights(sizes: I64) -> F64:
    return np.maximum(sizes, 1).astype(np.float64)


def _tree(means: F64, weights: F64) -> I64:
    """(n - 1, 2) the pairs of nodes that are joined, cheapest first; node i < n is a leaf, n + j pair j's."""
    n = len(means)
    if n < 2:
        return np.empty((0, 2), np.int64)
    pairs, costs = _chain(means, weights)
    order = np.argsort(costs, kind="stable")  # a pair costs no less than those it is made of, and came later
    renumbered = np.concatenate([np.arange(n), n + np.argsort(order, kind="stable")])
    merges: I64 = renumbered[pairs[order]]
    return merges


@kernel
def _costs(columns, w, at, out):  # type: ignore[no-untyped-def]
    """(n,) what joining row `at` with each row adds; rows by column (d, n), so that many are done at once."""
    out[:] = 0.0
    for j in range(len(columns)):
        column, own = columns[j], columns[j, at]
        for i in range(len(out)):
            gap = column[i] - own
            out[i] += gap * gap
    for i in range(len(out)):
        out[i] *= w[at] * w[i] / (w[at] + w[i])


@kernel
def _cost(m_a, w_a, m_b, w_b):  # type: ignore[no-untyped-def]
    """The same for two rows."""
    squares = 0.0
    for j in range(len(m_a)):
        gap = m_b[j] - m_a[j]
        squares += gap * gap
    return squares * (w_a * w_b / (w_a + w_b))


@kernel
def _chain(means, weights):  # type: ignore[no-untyped-def]
    """(n - 1, 2) pairs of nodes in the order they were found, and what each costs (n - 1,).

    The chain's own groups but the last two cannot be nearest, save by rounding: they are not asked.
    """
    n = len(weights)
    m, w, height = means.T.copy(), weights.copy(), np.zeros(n)
    node = np.arange(n)  # of the group that stands in row i; -1: it was joined to another
    pairs, costs = np.empty((n - 1, 2), np.int64), np.empty(n - 1)
    chain, depth = np.empty(n, np.int64), 0
    chained, to = np.zeros(n, np.bool_), np.empty(n)
    start = 0
    for done in range(n - 1):
        if depth == 0:
            while node[start] < 0:
                start += 1
            chain[0], depth, chained[start] = start, 1, True
        while True:
            top = chain[depth - 1]
            _costs(m, w, top, to)
            best = chain[depth - 2] if depth > 1 else -1
            least = to[best] if depth > 1 else np.inf
            for i in range(n):
                if to[i] < least and node[i] >= 0 and not chained[i]:
                    best, least = i, to[i]
            if depth > 1 and best == chain[depth - 2]:
                break
            chain[depth], chained[best] = best, True
            depth += 1
        depth -= 2
        a, b = min(top, best), max(top, best)
        chained[a] = chained[b] = False
        pairs[done, 0], pairs[done, 1] = node[a], node[b]
        costs[done] = max(least, height[a], height[b])
        m[:, a] = (w[a] * m[:, a] + w[b] * m[:, b]) / (w[a] + w[b])
        w[a], height[a] = w[a] + w[b], costs[done]
        node[a], node[b] = n + done, -1
    return pairs, costs


@kernel
def _cut(merges, n, level):  # type: ignore[no-untyped-def]
    """(n,) the first leaf of each leaf's group, when the tree of n leaves is cut into `level` groups."""
    first = np.arange(n + len(merges))  # by node
    above = np.full(n + len(merges), -1)
    for i in range(n - level):
        a, b = merges[i]
        first[n + i] = min(first[a], first[b])
        above[a] = above[b] = n + i
    out = np.empty(n, np.int64)
    for leaf in range(n):
        top = leaf
        while above[top] >= 0:
            top = above[top]
        out[leaf] = first[top]
    return out


@kernel
def _cheapest(means, weights):  # type: ignore[no-untyped-def]
    """(n,) for each row the other one that it costs least to join."""
    columns, to = means.T.copy(), np.empty(len(weights))
    out = np.empty(len(weights), np.int64)
    for i in range(len(out)):
        _costs(columns, weights, i, to)
        to[i] = np.inf
        out[i] = to.argmin()
    return out
