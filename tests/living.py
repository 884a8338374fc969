"""An engine that lives on in a thread, with its HTTP server, for tests that ask it something."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream.config import Config, Http
from shoal.stream.events import Range, Records
from shoal.stream.ports import Phase
from shoal.stream.sources import MemorySource
from shoal.stream.watching.api import Asked
from shoal.stream.watching.http import Server, start
from shoal.stream.watching.metrics import Metrics
from shoal.stream.watching.progress import Tee


class Topic:
    """Gives what there is, then nothing, and never ends. `until`: offsets handed out so far at most."""

    finite, wall_clock, mark = False, False, ""  # the events are the clock: they are old

    def __init__(self, values: tuple[bytes | None, ...], until: int | None = None) -> None:
        self._log = MemorySource([values])
        self.until = len(values) if until is None else until
        self.drained = threading.Event()

    def open(self, *_: object) -> bool:
        return True

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]]:
        left = self.until - self._log._next[0]
        found = self._log.poll(min(max_records, left), timeout_s) if left > 0 else None
        if found is None:
            if timeout_s:
                self.drained.set()
            threading.Event().wait(timeout_s / 20)
        return found or (Records.empty(), ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Living:
    """Everything that belongs to it."""

    def __init__(self, config: Config, topic: Topic, http: Http, **more: Any) -> None:
        self.asked, self.metrics, self.sink, self.topic = Asked(), Metrics(), MemorySink(), topic
        more = {"sink": self.sink, "questions": self.asked.questions} | more
        self.engine = engine(config, topic, **more)
        self.engine.observer = Tee([self.metrics, self.asked.recent])
        self.server: Server = start(http, self.metrics, self.asked)
        self.thread = threading.Thread(target=self.engine.run, daemon=True)

    @property
    def url(self) -> str:
        return self.server.url


@contextlib.contextmanager
def living(
    config: Config | None = None, values: tuple[bytes | None, ...] | None = None, **more: Any
) -> Iterator[Living]:
    """Until the block ends; it begins when all input is committed."""
    http = more.pop("http", Http(port=0))
    topic = Topic(events() if values is None else values)
    here = Living(config or small("time.idle_step_ms=600000"), topic, http, **more)
    here.thread.start()
    try:
        assert topic.drained.wait(60.0), "the input was not read in time"
        yield here
    finally:
        here.engine.stop()
        here.thread.join(20.0)
        here.server.stop()
        assert here.metrics.health.phase is Phase.STOPPING
