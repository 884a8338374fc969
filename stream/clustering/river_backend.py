"""river.cluster.KMeans itself behind the Segmenter port: slow, and the judge of the compiled one.

Rows are given to River as {0: x0, 1: x1 ...} in float: integer keys iterate in order, whatever PYTHONHASHSEED
is. Distances are not part of River's interface; they come from the same kernel as the compiled segmenter's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from river import cluster

from ..events import F32, F64, I32, I64
from ..ports import Intervention, State
from .river_rule import VALUE_MAX, checked_centres, score_rows
from .seeding import kmeans_plus_plus


def river_model(centres: F64, step: float, seed: int, p: int = 2) -> Any:
    """A River model whose next row meets these centres (k, d)."""
    model = cluster.KMeans(n_clusters=len(centres), halflife=step, p=p, seed=seed)
    for c, centre in enumerate(centres.tolist()):
        model.centers[c].update(enumerate(centre))
    return model


def river_centres(model: Any, d: int) -> F64:
    """The model's centres (k, d). What it has not drawn yet is drawn now, as its next row would."""
    model.predict_one(dict.fromkeys(range(d), 0.0))
    known = sorted(model.centers[0])
    assert known == list(range(d)), f"the model knows features {known[:8]}..., wanted 0 .. {d - 1}"
    return np.array([[model.centers[c][j] for j in range(d)] for c in range(model.n_clusters)], np.float64)


class RiverSegmenter:
    """The same promises as `segmenter.KMeans`, kept by River."""

    def __init__(self, k: int, d: int, step: float, seed: int, p: int = 2) -> None:
        self.k, self.d, self.p = k, d, p
        self.step = float(step)
        self.used = np.ones(k, np.bool_)
        self.seeded = False
        self.version = 0
        self.skipped = 0
        self._seed = seed
        self.model = river_model(np.zeros((k, d), np.float64), self.step, seed, p)
        self.centres = river_centres(self.model, d)

    def seed(self, z: F32) -> None:
        """Draw the centres from a buffer (n, d) by k-means++, not by River's normal draw."""
        self.carry(kmeans_plus_plus(z.astype(np.float64), self.k, self._seed))

    def score(self, z: F32) -> tuple[I32, F64]:
        """Nearest centre (n,) as River predicts it, and distances (n, k)."""
        rows = z.astype(np.float64)
        nearest, distances = score_rows(self.centres, rows, self.p)
        for i, row in enumerate(rows.tolist()):
            nearest[i] = self.model.predict_one(dict(enumerate(row))) if _finite(row) else 0
        return nearest, distances

    def learn(self, z: F32, people: int = 0) -> I32:
        """Each row, in order, through River's `learn_predict_one`; -1 for rows that are not finite."""
        winners = np.full(len(z), -1, np.int32)
        for i, row in enumerate(z.astype(np.float64).tolist()):
            if _finite(row):
                winners[i] = self.model.learn_predict_one(dict(enumerate(row)))
            else:
                self.skipped += 1
        self.centres = river_centres(self.model, self.d)
        return winners

    def tend(self) -> tuple[Intervention, ...]:
        return ()

    def carry(self, centres: F64) -> None:
        self._place(centres)
        self.seeded = True
        self.version += 1

    def permute(self, order: I64) -> None:
        self.carry(self.centres[order])

    def _place(self, centres: F64) -> None:
        self.centres = checked_centres(centres, self.k, self.d)
        self.model = river_model(self.centres, self.step, self._seed, self.p)

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
        self._place(state["centres"])
        self.seeded = state["seeded"]
        self.version = state["version"]
        self.skipped = state["skipped"]


def _finite(row: list[float]) -> bool:
    return all(abs(value) <= VALUE_MAX for value in row)
