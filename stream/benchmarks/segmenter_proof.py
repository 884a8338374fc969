"""The segmenter against River itself, bit for bit, over as many rows as asked for.

Short streams of many shapes rather than a long one of one shape: each has its own d, k, p, step and data, drawn
from the seed; every second one is on a coarse grid, where distances tie all the time. River draws its own centres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STREAM_ROWS = 10_000
STEPS = (0.001, 0.02, 0.3, 0.5, 0.9)


def verify(rows: int, seed: int) -> dict[str, Any]:
    """Compare labels, and centres at the end of each stream; `different` counts labels that are not River's."""
    rng = np.random.default_rng(seed)
    result = {"seed": seed, "rows": 0, "streams": 0, "different": 0, "centres_different": 0}
    while result["rows"] < rows:
        count = min(STREAM_ROWS, rows - result["rows"])
        labels, centres = _differences(rng, count, grid=result["streams"] % 2 == 1)
        result["rows"] += count
        result["streams"] += 1
        result["different"] += labels
        result["centres_different"] += centres
    return result


def _differences(rng: Any, count: int, grid: bool) -> tuple[int, bool]:
    from river import cluster

    from ..clustering.river_backend import river_centres
    from ..segmenter import KMeans

    d, k = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    settings = {"n_clusters": k, "halflife": float(rng.choice(STEPS)), "p": int(rng.integers(1, 3))}
    seed = int(rng.integers(2**31))
    river: Any = cluster.KMeans(**settings, seed=seed)
    ours = KMeans.from_river(cluster.KMeans(**settings, seed=seed), d)
    data = rng.normal(size=(count, d)) * 2
    data = np.round(data) if grid else data
    theirs = [river.learn_predict_one(dict(enumerate(row))) for row in data.tolist()]
    different = int((ours.learn(data) != np.array(theirs)).sum())
    return different, ours.centres.tobytes() != river_centres(river, d).tobytes()
