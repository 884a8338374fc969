"""What an encoder owes its publisher, beyond the port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..stream.events import F32, F64
from ..stream.ports import Encoder


class Published(Encoder, Protocol):
    """An encoder whose candidate can be turned into place before it serves."""

    epochs: int  # passes over the warm-up buffer that help it; 0: it never changes, never publishes again

    def renew(
        self, seed: int
    ) -> None: ...  # forget what was learned, from other weights; what serves goes on
    def start(self, x: F32) -> None: ...  # (n, d_in): a first look at the warm-up buffer, before any learning
    def turn(self, matrix: F64, shift: F64) -> None: ...  # the candidate's z becomes z @ matrix + shift
    def publish(self, matrix: F64 | None = None, shift: F64 | None = None) -> int:
        """Let z @ matrix + shift serve, z being the candidate's embedding; the new version."""

    def encode_previous(self, x: F32) -> F32 | None: ...  # the version served before this one, if any
    def parts(
        self,
    ) -> Sequence[NDArray[Any]]: ...  # all arrays that later steps depend on, for the fingerprint


def leading(covariance: F64, dim: int) -> tuple[F64, F64]:
    """The `dim` largest variances (dim,) and their directions (d, dim), each with its largest entry positive."""
    values, vectors = np.linalg.eigh(covariance)  # ascending
    directions = vectors[:, ::-1][:, :dim]
    largest = np.abs(directions).argmax(axis=0)
    signs = np.where(directions[largest, np.arange(directions.shape[1])] < 0, -1.0, 1.0)
    return values[::-1][:dim], directions * signs


def fold(weight: F32, bias: F32, matrix: F64 | None, shift: F64 | None) -> tuple[F32, F32]:
    """The last affine layer (i, o), (o,) with z -> z @ matrix + shift folded in; copies."""
    if matrix is None or shift is None:
        return weight.copy(), bias.copy()
    folded = weight.astype(np.float64) @ matrix
    return folded.astype(np.float32), (bias.astype(np.float64) @ matrix + shift).astype(np.float32)
