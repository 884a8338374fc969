"""A bounded, fair sample of the rows learned so far, so that the encoder does not forget.

Algorithm R (Vitter 1985): of the first t rows each is kept with probability rows / t. After `MEMORY` times
its size the probability stays at 1 / MEMORY instead of going to zero, so that the sample follows the stream
(biased reservoir, Aggarwal 2006): a row then stays for about MEMORY * rows further rows.
"""

from __future__ import annotations

import numpy as np

from ..stream.events import F32, I64
from ..stream.ports import State

MEMORY = 32


class Reservoir:
    """At most `rows_max` rows of d values; row order is slot order and stays put."""

    def __init__(self, rows_max: int, d: int, seed: int) -> None:
        self._rows: F32 = np.empty((rows_max, d), np.float32)
        self._held = 0
        self.seen = 0
        self._random = np.random.Generator(np.random.PCG64(seed))

    @property
    def rows(self) -> F32:
        """(r, d) the sample, a view that nobody else writes to."""
        return self._rows[: self._held]

    def add(self, x: F32) -> None:
        """Offer rows (n, d) in order."""
        size = len(self._rows)
        free = min(size - self._held, len(x))
        self._rows[self._held : self._held + free] = x[:free]
        self._held += free
        late = x[free:]
        if len(late):
            rank = self.seen + free + 1 + np.arange(len(late), dtype=np.int64)  # of each row in the stream
            slot = self._random.integers(0, np.minimum(rank, size * MEMORY))
            for i in np.flatnonzero(slot < size).tolist():
                self._rows[slot[i]] = late[i]
        self.seen += len(x)

    def draw(self, n: int) -> F32:
        """n rows of the sample, with replacement."""
        assert self._held, "nothing has been learned yet"
        return self._rows[self._random.integers(0, self._held, n)]

    def counters(self) -> tuple[int, str]:
        """What decides which rows are held, besides the rows themselves."""
        return self.seen, str(self._random.bit_generator.state["state"])

    def shuffled(self, n: int) -> I64:
        order: I64 = self._random.permutation(n)
        return order

    def snapshot(self) -> State:
        return {
            "rows": self.rows.copy(),
            "seen": self.seen,
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: State) -> None:
        self._held = len(state["rows"])
        self._rows[: self._held] = state["rows"]
        self.seen = state["seen"]
        self._random.bit_generator.state = state["random"]
