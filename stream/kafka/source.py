"""Behaviour events from a Kafka topic: one engine of a group works, the others stand by.

Theory of operation. The consumer group decides only *who* works (`kafka_group`); *what* was done is in the
manifests, and the engine says with seek() where to go on. So nothing is ever committed here, no offset is
ever reset, and after a lost membership this process ends: the next one starts from the last manifest.

Always true: a partition is fetched only between seek() and the loss of membership; the ranges of two polls
touch each other; no records are handed out while the group re-balances, so a commit never meets a new
generation by surprise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    IllegalStateError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from kafka.structs import ConsumerGroupMetadata, MemberState

from ..config import Kafka
from ..events import Range, Records
from ..ports import START_OVER, Phase, SourceGone, nothing
from ..sources import join
from .ahead import BYTES_MAX as AHEAD_BYTES_MAX
from .ahead import Ahead
from .chunks import to_records as chunks_to_records
from .client import (
    REFUSED,
    Patience,
    close_quietly,
    make,
    reading_errors,
    refused,
    wait_for_broker,
)
from .columns import use_columns
from .group import Beside, OneOwner, Ownership, keep_joining, other_client, session_refused
from .place import Place
from .reader import FETCH, Reader, to_records
from .settings import settings
from .watch import Watch, outside

__all__ = ["KafkaSource", "wait_for_broker"]

log = logging.getLogger("shoal")

_JOIN_POLL_MS = 100
_HEARTBEAT_MS_MAX = 300
"""A member hears with a heartbeat's answer that another one left: this is a part of every takeover."""
_STANDBY_POLLS = 5
_FOLLOW_EVERY_S = 0.25
_WARM_TURN_S = 0.4  # a turn that is over sooner did not end for lack of time: it caught up
_KEEP_EVERY_S = 1.0
_CLOSE_S = 2.0  # with the sink's, less than the 5 s in which a stop must be over

Poll = tuple[Records, tuple[Range, ...]]


class KafkaSource(Place):
    """All partitions of the input topic, or none: see the head of this module.

    `read` works without `open` (it joins no group); everything else needs `open` and `seek` first.
    Memory: at most two fetches of 32 MiB per broker, whatever the lag; 32 MiB more while steps are replayed.
    """

    finite = False
    wall_clock = True

    def __init__(self, config: Kafka, on_phase: Callable[[Phase], None] | None = None) -> None:
        super().__init__(config, on_phase)
        self._consumer: KafkaConsumer | None = None
        self._owner = OneOwner()
        self._ownership = Ownership(self._owner)
        self._next: dict[int, int] = {}  # partition -> next offset to hand out
        self._unrecorded: dict[int, int] = {}  # partition -> where it begins, not yet in any step's ranges
        self._kept_s = 0.0
        self._followed_s = 0.0
        self._following = False
        self._to_records: Callable[[int, Sequence[Any]], Records] = to_records
        self._reader: Reader | None = None
        self._ahead: dict[int, Ahead] = {}

    # --- becoming the one that works ----------------------------------------------------------------------

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        """Raises BrokerGone, TopicsMissing, ConfigError (refused), SourceGone (another topic by that name)."""
        self._stopping = stopping
        patience = Patience(self._config, stopping)
        while not stopping():
            try:
                return (
                    self._look_at_topics() and self._subscribe() and self._wait_for_turn(meanwhile, patience)
                )
            except REFUSED as error:
                raise refused(self._config, error) from None
            except InconsistentGroupProtocolError:
                raise other_client(self._config) from None
            except InvalidSessionTimeoutError:
                raise session_refused(self._config) from None
            except (KafkaError, TimeoutError) as error:  # it went away again, or is only just coming up
                self._leave()
                patience.pause(error)
        return False

    def _subscribe(self) -> bool:
        config = self._config
        self._ownership = Ownership(self._owner)
        self._consumer = make(
            KafkaConsumer,
            **settings(config),
            **FETCH,
            group_id=config.group_id,
            partition_assignment_strategy=[self._owner],
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=min(_HEARTBEAT_MS_MAX, config.session_timeout_ms // 4),
        )
        self._to_records = chunks_to_records if use_columns(self._consumer) else to_records
        self._consumer.subscribe([self._topic], listener=self._ownership)
        self._watch = Watch(
            config, self._consumer, self._partitions, self.mark, self._stopping, self.on_phase
        )
        return True

    def _wait_for_turn(self, meanwhile: Callable[[], None], patience: Patience) -> bool:
        """Join, and stand by until all partitions are ours. False when told to stop."""
        assert self._watch is not None
        wanted = set(self._names)
        idle_polls = 0  # as a member of a settled group, without partitions
        while not self._stopping():
            self._join(_JOIN_POLL_MS)
            if wanted <= self._ownership.partitions:
                self._ownership.grown = False  # the first assignment may come in parts
                log.info("this engine works: it has all %d partitions of %s", len(wanted), self._topic)
                return True
            idle_polls += self._is_stable()
            if idle_polls == _STANDBY_POLLS:
                self.on_phase(Phase.STANDBY)
                log.info("standing by: another engine of group %s works", self._config.group_id)
            self._watch.look({})
            if idle_polls >= _STANDBY_POLLS:
                patience.renew()
                self._follow(meanwhile)
        return False

    def _follow(self, meanwhile: Callable[[], None]) -> None:
        """A turn of following, now and then. The group is looked after beside it: a turn that takes long (a
        snapshot is loaded) delays neither our turn nor, in a group that waits for all its members, another's."""
        if time.monotonic() - self._followed_s < _FOLLOW_EVERY_S:
            return
        self._followed_s = time.monotonic()
        self._following = True
        try:
            with Beside(lambda: self._join(_JOIN_POLL_MS)):
                meanwhile()
        finally:
            self._following = False
        self._owner.warm = time.monotonic() - self._followed_s < _WARM_TURN_S

    def _join(self, timeout_ms: int) -> None:
        """Let the group do its work. Nothing is fetched, or it is fetched again after seek()."""
        assert self._consumer is not None
        self._pause_all()
        with suppress(NoOffsetForPartitionError):  # assigned, and seek() has not come yet
            self._polled(timeout_ms, 1)
        self._pause_all()

    def _pause_all(self) -> None:
        assert self._consumer is not None
        for tp in self._consumer.assignment():
            with suppress(KeyError):  # taken away this very moment, on the client's I/O thread
                self._consumer.pause(tp)

    def _keep_place(self) -> None:
        """While recorded steps are computed again, the group must still hear of us."""
        assert self._consumer is not None
        if self._following or time.monotonic() - self._kept_s < _KEEP_EVERY_S:
            return
        self._kept_s = time.monotonic()
        with reading_errors(self._config, self._topic):
            self._join(0)
        self._check_ownership()
        if self._next:
            with self._still_ours():
                self._consumer.resume(*self._consumer.assignment())

    def _is_stable(self) -> bool:
        assert self._consumer is not None
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def group_metadata(self) -> ConsumerGroupMetadata:
        """Who we are in the group, for the commit. Raises CommitUnknown when we are nobody."""
        assert self._consumer is not None, "open before group_metadata"
        self._check_ownership()
        metadata = self._consumer.group_metadata()
        if not metadata.member_id:
            self._explain_loss()
        return metadata

    # --- the work -----------------------------------------------------------------------------------------

    def seek(self, positions: Mapping[int, int]) -> None:
        assert self._consumer is not None, "open before seek"
        assert self._watch is not None
        self._check_known(positions)
        self._unrecorded = {}
        self._ahead.clear()  # replay is over
        for p, (first, end) in self._bounds().items():
            tp, offset = TopicPartition(self._topic, p), positions.get(p, first)
            if p not in positions:
                self._unrecorded[p] = offset
            if not first <= offset <= end:
                raise outside(tp, offset, first, end)
            with self._still_ours():
                self._consumer.seek(tp, offset)
            self._next[p] = offset
        with self._still_ours():
            self._consumer.resume(*self._partitions)
        self._watch.phase = Phase.RUNNING

    @property
    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p) for p in self._names]

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        assert self._watch is not None, "open before poll"
        found = self._fetch(max_records, int(timeout_s * 1000))
        while not found and not self._is_stable() and not self._stopping():
            self._watch.look(self._next)
            found = self._fetch(max_records, _JOIN_POLL_MS)  # the group re-balances: wait until it has
        if not found:
            self._watch.look(self._next)
            return Records.empty(), ()
        self._watch.heard()
        return self._collect(found)

    def _fetch(self, max_records: int, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        assert self._consumer is not None
        assert self._watch is not None
        found: dict[TopicPartition, list[Any]] = {}
        try:
            with reading_errors(self._config, self._topic):
                found = self._polled(timeout_ms, max_records)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            with suppress(KafkaError, TimeoutError):  # knows the bounds, if there is an answer
                self._watch.check(self._next)
            raise SourceGone(
                f"{self._topic} was truncated while it was read ({error}): {START_OVER}"
            ) from None
        except NoOffsetForPartitionError:
            pass  # partitions that came while working: told below
        self._check_ownership()
        return found

    def _polled(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        assert self._consumer is not None
        try:
            found: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms, max_records=max_records)
        finally:
            keep_joining(self._consumer)
        return found

    @contextmanager
    def _still_ours(self) -> Iterator[None]:
        """Around one call about assigned partitions: the client's I/O thread may take them away before it."""
        try:
            yield
        except (IllegalStateError, KeyError, ValueError):
            self._explain_loss()

    def _check_ownership(self) -> None:
        if self._ownership.lost:
            self._explain_loss()
        if self._ownership.grown:
            raise SourceGone(
                f"{self._topic} was re-partitioned while it was read: users would change partitions, and the "
                f"order of their events would be lost. Restore it, or {START_OVER}"
            )

    def _collect(self, found: Mapping[TopicPartition, list[Any]]) -> Poll:
        """The first step also says, with empty ranges, where partitions without a record begin: a restart can
        tell when retention deletes something there that was never read."""
        parts = []
        ranges = {p: Range(p, start, start) for p, start in self._unrecorded.items()}
        self._unrecorded = {}
        for tp in sorted(found):
            start, self._next[tp.partition] = self._next[tp.partition], self._position(tp)
            parts.append(self._to_records(tp.partition, found[tp]))
            ranges[tp.partition] = Range(tp.partition, start, self._next[tp.partition])
        return join(parts), tuple(sorted(ranges.values()))

    def _position(self, tp: TopicPartition) -> int:
        """Where the next fetch starts: after the last record, and after any markers behind it."""
        assert self._consumer is not None
        with self._still_ours():
            return int(self._consumer.position(tp, timeout_ms=0))

    def read(self, ranges: Sequence[Range]) -> Records:
        if self._consumer is not None:
            self._keep_place()
        self._check_events(ranges)
        if self._reader is None:
            self._reader = Reader(self._config, self._topic, self._stopping)
        return join(
            [to_records(r.partition, self._ahead_of(r.partition).read(r.start, r.end)) for r in ranges]
        )

    def _ahead_of(self, partition: int) -> Ahead:
        assert self._reader is not None
        if partition not in self._ahead:
            share = AHEAD_BYTES_MAX // max(1, len(self._reader.bounds()))
            self._ahead[partition] = Ahead(self._reader, partition, share)
        return self._ahead[partition]

    def lag(self) -> Mapping[int, int]:
        if self._consumer is None or not self._next:
            return {}
        return {tp.partition: self._lag(tp) for tp in self._partitions}

    def _lag(self, tp: TopicPartition) -> int:
        """0 for a partition that is not ours (any more): it is for the next poll to say so."""
        assert self._consumer is not None
        try:
            end = self._consumer.highwater(tp)
            return 0 if end is None else max(0, end - int(self._consumer.position(tp, timeout_ms=0)))
        except (IllegalStateError, KeyError):
            return 0

    def close(self) -> None:
        """Leave the group first, so that the next engine need not wait; never hangs."""
        self._leave()
        if self._reader is not None:
            self._reader.close()

    def _leave(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            close_quietly(lambda: consumer.close(autocommit=False, timeout_ms=1500), _CLOSE_S, "consumer")
