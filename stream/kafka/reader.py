"""Committed records of one topic, by offset: for replay, for manifests, for verification. Joins no group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from ..config import Kafka
from ..events import Records
from ..ports import START_OVER, BrokerGone, SourceGone, Stopped
from .chunks import TRACEPARENT_BYTES_MAX
from .client import REFUSED, Patience, bounded, broker_away, close_quietly, connect, make, never, refused
from .settings import settings

_POLL_MS = 250
_ASK_MS = 5_000
_FETCH_WAIT_MS = 50  # a broker answers nothing else on this connection while a fetch waits
_TAIL_RECORDS_MAX = 500
_SILENT_S = 5.0
_PAUSE_S = 0.05
_GRACE_S = 1.0
_PART_BYTES_MIN = 16 << 10
_CALL_S = 30.0  # the library gives up by itself long before
FETCH: dict[str, Any] = {
    "fetch_max_bytes": 32 << 20,
    "max_partition_fetch_bytes": 8 << 20,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
"""How every consumer of Shoal fetches: bytes, committed only, never resetting. At most 32 MiB per broker
are on their way, whatever the number of partitions."""


class Reader:
    """One topic, read where it is told to.

    Always true between calls: every partition is assigned and has a position; all are paused, but one that
    `tail` follows.
    """

    def __init__(self, config: Kafka, topic: str, stopping: Callable[[], bool] = never) -> None:
        self.topic = topic
        self._config = config
        self._stopping = stopping
        self._consumer: KafkaConsumer | None = None
        self._first: dict[int, int] = {}
        self._end: dict[int, int] = {}
        self._tail: tuple[int, int] | None = None  # partition and next offset, while nothing else moved it

    def open(self) -> None:
        """Connect. Raises BrokerGone, ConfigError when refused, SourceGone when there is no such topic."""
        if self._consumer is None:
            self._patiently(self._connect, "connect")

    def _patiently(self, call: Callable[[], object], what: str) -> None:
        """The call, again and again while the broker is away."""
        patience = Patience(self._config, self._stopping)
        while True:
            try:
                bounded(lambda: (call(),), _CALL_S, what, self._stopping)
                return
            except REFUSED as error:
                self.close()
                raise refused(self._config, error) from None
            except (KafkaError, TimeoutError) as error:
                if what == "connect":
                    self.close()
                if not patience.pause(error):
                    raise Stopped from None

    def _connect(self) -> None:
        consumer = make(KafkaConsumer, **settings(self._config), **FETCH, fetch_max_wait_ms=_FETCH_WAIT_MS)
        self._consumer = consumer
        found = sorted(consumer.partitions_for_topic(self.topic))
        if not found:
            raise SourceGone(f"there is no topic {self.topic} at {self._config.bootstrap_servers}")
        _share_memory(consumer, len(found))
        partitions = [TopicPartition(self.topic, p) for p in found]
        consumer.assign(partitions)
        self._first = {tp.partition: o for tp, o in consumer.beginning_offsets(partitions, _ASK_MS).items()}
        for tp in partitions:
            consumer.seek(tp, self._first[tp.partition])
        consumer.pause(*partitions)
        self._ask_ends()

    def _ask_ends(self) -> None:
        assert self._consumer is not None
        partitions = [TopicPartition(self.topic, p) for p in sorted(self._first)]
        self._end = {tp.partition: o for tp, o in self._consumer.end_offsets(partitions, _ASK_MS).items()}

    def bounds(self) -> dict[int, tuple[int, int]]:
        """partition -> first offset that is still there, and the end of what is committed now."""
        self.open()
        self._patiently(self._ask_ends, "ask")
        return {p: (self._first[p], self._end[p]) for p in sorted(self._first)}

    def end(self, partition: int) -> int:
        """The end of what was committed when it was last asked for: no request is made."""
        return self._end[partition]

    def check(self, partition: int, start: int, end: int) -> None:
        """Raises SourceGone unless all of [start, end) is inside the log."""
        self.open()
        if partition not in self._first:
            raise SourceGone(
                f"{self.topic} has {len(self._first)} partitions, but partition {partition} was read before: the "
                f"topic was created again. Restore it, or {START_OVER}"
            )
        if end > self._end[partition]:
            self._patiently(self._ask_ends, "ask")
        first, last = self._first[partition], self._end[partition]
        if start < first or end > last:
            raise SourceGone(
                f"{self.topic} partition {partition}: offsets [{start}, {end}) were read before, but the log now "
                f"holds [{first}, {last}): it was truncated, or created again. Restore it and raise its retention, "
                f"or {START_OVER}"
            )

    def read(self, partition: int, start: int, end: int) -> Iterator[Any]:
        """ConsumerRecords of [start, end) in order; offsets of transaction markers are not records."""
        self.open()
        assert self._consumer is not None
        self._tail = None
        consumer, tp = self._consumer, TopicPartition(self.topic, partition)
        at = consumer.position(tp, timeout_ms=0)
        if at != start:
            consumer.seek(tp, start)
            at = start
        consumer.resume(tp)
        try:
            while at < end:
                batch = self._poll(tp, at, end - at)
                yield from (record for record in batch if record.offset < end)
                at = consumer.position(tp, timeout_ms=0)
        finally:
            consumer.pause(tp)

    def _fetch(self, tp: TopicPartition, at: int, timeout_ms: int, count: int) -> list[Any]:
        assert self._consumer is not None
        try:
            found: list[Any] = self._consumer.poll(timeout_ms, max_records=count).get(tp, [])
            return found
        except (OffsetOutOfRangeError, LogTruncationError):
            raise SourceGone(
                f"{self.topic} partition {tp.partition}: offset {at} is no longer there"
            ) from None
        except REFUSED as error:
            raise refused(self._config, error) from None
        except KafkaError as error:
            if broker_away(error):
                time.sleep(_PAUSE_S)
                return []
            raise BrokerGone(
                f"{self.topic} partition {tp.partition} cannot be read at offset {at}: {error}"
            ) from None

    def _poll(self, tp: TopicPartition, at: int, count: int) -> list[Any]:
        """Records, or nothing after the position moved over markers. Waits while the broker is away."""
        assert self._consumer is not None
        started_s = heard_s = time.monotonic()
        while True:
            batch = self._fetch(tp, at, _POLL_MS, count)
            if batch or self._consumer.position(tp, timeout_ms=0) > at:
                return batch
            if self._stopping():
                raise Stopped
            now_s = time.monotonic()
            if now_s - started_s > self._config.broker_wait_s + _SILENT_S:
                raise BrokerGone(
                    f"{self.topic} partition {tp.partition}: nothing more came after offset {at}"
                )
            if now_s - heard_s > _SILENT_S:
                self._ask_whether_alive()
                heard_s = time.monotonic()

    def tail(self, partition: int, start: int, timeout_s: float) -> Sequence[Any]:
        """ConsumerRecords at `start` and after, as soon as there are any; none when the time is over."""
        self.open()
        assert self._consumer is not None
        consumer, tp = self._consumer, TopicPartition(self.topic, partition)
        if self._tail != (partition, start):  # else it stands there, or behind markers that follow
            consumer.seek(tp, start)
        consumer.resume(tp)
        found = self._await(tp, start, timeout_s)
        self._tail = partition, found[-1].offset + 1 if found else start
        return found

    def _await(self, tp: TopicPartition, start: int, timeout_s: float) -> list[Any]:
        started_s = time.monotonic()
        while True:
            left_ms = max(0, int((timeout_s - (time.monotonic() - started_s)) * 1000))
            found = self._fetch(tp, start, min(_POLL_MS, left_ms), _TAIL_RECORDS_MAX)
            if found:
                return found + self._fetch(tp, start, 0, _TAIL_RECORDS_MAX)  # asks for what comes next
            waited_s = time.monotonic() - started_s
            if waited_s >= timeout_s or (waited_s >= _GRACE_S and self._stopping()):
                return []

    def _ask_whether_alive(self) -> None:
        admin = connect(self._config, self._stopping)
        if admin is not None:
            close_quietly(admin.close, 2.0, "admin client")

    def close(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            close_quietly(lambda: consumer.close(autocommit=False, timeout_ms=1000), 2.0, "reader")


def _share_memory(consumer: Any, partitions: int) -> None:
    """What was fetched of one partition and not used waits in memory while others are read: all of it together
    must not be more than one fetch. The library fixes a partition's part before the topic is known."""
    part_bytes = max(_PART_BYTES_MIN, FETCH["fetch_max_bytes"] // partitions)
    consumer._fetcher.config["max_partition_fetch_bytes"] = min(
        part_bytes, FETCH["max_partition_fetch_bytes"]
    )


def to_records(partition: int, found: Sequence[Any]) -> Records:
    """kafka-python's records of one partition as columns; bytes stay as they are."""
    n = len(found)
    traceparents = {
        row: value
        for row, record in enumerate(found)
        if record.headers
        for name, value in record.headers
        if name == "traceparent" and value is not None and len(value) <= TRACEPARENT_BYTES_MAX
    }
    return Records(
        np.full(n, partition, np.int32),
        np.fromiter((record.offset for record in found), np.int64, n),
        [record.key for record in found],
        [record.value for record in found],
        traceparents,
    )
