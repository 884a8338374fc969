"""What no streaming rule can be expected to beat: the true centres, and the best centres of each window.

The optimum of a window is the best that scikit-learn's KMeans finds on the window itself, from several
k-means++ starts and one at the means of the true groups. It has seen every row that it is scored on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..events import F64, I64
from .measures import Track, windows
from .peers import View
from .streams import Stream

STARTS = 4
_TRUTH_ROWS = 256  # at once: bounds the memory of (rows, groups, d)


def offline(stream: Stream, seed: int) -> tuple[Track, F64]:
    """The optimum of each window; its sum of squares (windows,). Names mean nothing from window to window."""
    n = len(stream.rows)
    track = Track(np.empty(n, np.int64), np.empty(n, np.float64))
    best = []
    for w in windows(stream):
        z = stream.rows[w].astype(np.float64)
        model = _optimum(z, stream.labels[w], stream.k, seed)
        track.groups[w] = model.labels_
        track.gaps[w] = ((z - model.cluster_centers_[model.labels_]) ** 2).sum(axis=1)
        best.append(model.inertia_)
    return track, np.array(best)


def _optimum(z: F64, labels: I64, k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    models = [KMeans(k, n_init=STARTS, random_state=seed).fit(z)]
    names, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) >= k:
        largest = np.argsort(-sizes, kind="stable")[:k]
        means = np.array([z[own == group].mean(axis=0) for group in largest])
        models.append(KMeans(k, n_init=1, init=means).fit(z))
    return min(models, key=lambda model: model.inertia_)


def true_centres(stream: Stream) -> Track | None:
    """Each row to the nearest centre of a group that lives at that moment; None where nobody knows."""
    truth = stream.truth
    if truth is None:
        return None
    n = len(stream.rows)
    track = Track(np.empty(n, np.int64), np.empty(n, np.float64))
    for start in range(0, n, _TRUTH_ROWS):
        part = slice(start, min(start + _TRUTH_ROWS, n))
        at = np.arange(part.start, part.stop)
        gaps = ((truth.centres(at) - stream.rows[part, None]) ** 2).sum(axis=2)  # (b, g)
        gaps[~truth.alive(at)] = np.inf
        track.groups[part] = gaps.argmin(axis=1)
        track.gaps[part] = gaps.min(axis=1)
    edges = [0, *(w.stop for w in windows(stream))]
    track.views = [_view(stream, at) for at in edges]
    return track


def _view(stream: Stream, at: int) -> View:
    assert stream.truth is not None
    moment = np.array([min(at, len(stream.rows) - 1)])
    living = stream.truth.alive(moment)[0]
    ids = np.where(living, np.arange(len(living)), -1)
    return View(np.ascontiguousarray(stream.truth.centres(np.array([at]))[0]), ids)
