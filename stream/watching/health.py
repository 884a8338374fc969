"""Is the engine alive, and is it ready? Judged from what it reported last and how long ago that was.

    alive   it turned, or it waits for something that may take its time, within a bound
    ready   recovered, polling, and committing what it polls

Standby is alive without a bound (another engine of the group works) and never ready.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import Http
from ..ports import Phase

PATIENT = frozenset({Phase.STARTING, Phase.WAITING})
"""Phases in which nothing may happen for a while."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to one of the two questions."""

    ok: bool
    text: str  # for a person, one line


class Health:
    """Written by the engine's thread, read by the HTTP thread: plain attributes, each replaced whole."""

    def __init__(self, limits: Http, clock_s: Callable[[], float]) -> None:
        self.limits = limits
        self._clock_s = clock_s
        self.phase = Phase.STARTING
        self._turned_s = clock_s()
        self._committed_s = clock_s()  # or when there was last nothing to commit
        self._polled = False  # since the engine entered the phase it is in
        self._lag_records = 0

    def entered(self, phase: Phase) -> None:
        """A new phase has to show anew that it polls and commits."""
        if phase is not self.phase:
            self.phase, self._polled = phase, False
            self._committed_s = self._clock_s()
        self.turned()

    def turned(self) -> None:
        """The engine did something, whatever it was."""
        self._turned_s = self._clock_s()

    def polled(self, lag_records: int) -> None:
        """The engine looked for input; `lag_records` wait."""
        if not lag_records:
            self._committed_s = self._clock_s()
        self._lag_records = lag_records
        self._polled = True
        self.turned()

    def committed(self) -> None:
        self._committed_s = self._clock_s()
        self.turned()

    def idle_s(self) -> float:
        """Seconds since the engine last did anything."""
        return max(0.0, self._clock_s() - self._turned_s)

    def unserved_s(self) -> float:
        """Seconds that input has waited without a commit; 0 where none waits."""
        return max(0.0, self._clock_s() - self._committed_s) if self._lag_records else 0.0

    def alive(self) -> Verdict:
        if self.phase is Phase.STANDBY:
            return Verdict(True, "standby: another engine of the group works")
        limit_s = self.limits.waiting_max_s if self.phase in PATIENT else self.limits.stuck_after_s
        idle_s = self.idle_s()
        if idle_s > limit_s:
            return Verdict(
                False, f"stuck: {self.phase.value} without a sign for {idle_s:.0f} s, limit {limit_s:g} s"
            )
        return Verdict(True, f"alive: {self.phase.value}")

    def ready(self) -> Verdict:
        alive = self.alive()
        if not alive.ok:
            return alive
        if self.phase is not Phase.RUNNING:
            return Verdict(False, f"not ready: {self.phase.value}")
        if not self._polled:
            return Verdict(False, "not ready: running, first poll pending")
        if (unserved_s := self.unserved_s()) > self.limits.stuck_after_s:
            return Verdict(
                False,
                f"not ready: running, {self._lag_records} records wait, no commit for {unserved_s:.0f} s",
            )
        return Verdict(True, "ready: running")
