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

    def intervene(self, interventions: Sequence[Intervention], members: I64) -> None:
        """Centres stand for something else from now on; `members` (k,) are those of before."""
        members = members.copy()
        for one in interventions:
            if one.into >= 0:
                self._entered[one.into] += members[one.centre]
                members[one.into] += members[one.centre]
                members[one.centre] = 0
            self._entered[one.centre] = self._left[one.centre] = 0

    def take(self, now_ms: int) -> list[Turnover]:
        """Of every centre, since the last time it was asked; then counting starts over."""
        columns = zip(self._entered.tolist(), self._left.tolist(), strict=True)
        told = [Turnover(entered, left, self._since_ms) for entered, left in columns]
        self._entered[:] = self._left[:] = 0
        self._since_ms = now_ms
        return told

    def snapshot(self) -> State:
        return {"entered": self._entered.copy(), "left": self._left.copy(), "since_ms": self._since_ms}

    def restore(self, state: State) -> None:
        self._entered, self._left = state["entered"].copy(), state["left"].copy()
        self._since_ms = int(state["since_ms"])
