"""An autoencoder that learns online: row -> hidden -> embedding -> hidden -> row.

Two copies of the encoding half. The learning copy takes gradient steps (torch, Adam); the serving copy is a
set of numpy arrays that changes only in `publish`, and encodes with row-wise kernels, so that an embedding
does not depend on the batch it was computed in.

The loss is the mean squared error of the row, decoded from the embedding of a noisy copy of it (Vincent 2008:
without the noise 2,048 rows are learned by heart), plus a pull of the embedding towards the serving copy's:
the latent space of an autoencoder is free to turn and stretch, and every needless turn would reshuffle users.
Activation: h / sqrt(1 + h^2), smooth and exactly rounded (see `kernels.py`).

Deterministic with one torch thread (`one_thread`, called by the shell); never touches the global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adam import adam

from ..stream.events import F32, F64
from ..stream.ports import State
from .base import fold
from .kernels import affine, bend

NOISE = 0.3
"""Deviation of the noise on rows whose columns are of order 1."""

PULL = 1.0
"""Weight of the pull: 0.1 moves a tenth to a half more users per publication, 3 no fewer than 1."""

ENCODING = ("w1", "b1", "w2", "b2")
Weights = dict[str, F32]  # w1 b1 w2 b2 encode, w3 b3 w4 b4 decode; w (i, o), b (o,)


def one_thread() -> None:
    """For the shell, before anything is computed: more threads are slower here and may round differently."""
    torch.set_num_threads(1)


class Autoencoder:
    """(n, d_in) -> (n, dim). One gradient step on 256 rows of 127 values costs about 1 ms."""

    name = "autoencoder"
    epochs = 200

    def __init__(self, d_in: int, hidden: int, dim: int, learning_rate: float, seed: int) -> None:
        self.d_in, self.d_out = d_in, dim
        self.version = 0
        self._rate = learning_rate
        self._steps = 0
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._load(_initial((d_in, hidden, dim, hidden, d_in), self._random))
        self._serving = self._encoding()
        self._previous: Weights | None = None

    def encode(self, x: F32) -> F32:
        return _encode(x, self._serving)

    def encode_candidate(self, x: F32) -> F32:
        return _encode(x, self._weights)

    def encode_previous(self, x: F32) -> F32 | None:
        return None if self._previous is None else _encode(x, self._previous)

    def learn(self, x: F32) -> float:
        """One gradient step on the batch (n, d_in); the share of its rows that was lost, before the step."""
        rows = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        noise = torch.from_numpy(self._random.standard_normal(x.shape, np.float32))
        z, back = _forward(rows + NOISE * noise, self._tensors)
        error = ((back - rows) ** 2).mean()
        loss = error
        if self.version:
            loss = error + PULL * ((z - torch.from_numpy(self.encode(x))) ** 2).mean()
        self._descend(loss)
        return float(error.detach()) / max(float((rows**2).mean()), 1e-12)

    def _descend(self, loss: Tensor) -> None:
        """One step of Adam. As a function: the class imports torch's compiler, a second or two at every start."""
        tensors = list(self._tensors.values())
        gradients = list(torch.autograd.grad(loss, tensors))
        steps = [torch.tensor(float(self._steps)) for _ in tensors]
        first, second = self._moments
        with torch.no_grad():
            adam(
                tensors, gradients, first, second, [], steps, foreach=False, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=self._rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
        self._steps += 1

    def publish(self, matrix: F64 | None = None, shift: F64 | None = None) -> int:
        """Serve z @ matrix + shift. The inverse goes into the decoding half: what is decoded stays."""
        if self.version:
            self._previous = self._serving
        if matrix is not None and shift is not None:
            self._turn(matrix, shift)
        self._serving = self._encoding()
        self.version += 1
        return self.version

    def _turn(self, matrix: F64, shift: F64) -> None:
        w = self._weights
        back = np.linalg.inv(matrix)
        w["w2"][:], w["b2"][:] = fold(w["w2"], w["b2"], matrix, shift)
        w["b3"][:] = w["b3"] - shift @ back @ w["w3"]
        w["w3"][:] = back @ w["w3"]

    def _encoding(self) -> Weights:
        return {name: self._weights[name].copy() for name in ENCODING}

    def _load(self, weights: Weights, first: Weights | None = None, second: Weights | None = None) -> None:
        """Tensors share memory with the numpy arrays: what torch learns is seen in both."""
        zeros = {name: np.zeros_like(w) for name, w in weights.items()}
        self._weights = _copy(weights)
        self._first, self._second = _copy(first or zeros), _copy(second or zeros)  # Adam's moments
        self._tensors = {name: torch.from_numpy(w).requires_grad_() for name, w in self._weights.items()}
        self._moments = [[torch.from_numpy(m[name]) for name in weights] for m in (self._first, self._second)]

    def parts(self) -> Sequence[NDArray[Any]]:
        groups = (self._weights, self._first, self._second, self._serving, self._previous or {})
        return [np.array([self._steps]), *(array for group in groups for array in group.values())]

    def snapshot(self) -> State:
        return {
            "version": self.version,
            "steps": self._steps,
            "random": self._random.bit_generator.state,
            "weights": _copy(self._weights),
            "first": _copy(self._first),
            "second": _copy(self._second),
            "serving": _copy(self._serving),
            "previous": None if self._previous is None else _copy(self._previous),
        }

    def restore(self, state: State) -> None:
        self.version, self._steps = state["version"], state["steps"]
        self._random.bit_generator.state = state["random"]
        self._load(state["weights"], state["first"], state["second"])
        self._serving = _copy(state["serving"])
        self._previous = None if state["previous"] is None else _copy(state["previous"])


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


def _forward(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(n, d_in) -> embedding (n, dim), and the row decoded from it (n, d_in)."""
    z = _bend(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    return z, _bend(z @ w["w3"] + w["b3"]) @ w["w4"] + w["b4"]


def _bend(h: Tensor) -> Tensor:
    return h / torch.sqrt(1 + h * h)
