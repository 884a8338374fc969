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
from .clustering.river_rule import Floats, checked_centres, label_rows, learn_rows, score_rows
from .clustering.seeding import kmeans_plus_plus
from .events import F32, F64, I32, I64
from .ports import Intervention, Segmenter, State


def make_segmenter(config: config.Segmenter, d: int) -> Segmenter:
    """The configured segmenter for embeddings of d dimensions; in constant mode both backends give the same bytes."""
    if config.backend == "river":
        from .clustering.river_backend import RiverSegmenter

        return RiverSegmenter(config.segments, d, config.step, config.seed)
    if config.mode == "adaptive":
        from .clustering.adaptive import AdaptiveKMeans

        return AdaptiveKMeans(config.segments, d, config.seed, config.segments_min or None)
    return KMeans(config.segments, d, config.step, config.seed)


class KMeans:
    """k centres that follow the stream by River's rule; p is 1 (Manhattan) or 2 (squared Euclidean).

    Cost: about 2 k d floating-point operations per row. Memory: k d centres, and k distances per scored row.
    With dtype float32 the centres are float32 and labels of near-ties may differ from River's; see `river_rule`.
    """

    def __init__(
        self, k: int, d: int, step: float, seed: int, p: int = 2, dtype: type[np.floating[Any]] = np.float64
    ) -> None:
        assert p in (1, 2), f"p is 1 or 2, got {p}"
        assert dtype in (np.float32, np.float64), f"dtype is float32 or float64, got {dtype}"
        self.k, self.d, self.p = k, d, p
        self.step = float(step)
        self.dtype = dtype
        self.centres: F64 = np.zeros((k, d), dtype)  # float32 by request only
        self.used = np.ones(k, np.bool_)
        self.seeded = False
        self.version = 0
        self.skipped = 0  # rows never learned from, because a value was not finite
        self._seed = seed

    def seed(self, z: F32) -> None:
        """Draw the centres from a buffer (n, d), n >= 1, by k-means++; the same buffer gives the same centres."""
        self.carry(kmeans_plus_plus(_rows(z, self.d).astype(np.float64), self.k, self._seed))

    def score(self, z: F32) -> tuple[I32, F64]:
        """Nearest centre (n,) and distances sum |c - z|^p (n, k); row i does not depend on the other rows.

        A row that is not finite has nearest centre 0 and infinite distances.
        """
        return score_rows(self.centres, _rows(z, self.d), self.p)

    def learn(self, z: F32, people: int = 0) -> I32:
        """Move the winner of each row, in order; the winners (n,), -1 for rows that are not finite."""
        winners, skipped = learn_rows(self.centres, _rows(z, self.d), self.step, self.p)
        self.skipped += skipped
        return winners

    def label(self, z: F32) -> I32:
        """The nearest centre (n,) alone, faster than `score`; -1 for rows that are not finite."""
        return label_rows(self.centres, _rows(z, self.d), self.p)

    def tend(self) -> tuple[Intervention, ...]:
        """Nothing: River's rule alone decides where the centres are."""
        return ()

    def carry(self, centres: F64) -> None:
        """Replace the centres (k, d): counted by `version`."""
        self.centres = checked_centres(centres, self.k, self.d, self.dtype)
        self.seeded = True
        self.version += 1

    def permute(self, order: I64) -> None:
        """Slot i becomes what slot order[i] was; order (k,) names each slot once."""
        self.carry(self.centres[order])

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
        self.centres = checked_centres(state["centres"], self.k, self.d, self.dtype)
        self.seeded = state["seeded"]
        self.version = state["version"]
        self.skipped = state["skipped"]

    def to_river(self) -> Any:
        """A `river.cluster.KMeans` that continues exactly as this one would; rows are {0: x0, 1: x1 ...}."""
        from .clustering.river_backend import river_model

        return river_model(self.centres, self.step, self._seed, self.p)

    @staticmethod
    def from_river(model: Any, d: int) -> KMeans:
        """Continue exactly as `model`, whose rows have the integer keys 0 .. d-1, would.

        Centres that the model has not drawn yet are drawn now, by the model, as its next row would.
        """
        from .clustering.river_backend import river_centres

        segmenter = KMeans(model.n_clusters, d, model.halflife, model.seed or 0, model.p)
        segmenter.carry(river_centres(model, d))
        return segmenter


def _rows(z: Floats, d: int) -> Floats:
    assert z.ndim == 2, f"rows are a matrix, got {z.ndim} dimensions"
    assert z.shape[1] == d, f"rows have {z.shape[1]} values, this segmenter has {d}"
    return z if z.dtype == np.float32 else np.asarray(z, np.float64)
