"""Shoal's topics in Kafka, committed records only, whichever client library wrote them. Fences nobody.

Two ends matter. What is read ends where a partition's committed records end now. But a transaction becomes
visible partition by partition, so a change can be seen a moment before the membership that was committed
with it. Memberships are therefore read up to the end of *all* records, those of open transactions too,
asked for after the changes' end: whoever waits until these are decided has seen what belongs to the changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from ..config import Kafka
from ..events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS
from ..kafka.client import bounded, close_quietly, connect, make, never, reading_errors
from ..kafka.reader import FETCH, Reader
from ..kafka.settings import settings
from ..ports import InputError, SourceGone, Stopped, TopicsMissing
from .facts import Positions, Record, Start

TOPICS = (LINEAGE, CATALOG, CHANGES)
_POLL_MS = 250
_RECORDS_MAX = 2000
_ASK_MS = 5_000
_CALL_S = 30.0
_SILENT_S = 30.0
_FETCH_WAIT_MS = 100

Offsets = dict[TopicPartition, int]


class KafkaReader:
    """All partitions of Shoal's topics, in one process, without a consumer group.

    With `group` the positions are kept in Kafka too, under that name, after everything that was polled has
    been taken: another process that begins without a snapshot goes on there. Partitions are not shared out.
    """

    def __init__(
        self,
        config: Kafka,
        *,
        topics: tuple[str, ...] = TOPICS,
        from_now: bool = True,
        follow: bool = True,
        group: str = "",
        stopping: Callable[[], bool] = never,
    ) -> None:
        """`from_now`: a new mirror begins with the members of now; otherwise with the first change that is still
        there. Not `follow`: ends where the topics end when it starts."""
        self._config = config
        self._topics = topics
        self._from_now = from_now
        self._follow = follow
        self._group = group
        self._stopping = stopping
        self._consumer: KafkaConsumer | None = None
        self._ends: Offsets = {}  # as they were at the start
        self._taken: Offsets = {}  # behind what was polled last, to be kept in the group
        self._lost = self._incomplete = False
        self._heard_s = time.monotonic()

    # --- the beginning ------------------------------------------------------------------------------------------

    def start(self, positions: Positions) -> Start:
        """Raises BrokerGone, ConfigError when refused, TopicsMissing, SourceGone, InputError for a mirror of a folder,
        Stopped when told to stop."""
        if MANIFEST in positions and MANIFEST not in self._topics:
            raise InputError("this mirror has followed a folder, not Kafka; start with a new one")
        self._connect()
        wanted = self._tell(positions)
        first, self._ends = self._ask("beginning_offsets"), self._ask("end_offsets")
        kept = {} if positions or not self._group else self._committed()
        bootstrap = self._from_now and not positions and not kept
        for tp in first:
            at = wanted.get(tp, kept.get(tp))
            if at is None:
                now = bootstrap and self._name(tp) == CHANGES
                at = self._ends[tp] if now else first[tp]
                self._incomplete |= not now and first[tp] > 0 and self._name(tp) == CHANGES
            self._lost |= at < first[tp]
            self._check(tp, at)
            wanted[tp] = max(at, first[tp])
        self._seek(wanted)
        whole = not (self._lost or kept or self._incomplete)
        self._lost = False
        return Start(self._told(wanted), whole, bootstrap)

    def _connect(self) -> None:
        admin = connect(self._config, self._stopping)
        if admin is None:
            raise Stopped
        close_quietly(admin.close, 2.0, "admin client")
        consumer = make(
            KafkaConsumer,
            **settings(self._config),
            **FETCH,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            group_id=self._group or None,
        )
        self._consumer = consumer
        consumer.assign([tp for topic in self._topics for tp in self._partitions(consumer, topic)])

    def _partitions(self, consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
        name = self._config.topic_prefix + topic
        found = bounded(lambda: consumer.partitions_for_topic(name) or set(), _CALL_S, "ask", self._stopping)
        if not found:
            raise TopicsMissing(
                f"there is no topic {name} at {self._config.bootstrap_servers}; is kafka.topic_prefix "
                f"{self._config.topic_prefix!r} that of the engine?"
            )
        return [TopicPartition(name, p) for p in sorted(found)]

    def _ask(self, what: str) -> Offsets:
        consumer = self._open
        partitions = list(consumer.assignment())
        return bounded(lambda: getattr(consumer, what)(partitions, _ASK_MS), _CALL_S, "ask", self._stopping)

    def _committed(self) -> Offsets:
        consumer = self._open
        found = bounded(
            lambda: {tp: consumer.committed(tp) for tp in consumer.assignment()},
            _CALL_S,
            "ask",
            self._stopping,
        )
        return {tp: offset for tp, offset in found.items() if offset is not None}

    def _check(self, tp: TopicPartition, at: int) -> None:
        if at > self._ends[tp]:
            raise SourceGone(
                f"{tp.topic} partition {tp.partition}: ends at {self._ends[tp]}, but this mirror has seen offset "
                f"{at - 1}: the topic was created again. Start with a new mirror"
            )

    def _seek(self, wanted: Offsets) -> None:
        for tp, at in wanted.items():
            self._open.seek(tp, at)

    @property
    def _open(self) -> KafkaConsumer:
        assert self._consumer is not None, "start comes first"
        return self._consumer

    def _name(self, tp: TopicPartition) -> str:
        name: str = tp.topic.removeprefix(self._config.topic_prefix)
        return name

    def _tell(self, positions: Positions) -> Offsets:
        prefix = self._config.topic_prefix
        ours = {topic: found for topic, found in positions.items() if topic in self._topics}
        return {
            TopicPartition(prefix + topic, p): at for topic, found in ours.items() for p, at in found.items()
        }

    def _told(self, offsets: Offsets) -> Mapping[str, Mapping[int, int]]:
        told: dict[str, dict[int, int]] = {}
        for tp, at in offsets.items():
            told.setdefault(self._name(tp), {})[tp.partition] = at
        return told

    # --- reading ------------------------------------------------------------------------------------------------

    def poll(self) -> list[Record] | None:
        self._keep()
        if self._stopping() or (not self._follow and self._caught_up()):
            return None
        found: Mapping[TopicPartition, list[Any]] = {}
        try:
            with reading_errors(self._config, self._config.topic_prefix + CHANGES):
                found = self._open.poll(_POLL_MS, max_records=_RECORDS_MAX)
        except (OffsetOutOfRangeError, LogTruncationError):
            self._find_again()
        self._listen(bool(found))
        if self._incomplete and self._caught_up():
            self._incomplete, self._lost = False, True
        self._taken |= {tp: records[-1].offset + 1 for tp, records in found.items()}
        order = sorted(found, key=lambda tp: (self._topics.index(self._name(tp)), tp.partition))
        return [_record(self._name(tp), record) for tp in order for record in found[tp]]

    def _caught_up(self) -> bool:
        """Transaction markers are passed without a record, so the library is asked where it stands."""
        return all(self._open.position(tp, timeout_ms=0) >= end for tp, end in self._ends.items())

    def _listen(self, heard: bool) -> None:
        """Silence is normal; a broker that is away is not. Raises BrokerGone after `kafka.broker_wait_s`."""
        now_s = time.monotonic()
        if heard:
            self._heard_s = now_s
        elif now_s - self._heard_s > _SILENT_S:
            admin = connect(self._config, self._stopping, quiet=True)
            if admin is not None:
                close_quietly(admin.close, 2.0, "admin client")
            self._heard_s = time.monotonic()

    def _find_again(self) -> None:
        """Retention was faster than this reader: go on with what there is."""
        first, ends = self._ask("beginning_offsets"), self._ask("end_offsets")
        for tp in first:
            at = self._open.position(tp, timeout_ms=0)
            if at is None or not first[tp] <= at <= ends[tp]:
                self._ends[tp] = ends[tp]
                self._check(tp, at or 0)
                self._open.seek(tp, first[tp])
                self._lost = True

    def _keep(self) -> None:
        if self._group and self._taken:
            offsets = {tp: OffsetAndMetadata(at, "", -1) for tp, at in self._taken.items()}
            consumer, self._taken = self._open, {}
            bounded(lambda: (consumer.commit(offsets),), _CALL_S, "commit", never)

    def lost(self) -> bool:
        lost, self._lost = self._lost, False
        return lost

    def members(self) -> Iterator[Record]:
        """Waits for transactions that are open when it is asked. Raises Stopped when told to stop."""
        ends = self._all_ends()
        with closing(Reader(self._config, self._config.topic_prefix + MEMBERS, self._stopping)) as reader:
            for partition, (first, _) in reader.bounds().items():
                for record in reader.read(partition, first, ends[partition]):
                    yield _record(MEMBERS, record)

    def _all_ends(self) -> dict[int, int]:
        """Ends of the members' partitions, open transactions included."""
        configs = {**FETCH, "isolation_level": "read_uncommitted"}
        consumer = make(KafkaConsumer, **settings(self._config), **configs)
        try:
            partitions = self._partitions(consumer, MEMBERS)
            found = bounded(lambda: consumer.end_offsets(partitions, _ASK_MS), _CALL_S, "ask", self._stopping)
            return {tp.partition: end for tp, end in found.items()}
        finally:
            close_quietly(lambda: consumer.close(autocommit=False, timeout_ms=1000), 2.0, "reader")

    def close(self) -> None:
        if self._consumer is not None:
            self._keep()
            consumer, self._consumer = self._consumer, None
            close_quietly(lambda: consumer.close(autocommit=False, timeout_ms=1000), 2.0, "reader")


def _record(topic: str, record: Any) -> Record:
    headers = tuple((name, value or b"") for name, value in record.headers or ())
    return Record(
        topic, record.key, record.value, headers, record.partition, record.offset, record.offset + 1
    )
