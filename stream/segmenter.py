"""The segmenter: River's KMeans rule, compiled, and bit for bit River's.

For each row x, in order: the winner w is the centre with the smallest sum |c - x|^p (ties: the lowest id),
then c_w += step * (x - c_w). The next row sees the moved centre, so the rule cannot be cut into batches.

The arithmetic is in `river_rule.py`; River itself, behind the same port, in `river_backend.py`.

Always true: centres are finite; a row that is not finite is counted and never learned from (River would give
label 0 for ever after one NaN).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import config
from .events import F32, F64, I32
from .ports import Intervention, Segmenter, State
from .river_rule import checked_centres, learn_rows, score_rows
from .seeding import kmeans_plus_plus


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
        self.used = np.ones(k, np.bool_)
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
        return score_rows(self.centres, _rows(z, self.d), self.p)

    def learn(self, z: F32) -> I32:
        """Move the winner of each row, in order; the winners (n,), -1 for rows that are not finite."""
        winners, skipped = learn_rows(self.centres, _rows(z, self.d), self.step, self.p)
        self.skipped += skipped
        return winners

    def tend(self) -> tuple[Intervention, ...]:
        """Nothing: River's rule alone decides where the centres are."""
        return ()

    def carry(self, centres: F64) -> None:
        """Replace the centres (k, d): counted by `version`."""
        self.centres = checked_centres(centres, self.k, self.d)
        self.seeded = True
        self.version += 1

    def fingerprint(self) -> bytes:
        return self.centres.tobytes()

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


def _rows(z: F32, d: int) -> F64:
    assert z.ndim == 2, f"rows are a matrix, got {z.ndim} dimensions"
    assert z.shape[1] == d, f"rows have {z.shape[1]} values, this segmenter has {d}"
    return np.ascontiguousarray(z, np.float64)
