"""How many users each segment won and lost since its profile was last told: the churn of every segment.

Always true between two profiles of a segment: its size is what it was, plus `entered`, less `left`. First
placements enter, farewells leave; where a segment is given up, its users enter the one that takes over, and whoever
is told so later has not moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .events import I64
from .membership import Moves
from .ports import Intervention, State


@dataclass(frozen=True, slots=True)
class Turnover:
    """What happened to one segment since `since_ms`."""

    entered: int
    left: int
    since_ms: int


class Churn:
    """Counts per centre. Cost: two counts over the moves of a step."""

    def __init__(self, k: int) -> None:
        self._entered: I64 = np.zeros(k, np.int64)
        self._left: I64 = np.zeros(k, np.int64)
        self._since_ms = 0

    def count(self, moves: Moves) -> None:
        """Changes and farewells of a step."""
        k = len(self._entered)
        went = moves.centre_before != moves.centre_after
        before, after = moves.centre_before[went], moves.centre_after[went]
        self._left += np.bincount(before[before >= 0], minlength=k)
        self._entered += np.bincount(after[after >= 0], minlength=k)

    def intervene(self, interventions: Sequence[Intervention], before: I64, after: I64) -> None:
        """Centres stand for something else from now on: their members (k,) before and after that."""
        self._entered += np.maximum(after - before, 0)
        for one in interventions:
            self._entered[one.centre], self._left[one.centre] = after[one.centre], 0

    def of(self, centre: int) -> Turnover:
        """Of one centre, since the last `take`."""
        return Turnover(int(self._entered[centre]), int(self._left[centre]), self._since_ms)

    def take(self, now_ms: int) -> list[Turnover]:
        """Of every centre, since the last time it was asked; then counting starts over."""
        told = [self.of(centre) for centre in range(len(self._entered))]
        self._entered[:] = self._left[:] = 0
        self._since_ms = now_ms
        return told

    def snapshot(self) -> State:
        return {"entered": self._entered.copy(), "left": self._left.copy(), "since_ms": self._since_ms}

    def restore(self, state: State) -> None:
        self._entered, self._left = state["entered"].copy(), state["left"].copy()
        self._since_ms = int(state["since_ms"])
