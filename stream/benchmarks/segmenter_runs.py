"""One round of `shoal bench segmenter`, in a process of its own, one thread; prints one JSON line.

    python -m shoal.stream.benchmarks.segmenter_runs --rows 32768 --cells 32x32 --seed 1

What each contestant does with a row, all from the same starting centres:

- River: `learn_predict_one`, one dictionary at a time (they are made before the clock starts).
- scikit-learn: MiniBatchKMeans `predict`, then `partial_fit`, on batches. A label is as of the start of its batch,
  the centres move once per batch, and by ever less: it never forgets.
- FAISS: assignment alone, float32; nothing is learned.
- Shoal: `learn`. Each row gets its label and moves its winner before the next row is looked at, as with River;
  8,192 rows a call, which changes nothing but its cost. In float64 labels and centres are River's bits.

Not timed: imports, compilation, the first call. Time is CPU time of the process, which has one thread: on a quiet
machine the same as the clock's, on a busy one without the neighbours' share.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

from ..wiring import one_thread

one_thread()  # before numpy is imported

import numpy as np  # noqa: E402

from ..clustering.seeding import kmeans_plus_plus  # noqa: E402
from ..segmenter import KMeans  # noqa: E402

BATCHES = (256, 1024, 4096)
CALL_ROWS = 8192
STEP = 0.02
RIVER_WORK = 125_000  # d * k * rows that River gets in a pass: a twentieth of a second or so
PASSES_S = 0.05  # how long a contestant's turn lasts at least

Pass = Callable[[], Any]  # over all rows once


def rows_of(d: int, k: int, count: int, seed: int) -> Any:
    """`count` rows (n, d) of k normal groups whose centres are as far apart as the groups are wide."""
    rng = np.random.default_rng([seed, d, k])
    homes = rng.normal(size=(k, d))
    return homes[rng.integers(0, k, count)] + rng.normal(size=(count, d))


def contestants(rows: Any, centres: Any) -> dict[str, tuple[int, Pass]]:
    """Name -> rows of a pass, and the pass."""
    found: dict[str, tuple[int, Pass]] = {}
    for dtype in (np.float64, np.float32):
        found[f"shoal {np.dtype(dtype).name}"] = len(rows), _shoal(rows.astype(dtype), centres, dtype)
    found["river"] = _river(rows, centres)
    for dtype in (np.float64, np.float32):
        for batch in BATCHES:
            name = f"scikit-learn {batch} {np.dtype(dtype).name}"
            found[name] = len(rows), _scikit_learn(rows.astype(dtype), centres.astype(dtype), batch)
    faiss = _faiss(rows.astype(np.float32), centres.astype(np.float32))
    if faiss is not None:
        found["faiss assignment float32"] = len(rows), faiss
    return found


def _shoal(rows: Any, centres: Any, dtype: Any) -> Pass:
    segmenter = _segmenter(centres, dtype)
    return lambda: [segmenter.learn(rows[i : i + CALL_ROWS]) for i in range(0, len(rows), CALL_ROWS)]


def _segmenter(centres: Any, dtype: Any) -> KMeans:
    k, d = centres.shape
    segmenter = KMeans(k, d, STEP, seed=1, dtype=dtype)
    segmenter.carry(centres)
    return segmenter


def _river(rows: Any, centres: Any) -> tuple[int, Pass]:
    from ..clustering.river_backend import river_model

    model = river_model(centres, STEP, seed=1)
    count = min(len(rows), max(20, RIVER_WORK // centres.size))
    dictionaries = [dict(enumerate(row)) for row in rows[:count].tolist()]
    return count, lambda: [model.learn_predict_one(x) for x in dictionaries]


def _scikit_learn(rows: Any, centres: Any, batch: int) -> Pass:
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(len(centres), init=centres, n_init=1, batch_size=batch, reassignment_ratio=0)
    model.partial_fit(rows[: max(batch, len(centres))])

    def run() -> None:
        for i in range(0, len(rows), batch):
            model.predict(rows[i : i + batch])
            model.partial_fit(rows[i : i + batch])

    return run


def _faiss(rows: Any, centres: Any) -> Pass | None:
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(np.ascontiguousarray(centres))
    return lambda: index.search(rows, 1)


def flips(rows: Any, centres: Any) -> float:
    """The share of rows whose label in float32 is not the one in float64, learning all along."""
    both = []
    for dtype in (np.float64, np.float32):
        both.append(_segmenter(centres, dtype).learn(rows.astype(dtype)))
    return float(np.mean(both[0] != both[1]))


def matrix_flops(dtype: Any) -> float:
    """Floating-point operations per second of a large matrix product here, best of five."""
    a = np.random.default_rng(1).normal(size=(1024, 1024)).astype(dtype)
    out = np.empty_like(a)
    return 2.0 * 1024**3 / min(_seconds(lambda: np.dot(a, a, out=out)) for _ in range(5))


def _seconds(run: Pass) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s


def _best(run: Pass, spend_s: float) -> float:
    """The shortest of as many passes as fit, in seconds."""
    times = [_seconds(run)]
    while sum(times) < spend_s:
        times.append(_seconds(run))
    return min(times)


def cell(d: int, k: int, count: int, seed: int) -> dict[str, Any]:
    """All contestants over the same rows, three turns each; their best pass, as a busy machine only adds."""
    rows = rows_of(d, k, count, seed)
    centres = kmeans_plus_plus(rows[: max(2048, 2 * k)], k, seed)
    runs = contestants(rows, centres)
    for _, run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(3):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            times[name].append(_best(runs[name][1], PASSES_S))
    rates = {name: runs[name][0] / min(times[name]) for name in runs}
    return {"d": d, "k": k, "rows_per_s": rates, "flips": flips(rows, centres)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shoal.stream.benchmarks.segmenter_runs")
    parser.add_argument("--rows", type=int, default=32768)
    parser.add_argument("--cells", default="32x32", help="DxK,DxK ...")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # scikit-learn's about convergence
    shapes = [tuple(int(part) for part in name.split("x")) for name in arguments.cells.split(",")]
    flops = {np.dtype(dtype).name: matrix_flops(dtype) for dtype in (np.float64, np.float32)}
    cells = [cell(d, k, arguments.rows, arguments.seed) for d, k in shapes]
    print(json.dumps({"matrix_flops": flops, "cells": cells}))


if __name__ == "__main__":
    main()
