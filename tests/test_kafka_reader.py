"""kafka-python's reader, over a consumer that does as it is told: what a broker cannot be made to do in a test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from broker import Broker
from kafka import TopicPartition
from kafka.errors import CorruptRecordError, KafkaConnectionError, LogTruncationError
from kafka_kit import create_topics, kafka_config

from shoal.stream.config import Kafka
from shoal.stream.kafka import reader as reader_module
from shoal.stream.kafka.admin import wanted
from shoal.stream.kafka.reader import Reader
from shoal.stream.ports import BrokerGone, SourceGone

TP = TopicPartition("t", 0)


class Consumer:
    """Answers each poll with the next of `polls`: offsets of records, or an error."""

    def __init__(self, *polls: list[int] | Exception) -> None:
        self.polls = list(polls)
        self.seeks: list[int] = []
        self.at = 0
        self._fetcher = SimpleNamespace(config={})

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        found = self.polls.pop(0) if self.polls else []
        if isinstance(found, Exception):
            raise found
        self.at = found[-1] + 1 if found else self.at
        return {TP: [SimpleNamespace(offset=offset) for offset in found]} if found else {}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.seeks.append(offset)
        self.at = offset

    def position(self, tp: TopicPartition, timeout_ms: int) -> int:
        return self.at

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    def beginning_offsets(self, *asked: object) -> dict[TopicPartition, int]:
        return {TP: 0}

    def end_offsets(self, *asked: object) -> dict[TopicPartition, int]:
        return {TP: 100}

    def assign(self, *tps: object) -> None: ...
    def pause(self, *tps: object) -> None: ...
    def resume(self, *tps: object) -> None: ...


def opened(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> Reader:
    monkeypatch.setattr(reader_module, "make", lambda kind, **configs: consumer)
    reader = Reader(Kafka(), "t")
    reader.open()
    consumer.seeks.clear()
    return reader


def test_following_the_end_keeps_what_was_fetched_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seek would throw the record away that came while the caller was busy. Reading elsewhere needs one."""
    consumer = Consumer([0], [], [2], [4], [7])
    reader = opened(monkeypatch, consumer)
    assert [r.offset for r in reader.tail(0, 0, 5.0)] == [0]
    assert [r.offset for r in reader.tail(0, 1, 5.0)] == [2, 4]
    assert consumer.seeks == [0]
    assert [r.offset for r in reader.read(0, 7, 8)] == [7]
    reader.tail(0, 5, 0.0)
    assert consumer.seeks == [0, 7, 5]


def test_a_broker_that_is_away_for_a_moment_is_nothing_to_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library lets an error of its own bookkeeping out of poll(), now and then."""
    reader = opened(monkeypatch, Consumer(KafkaConnectionError("refused"), [3]))
    assert [r.offset for r in reader.tail(0, 3, 5.0)] == [3]
    reader = opened(monkeypatch, Consumer(KafkaConnectionError("refused"), [3]))
    assert [r.offset for r in reader.read(0, 3, 4)] == [3]


def test_records_that_cannot_be_read_end_the_reading_with_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(BrokerGone, match=r"t partition 0 cannot be read at offset 3: .*checksum"):
        opened(monkeypatch, Consumer(CorruptRecordError("checksum"))).tail(0, 3, 5.0)
    truncated = LogTruncationError({TP: None})
    with pytest.raises(SourceGone, match="offset 3 is no longer there"):
        opened(monkeypatch, Consumer(truncated)).tail(0, 3, 5.0)


@pytest.mark.kafka
@pytest.mark.parametrize("partitions", [1, 4, 64])
def test_what_is_fetched_and_not_used_yet_is_bounded_however_many_partitions_there_are(
    broker: Broker, partitions: int
) -> None:
    """The library keeps what it fetched of a partition while others are read: eight megabytes of each were
    gigabytes of a large topic. So the part that a fetch may bring is a share of one limit."""
    config = create_topics(kafka_config(broker, partitions=partitions))
    reader = Reader(config, wanted(config)[0].name)
    reader.open()
    assert reader._consumer is not None
    part_bytes = reader._consumer._fetcher.config["max_partition_fetch_bytes"]
    reader.close()
    assert partitions * part_bytes <= 32 << 20
    assert part_bytes == min(8 << 20, (32 << 20) // partitions)
