"""No encoder: the row is its own embedding. The baseline that every other encoder has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..stream.events import F32, F64
from ..stream.ports import State


class Identity:
    name = "identity"
    epochs = 0

    def __init__(self, d_in: int) -> None:
        self.d_in = self.d_out = d_in
        self.version = 0

    def renew(self, seed: int) -> None:
        """There is nothing to forget."""

    def start(self, x: F32) -> None: ...

    def encode(self, x: F32) -> F32:
        return x

    encode_candidate = encode

    def encode_previous(self, x: F32) -> F32 | None:
        return None

    def learn(self, x: F32) -> float:
        return 0.0

    def turn(self, matrix: F64, shift: F64) -> None:
        """Nothing is learned, so nothing was refused."""

    def publish(self, matrix: F64 | None = None, shift: F64 | None = None) -> int:
        """Nothing changes; the first call makes it version 1."""
        self.version = 1
        return self.version

    def parts(self) -> Sequence[NDArray[Any]]:
        return ()

    def snapshot(self) -> State:
        return {"version": self.version}

    def restore(self, state: State) -> None:
        self.version = state["version"]
