"""Ordinary consumers: what anybody who subscribes sees, with no code of Shoal's in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from .auditor import OUTPUTS, Seen

_POLL_MS = 100


class Subscriber:
    """Reads every output topic, committed records only, from before the first fault until after the last."""

    def __init__(self, address: str, prefix: str, *told: Callable[[Seen], object]) -> None:
        """`told`: who is told every record, in the subscriber's own thread."""
        self._address = address
        self._prefix = prefix
        self._told = told
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self, condition: Callable[[], Any], within_s: float) -> bool:
        """Until the condition holds, looked at whenever records came. False after `within_s`."""
        with self._changed:
            came = bool(self._changed.wait_for(lambda: self._failure or condition(), within_s))
        if self._failure is not None:
            raise self._failure
        return came

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the subscriber hangs"

    def _work(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # told to whoever waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _follow(self) -> None:
        consumer = _consumer(self._address, "read_committed")
        names = [self._prefix + topic for topic in OUTPUTS]
        consumer.assign(
            [TopicPartition(n, p) for n in names for p in sorted(consumer.partitions_for_topic(n))]
        )
        consumer.seek_to_beginning()
        while not self._stopping.is_set():
            found = consumer.poll(_POLL_MS)
            with self._changed:
                for records in found.values():
                    for record in records:
                        for tell in self._told:
                            tell(_seen(record, self._prefix))
                if found:
                    self._changed.notify_all()
        consumer.close(autocommit=False)


def read(
    address: str, prefix: str, topics: Sequence[str], isolation: str = "read_committed"
) -> Iterator[Seen]:
    """Everything in these topics (contract names) up to their present ends, partition by partition."""
    consumer = _consumer(address, isolation)
    try:
        for topic in topics:
            for partition in sorted(consumer.partitions_for_topic(prefix + topic)):
                yield from _read_partition(consumer, TopicPartition(prefix + topic, partition), prefix)
    finally:
        consumer.close(autocommit=False)


def ends(address: str, topic: str) -> dict[int, int]:
    """The present end of every partition."""
    consumer = _consumer(address, "read_committed")
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        return {tp.partition: end for tp, end in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close(autocommit=False)


def _read_partition(consumer: KafkaConsumer, tp: TopicPartition, prefix: str) -> Iterator[Seen]:
    consumer.assign([tp])
    consumer.seek_to_beginning()
    end = consumer.end_offsets([tp])[tp]
    while consumer.position(tp) < end:
        for records in consumer.poll(_POLL_MS).values():
            yield from (_seen(record, prefix) for record in records)


def _consumer(address: str, isolation: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=address,
        isolation_level=isolation,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metrics_enabled=False,
    )


def _seen(record: Any, prefix: str) -> Seen:
    return Seen(
        record.topic.removeprefix(prefix),
        record.partition,
        record.offset,
        record.key,
        record.value,
        tuple(record.headers or ()),
    )
