"""Committed records of one topic, by offset: for replay, for manifests, for verification. Joins no group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from ..config import Kafka
from ..events import Records
from ..ports import START_OVER, BrokerGone, SourceGone, Stopped
from .client import REFUSED, Patience, bounded, close_quietly, connect, make, never, refused
from .settings import settings

_POLL_MS = 250
_ASK_MS = 5_000
_SILENT_S = 5.0
_CALL_S = 30.0  # the library gives up by itself long before
_TRACEPARENT_BYTES_MAX = 256  # the standard's has 55; a longer one would only swell every record it passes to
FETCH = {
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

    Always true between calls: every partition is assigned, has a position, and is paused.
    """

    def __init__(self, config: Kafka, topic: str, stopping: Callable[[], bool] = never) -> None:
        self.topic = topic
        self._config = config
        self._stopping = stopping
        self._consumer: KafkaConsumer | None = None
        self._first: dict[int, int] = {}
        self._end: dict[int, int] = {}

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
        consumer = make(KafkaConsumer, **settings(self._config), **FETCH)
        self._consumer = consumer
        found = sorted(consumer.partitions_for_topic(self.topic))
        if not found:
            raise SourceGone(f"there is no topic {self.topic} at {self._config.bootstrap_servers}")
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

    def _poll(self, tp: TopicPartition, at: int, count: int) -> list[Any]:
        """Records, or nothing after the position moved over markers. Waits while the broker is away."""
        assert self._consumer is not None
        started_s = heard_s = time.monotonic()
        while True:
            try:
                batch: list[Any] = self._consumer.poll(_POLL_MS, max_records=count).get(tp, [])
            except OffsetOutOfRangeError:
                raise SourceGone(
                    f"{self.topic} partition {tp.partition}: offset {at} is no longer there"
                ) from None
            except REFUSED as error:
                raise refused(self._config, error) from None
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

    def _ask_whether_alive(self) -> None:
        admin = connect(self._config, self._stopping)
        if admin is not None:
            close_quietly(admin.close, 2.0, "admin client")

    def close(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            close_quietly(lambda: consumer.close(autocommit=False, timeout_ms=1000), 2.0, "reader")


def read_all(config: Kafka, topic: str) -> Iterator[Any]:
    """Every committed record of a topic, partition by partition, up to its end at the time of the call."""
    reader = Reader(config, topic)
    try:
        for partition, (first, end) in reader.bounds().items():
            yield from reader.read(partition, first, end)
    finally:
        reader.close()


def to_records(partition: int, found: Sequence[Any]) -> Records:
    """kafka-python's records of one partition as columns; bytes stay as they are."""
    n = len(found)
    traceparents = {
        row: value
        for row, record in enumerate(found)
        if record.headers
        for name, value in record.headers
        if name == "traceparent" and value is not None and len(value) <= _TRACEPARENT_BYTES_MAX
    }
    return Records(
        np.full(n, partition, np.int32),
        np.fromiter((record.offset for record in found), np.int64, n),
        [record.key for record in found],
        [record.value for record in found],
        traceparents,
    )
