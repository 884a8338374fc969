"""What the Kafka tests share: configurations, outputs, producing and reading with ordinary clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from broker import Broker
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from made import manifest

from shoal.stream.config import Kafka
from shoal.stream.events import Counts, Output, OutRecord, Range
from shoal.stream.kafka.admin import create, wanted


def kafka_config(broker: Broker, **changes: Any) -> Kafka:
    """A configuration whose topics, group and transactional id no other test uses."""
    prefix = broker.name()
    base = Kafka(
        bootstrap_servers=broker.address,
        topic_prefix=prefix,
        group_id=prefix + "group",
        partitions=2,
        session_timeout_ms=4000,
        broker_wait_s=20.0,
    )
    return msgspec.structs.replace(base, **changes)


def create_topics(config: Kafka) -> Kafka:
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        create(admin, wanted(config), config)
    return config


Sent = tuple[int, bytes | None, bytes | None]  # partition, key, value


def send(config: Kafka, records: Iterable[Sent], topic: str = "", **settings: Any) -> None:
    """Records into a topic (default: the input), each acknowledged."""
    producer = KafkaProducer(bootstrap_servers=config.bootstrap_servers, linger_ms=5, **settings)
    name = config.topic_prefix + (topic or config.events_topic)
    if settings.get("transactional_id"):
        producer.init_transactions()
        producer.begin_transaction()
    futures = [producer.send(name, key=key, value=value, partition=p) for p, key, value in records]
    producer.flush(20)
    for future in futures:
        future.get(5)
    if settings.get("transactional_id"):
        producer.commit_transaction()
    producer.close(5)


def read_committed(config: Kafka, topic: str) -> list[Any]:
    """What an ordinary read_committed subscriber sees in a topic (contract name) now."""
    name = config.topic_prefix + topic
    consumer = KafkaConsumer(
        bootstrap_servers=config.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        partitions = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            for records in consumer.poll(200).values():
                found += records
        return found
    finally:
        consumer.close()


def output(step: int, records: Sequence[OutRecord] = (), ranges: Sequence[Range] = ()) -> Output:
    """A step's output; what it decided does not matter to a sink."""
    counts = Counts(records=3, accepted=2, rejected={"json": 1}, by_type={"view": 2})
    as_of_ms = 1_700_000_000_000 + step
    made = manifest(step, ranges=tuple(ranges), as_of_ms=as_of_ms, watermark_ms=step, counts=counts)
    return Output(step, tuple(records), made, counts, {})


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """The condition's value once it is true; asked again and again, since another process must act."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            assert value, f"not so within {within_s} s"
            return value
        time.sleep(0.05)
