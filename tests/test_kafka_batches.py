"""Records framed by us and handed over whole are what the library would have sent, one by one."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from broker import Broker
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.partitioner.default import murmur2
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.record import MemoryRecords
from kafka_kit import create_topics, kafka_config, read_committed

from shoal.stream.events import CHANGES, MANIFEST
from shoal.stream.kafka import batches
from shoal.stream.kafka.batches import Sending, agrees, framed, key_hashes, send_all
from shoal.stream.kafka.port import ClientError
from shoal.stream.kafka.producer import PythonClient

blobs = st.none() | st.binary(max_size=300)
names = st.sampled_from(["traceparent", "", "schema", "\u00e9" * 70])
sendings = st.builds(
    Sending,
    st.just("t"),
    blobs,
    blobs,
    st.lists(st.tuples(names, st.binary(max_size=200)), max_size=3),
    st.just(0),
)
PARTITIONS = 3


class Transactions:
    """The library's record of which partitions are in the transaction."""

    def __init__(self) -> None:
        self.partitions: list[TopicPartition] = []

    def maybe_add_partition_to_transaction(self, place: TopicPartition) -> None:
        self.partitions.append(place)


def producer(batch_size: int = 256 << 10) -> Any:
    """The library's accumulator, and nobody who sends what is in it."""
    return SimpleNamespace(
        config={"batch_size": batch_size, "max_request_size": 1 << 20},
        partitions_for=lambda topic: set(range(PARTITIONS)) if topic != "unknown" else None,
        _accumulator=RecordAccumulator(batch_size=batch_size),
        _transaction_manager=Transactions(),
        _sender=SimpleNamespace(wakeup=lambda: None),
    )


def waiting(of: Any) -> dict[TopicPartition, list[Any]]:
    """Every batch, closed as the sender would, by partition."""
    found = {place: list(held) for place, held in of._accumulator._batches.items() if held}
    for held in found.values():
        for batch in held:
            batch.records.set_producer_state(7, 0, 0, True)
            batch.records.close()
    return found


def as_read(batch: Any) -> list[tuple[Any, ...]]:
    """By the library's own reader, which also checks the sum."""
    found = []
    for part in MemoryRecords(bytes(batch.records.buffer())):
        assert part.validate_crc()
        found += [(r.offset, r.key, r.value, r.headers) for r in part]
    return found


def test_this_library_is_the_one_it_was_written_for() -> None:
    assert agrees()


@given(st.lists(sendings, min_size=1, max_size=60), st.integers(61, 3000))
@settings(max_examples=200)
def test_the_library_reads_what_was_framed(records: list[Sending], most_bytes: int) -> None:
    own = producer(most_bytes)
    futures = send_all(own, records)
    held = waiting(own)[TopicPartition("t", 0)]
    read = [record for batch in held for record in as_read(batch)]
    assert [record[1:] for record in read] == [(r.key, r.value, r.headers) for r in records]
    for batch in held:
        offsets = [record[0] for record in as_read(batch)]
        assert offsets == list(range(batch.record_count))
        assert len(batch.records.buffer()) <= most_bytes or batch.record_count == 1
    assert len(futures) == len(held)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=200))
def test_keys_go_where_the_library_would_send_them_in_their_order(keys: list[bytes]) -> None:
    assert key_hashes(keys).tolist() == [murmur2(key) & 0x7FFFFFFF for key in keys]
    records = [Sending("t", key, b"%d" % i, (), None) for i, key in enumerate(keys)]
    wanted = defaultdict(list)
    for r in records:
        wanted[(murmur2(r.key) & 0x7FFFFFFF) % PARTITIONS].append(r.value)
    own = producer()
    send_all(own, records)
    found = {
        place.partition: [r[2] for b in held for r in as_read(b)] for place, held in waiting(own).items()
    }
    assert found == wanted
    assert {place.partition for place in own._transaction_manager.partitions} == set(wanted)


def test_a_batchs_fate_is_every_records() -> None:
    records = [Sending("t", None, b"%d" % i, (), i % 3) for i in range(9)]
    for outcome, good in [((5, -1, None), True), ((-1, -1, lambda _: KafkaTimeoutError("lost")), False)]:
        own = producer()
        futures = send_all(own, records)
        assert not any(future.succeeded() for future in futures)
        for (batch,) in waiting(own).values():
            batch.produce_future.success(outcome)
        assert [future.succeeded() for future in futures] == [good] * 3


def test_a_record_that_is_too_large_is_refused() -> None:
    own = producer()
    own.config["max_request_size"] = 100_000
    with pytest.raises(MessageSizeTooLargeError, match="a record for t is larger than 100000 bytes"):
        send_all(own, [Sending("t", b"k", b"v" * 100_000, (), 0)])


def test_a_topic_that_nobody_knows_and_a_closed_producer_are_errors() -> None:
    with pytest.raises(KafkaTimeoutError, match="unknown"):
        send_all(producer(), [Sending("unknown", b"k", b"v", (), None)])
    own = producer()
    own._accumulator.close()
    with pytest.raises(Exception, match="closed"):
        send_all(own, [Sending("t", b"k", b"v", (), 0)])
    assert not own._accumulator.has_incomplete


def test_another_library_gets_its_records_one_by_one(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    sent: list[Any] = []
    other = SimpleNamespace(send=lambda topic, **record: sent.append((topic, record)) or len(sent))
    records = [Sending("t", b"k", b"v", (("a", b"b"),), None), Sending("t", None, b"w", (), 0)]
    assert send_all(other, records) == [1, 2]
    assert sent[0] == ("t", {"key": b"k", "value": b"v", "headers": [("a", b"b")], "partition": None})

    monkeypatch.setattr(batches, "number", lambda n: b"\x00")
    agrees.cache_clear()
    try:
        assert not agrees()
        assert "one by one" in caplog.text
    finally:
        monkeypatch.undo()
        agrees.cache_clear()
    assert agrees()


def test_framing_nothing_is_nothing() -> None:
    assert list(framed([], 100)) == []


@pytest.mark.kafka
def test_a_real_broker_stores_what_was_handed_over(broker: Broker) -> None:
    """Thousands of records, several batches a partition, a topic that is sent to by partition only, in one
    transaction; and then a record that is too large."""
    config = kafka_config(broker)
    create_topics(config)
    topic = config.topic_prefix + CHANGES
    own = PythonClient(config).producer()
    records = [(b"%d" % (i % 97), b"v" * (i % 4000) + b"%d" % i, [("name", b"%d" % i)]) for i in range(3000)]
    own.begin()
    for key, value, headers in records:
        own.send(topic, key, value, headers, None)
    own.send(config.topic_prefix + MANIFEST, None, b"{}", (), 0)
    own.flush(30.0)
    own.commit(30.0)
    assert [r.value for r in read_committed(config, MANIFEST)] == [b"{}"]
    found = read_committed(config, CHANGES)
    assert sorted((r.key, r.value, list(r.headers)) for r in found) == sorted(records)
    for partition in {r.partition for r in found}:
        mine = [r for r in found if r.partition == partition]
        numbers = [int(r.headers[0][1]) for r in mine]
        assert numbers == sorted(numbers), "order within a partition"
        assert all((murmur2(r.key) & 0x7FFFFFFF) % config.partitions == partition for r in mine)

    own.begin()
    own.send(topic, b"k", b"v" * (5 << 20), (), None)
    with pytest.raises(ClientError, match="is larger than"):
        own.flush(10.0)
    own.close()
