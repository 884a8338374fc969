"""The contestants: Shoal, and the streaming k-means rules that others use, each at its best.

Every warm-started one gets the same warm-up rows. Peers that are tuned are tuned in where they begin, too: at
the best of several k-means++ starts of scikit-learn's KMeans, run to its end on these rows, or where Shoal
begins (`seeding.py`), which is better where tails are heavy.

A contestant says where its centres are and what each stands for: `ids` are never used twice, a centre that is
given up and placed elsewhere stands for a new group from then on. That is given to peers too, where their
rule can do such a thing (Spark's split).

River's rule runs compiled, bit for bit River (`river_rule.py`; a test shows it): River itself would need hours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
from river import cluster

from .. import config
from ..clustering.river_backend import river_centres
from ..clustering.river_rule import learn_rows, score_rows
from ..clustering.seeding import kmeans_plus_plus
from ..events import F32, F64, I32, I64
from ..ports import Segmenter
from ..segmenter import KMeans, make_segmenter

STARTS = 8


class Contestant(Protocol):
    ids: I64  # (m,) what each centre stands for; -1: not in use

    def start(self, z: F32) -> None: ...  # (w, d) warm-up rows, not scored
    def score(self, z: F32) -> tuple[I32, F64]: ...  # (n, d) -> nearest centre, squared distance to it (n,)
    def learn(self, z: F32) -> int: ...  # (n, d) rows already scored; how many interventions were made
    def view(self) -> View: ...  # a copy of the scoring half, as it is now


class View:
    """Centres as they were at a moment: names the group a row would have been given then."""

    def __init__(self, centres: F64, ids: I64) -> None:
        used = ids >= 0
        self._centres, self._ids = centres[used].copy(), ids[used].copy()

    def __len__(self) -> int:
        return len(self._ids)

    def groups(self, z: F32 | F64) -> I64:
        """(n, d) -> (n,) ids."""
        return self._ids[nearest(self._centres, z)[0]]


def nearest(centres: F64, z: F32 | F64) -> tuple[I32, F64]:
    """The nearest of (k, d) centres for rows (n, d), and the squared distance to it."""
    rows = np.ascontiguousarray(z, np.float64)
    own, distances = score_rows(centres, rows, 2)
    return own, distances[np.arange(len(rows)), own]


def starts(warm: F32, k: int, seed: int) -> dict[str, F64]:
    """Where warm-started peers may begin: name -> (k, d)."""
    from sklearn.cluster import KMeans as Offline

    rows = warm.astype(np.float64)
    model = Offline(k, n_init=STARTS, random_state=seed).fit(rows)
    return {
        "scikit-learn": np.asarray(model.cluster_centers_, np.float64),
        "shoal": kmeans_plus_plus(rows, k, seed),
    }


class Centres:
    """What peers have in common: k centres, the nearest one wins."""

    centres: F64
    ids: I64

    def __init__(self, centres: F64) -> None:
        self.k = len(centres)
        self.centres = centres.copy()
        self.ids = np.arange(self.k, dtype=np.int64)

    def start(self, z: F32) -> None:
        """Nothing: the centres it begins with come from these rows."""

    def score(self, z: F32) -> tuple[I32, F64]:
        return nearest(self.centres, z)

    def view(self) -> View:
        return View(self.centres, self.ids)


class Shoal:
    """A segmenter as the pipeline uses it: score, learn, tend."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.ids = np.arange(segmenter.k, dtype=np.int64)
        self._next = segmenter.k

    def start(self, z: F32) -> None:
        self.segmenter.seed(z)
        self._name_unused()

    def score(self, z: F32) -> tuple[I32, F64]:
        own, distances = self.segmenter.score(z)
        return own, distances[np.arange(len(z)), own]

    def learn(self, z: F32) -> int:
        self.segmenter.learn(z)
        done = self.segmenter.tend()
        for one in done:
            self.ids[one.centre] = self._next  # a fresh group, or none: `_name_unused`
            self._next += 1
        self._name_unused()
        return len(done)

    def view(self) -> View:
        return View(self.segmenter.centres, self.ids)

    def _name_unused(self) -> None:
        self.ids[~self.segmenter.used] = -1


def configured(settings: config.Segmenter, k: int, seed: int, d: int) -> Shoal:
    """What the product runs with these settings, for k centres."""
    return Shoal(make_segmenter(msgspec.structs.replace(settings, segments=k, seed=seed), d))


def constant(k: int, seed: int, d: int) -> Shoal:
    """River's rule with the product's default step, warm-started as the product does it; no interventions."""
    return Shoal(KMeans(k, d, config.Segmenter().step, seed))


class River(Centres):
    """`river.cluster.KMeans(n_clusters=k)` as it comes: centres from N(0, 1), halflife 0.5.

    It has learned the warm-up rows as well when it is first scored.
    """

    def __init__(self, k: int, seed: int, d: int) -> None:
        model = cluster.KMeans(n_clusters=k, seed=seed)
        super().__init__(river_centres(model, d))
        self.step = float(model.halflife)

    def start(self, z: F32) -> None:
        self.learn(z)

    def learn(self, z: F32) -> int:
        learn_rows(self.centres, z.astype(np.float64), self.step, 2)
        return 0


class TunedRiver(Centres):
    """River's rule with a chosen halflife, started at k-means++ centres: `model.centers` can be set."""

    def __init__(self, halflife: float, centres: F64) -> None:
        super().__init__(centres)
        self.step = halflife

    def learn(self, z: F32) -> int:
        learn_rows(self.centres, z.astype(np.float64), self.step, 2)
        return 0


class SparkRule(Centres):
    """The update of Spark's `StreamingKMeansModel` (spark.mllib, 1.2 to 4.x), time unit points.

    Weights decay by half in `half_life` rows; a centre moves to the weighted mean of itself and its rows of the
    batch. When the smallest weight is under 1e-8 of the largest, that centre is put beside the largest one's,
    which shares its weight: Spark's only intervention. Starts with the weights of the warm-up rows.
    """

    DYING = 1e-8
    APART = 1e-14

    def __init__(self, half_life: float, centres: F64) -> None:
        super().__init__(centres)
        self.decay = float(np.exp(np.log(0.5) / half_life))
        self.weights = np.zeros(self.k)
        self._next = self.k

    def start(self, z: F32) -> None:
        self.weights = np.bincount(self.score(z)[0], minlength=self.k).astype(np.float64)

    def learn(self, z: F32) -> int:
        rows = z.astype(np.float64)
        own, _ = nearest(self.centres, rows)
        counts = np.bincount(own, minlength=self.k).astype(np.float64)
        sums = np.eye(self.k)[own].T @ rows  # (k, d)
        self.weights *= self.decay ** len(rows)
        self.weights += counts
        share = counts / np.maximum(self.weights, 1e-16)  # Spark's lambda
        won = counts > 0
        means = sums[won] / counts[won, None]
        self.centres[won] = (1 - share[won, None]) * self.centres[won] + share[won, None] * means
        return self._split_largest()

    def _split_largest(self) -> int:
        largest, smallest = int(self.weights.argmax()), int(self.weights.argmin())
        if not self.weights[smallest] < self.DYING * self.weights[largest]:
            return 0
        self.weights[[largest, smallest]] = (self.weights[largest] + self.weights[smallest]) / 2
        x = self.centres[largest].copy()
        apart = self.APART * np.maximum(np.abs(x), 1.0)
        self.centres[largest], self.centres[smallest] = x + apart, x - apart
        self.ids[smallest] = self._next
        self._next += 1
        return 1


class MiniBatch(Centres):
    """scikit-learn's MiniBatchKMeans.partial_fit on the same batches; first on the warm-up rows."""

    def __init__(self, centres: F64) -> None:
        from sklearn.cluster import MiniBatchKMeans

        super().__init__(centres)
        self.model: Any = MiniBatchKMeans(self.k, init=centres, n_init=1, random_state=0)

    def start(self, z: F32) -> None:
        self._fit(z.astype(np.float64))

    def learn(self, z: F32) -> int:
        self._fit(z.astype(np.float64))
        return 0

    def _fit(self, rows: F64) -> None:
        self.model.partial_fit(rows)
        self.centres = np.ascontiguousarray(self.model.cluster_centers_, np.float64)


def _minibatch(_: float, centres: F64) -> Contestant:
    return MiniBatch(centres)


HALFLIVES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""River's `halflife` is a step: the share of the gap by which a centre moves."""
HALF_LIVES_ROWS = (256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 32768.0, 1e9)
"""Spark's half-life in rows of the whole stream; the last one never forgets."""
TUNED: dict[str, tuple[tuple[float, ...], Callable[[float, F64], Contestant]]] = {
    "river-tuned": (HALFLIVES, TunedRiver),
    "spark": (HALF_LIVES_ROWS, SparkRule),
    "minibatch": ((0.0,), _minibatch),  # only its start: it has no step to choose
}
NAMES = ("shoal", "constant", "river-tuned", "spark", "minibatch", "river", "offline", "truth")
"""offline and truth are no contestants but bounds: they see a window before they are scored on it."""
