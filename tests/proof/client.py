"""The client side of the log in memory: what `stream/kafka/port.py` asks of a library, and a Source.

It does what kafka-python was seen to do. What was sent and not delivered stays in the producer, offsets that
were refused too: whoever uses it again after an error publishes them with the next step. With `lies` a commit
answers OK although the broker had aborted the transaction while the process was paused.

Labels of points begin with who is spoken to: `producer`, `log`, `source`. An effect stands between two points:
killed at the first it did not happen, killed at the second it did; a lost answer likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from shoal.stream.events import Range, Records
from shoal.stream.kafka.port import ClientError
from shoal.stream.ports import BrokerGone, CommitUnknown, SourceGone, nothing
from shoal.stream.sources import join

from .log import FakeKafka, Fenced, NoTransaction, StaleMember, Stored
from .points import Points

Sending = tuple[str, int, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


@dataclass
class Wire:
    """One process's way to the broker."""

    kafka: FakeKafka
    points: Points
    transactional_id: str
    transaction_timeout_s: float
    wait: Callable[[], None]  # a short moment passes, in which others may work
    lies: bool = False

    def say(self, label: str, call: Callable[[], Any]) -> Any:
        """A request and its answer; either may be lost at its point."""
        self.points.reach(f"{label} asked")
        try:
            answer = call()
        except Fenced as error:
            raise ClientError(f"ProducerFencedError: {error}", fenced=True) from None
        except (StaleMember, NoTransaction) as error:
            raise ClientError(f"{type(error).__name__}: {error}") from None
        self.points.reach(f"{label} answered")
        return answer


class FakeProducer:
    """A transactional producer; made, it has fenced all before it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue: list[Sending] = []
        self._offsets: dict[int, int] = {}
        self._begun = False
        self._epoch: int = wire.say(
            "producer: fence", lambda: wire.kafka.init(wire.transactional_id, wire.transaction_timeout_s)
        )

    def begin(self) -> None:
        self._begun = True

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        assert self._begun, "send outside of a transaction"
        at = self._wire.kafka.partition_of(topic, key) if partition is None else partition
        self._queue.append((topic, at, key, value, headers))

    def flush(self, timeout_s: float) -> None:
        """Batch by batch; what is delivered leaves the queue, the rest stays in it when one fails."""
        while self._queue:
            topic, partition = self._queue[0][:2]
            batch = [sent for sent in self._queue if sent[:2] == (topic, partition)]
            self.deliver(topic, partition, [sent[2:] for sent in batch])
            self._queue = [sent for sent in self._queue if sent[:2] != (topic, partition)]

    def deliver(self, topic: str, partition: int, records: Any) -> None:
        wire = self._wire
        wire.say(
            f"producer: batch {topic}",
            lambda: wire.kafka.append(wire.transactional_id, self._epoch, topic, partition, records),
        )

    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        wire = self._wire
        self._offsets.update(offsets)
        name, generation = member
        wire.say(
            "producer: offsets",
            lambda: wire.kafka.add_offsets(
                wire.transactional_id, self._epoch, name, generation, self._offsets
            ),
        )
        self._offsets = {}

    def commit(self, timeout_s: float) -> None:
        try:
            self._wire.say(
                "producer: commit", lambda: self._wire.kafka.end(self._wire.transactional_id, self._epoch)
            )
        except ClientError as error:
            if not (self._wire.lies and error.fenced):
                raise
        self._begun = False

    def close(self) -> None:
        self._queue = []


class FakeLog:
    """Committed records of one topic."""

    def __init__(self, wire: Wire, topic: str) -> None:
        self._wire = wire
        self._topic = topic

    def bounds(self) -> dict[int, tuple[int, int]]:
        self._wire.points.reach(f"log: bounds of {self._topic}")
        return {p: (0, part.stable) for p, part in enumerate(self._wire.kafka.topic(self._topic))}

    def read(self, partition: int, start: int, end: int) -> Iterator[Stored]:
        self._wire.points.reach(f"log: read {self._topic}")
        yield from self._wire.kafka.topic(self._topic)[partition].read(start, end)

    def tail(self, partition: int, start: int, timeout_s: float) -> Sequence[Stored]:
        clock, part = self._wire.kafka.clock, self._wire.kafka.topic(self._topic)[partition]
        self._wire.points.reach(f"log: tail of {self._topic}")
        until_s = clock.now_s + timeout_s
        while not (found := list(part.read(start, part.stable))) and clock.now_s < until_s:
            self._wire.wait()
        return found

    def close(self) -> None:
        pass


class FakeClient:
    producer_class = FakeProducer

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def producer(self) -> FakeProducer:
        try:
            return self.producer_class(self._wire)
        except ClientError as error:
            raise BrokerGone(f"no answer: {error}") from None

    def log(self, topic: str) -> FakeLog:
        return FakeLog(self._wire, topic)


class FakeSource:
    """The input topic, for one engine of the group. Where steps are cut is the dice's choice.

    As in the real one a lost membership ends the process when it polls; `group_metadata` does not notice.
    """

    finite = False
    wall_clock = True

    def __init__(self, wire: Wire, topic: str, name: str, dice: Random) -> None:
        self._wire = wire
        self._group = wire.kafka.group
        self._parts = wire.kafka.topic(topic)
        self._name = name
        self._dice = dice
        self._member = ""
        self._generation = 0
        self._next: dict[int, int] = {}
        self._unrecorded: set[int] = set()
        self.mark = wire.kafka.mark

    @property
    def member(self) -> str:
        return self._member

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        self._reach("source: join")
        while not stopping():
            if not self._group.knows(self._member):
                self._member = self._group.join(self._name)
            if self._group.owner == self._member:
                self._generation = self._group.generation
                return True
            self._wire.wait()
            self._reach("source: stand by")
            meanwhile()
        return False

    def group_metadata(self) -> tuple[str, int]:
        return self._member, self._generation

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        return {p: min(positions.get(p, 0), part.stable) for p, part in enumerate(self._parts)}

    def seek(self, positions: Mapping[int, int]) -> None:
        self._reach("source: seek")
        for partition, part in enumerate(self._parts):
            at = positions.get(partition, 0)
            if at > part.stable:
                raise SourceGone(f"partition {partition} ends at {part.stable}, wanted {at}")
            self._next[partition] = at
        self._unrecorded = set(range(len(self._parts))) - set(positions)

    def poll(self, max_records: int, timeout_s: float) -> tuple[Records, tuple[Range, ...]] | None:
        self._reach("source: poll")
        self._check()
        found = self._fetch(self._dice.randint(max_records // 2, max_records) if self._rest() else 0)
        if not any(records for records, _ in found.values()):
            if timeout_s:
                self._wire.wait()
            self._check()
            return Records.empty(), ()
        ranges = [Range(p, self._next[p], at) for p, (_, at) in found.items()]
        ranges += [Range(p, self._next[p], self._next[p]) for p in self._unrecorded - set(found)]
        self._unrecorded = set()
        self._next.update({p: at for p, (_, at) in found.items()})
        return join([columns(p, records) for p, (records, _) in found.items()]), tuple(sorted(ranges))

    def _rest(self) -> bool:
        """Whether anything is handed out in this turn."""
        return self._dice.random() < 0.95

    def _fetch(self, count: int) -> dict[int, tuple[list[Stored], int]]:
        """partition -> some next records, and the position after them and any markers behind them."""
        found = {}
        for p in self._dice.sample(range(len(self._parts)), len(self._parts)):
            part = self._parts[p]
            records = list(islice(part.read(self._next[p], part.stable), count))
            count -= len(records)
            if records:
                found[p] = (records, part.past_unseen(records[-1].offset + 1))
        return dict(sorted(found.items()))

    def read(self, ranges: Sequence[Range]) -> Records:
        self._reach("source: read")
        for r in ranges:
            if r.partition >= len(self._parts) or r.end > self._parts[r.partition].stable:
                raise SourceGone(f"{r} is not in the log")
        return join([columns(r.partition, self._parts[r.partition].read(r.start, r.end)) for r in ranges])

    def lag(self) -> Mapping[int, int]:
        return {p: len(part) - self._next.get(p, 0) for p, part in enumerate(self._parts)}

    def close(self) -> None:
        self._reach("source: leave")
        self._group.leave(self._member)

    def _reach(self, label: str) -> None:
        self._wire.points.reach(label)

    def _check(self) -> None:
        if self._group.owner != self._member:
            raise CommitUnknown("the group took the partitions away", broker_away=True)


def columns(partition: int, found: Any) -> Records:
    records = list(found)
    return Records(
        np.full(len(records), partition, np.int32),
        np.array([record.offset for record in records], np.int64),
        [record.key for record in records],
        [record.value for record in records],
    )
