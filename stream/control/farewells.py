"""Users who are forgotten in a step: each is told once, when commands and consents of the step are through."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..attribution import ERASURE, Verdict
from ..config import Config
from ..events import I32, Step
from ..membership import Moves
from .house import House
from .receipts import Erased, nowhere, receipt
from .residual import Residual


@dataclass(slots=True)
class Farewell:
    """What the commands of one step came to for one user."""

    row: int  # of the first command, or of the event that said so
    time_ms: int  # of that event; 0: it was a command
    moves: Moves
    commands: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    rows_max: int = 0
    placed: bool = False


class Farewells:
    """Those of one step, by user name; nothing is kept from one step to the next but when centres were placed."""

    def __init__(self, house: House, config: Config) -> None:
        self._house = house
        self._residual = Residual(config)
        self.placed_ms = 0  # when a centre was last placed; 0: never
        self.begin()

    def begin(self) -> None:
        self._of: dict[str, Farewell] = {}

    def forget(self, name: str, row: int, time_ms: int, step: Step) -> Farewell:
        """What is kept under this name is gone."""
        if name not in self._of:
            self._of[name] = Farewell(row, time_ms, nowhere(step.number))
        slot = self._house.users.slot(name)
        if slot is not None:
            self._clear(self._of[name], np.array([slot], np.int32), step)
        return self._of[name]

    def _clear(self, farewell: Farewell, slot: I32, step: Step) -> None:
        """Forget who has this slot (1,)."""
        house = self._house
        farewell.erased += ["name", "windows", "interest", "sightings"]
        if house.warmup.done:
            farewell.rows_max += int(house.users.events_seen[slot[0]])
            farewell.placed |= int(house.users.first_ms[slot[0]]) <= self.placed_ms
            farewell.erased.append("anchor")
        elif house.warmup.forget(slot):
            farewell.erased.append("warm_up")
        if house.membership.pins.of(slot).any():
            farewell.erased.append("pin")
        moves = house.membership.leave(slot, step.number)
        house.churn.count(moves)
        if len(moves):
            farewell.moves = moves
            farewell.erased.append("membership")
        house.forget(slot)

    def tell(self) -> None:
        house = self._house
        for name, farewell in self._of.items():
            held = bool(farewell.erased)
            residual = self._residual.of(farewell.rows_max, farewell.placed, house.features) if held else None
            house.narrator.answered(
                Erased(
                    moves=farewell.moves,
                    names=[name],
                    verdict=Verdict.of_all(ERASURE, 1),
                    model={**house.versions(), "config": house.config_hash},
                    scored=None,
                    cause=np.array([farewell.row], np.int64),
                    event_time_ms=np.array([farewell.time_ms], np.int64),
                    receipts=[
                        receipt(farewell.commands, held, list(dict.fromkeys(farewell.erased)), residual)
                    ],
                )
            )
        if any(farewell.erased for farewell in self._of.values()):
            house.features.scrub()
            house.users.scrub()
