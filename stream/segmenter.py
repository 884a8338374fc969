"""The segmenter: River's KMeans rule, compiled, and bit for bit River's.

For each row x, in order: the winner w is the centre with the smallest sum |c - x|^p (ties: the lowest id),
then c_w += step * (x - c_w). The next row sees the moved centre, so the rule cannot be cut into batches.

How it is fast and still exact. River raises with `**`, which is libm's `pow`; about one square in a thousand
differs there from v * v in the last bit (and from 3.12 on, Python's `sum` compensates). So distances are
computed with v * v, feature by feature for all centres at once, and their rounding error is bounded: when no
other centre is within the bound of the nearest one, River must name the same winner. Otherwise, and only
then, the candidates are computed again River's way (`_river_distance`).

Always true: centres are finite; a row that is not finite is counted and never learned from (River would give
label 0 for ever after one NaN).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from . import config
from .events import F32, F64, I32
from .ports import Segmenter, State
from .seeding import kmeans_plus_plus

COMPENSATED = sum([0.1] * 10) == 1.0
"""Whether this Python's `sum` of floats is compensated (3.12 and later): River's near-ties depend on it."""

VALUE_MAX = 1e100
"""Larger values count as not finite: their square overflows in River, as an exception."""


def make_segmenter(config: config.Segmenter, d: int) -> Segmenter:
    """The configured backend for embeddings of d dimensions; both give the same bytes."""
    if config.backend == "river":
        from .river_backend import RiverSegmenter

        return RiverSegmenter(config.segments, d, config.step, config.seed)
    return KMeans(config.segments, d, config.step, config.seed)


class KMeans:
    """k centres that follow the stream by River's rule; p is 1 (Manhattan) or 2 (squared Euclidean).

    Cost: about 3 k d floating-point operations per row. Memory: k d centres, and k distances per scored row.
    """

    def __init__(self, k: int, d: int, step: float, seed: int, p: int = 2) -> None:
        assert p in (1, 2), f"p is 1 or 2, got {p}"
        self.k, self.d, self.p = k, d, p
        self.step = float(step)
        self.centres: F64 = np.zeros((k, d), np.float64)
        self.seeded = False
        self.version = 0
        self.skipped = 0  # rows never learned from, because a value was not finite
        self._seed = seed

    def seed(self, z: F32) -> None:
        """Draw the centres from a buffer (n, d), n >= 1, by k-means++; the same buffer gives the same centres."""
        self.carry(kmeans_plus_plus(_rows(z, self.d), self.k, self._seed))

    def score(self, z: F32) -> tuple[I32, F64]:
        """Nearest centre (n,) and distances sum |c - z|^p (n, k); row i does not depend on the other rows.

        A row that is not finite has nearest centre 0 and infinite distances.
        """
        return score_rows(self.centres, _rows(z, self.d), self.p, COMPENSATED)

    def learn(self, z: F32) -> I32:
        """Move the winner of each row, in order; the winners (n,), -1 for rows that are not finite."""
        winners, skipped = _learn(self.centres, _rows(z, self.d), self.step, float(self.p), COMPENSATED)
        self.skipped += int(skipped)
        return winners

    def carry(self, centres: F64) -> None:
        """Replace the centres (k, d): an intervention, counted by `version`."""
        self.centres = checked_centres(centres, self.k, self.d)
        self.seeded = True
        self.version += 1

    def snapshot(self) -> State:
        return {
            "centres": self.centres.copy(),
            "seeded": self.seeded,
            "version": self.version,
            "skipped": self.skipped,
        }

    def restore(self, state: State) -> None:
        self.centres = checked_centres(state["centres"], self.k, self.d)
        self.seeded = state["seeded"]
        self.version = state["version"]
        self.skipped = state["skipped"]

    def to_river(self) -> Any:
        """A `river.cluster.KMeans` that continues exactly as this one would; rows are {0: x0, 1: x1 ...}."""
        from .river_backend import river_model

        return river_model(self.centres, self.step, self._seed, self.p)

    @staticmethod
    def from_river(model: Any, d: int) -> KMeans:
        """Continue exactly as `model`, whose rows have the integer keys 0 .. d-1, would.

        Centres that the model has not drawn yet are drawn now, by the model, as its next row would.
        """
        from .river_backend import river_centres

        segmenter = KMeans(model.n_clusters, d, model.halflife, model.seed or 0, model.p)
        segmenter.carry(river_centres(model, d))
        return segmenter


def checked_centres(centres: F64, k: int, d: int) -> F64:
    """A copy of our own; the shape and finiteness are invariants."""
    own = np.array(centres, np.float64, order="C")
    assert own.shape == (k, d), f"centres are {own.shape}, this segmenter has {(k, d)}"
    assert np.isfinite(own).all(), "a centre is not finite"
    return own


def _rows(z: F32, d: int) -> F64:
    assert z.ndim == 2, f"rows are a matrix, got {z.ndim} dimensions"
    assert z.shape[1] == d, f"rows have {z.shape[1]} values, this segmenter has {d}"
    return np.ascontiguousarray(z, np.float64)


def score_rows(centres: F64, z: F64, p: int, compensated: bool) -> tuple[I32, F64]:
    """Nearest centre (n,) and distances (n, k) of rows (n, d) to centres (k, d)."""
    nearest = np.empty(len(z), np.int32)
    distances = np.empty((len(z), len(centres)), np.float64)
    _score(centres, z, float(p), compensated, nearest, distances)
    return nearest, distances


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
