"""Row-wise kernels: what one row gets does not depend on which other rows are in the batch.

BLAS rounds differently for other batch sizes, which can flip a near-tie between two centres; these loops add
up each row alone, in one order. They use only operations that IEEE 754 rounds exactly, so they also agree
between machines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..stream.compiling import kernel
from ..stream.events import F32, F64, I32


def affine(x: F32, weight: F32, bias: F32) -> F32:
    """(n, i), (i, o), (o,) -> (n, o): x @ weight + bias."""
    out = np.empty((len(x), len(bias)), np.float32)
    _affine(np.ascontiguousarray(x, np.float32), weight, bias, out)
    return out


def bend(h: F32) -> F32:
    """h / sqrt(1 + h^2), elementwise: a smooth step from -1 to 1 that needs no exponential."""
    one = np.float32(1.0)
    bent: F32 = h / np.sqrt(one + h * h)
    return bent


def nearest(z: F32, centres: F64) -> I32:
    """(n, d), (k, d) -> (n,) the centre with the smallest squared distance; ties: the lowest id."""
    out = np.empty(len(z), np.int32)
    _nearest(np.ascontiguousarray(z, np.float64), np.ascontiguousarray(centres.T), out)
    return out


@kernel
def _affine(x: Any, weight: Any, bias: Any, out: Any) -> None:
    for i in range(len(x)):
        row = out[i]
        row[:] = bias
        for j in range(x.shape[1]):
            value = x[i, j]
            part = weight[j]
            for o in range(len(row)):
                row[o] += value * part[o]


@kernel
def _nearest(z: Any, columns: Any, out: Any) -> None:
    """`columns` are the centres feature by feature (d, k)."""
    gaps = np.empty(columns.shape[1], np.float64)
    for i in range(len(z)):
        gaps[:] = 0.0
        for j in range(len(columns)):
            column = columns[j]
            value = z[i, j]
            for c in range(len(gaps)):
                gaps[c] += (column[c] - value) ** 2
        out[i] = np.argmin(gaps)
