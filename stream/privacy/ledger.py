"""Noisy sizes, and a budget for them that is never overrun.

One refresh publishes the sizes of all segments at once. A user is in one segment, so adding or removing one user
changes one of the sizes by one: with discrete Laplace noise of `size_epsilon` on each, a refresh is
epsilon-differentially private for the sizes as such (parallel composition), and costs `size_epsilon` once,
however many segments there are. A user who moves changes two sizes: that is protected by twice the epsilon.

Refreshes of one day of stream time (UTC) add up; when the next one would exceed `size_epsilon_per_day`, the sizes
last published are repeated, with the time they are of, until the next day. A segment that was never in a refresh
has no size then. What is repeated or divided costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Privacy
from ..ports import State
from .noise import MILLI, Draws, discrete_laplace
from .pseudonyms import Pseudonyms

DAY_MS = 86_400_000
SPENT = "size_budget"
"""Where a manifest says what was spent."""


@dataclass(frozen=True, slots=True)
class Told:
    """A segment's size as it is published."""

    size: int | None  # None: the budget has not allowed one yet
    share: float | None  # of all sizes published with it
    as_of_ms: int | None


def ledger(config: Privacy, pseudonyms: Pseudonyms | None) -> Ledger | None:
    """None where sizes are published as they are."""
    if not config.size_epsilon:
        return None
    assert pseudonyms is not None, "noise needs a key: ask keyfile.pseudonyms()"
    return Ledger(config, pseudonyms.secret("noise"))


class Ledger:
    """What was spent of today's budget, and the sizes it bought: 24 bytes a segment."""

    def __init__(self, config: Privacy, key: bytes) -> None:
        """`key` makes the noise; whoever has it can take the noise off again."""
        self._key = key
        self._cost = round(config.size_epsilon * MILLI)
        self._budget = int(config.size_epsilon_per_day * MILLI + 0.5)
        self._least = config.floor_members
        assert 0 < self._cost <= self._budget, f"{self._cost} of {self._budget} thousandths for one refresh"
        self.day = 0
        self.spent = 0  # thousandths, of this day
        self._sizes: dict[int, tuple[int, int]] = {}  # segment id -> size, when

    def publish(self, sizes: Mapping[int, int], now_ms: int, moment: bytes) -> dict[int, Told]:
        """The sizes of all published segments by id, to be told at `now_ms`; `moment` is never the same twice."""
        self._turn(now_ms // DAY_MS)
        if self.spent + self._cost <= self._budget:
            self.spent += self._cost
            self._sizes = {
                segment: (self._noisy(segment, size, moment), now_ms) for segment, size in sizes.items()
            }
        else:
            self._sizes = {segment: told for segment, told in self._sizes.items() if segment in sizes}
        total = sum(size for size, _ in self._sizes.values())
        return {segment: self._told(segment, total) for segment in sizes}

    def _turn(self, day: int) -> None:
        """Another day has another budget; a clock that goes back gives none."""
        if day > self.day:
            self.day, self.spent = day, 0

    def _noisy(self, segment: int, size: int, moment: bytes) -> int:
        """Never below what everybody knows of a published segment: the floor."""
        noise = discrete_laplace(Draws(self._key, b"%b:%d:" % (moment, segment)), self._cost)
        return max(size + noise, self._least, 0)

    def _told(self, segment: int, total: int) -> Told:
        if segment not in self._sizes:
            return Told(None, None, None)
        size, as_of_ms = self._sizes[segment]
        return Told(size, size / total if total else 0.0, as_of_ms)

    # --- state -------------------------------------------------------------------------------------------

    @property
    def recorded(self) -> str:
        """Day and what was spent of it, for the manifest."""
        return f"{self.day}:{self.spent}"

    def resume(self, recorded: str) -> None:
        """A new epoch forgets everything but what was spent."""
        day, spent = recorded.split(":")
        self.day, self.spent = int(day), int(spent)

    def snapshot(self) -> State:
        segments: Sequence[int] = list(self._sizes)
        return {
            "day": self.day,
            "spent": self.spent,
            "segments": np.array(segments, np.int64),
            "sizes": np.array([self._sizes[i][0] for i in segments], np.int64),
            "as_of_ms": np.array([self._sizes[i][1] for i in segments], np.int64),
        }

    def restore(self, state: State) -> None:
        self.day, self.spent = int(state["day"]), int(state["spent"])
        told = zip(state["sizes"].tolist(), state["as_of_ms"].tolist(), strict=True)
        self._sizes = dict(zip(state["segments"].tolist(), told, strict=True))
