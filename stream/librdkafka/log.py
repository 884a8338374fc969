"""librdkafka behind the port `Log`: committed records of one topic by offset, for manifests and for replay.

The library gives records of all assigned partitions in one queue. Those of partitions that are not being read
now are held back, up to a limit; beyond it the fullest are given up and fetched again when their turn comes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Message

from ..config import Kafka
from ..kafka.client import Patience, bounded, never
from ..ports import START_OVER, BrokerGone, SourceGone, Stopped
from .errors import OUTSIDE
from .partitions import Partitions, offset_of

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes]]

_ANSWER_S = 5.0
_SLICE_S = 0.1
_SILENT_S = 5.0
_GRACE_S = 1.0
_RECORDS_MAX = 4096
_FETCH_WAIT_MS = 50  # readings jump; each jump waits for a request that found nothing to come back
_SKIP_MAX = 1024  # so few offsets ahead, what comes is read and thrown away: quicker than to fetch anew
_HELD_BYTES_MAX = 32 << 20
_HEADERS: Callable[[Message], Any] = Message.headers


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A committed record."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class _Lane:
    """One partition. Always true: everything committed of [at, reached) is in `held`, in order."""

    at: int  # the next offset to hand out
    reached: int
    held: deque[Message] = field(default_factory=deque)
    held_bytes: int = 0

    def add(self, records: Sequence[Message]) -> None:
        kept = [record for record in records if offset_of(record) >= self.at]
        self.held.extend(kept)
        self.held_bytes += sum(len(record) for record in kept)

    def pop(self) -> Message:
        record = self.held.popleft()
        self.held_bytes -= len(record)
        return record

    def skip_to(self, start: int) -> bool:
        """Go on at `start` without fetching anything again; False when that is not possible."""
        if not self.at <= start <= self.reached + _SKIP_MAX:
            return False
        self.at = start
        while self.held and offset_of(self.held[0]) < start:
            self.pop()
        return True


class LibrdkafkaLog:
    """One topic, read where it is told to; connects at the first question."""

    def __init__(self, config: Kafka, topic: str, stopping: Callable[[], bool] = never) -> None:
        self.topic = topic
        self._config = config
        self._stopping = stopping
        self._partitions: Partitions | None = None
        self._names: list[int] = []
        self._lanes: dict[int, _Lane] = {}
        self._known: dict[int, tuple[int, int]] = {}  # bounds, as last asked for

    # --- asking -------------------------------------------------------------------------------------------------

    def _open(self) -> Partitions:
        """Raises BrokerGone, ConfigError when refused, SourceGone when there is no such topic, Stopped."""
        if self._partitions is None:
            self._partitions = Partitions(self._config, self.topic, _FETCH_WAIT_MS)
        if not self._names:
            made = self._partitions
            self._names = self._patiently(lambda: made.names(_ANSWER_S))
            if not self._names:
                raise SourceGone(f"there is no topic {self.topic} at {self._config.bootstrap_servers}")
        return self._partitions

    def _patiently(self, call: Callable[[], T]) -> T:
        """The call's answer; asked again and again while the broker is away."""
        patience = Patience(self._config, self._stopping)
        while True:
            try:
                return bounded(call, 3 * _ANSWER_S, "ask", self._stopping)
            except TimeoutError as error:
                if not patience.pause(error):
                    raise Stopped from None

    def bounds(self) -> dict[int, tuple[int, int]]:
        partitions = self._open()
        self._known = self._patiently(lambda: partitions.ask(self._names, _ANSWER_S))
        return self._known

    def check(self, partition: int, start: int, end: int) -> None:
        """Raises SourceGone unless all of [start, end) is inside the log."""
        if partition not in self._known or end > self._known[partition][1]:
            self.bounds()
        if partition not in self._known:
            raise SourceGone(
                f"{self.topic} has {len(self._known)} partitions, but partition {partition} was read before: the "
                f"topic was created again. Restore it, or {START_OVER}"
            )
        first, last = self._known[partition]
        if start < first or end > last:
            raise SourceGone(
                f"{self.topic} partition {partition}: offsets [{start}, {end}) were read before, but the log now "
                f"holds [{first}, {last}): it was truncated, or created again. Restore it and raise its retention, "
                f"or {START_OVER}"
            )

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        for record in self.messages(partition, start, end):
            yield _record(record)

    def messages(self, partition: int, start: int, end: int) -> Iterator[Message]:
        """The library's records of [start, end), in order; one reading at a time."""
        lane = self._lane(partition, start)
        while lane.at < end:
            if lane.held and offset_of(lane.held[0]) < end:
                record = lane.pop()
                lane.at = offset_of(record) + 1
                yield record
            elif lane.held or lane.reached >= end:
                lane.at = end
            else:
                self._await(partition, lane)

    def tail(self, partition: int, start: int, timeout_s: float) -> Sequence[LogRecord]:
        lane = self._lane(partition, start)
        started_s = time.monotonic()
        while not lane.held:
            waited_s = time.monotonic() - started_s
            if waited_s >= timeout_s or (waited_s >= _GRACE_S and self._stopping()):
                return []
            self._fetch(partition, min(_SLICE_S, timeout_s - waited_s))
        found = [_record(lane.pop()) for _ in range(len(lane.held))]
        lane.at = found[-1].offset + 1
        return found

    def _lane(self, partition: int, start: int) -> _Lane:
        """The partition, ready to be read from `start`."""
        partitions = self._open()
        lane = self._lanes.get(partition)
        if lane is None or not lane.skip_to(start):
            lane = self._lanes[partition] = _Lane(start, start)
            partitions.move({partition: start})
        elif partition not in partitions.reached:
            partitions.move({partition: lane.reached})  # it was given up when too much was held
        return lane

    def _await(self, partition: int, lane: _Lane) -> None:
        """Until there is more of this partition. Waits while the broker is away."""
        started_s = heard_s = time.monotonic()
        reached = lane.reached
        while lane.reached == reached:
            self._fetch(partition, _SLICE_S)
            if self._stopping():
                raise Stopped
            now_s = time.monotonic()
            if now_s - started_s > self._config.broker_wait_s + _SILENT_S:
                raise BrokerGone(
                    f"{self.topic} partition {partition}: nothing more came after offset {lane.at}"
                )
            if now_s - heard_s > _SILENT_S:
                self.bounds()
                heard_s = time.monotonic()

    def _fetch(self, partition: int, timeout_s: float) -> None:
        partitions = self._open()
        if partition not in partitions.reached:
            partitions.move({partition: self._lanes[partition].reached})
        found, trouble = partitions.take(_RECORDS_MAX, timeout_s)
        for p, records in found.items():
            self._lanes[p].add(records)
        for p, reached in partitions.reached.items():
            self._lanes[p].reached = reached
        if trouble is not None and trouble.name() in OUTSIDE:
            raise SourceGone(
                f"{self.topic} partition {partition}: offset {self._lanes[partition].at} is no longer there"
            )
        self._hold_less(partition)

    def _hold_less(self, partition: int) -> None:
        """Beyond the limit, fetch no more of the fullest partitions until what is held of them is used up."""
        partitions = self._open()
        others = [p for p in partitions.reached if p != partition]
        if sum(lane.held_bytes for lane in self._lanes.values()) > _HELD_BYTES_MAX and others:
            partitions.drop([max(others, key=lambda p: self._lanes[p].held_bytes)])

    def close(self) -> None:
        if self._partitions is not None:
            self._partitions.close()
            self._partitions, self._names, self._lanes, self._known = None, [], {}, {}


def headers_of(messages: Sequence[Message]) -> list[Headers | None]:
    """Of each message, once; None where a name is not text: whoever wrote it, it must not stop the engine.

    There the library gives a broken list *and* an error, which only a call from C notices, and only the first
    one: called from Python, or twice, the process ends with a segmentation fault. So map() calls, and goes on.
    """
    found: list[Headers | None] = []
    calls = map(_HEADERS, messages)
    while len(found) < len(messages):
        try:
            found.extend(calls)
        except (SystemError, UnicodeDecodeError):
            found.append(None)
    return found


def _record(message: Message) -> LogRecord:
    (headers,) = headers_of([message])
    return LogRecord(offset_of(message), message.key(), message.value(), headers or ())
