"""River's KMeans for River's users: the same estimator, compiled, with mini-batches.

    from shoal.stream.clustering.river_estimator import KMeans
    model = StandardScaler() | KMeans(n_clusters=32, halflife=0.02, seed=1)
    model.learn_many(frame)          # or learn_one(x), as ever

It follows `river.cluster.KMeans` (0.26) bit for bit, from the first row on: the same draws, the same order of
sums, labels and centres. What that means:

- A centre's value for a feature is drawn when the feature is first seen, also by `predict_one`, centre by centre.
- A feature that a row lacks counts as 0 in the distance and is not moved.
- River walks the features in the order of a Python set. With integer keys that order is fixed; with string keys
  it changes with PYTHONHASHSEED, and with it River's own result. So rows with strings are walked in the order in
  which their features first appeared: always the same here, and River's only by luck.

Two differences are on purpose. A row with a value that is not finite, or whose square no float holds, is never
learned from (after one NaN River answers 0 for ever), and its label is 0. And values are Python floats: River
keeps what it is given, so with numpy.float32 values it computes in float32.

Cost: a dictionary per row is most of it in `learn_one`; `learn_many` runs at the speed of `river_rule`, when the
frame has every feature known so far, and row by row when it does not.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from river import base, cluster

from ..events import F64
from .river_rule import VALUE_MAX, label_rows, learn_rows, nearest_row

Row = Mapping[Hashable, Any]


class KMeans(base.Clusterer):
    """Incremental k-means: the winner of each row moves toward it by the share `halflife`.

    Parameters
    ----------
    n_clusters
        Number of centres.
    halflife
        The share of the gap by which the winner moves, between 0 and 1.
    mu
        Mean of the normal distribution that new values of centres are drawn from.
    sigma
        Its standard deviation.
    p
        Distance is the sum of |centre - x|^p: 1 is Manhattan, 2 squared Euclidean.
    seed
        Seed of the draws.

    Examples
    --------
    >>> model = KMeans(n_clusters=2, halflife=0.1, sigma=3, seed=42)
    >>> for x in [[1, 2], [1, 4], [1, 0], [-4, 2], [-4, 4], [-4, 0]]:
    ...     model.learn_one(dict(enumerate(x)))
    >>> model.predict_one({0: 0, 1: 0}), model.predict_one({0: 4, 1: 4})
    (0, 1)
    """

    def __init__(
        self,
        n_clusters: int = 5,
        halflife: float = 0.5,
        mu: float = 0,
        sigma: float = 1,
        p: int = 2,
        seed: int | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.halflife = halflife
        self.mu = mu
        self.sigma = sigma
        self.p = p
        self.seed = seed
        self._rng = random.Random(seed)
        self._columns: dict[Hashable, int] = {}  # feature -> column, in the order of River's own dictionaries
        self._centres: F64 = np.empty((n_clusters, 0))  # (k, d)

    @property
    def _mutable_attributes(self) -> set[str]:
        return {"halflife"}

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"n_clusters": 5}

    @property
    def centers(self) -> dict[int, dict[Hashable, float]]:
        """The centres as River shows them; a copy."""
        return {c: dict(zip(self._columns, row, strict=True)) for c, row in enumerate(self._centres.tolist())}

    def learn_one(self, x: Row) -> None:
        """Move the winner of this row."""
        self.learn_predict_one(x)

    def learn_predict_one(self, x: Row) -> int:
        """Move the winner of this row; the winner."""
        closest, finite = self._nearest(x)
        if finite:
            columns = [self._columns[feature] for feature in x]
            centre = self._centres[closest]
            centre[columns] += self.halflife * (_values(x.values()) - centre[columns])
        return closest

    def predict_one(self, x: Row) -> int:
        """The nearest centre; 0 if a value is not finite."""
        return self._nearest(x)[0]

    def learn_many(self, X: Any) -> None:
        """Learn the rows of a pandas DataFrame in order, exactly as `learn_one` would one by one."""
        order = self._meet(dict.fromkeys(X.columns.tolist()))
        if self.p not in (1, 2) or len(order) != X.shape[1]:
            for row in self._rows(X):
                self.learn_one(row)
        elif len(X):
            centres = np.ascontiguousarray(self._centres[:, order])
            learn_rows(centres, self._matrix(X, order), self.halflife, self.p)
            self._centres[:, order] = centres

    def predict_many(self, X: Any) -> Any:
        """The nearest centre of each row of a pandas DataFrame, as a Series with its index."""
        import pandas as pd

        order = self._meet(dict.fromkeys(X.columns.tolist()))
        if self.p in (1, 2):
            labels = label_rows(np.ascontiguousarray(self._centres[:, order]), self._matrix(X, order), self.p)
            labels = np.maximum(labels, 0)
        else:
            labels = np.array([self.predict_one(row) for row in self._rows(X)], np.int32)
        return pd.Series(labels.astype(np.int64), index=X.index)

    @classmethod
    def from_river(cls, model: Any) -> KMeans:
        """Continue exactly as this `river.cluster.KMeans` would. Raises ValueError if its centres disagree."""
        own = cls(**{name: getattr(model, name) for name in _PARAMETERS})
        features = [list(centre) for centre in model.centers.values()]
        if any(known != features[0] for known in features):
            raise ValueError(
                f"the centres know different features ({features[0][:8]} ... and others): "
                "one was read by hand; let the model predict a row first"
            )
        own._columns = {feature: column for column, feature in enumerate(features[0])}
        own._centres = np.array([list(centre.values()) for centre in model.centers.values()], np.float64)
        own._rng.setstate(model._rng.getstate())
        return own

    def to_river(self) -> Any:
        """A `river.cluster.KMeans` that continues exactly as this one would."""
        model = cluster.KMeans(**{name: getattr(self, name) for name in _PARAMETERS})
        for c, centre in self.centers.items():
            model.centers[c].update(centre)
        model._rng.setstate(self._rng.getstate())
        return model

    def _nearest(self, x: Row) -> tuple[int, bool]:
        """The winner, and whether the row is finite. Draws what is new, as River does when it predicts."""
        order = self._meet(x)
        row = np.zeros(len(self._columns))  # a missing feature counts as 0
        row[[self._columns[feature] for feature in x]] = _values(x.values())
        if not (np.abs(row) <= VALUE_MAX).all():
            return 0, False
        return nearest_row(self._centres[:, order], row[order], self.p), True

    def _meet(self, x: Row) -> list[int]:
        """Draw the centres' values for features not seen before; all columns, in the order River sums them."""
        order = list(
            {*self._columns.keys(), *x.keys()}
        )  # as River writes it: from a dict itself, a set grows otherwise
        if any(isinstance(feature, str) for feature in order):
            order = list(dict.fromkeys([*self._columns, *x]))
        new = [feature for feature in order if feature not in self._columns]
        if new:
            draw = functools.partial(self._rng.gauss, self.mu, self.sigma)
            drawn = np.array([[draw() for _ in new] for _ in range(self.n_clusters)], np.float64)
            self._centres = np.ascontiguousarray(np.hstack([self._centres, drawn]))
            self._columns |= {feature: len(self._columns) + i for i, feature in enumerate(new)}
        return [self._columns[feature] for feature in order]

    def _matrix(self, X: Any, order: list[int]) -> F64:
        """The frame's rows (n, d) with the columns in this order; zeros where it lacks a feature."""
        rows = np.zeros((len(X), len(self._columns)))
        rows[:, [self._columns[feature] for feature in X.columns.tolist()]] = X.to_numpy(np.float64)
        return np.ascontiguousarray(rows[:, order])

    @staticmethod
    def _rows(X: Any) -> Iterable[Row]:
        features = X.columns.tolist()
        return (dict(zip(features, row, strict=True)) for row in X.to_numpy(np.float64).tolist())


_PARAMETERS = ("n_clusters", "halflife", "mu", "sigma", "p", "seed")


def _values(values: Iterable[Any]) -> F64:
    return np.array([float(value) for value in values], np.float64)
