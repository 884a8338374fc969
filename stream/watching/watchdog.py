"""A process without progress ends itself; its supervisor starts it again, and it goes on where it was.

Every wait that the code knows of is bounded. This is the bound for what nobody thought of: a call that hangs
in a library, a lock that two threads want. Progress is what `Health` was told: the engine turned, and, where
input waits, it committed. Who stands by has nothing to show; who starts, or waits for a broker, may first take
the time that is configured for that (`kafka.broker_wait_s`).

Only time in which this process really ran counts: one that was frozen, or a machine that slept, begins anew.
Not covered: native code that never gives the interpreter back; then /healthz is silent too.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from ..ports import Phase, Stuck
from .health import PATIENT, Health

log = logging.getLogger("shoal")

_LOOKS = 20  # within `stuck_after_s`
_LOOK_EVERY_S_MAX = 5.0
_LAST_WORDS_S = 5.0


def die(text: str) -> None:
    """Say what is stuck and where every thread stands, then end; whatever happens to what is said."""
    threading.Timer(
        _LAST_WORDS_S, os._exit, (Stuck.exit_code,)
    ).start()  # stderr, or a lock, may hang as well
    log.critical("%s: ending with exit code %d; where every thread stands:", text, Stuck.exit_code)
    faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(Stuck.exit_code)


class Watchdog:
    """Looks at the engine's health from a thread of its own, until stop().

    `stuck_after_s`: without a sign, or with input and without a commit. `patience_s`: what starting and waiting
    may take on top.
    """

    def __init__(
        self,
        health: Health,
        stuck_after_s: float,
        patience_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        end: Callable[[str], None] = die,
    ) -> None:
        self._health = health
        self._stuck_after_s = stuck_after_s
        self._patience_s = patience_s
        self._clock_s = clock_s
        self._end = end
        self.every_s = min(_LOOK_EVERY_S_MAX, stuck_after_s / _LOOKS)
        self._looked_s = self._awake_since_s = clock_s()
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True, name="shoal-watchdog").start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self.every_s):
            if text := self.look():
                self._end(text)
                return

    def look(self) -> str:
        """What is stuck, in words; empty while there is progress."""
        now_s = self._clock_s()
        if now_s - self._looked_s > max(2 * self.every_s, 1.0):
            self._awake_since_s = now_s
        self._looked_s = now_s
        phase = self._health.phase
        if phase is Phase.STANDBY:
            return ""
        limit_s = self._stuck_after_s + (self._patience_s if phase in PATIENT else 0.0)
        awake_s = now_s - self._awake_since_s
        if (idle_s := min(self._health.idle_s(), awake_s)) > limit_s:
            return f"stuck: {phase.value}, no sign of the engine for {idle_s:.0f} s, limit {limit_s:g} s"
        if phase is Phase.RUNNING and (unserved_s := min(self._health.unserved_s(), awake_s)) > limit_s:
            return (
                f"stuck: input waits, but nothing was committed for {unserved_s:.0f} s, limit {limit_s:g} s"
            )
        return ""
