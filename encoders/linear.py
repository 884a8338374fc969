"""Online principal components: the directions in which users differ most, not whitened.

The learning copy is a running mean and covariance; the candidate is its leading eigenvectors, with the sign
that makes each one's largest entry positive. Not whitened: distances in the embedding are distances between
rows with the smallest directions left out, and whitening would make noise as loud as taste. Later versions
are laid onto the first one's space (see `alignment.py`) and keep its spread.

Older rows fade: the covariance remembers about `MEMORY_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stream.events import F32, F64
from ..stream.ports import State
from .base import fold, leading
from .kernels import affine

MEMORY_ROWS = 65_536


class Linear:
    """(n, d_in) -> (n, min(dim, d_in)). A batch of b rows costs b d_in^2, a candidate one eigh of d_in^2."""

    name = "linear"
    epochs = 1

    def __init__(self, d_in: int, dim: int) -> None:
        self.d_in, self.d_out = d_in, min(dim, d_in)
        self.version = 0
        self._rows = 0.0
        self._mean: F64 = np.zeros(d_in)
        self._covariance: F64 = np.zeros((d_in, d_in))
        self._serving = self._candidate()
        self._previous: tuple[F32, F32] | None = None

    def encode(self, x: F32) -> F32:
        return affine(x, *self._serving)

    def encode_candidate(self, x: F32) -> F32:
        return affine(x, *self._candidate())

    def encode_previous(self, x: F32) -> F32 | None:
        return None if self._previous is None else affine(x, *self._previous)

    def renew(self, seed: int) -> None:
        """Forget mean and covariance; what serves goes on serving."""
        self._rows = 0.0
        self._mean, self._covariance = np.zeros(self.d_in), np.zeros((self.d_in, self.d_in))

    def start(self, x: F32) -> None:
        """Nothing: one pass over the buffer is all there is to learn from it."""

    def learn(self, x: F32) -> float:
        """Add a batch; the share of its variance that the serving copy does not see, before learning."""
        rows = x.astype(np.float64)
        share = len(rows) / (self._rows + len(rows))
        mean = rows.mean(axis=0)
        gap, centred = mean - self._mean, rows - mean
        within = centred.T @ centred / len(rows)
        self._covariance += share * (within - self._covariance + (1 - share) * np.outer(gap, gap))
        self._mean += share * gap
        self._rows = min(self._rows + len(rows), float(MEMORY_ROWS))
        return self._lost(rows - self._mean)

    def _lost(self, centred: F64) -> float:
        seen = centred @ self._serving[0].astype(np.float64)
        total = float((centred**2).sum())
        return 0.0 if total == 0 else 1.0 - float((seen**2).sum()) / total

    def _candidate(self) -> tuple[F32, F32]:
        """Weight (d_in, d_out) and bias of the leading components."""
        _, directions = leading(self._covariance, self.d_out)
        return np.ascontiguousarray(directions, np.float32), (-self._mean @ directions).astype(np.float32)

    def turn(self, matrix: F64, shift: F64) -> None:
        """Nothing: components have a place of their own, and the next candidate is laid onto the serving space anew."""

    def publish(self, matrix: F64 | None = None, shift: F64 | None = None) -> int:
        if self.version:
            self._previous = self._serving
        self._serving = fold(*self._candidate(), matrix, shift)
        self.version += 1
        return self.version

    def parts(self) -> Sequence[NDArray[Any]]:
        return (np.array([self._rows]), self._mean, self._covariance, *self._serving, *(self._previous or ()))

    def snapshot(self) -> State:
        return {
            "version": self.version,
            "rows": self._rows,
            "mean": self._mean.copy(),
            "covariance": self._covariance.copy(),
            "serving": [part.copy() for part in self._serving],
            "previous": None if self._previous is None else [part.copy() for part in self._previous],
        }

    def restore(self, state: State) -> None:
        self.version, self._rows = state["version"], state["rows"]
        self._mean, self._covariance = state["mean"].copy(), state["covariance"].copy()
        self._serving = (state["serving"][0].copy(), state["serving"][1].copy())
        previous = state["previous"]
        self._previous = None if previous is None else (previous[0].copy(), previous[1].copy())
