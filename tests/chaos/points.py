"""Labelled points: where an engine can be told to die, or to freeze, on its n-th passing.

Nothing of this is in the engine: methods of its ports, its Kafka client and its disk are wrapped in the process
under test before it starts. An order is a line in a file, looked at on every passing, so that an engine can be
given one while it works; it is carried out once.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from shoal.stream.kafka.port import Producer

COMMITTING = (
    "before begin",
    "after begin",
    "while sending",
    "before flush",
    "after flush",
    "after the offsets",
    "during commit",
    "after commit",
)
"""A step's way to the subscribers, in order."""
SAVING = ("before a snapshot", "half a snapshot written", "before its rename", "after its rename")
KILL, FREEZE = "kill", "freeze"
_SNAPSHOT = re.compile(r"snapshot-\d")  # and not the probe whether the folder can be written to


@dataclass(frozen=True)
class Order:
    """On the `times`-th passing of `point`, `delay_ms` later, kill or freeze the engine."""

    point: str
    times: int = 1
    action: str = KILL
    delay_ms: int = 0

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{self.point}|{self.times}|{self.action}|{self.delay_ms}")
        fresh.rename(path)

    @staticmethod
    def read(path: Path) -> Order | None:
        try:
            point, times, action, delay_ms = path.read_text().split("|")
        except FileNotFoundError:
            return None
        return Order(point, int(times), action, int(delay_ms))


class Points:
    """The labelled points of this process."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._pid = os.getpid()  # a child may write the snapshot: then both die
        self._order: Order | None = None
        self._passed = 0

    def pass_by(self, point: str) -> None:
        """Do what was ordered for this point, if anything was and this is the time."""
        if self.due(point):
            self.strike()

    def pass_into(self, point: str) -> None:
        """The same, while the caller goes on: it happens in the middle of what comes next."""
        if self.due(point):
            threading.Thread(target=self.strike, daemon=True).start()

    def due(self, point: str) -> bool:
        order = Order.read(self._orders)
        if order != self._order:
            self._order, self._passed = order, 0
        if order is None or order.point != point:
            return False
        self._passed += 1
        return self._passed == order.times

    def strike(self) -> None:
        order = self._order
        assert order is not None
        threading.Event().wait(order.delay_ms / 1000)
        self._orders.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGKILL if order.action == KILL else signal.SIGSTOP)
        if os.getpid() != self._pid and order.action == KILL:
            os._exit(1)


def wrap(
    owner: Any,
    name: str,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
) -> None:
    """Do something before and after a method; both get its arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def install(points: Points, source: Any, client: Any, fenced: Callable[[], object]) -> None:
    """Label this process's Shoal: `source` and `client` of its Kafka library, its sink, store and disk.

    `fenced` is called when this engine has become the one that works.
    """
    _label_transactions(points, client)
    _label_takeover(points, source, fenced)
    _label_snapshots(points)
    _label_recovery(points, source)


class LabelledProducer:
    """Another producer, with the points of a transaction before and behind its calls."""

    def __init__(self, producer: Producer, points: Points) -> None:
        self._producer = producer
        self._points = points
        self.close = producer.close

    def begin(self) -> None:
        self._producer.begin()
        self._points.pass_by("after begin")

    def send(self, *record: Any) -> None:
        self._producer.send(*record)
        self._points.pass_by("while sending")

    def flush(self, timeout_s: float) -> None:
        self._points.pass_by("before flush")
        self._producer.flush(timeout_s)
        self._points.pass_by("after flush")

    def send_offsets(self, *offsets: Any) -> None:
        self._producer.send_offsets(*offsets)
        self._points.pass_by("after the offsets")

    def commit(self, timeout_s: float) -> None:
        self._points.pass_into("during commit")
        self._producer.commit(timeout_s)


def _label_transactions(points: Points, client: Any) -> None:
    from shoal.sinks.kafka import KafkaSink

    fence = client.producer
    client.producer = lambda self: LabelledProducer(fence(self), points)
    wrap(
        KafkaSink,
        "commit",
        before=lambda *_: points.pass_by("before begin"),
        after=lambda *_: points.pass_by("after commit"),
    )


def _label_takeover(points: Points, source: Any, fenced: Callable[[], object]) -> None:
    from shoal.sinks.kafka import KafkaSink

    def after_fence(*_: Any) -> None:
        fenced()
        points.pass_by("after the fence")

    wrap(KafkaSink, "open", before=lambda *_: points.pass_by("before the fence"), after=after_fence)
    wrap(source, "close", before=lambda *_: points.pass_by("leaving the group"))


def _label_snapshots(points: Points) -> None:
    from shoal.stream.disk import OsDisk
    from shoal.stream.snapshots import DirectoryStore

    write = OsDisk.write

    def write_or_half(self: OsDisk, path: Path, parts: Sequence[Any]) -> None:
        if _SNAPSHOT.match(path.name) and points.due("half a snapshot written"):
            whole = b"".join(parts)
            write(self, path, [whole[: len(whole) // 2]])
            points.strike()
        write(self, path, parts)

    def at(point: str) -> Callable[..., None]:
        return lambda *_, **__: points.pass_by(point)

    wrap(DirectoryStore, "write", before=at("before a snapshot"))
    OsDisk.write = write_or_half  # type: ignore[method-assign]
    wrap(OsDisk, "rename", before=at("before its rename"), after=at("after its rename"))


def _label_recovery(points: Points, source: Any) -> None:
    """A step computed again is a read of recorded ranges; while another engine works it is `following`."""
    from shoal.stream.snapshots import DirectoryStore

    newest, opened, following = DirectoryStore.newest, source.open, [False]

    def load(self: DirectoryStore, not_past: int) -> Iterator[Any]:
        for found in newest(self, not_past):
            points.pass_by("loading a snapshot")
            yield found

    def open_source(self: Any, stopping: Any, meanwhile: Any) -> bool:
        def follow() -> None:
            following[0] = True
            try:
                meanwhile()
            finally:
                following[0] = False

        return opened(self, stopping, follow)

    def read(*_: Any) -> None:
        points.pass_by("following" if following[0] else "replaying")

    DirectoryStore.newest = load  # type: ignore[method-assign]
    source.open = open_source
    wrap(source, "read", before=read)
