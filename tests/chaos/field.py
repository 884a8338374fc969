"""What faults have at hand: engines, broker, disks, one generator of chance; and how they wait."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from broker import JarBroker

from .auditor import Auditor
from .engines import Crew, Engine
from .points import Order
from .subscriber import Subscriber

T = TypeVar("T")

PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.02


class Life(NamedTuple):
    """An engine between a start and its end."""

    engine: Engine
    pid: int

    @property
    def over(self) -> bool:
        return self.engine.pid != self.pid or not self.engine.alive


class Missed(Exception):
    """A fault did not come about, or there was no progress after it: the text says what was waited for."""


class Field:
    """Engines that ended are started again in every wait."""

    def __init__(
        self,
        broker: JarBroker,
        crew: Crew,
        subscriber: Subscriber,
        auditor: Auditor,
        chance: random.Random,
        transaction_timeout_s: float,
    ) -> None:
        self.broker = broker
        self.crew = crew
        self.chance = chance
        self.transaction_timeout_s = transaction_timeout_s
        self._subscriber = subscriber
        self._auditor = auditor

    # --- waiting --------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
        """The condition's value once it is true. Raises Missed."""
        deadline_s = time.monotonic() + within_s
        while not (value := condition()):
            self.tend()
            if time.monotonic() > deadline_s:
                raise Missed(f"not within {within_s:g} s: {what}")
            self._subscriber.wait(condition, _LOOK_EVERY_S)
        return value

    def pause(self, seconds: float) -> None:
        """A pause is part of a fault: it has a length."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.1))
            self.tend()

    def tend(self) -> None:
        for complaint in self.crew.tend():
            self._auditor.fail("exits", complaint)

    @property
    def step(self) -> int:
        """The newest committed step that a subscriber has seen."""
        return self._auditor.step

    def progress(self) -> None:
        """Until a step is committed that was not there at the time of the call."""
        step = self.step
        self.until(lambda: self.step > step, f"a step after {step}")

    def sometime(self) -> None:
        """Anywhere in what an engine does: a moment of chance, shorter than a few steps."""
        self.pause(self.chance.uniform(0.0, 0.4))

    # --- engines --------------------------------------------------------------------------------------------

    def leader(self) -> Engine:
        """Who works; waited for, if nobody does just now."""
        found = self.until(self.crew.leader, "one of the engines works")
        assert found is not None
        return found

    def standby(self) -> Engine:
        """One of those who are ready to take over."""
        leader = self.leader()
        ready = self.until(
            lambda: [e for e in self.crew.engines if e is not leader and e.alive and "standing by" in e.text],
            "an engine stands by",
        )
        return self.chance.choice(ready)

    def kill(self, engine: Engine) -> Life:
        life = Life(engine, engine.pid)
        engine.signal(signal.SIGKILL)
        self.until(lambda: life.over, f"engine {engine.name} is dead")
        return life

    def freeze(self, engine: Engine) -> Life:
        engine.signal(signal.SIGSTOP)
        self.until(lambda: engine.frozen, f"engine {engine.name} is frozen")
        return Life(engine, engine.pid)

    def thaw(self, engine: Engine) -> None:
        engine.signal(signal.SIGCONT)

    def struck(self, order: Order, candidates: Callable[[], Iterable[Engine | None]]) -> Life:
        """Give the order to every candidate, also to those who come later; the first who carried it out."""
        lives: set[Life] = set()

        def first() -> Life | None:
            for engine in candidates():
                if engine is not None and engine.alive and (life := Life(engine, engine.pid)) not in lives:
                    lives.add(life)
                    engine.order(order)
            return next((life for life in lives if life.over or life.engine.frozen), None)

        found = self.until(first, f"an engine is struck {order.point}")
        assert found is not None
        for engine in {life.engine for life in lives}:
            engine.forget_orders()
        return found

    def leader_struck(self, order: Order) -> Life:
        return self.struck(order, lambda: [self.crew.leader()])

    def succeeded(self, life: Life) -> None:
        """Until somebody else works, or the same engine in another life."""

        def other() -> bool:
            found = self.crew.leader()
            return found is not None and found.pid != life.pid

        self.until(other, f"somebody takes over from {life.engine.name}")

    @contextmanager
    def rest(self, *engines: Engine) -> Iterator[None]:
        """While it lasts, nobody starts these engines again."""
        names = {engine.name for engine in engines}
        self.crew.resting |= names
        try:
            yield
        finally:
            self.crew.resting -= names
