"""How sure a placement is."""

from __future__ import annotations

import numpy as np

from .events import F64, I32

PROVISIONAL_EVENTS = 3
"""A placement on fewer events than this is called provisional."""


def confidence(distances: F64, chosen: I32) -> tuple[F64, F64]:
    """Margin and score of the chosen centres (n,), from squared distances (n, k) -> (n,), (n,), both 0..1.

    margin = (d_2 - d_1) / d_2 with d_1 the distance to the chosen centre and d_2 the smallest of the others;
    1 where there is no other, 0 where another is nearer. score is the fuzzy c-means degree of membership
    with fuzzifier 2 (Bezdek 1981): the share that 1 / d_1^2 has in the sum of 1 / d_i^2. It orders placements
    by how clear they are, whatever the scale of the embedding; it is not a calibrated probability, and it
    falls as segments grow in number.
    """
    n, k = distances.shape
    if k == 1 or n == 0:
        return np.ones(n), np.ones(n)
    rows = np.arange(n)
    tiny = np.finfo(np.float64).tiny
    own = distances[rows, chosen]
    others = distances.copy()
    others[rows, chosen] = np.inf
    second = others.min(axis=1)
    margin = np.where(second > 0, 1.0 - np.sqrt(own / np.maximum(second, tiny)), 0.0)
    ratio = np.maximum(own, tiny)[:, None] / np.maximum(distances, tiny)  # (n, k)
    return np.maximum(margin, 0.0), 1.0 / ratio.sum(axis=1)
