"""A broker in memory with the semantics that transactions rest on, and nothing else of Kafka.

Partitions hold records and transaction markers, both take offsets. A read_committed reader sees records of
committed transactions up to the last stable offset: the first record of the oldest transaction still open.
A transactional id has one producer id and an epoch; `init` raises the epoch, so that the producer before it
is fenced, aborts what it left open, and completes what it had decided to commit. A transaction open for longer
than its timeout is aborted and its producer fenced. The decision to commit is durable at once; with
`markers_late` the markers, and with them visibility, come a moment after the answer.

A consumer group has one owner; silence beyond the session timeout ends a membership. Offsets sent into a
transaction are refused when they come from another generation, and count when the transaction commits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .clock import FakeClock

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"
MARKERS_AFTER_S = 0.02


class Fenced(Exception):
    """The epoch is not the newest one of this transactional id."""


class StaleMember(Exception):
    """The group has another generation, or does not know this member."""


class NoTransaction(Exception):
    """There is nothing to end."""


@dataclass(eq=False, slots=True)
class Transaction:
    state: str = OPEN


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as a reader gets it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class _Entry:
    record: Stored | None  # None: a transaction marker
    transaction: Transaction | None


class Partition:
    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._open: dict[Transaction, int] = {}  # -> its first offset here

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stable(self) -> int:
        """The last stable offset: where read_committed readers stop."""
        return min(self._open.values(), default=len(self._entries))

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        transaction: Transaction | None = None,
    ) -> None:
        offset = len(self._entries)
        self._entries.append(_Entry(Stored(offset, key, value, tuple(headers)), transaction))
        if transaction is not None:
            self._open.setdefault(transaction, offset)

    def mark(self, transaction: Transaction) -> None:
        """The marker that ends a transaction here; it takes an offset."""
        self._open.pop(transaction, None)
        self._entries.append(_Entry(None, transaction))

    def read(self, start: int, end: int, committed: bool = True) -> Iterator[Stored]:
        """Records of [start, end) in order: visible ones, or all that were ever stored."""
        for entry in self._entries[start : min(end, self.stable if committed else len(self))]:
            if entry.record is not None and (not committed or _is_committed(entry)):
                yield entry.record

    def rewrite(self, offset: int, value: bytes | None) -> None:
        """What no log should do: a record that was read is another one now."""
        entry = self._entries[offset]
        assert entry.record is not None, f"offset {offset} holds a marker"
        entry.record = replace(entry.record, value=value)

    def past_unseen(self, offset: int) -> int:
        """The first offset from here on that holds a visible record, or the last stable offset."""
        while offset < self.stable:
            entry = self._entries[offset]
            if entry.record is not None and _is_committed(entry):
                break
            offset += 1
        return offset


def _is_committed(entry: _Entry) -> bool:
    return entry.transaction is None or entry.transaction.state == COMMITTED


@dataclass
class _Coordinator:
    """One transactional id."""

    producer_id: int
    timeout_s: float
    epoch: int = -1
    transaction: Transaction | None = None
    committing_s: float | None = None  # when the decision to commit was made, while markers are missing
    started_s: float = 0.0
    partitions: dict[tuple[str, int], Partition] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)


class Group:
    """A consumer group with one owner: the member that has it already, else the lowest id."""

    def __init__(self, clock: FakeClock, session_timeout_s: float) -> None:
        self._clock = clock
        self._session_timeout_s = session_timeout_s
        self._heard_s: dict[str, float] = {}
        self._joined = 0
        self.generation = 0
        self.owner: str | None = None
        self.offsets: dict[int, int] = {}

    def join(self, name: str) -> str:
        self._joined += 1
        member = f"{name}-{self._joined}"
        self._heard_s[member] = self._clock.now_s
        self._settle()
        return member

    def heard(self, member: str) -> None:
        if member in self._heard_s:
            self._heard_s[member] = self._clock.now_s

    def leave(self, member: str) -> None:
        self._heard_s.pop(member, None)
        self._settle()

    def knows(self, member: str) -> bool:
        return member in self._heard_s

    def expire(self) -> None:
        deadline_s = self._clock.now_s - self._session_timeout_s
        silent = [member for member, heard_s in self._heard_s.items() if heard_s < deadline_s]
        for member in silent:
            del self._heard_s[member]
        if silent:
            self._settle()

    def _settle(self) -> None:
        if self.owner not in self._heard_s:
            self.owner = min(self._heard_s, default=None)
            self.generation += 1

    def check(self, member: str, generation: int) -> None:
        if member not in self._heard_s or generation != self.generation:
            raise StaleMember(f"{member} of generation {generation}; now {self.generation}")


class FakeKafka:
    """Topics, producers and one group. Time moves by the clock alone."""

    def __init__(
        self,
        clock: FakeClock,
        session_timeout_s: float,
        partitions: int = 2,
        markers_late: bool = False,
    ) -> None:
        self.clock = clock
        self.group = Group(clock, session_timeout_s)
        self.partitions = partitions
        self.markers_late = markers_late
        self.mark = "input-1"
        self._topics: dict[str, list[Partition]] = {}
        self._coordinators: dict[str, _Coordinator] = {}
        clock.watch(self.tick)

    def topic(self, name: str) -> list[Partition]:
        """The partitions of a topic; it is made when it is first asked for."""
        if name not in self._topics:
            count = 1 if name.endswith("manifest") else self.partitions
            self._topics[name] = [Partition() for _ in range(count)]
        return self._topics[name]

    @property
    def topics(self) -> Mapping[str, list[Partition]]:
        return self._topics

    def partition_of(self, topic: str, key: bytes | None) -> int:
        """Where a record goes by its key. Any fixed hash does here."""
        return zlib.crc32(key or b"") % len(self.topic(topic))

    # --- transactions -----------------------------------------------------------------------------------------

    def init(self, name: str, timeout_s: float) -> int:
        """Fence all earlier producers of this transactional id; the epoch of the new one."""
        found = self._coordinators.setdefault(name, _Coordinator(len(self._coordinators) + 1, timeout_s))
        self._settle(found)
        found.epoch += 1
        found.timeout_s = timeout_s
        return found.epoch

    def append(
        self,
        name: str,
        epoch: int,
        topic: str,
        partition: int,
        records: Sequence[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]],
    ) -> None:
        """One batch of an open transaction, which it opens if need be. Raises Fenced."""
        coordinator = self._checked(name, epoch)
        transaction = self._opened(coordinator)
        log = coordinator.partitions.setdefault((topic, partition), self.topic(topic)[partition])
        for key, value, headers in records:
            log.append(key, value, headers, transaction)

    def add_offsets(
        self, name: str, epoch: int, member: str, generation: int, offsets: Mapping[int, int]
    ) -> None:
        """Raises Fenced, StaleMember."""
        coordinator = self._checked(name, epoch)
        self.group.check(member, generation)
        self._opened(coordinator)
        coordinator.offsets.update(offsets)

    def end(self, name: str, epoch: int) -> None:
        """Commit. Raises Fenced, NoTransaction."""
        coordinator = self._checked(name, epoch, settle=False)
        if coordinator.committing_s is not None:
            return  # asked again: decided already
        if coordinator.transaction is None:
            raise NoTransaction(name)
        coordinator.committing_s = self.clock.now_s
        if not self.markers_late:
            self._settle(coordinator)

    def abort_open(self) -> bool:
        """The broker gives up every open transaction and fences its producer, as after a timeout."""
        found = [c for c in self._coordinators.values() if c.transaction and c.committing_s is None]
        for coordinator in found:
            self._settle(coordinator)
            coordinator.epoch += 1
        return bool(found)

    def tick(self) -> None:
        """What time alone does: transactions expire, late markers arrive, silent members are given up."""
        now_s = self.clock.now_s
        for coordinator in self._coordinators.values():
            if coordinator.committing_s is not None:
                if now_s - coordinator.committing_s >= MARKERS_AFTER_S:
                    self._settle(coordinator)
            elif coordinator.transaction and now_s - coordinator.started_s > coordinator.timeout_s:
                self._settle(coordinator)
                coordinator.epoch += 1
        self.group.expire()

    def settle_all(self) -> None:
        """Every decision to commit has reached every partition."""
        for coordinator in self._coordinators.values():
            if coordinator.committing_s is not None:
                self._settle(coordinator)

    def _checked(self, name: str, epoch: int, settle: bool = True) -> _Coordinator:
        coordinator = self._coordinators[name]
        if epoch != coordinator.epoch:
            raise Fenced(f"epoch {epoch}, now {coordinator.epoch}")
        if settle and coordinator.committing_s is not None:
            self._settle(coordinator)
        return coordinator

    def _opened(self, coordinator: _Coordinator) -> Transaction:
        if coordinator.transaction is None:
            coordinator.transaction = Transaction()
            coordinator.started_s = self.clock.now_s
        return coordinator.transaction

    def _settle(self, coordinator: _Coordinator) -> None:
        """End the open transaction, as was decided: committed if that was asked for, else aborted."""
        transaction = coordinator.transaction
        if transaction is None:
            return
        commit = coordinator.committing_s is not None
        transaction.state = COMMITTED if commit else ABORTED
        if commit:
            self.group.offsets.update(coordinator.offsets)
        for partition in coordinator.partitions.values():
            partition.mark(transaction)
        coordinator.transaction = coordinator.committing_s = None
        coordinator.partitions, coordinator.offsets = {}, {}
