"""An autoencoder that learns online: row -> hidden -> embedding -> hidden -> row.

Two copies of the encoding half. The learning copy takes gradient steps (torch, Adam); the serving copy is a
set of numpy arrays that changes only in `publish`, and encodes with row-wise kernels, so that an embedding
does not depend on the batch it was computed in.

The loss is the mean squared error of the row, decoded from the embedding of a noisy copy of it (Vincent 2008:
without the noise 2,048 rows are learned by heart), plus a pull of the embedding towards the serving copy's:
the latent space of an autoencoder is free to turn and stretch, and every needless turn would reshuffle users.
It starts as the principal components of the warm-up buffer (`start`). 30 passes from there lose about as much
as 200 from random weights (.24 and .24, .32 and .34, .32 and .31 of the rows on three files' buffers), take a
sixth of the time, and distances in the embedding are distances between rows from the beginning.

Activation: h / sqrt(1 + h^2), smooth and exactly rounded (see `kernels.py`).

Deterministic with one thread (`one_thread`, called by the shell); never touches the global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.adam import adam

from ..stream.events import F32, F64
from ..stream.ports import State
from .base import fold, leading
from .gradient import Tensors, descent
from .kernels import affine, bend

NOISE = 0.3
"""Deviation of the noise on rows whose columns are of order 1."""

_BYTE_DEVIATION = ((256**2 - 1) / 12) ** 0.5

PULL = 1.0
"""Weight of the pull: 0.1 moves a tenth to a half more users per publication, 3 no fewer than 1."""

LINEAR = 0.3
"""Deviation of a principal component on the bend at the start: most of it passes straight, outliers are bent in."""

ENCODING = ("w1", "b1", "w2", "b2")
Weights = dict[str, F32]  # w1 b1 w2 b2 encode, w3 b3 w4 b4 decode; w (i, o), b (o,)


def one_thread() -> None:
    """For the shell, before anything is computed: more threads are slower here and may round differently."""
    torch.set_num_threads(1)


class Autoencoder:
    """(n, d_in) -> (n, dim). One gradient step on 256 rows of 127 values costs about 1 ms."""

    name = "autoencoder"
    epochs = 30

    def __init__(self, d_in: int, hidden: int, dim: int, learning_rate: float, seed: int) -> None:
        self.d_in, self.d_out = d_in, dim
        self.version = 0
        self._rate = learning_rate
        self._steps = 0
        self._random = np.random.Generator(np.random.PCG64(seed))
        weights = _initial((d_in, hidden, dim, hidden, d_in), self._random)
        self._load(weights, *np.zeros((2, sum(w.size for w in weights.values())), np.float32))
        self._serving = self._encoding()
        self._previous: Weights | None = None

    def renew(self, seed: int) -> None:
        """Other weights for the learning copy, as if nothing had been learned; what serves goes on serving."""
        random = np.random.Generator(np.random.PCG64(seed))
        hidden = len(self._weights["b1"])
        weights = _initial((self.d_in, hidden, self.d_out, hidden, self.d_in), random)
        self._load(weights, np.zeros_like(self._first), np.zeros_like(self._second))
        self._steps = 0

    def start(self, x: F32) -> None:
        """Encode the principal components of the buffer (n, d_in), in the middle of the bend, and decode them."""
        rows = x.astype(np.float64)
        mean = rows.mean(axis=0)
        variance, directions = leading((rows - mean).T @ (rows - mean) / len(rows), _straight(self._weights))
        gain = LINEAR / np.sqrt(np.maximum(variance, max(1e-6 * float(variance[0]), 1e-12)))  # (m,)
        m = len(gain)
        w = self._weights
        w["w1"][:, :m], w["b1"][:m] = directions * gain, -(mean @ directions) * gain
        w["w3"][:m, :m], w["b4"][:] = np.diag(gain), mean
        w["w2"][:m], w["w2"][:, :m] = 0.0, 0.0
        w["w2"][:m, :m] = np.diag(1.0 / gain)
        w["w3"][m:, :m] = 0.0
        w["w4"][:] = 0.0
        w["w4"][:m] = (directions / gain).T

    def encode(self, x: F32) -> F32:
        return _encode(x, self._serving)

    def encode_candidate(self, x: F32) -> F32:
        return _encode(x, self._weights)

    def encode_previous(self, x: F32) -> F32 | None:
        return None if self._previous is None else _encode(x, self._previous)

    def learn(self, x: F32) -> float:
        """One gradient step on the batch (n, d_in); the share of its rows that was lost, before the step."""
        rows = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        towards = torch.from_numpy(_encode_batch(x, self._serving)) if self.version else None
        noisy = rows + torch.from_numpy(self._noise(x.shape))
        lost = descent(rows, noisy, PULL, towards, self._tensors, self._gradients)
        self._descend()
        return float(lost) / max(float((rows**2).mean()), 1e-12)

    def _noise(self, shape: tuple[int, ...]) -> F32:
        """Uniform, from single bytes: as good as normal noise here, and drawn in a tenth of the time."""
        drawn = self._random.integers(0, 256, shape, np.uint8).astype(np.float32)
        noise: F32 = (drawn - np.float32(127.5)) * np.float32(NOISE / _BYTE_DEVIATION)
        return noise

    def _descend(self) -> None:
        """One step of Adam, on all weights as one tensor: eight small ones take three times as long.

        As a function: the class imports torch's compiler, a second or two at every start.
        """
        arrays = (self._flat, self._gradient, self._first, self._second)
        flat, gradient, first, second = map(torch.from_numpy, arrays)
        with torch.no_grad():
            adam(
                [flat], [gradient], [first], [second], [], [torch.tensor(float(self._steps))], foreach=False,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=self._rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
        self._steps += 1

    def publish(self, matrix: F64 | None = None, shift: F64 | None = None) -> int:
        """Serve z @ matrix + shift. The inverse goes into the decoding half: what is decoded stays."""
        if self.version:
            self._previous = self._serving
        if matrix is not None and shift is not None:
            self.turn(matrix, shift)
        self._serving = self._encoding()
        self.version += 1
        return self.version

    def turn(self, matrix: F64, shift: F64) -> None:
        """The learning copy gives z @ matrix + shift; what is decoded from it stays."""
        w = self._weights
        back = np.linalg.inv(matrix)
        w["w2"][:], w["b2"][:] = fold(w["w2"], w["b2"], matrix, shift)
        w["b3"][:] = w["b3"] - shift @ back @ w["w3"]
        w["w3"][:] = back @ w["w3"]

    def _encoding(self) -> Weights:
        return {name: self._weights[name].copy() for name in ENCODING}

    def _load(self, weights: Weights, first: F32, second: F32) -> None:
        """Weights and Adam's moments. All weights lie in one array, `_flat`, all gradients in another; torch's
        tensors are views of them."""
        self._flat = np.concatenate([w.ravel() for w in weights.values()])
        self._first, self._second = first.copy(), second.copy()
        self._gradient = np.zeros_like(self._flat)
        shapes = {name: w.shape for name, w in weights.items()}
        self._weights = _views(self._flat, shapes)
        self._tensors = _tensors(self._weights)
        self._gradients = _tensors(_views(self._gradient, shapes))

    def parts(self) -> Sequence[NDArray[Any]]:
        serving = (array for group in (self._serving, self._previous or {}) for array in group.values())
        return [np.array([self._steps]), self._flat, self._first, self._second, *serving]

    def snapshot(self) -> State:
        return {
            "version": self.version,
            "steps": self._steps,
            "random": self._random.bit_generator.state,
            "weights": _copy(self._weights),
            "first": self._first.copy(),
            "second": self._second.copy(),
            "serving": _copy(self._serving),
            "previous": None if self._previous is None else _copy(self._previous),
        }

    def restore(self, state: State) -> None:
        self.version, self._steps = state["version"], state["steps"]
        self._random.bit_generator.state = state["random"]
        self._load(state["weights"], state["first"], state["second"])
        self._serving = _copy(state["serving"])
        self._previous = None if state["previous"] is None else _copy(state["previous"])


def _straight(w: Weights) -> int:
    """How many components pass through both halves side by side."""
    d_in, hidden = w["w1"].shape
    return min(d_in, hidden, w["w2"].shape[1])


def _views(flat: F32, shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Pieces of one array, one after the other, in these shapes."""
    ends = np.cumsum([prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _tensors(arrays: Weights) -> Tensors:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _copy(weights: Weights) -> Weights:
    return {name: w.copy() for name, w in weights.items()}


def _initial(sizes: Sequence[int], random: np.random.Generator) -> Weights:
    """Uniform in +- sqrt(3 / fan-in), which keeps the variance; zero biases."""
    weights: Weights = {}
    for layer, (i, o) in enumerate(pairwise(sizes), start=1):
        weights[f"w{layer}"] = (random.uniform(-1, 1, (i, o)) * (3 / i) ** 0.5).astype(np.float32)
        weights[f"b{layer}"] = np.zeros(o, np.float32)
    return weights


def _encode(x: F32, w: Weights) -> F32:
    return affine(bend(affine(x, w["w1"], w["b1"])), w["w2"], w["b2"])


def _encode_batch(x: F32, w: Weights) -> F32:
    """As `_encode`, in a quarter of the time, but a row's rounding depends on the batch: for learning only."""
    return bend(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
