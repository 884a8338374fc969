"""What the Kafka tests share: configurations, outputs, producing and reading with ordinary clients."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import Broker
from conftest import missing
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import ConsumerGroupMetadata
from made import manifest

from shoal.sinks.kafka import KafkaSink
from shoal.stream.config import Kafka
from shoal.stream.events import Counts, Output, OutRecord, Range
from shoal.stream.kafka.admin import create, wanted
from shoal.stream.kafka.client import never
from shoal.stream.kafka.source import KafkaSource
from shoal.stream.ports import Phase
from shoal.stream.wiring import kafka_library

if TYPE_CHECKING:
    from shoal.stream.librdkafka.source import LibrdkafkaSource

CLIENTS = ("kafka-python", "confluent")
_client = CLIENTS[0]  # of every configuration made here, until `with_client` says otherwise


def with_client(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration that this test makes names this client library; loudly missing where it is."""
    if name == "confluent" and find_spec("confluent_kafka") is None:
        missing("the second Kafka client", "pip install 'shoal[confluent]'")
    monkeypatch.setattr(sys.modules[__name__], "_client", name)


def kafka_config(broker: Broker, **changes: Any) -> Kafka:
    """A configuration whose topics, group and transactional id no other test uses."""
    prefix = broker.name()
    base = Kafka(
        client=_client,
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


def kafka_source(
    config: Kafka, on_phase: Callable[[Phase], None] | None = None
) -> KafkaSource | LibrdkafkaSource:
    """A source over the library that the configuration names."""
    return kafka_library(config)[0](config, on_phase)


def kafka_sink(
    config: Kafka,
    group: Callable[[], Any] | None = None,
    stopping: Callable[[], bool] = never,
    **settings: Any,
) -> KafkaSink:
    """A sink over the library that the configuration names; without `group`, of a group nobody is a member of."""
    client = kafka_library(config)[1](config, stopping)
    return KafkaSink(config, client, group or (lambda: nobody(config)), **settings)


def nobody(config: Kafka) -> Any:
    """A member, in the library's own words, of a group that nobody has joined."""
    if config.client == "kafka-python":
        return ConsumerGroupMetadata(config.group_id)
    from confluent_kafka import Consumer

    from shoal.stream.librdkafka.elector import Member
    from shoal.stream.librdkafka.settings import LIBRARY_LOG, electing

    return Member(Consumer(electing(config), logger=LIBRARY_LOG))


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
