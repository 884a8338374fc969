"""Whatever another producer may do to a record's outside, the engine can read it."""

from __future__ import annotations

import pytest
from broker import Broker
from kafka import KafkaProducer
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka_kit import create_topics, kafka_config, kafka_source

from shoal.stream.config import Kafka
from shoal.stream.kafka.client import never


class Raw(str):
    """A header name that goes over the wire as bytes that are no text."""

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe-id"


def batch(names: list[str]) -> DefaultRecordBatch:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 16)
    for offset, name in enumerate(names):
        builder.append(offset, 1_700_000_000_000, b"key", b"value", [(name, b"x"), ("b", None)])
    return DefaultRecordBatch(bytes(builder.build()))


def test_a_header_name_that_is_not_text_costs_its_bytes_and_nothing_else() -> None:
    """The record and its neighbours are as they were sent, before and after it."""
    found = list(batch(["a", Raw("c"), "d"]))
    assert [record.offset for record in found] == [0, 1, 2]
    assert [record.headers[0][0] for record in found] == ["a", "\ufffd\ufffd-id", "d"]
    for record in found:
        assert (record.key, record.value) == (b"key", b"value")
        assert type(record.value) is type(record.headers[0][1]) is bytes
        assert record.headers[1] == ("b", None)


def produced(config: Kafka, values: list[bytes], **settings: object) -> None:
    producer = KafkaProducer(bootstrap_servers=config.bootstrap_servers, **settings)
    for value in values:
        producer.send(
            config.topic_prefix + config.events_topic, value, headers=[(Raw("h"), b"1")], partition=0
        )
    producer.flush(20)
    producer.close(5)


@pytest.mark.kafka
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_and_any_header_is_read(broker: Broker, client: None, codec: str | None) -> None:
    """Producers choose their codec, and their headers, without asking."""
    config = create_topics(kafka_config(broker))
    values = [b"%d" % i * 200 for i in range(50)]
    produced(config, values, compression_type=codec, linger_ms=50)
    source = kafka_source(config)
    try:
        assert source.open(never)
        source.seek({})
        found: list[bytes | None] = []
        while len(found) < len(values):
            polled = source.poll(100, 1.0)
            assert polled is not None
            found += polled[0].values
        assert found == values
    finally:
        source.close()
