"""River's bundled labelled data as streams: nothing is downloaded, nobody knows the true centres.

The rows come in an order drawn from the seed, again and again (another order each time) until there are
enough, standardised with the mean and deviation of the rows before each batch: everybody gets the same rows.
A text value becomes one column per value seen in the data set. What is bundled is small and of classes, not
of clusters: read the ARI beside the offline one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from river import datasets

from ..events import F64, I64
from .streams import ROWS_PER_CENTRE, WARM_ROWS, Stream

PASSES = 8
"""A small data set is not looped for ever: at most this often."""
SCALED_ROWS = 256


@cache
def _table(name: str) -> tuple[F64, I64]:
    """Rows (n, d) and classes (n,) of a data set of River's."""
    data: Iterable[tuple[dict[str, Any], Any]] = getattr(datasets, name)()
    rows, classes = zip(*data, strict=True)
    columns = [column for key in rows[0] for column in _columns([row[key] for row in rows])]
    _, labels = np.unique([str(one) for one in classes], return_inverse=True)
    return np.column_stack(columns).astype(np.float64), labels.astype(np.int64)


def _columns(values: list[Any]) -> list[Any]:
    if not isinstance(values[0], str):
        return [np.array(values, np.float64)]
    return [np.array([value == name for value in values], np.float64) for name in sorted(set(values))]


def real(dataset: str, k: int, seed: int, rows: int) -> Stream:
    """The data set as a stream for k centres; `rows` scored rows at most, whole windows, at least one."""
    x, classes = _table(dataset)
    window = max(ROWS_PER_CENTRE * k, 1024)
    n = max(min(rows, PASSES * len(x)) // window, 1) * window
    rng = np.random.Generator(np.random.PCG64(seed))
    total = WARM_ROWS + n
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-total // len(x)))])[:total]
    z = _standardised(x[order]).astype(np.float32)
    return Stream(
        name=f"{dataset}/{k}",
        change="real",
        k=k,
        warm=z[:WARM_ROWS],
        rows=z[WARM_ROWS:],
        labels=classes[order][WARM_ROWS:],
        changes=(),
        truth=None,
        window_rows=window,
    )


def _standardised(x: F64) -> F64:
    """Each batch by the mean and deviation of the rows before it; the warm-up rows by their own."""
    count = np.arange(1, len(x) + 1)[:, None]
    means = np.cumsum(x, axis=0) / count
    spreads = np.sqrt(np.maximum(np.cumsum(x**2, axis=0) / count - means**2, 0.0))
    z = np.empty_like(x)
    for start in [0, *range(WARM_ROWS, len(x), SCALED_ROWS)]:
        stop = min(start + SCALED_ROWS, len(x)) if start else WARM_ROWS
        known = max(start, WARM_ROWS) - 1
        spread = np.where(spreads[known] > 1e-9, spreads[known], 1.0)
        z[start:stop] = (x[start:stop] - means[known]) / spread
    return z


def _maker(dataset: str, k: int) -> Callable[[int, int], Stream]:
    return lambda seed, rows: real(dataset, k, seed, rows)


CATALOGUE = {
    f"{dataset}/{k}": _maker(dataset, k)
    for dataset, k in (
        ("ImageSegments", 7),
        ("ImageSegments", 14),
        ("Phishing", 2),
        ("Phishing", 8),
        ("Bananas", 8),
        ("Shuttle", 8),
        ("SolarFlare", 6),
    )
}
