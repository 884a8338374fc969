"""One contract for every client library's log: committed records by offset, whatever is asked, in any order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from broker import Broker
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka_kit import CLIENTS, create_topics, kafka_config, send, with_client

from shoal.stream.config import Kafka
from shoal.stream.kafka.admin import wanted
from shoal.stream.kafka.port import Log
from shoal.stream.ports import SourceGone
from shoal.stream.wiring import kafka_library

pytestmark = pytest.mark.kafka


@pytest.fixture(params=CLIENTS)
def config(request: pytest.FixtureRequest, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Kafka:
    with_client(request.param, monkeypatch)
    return create_topics(kafka_config(broker, partitions=1))


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def log(config: Kafka, stopping: threading.Event) -> Iterator[Log]:
    opened = kafka_library(config)[1](config, stopping.is_set).log(wanted(config)[0].name)
    yield opened
    opened.close()


def transactions(config: Kafka, count: int) -> list[tuple[int, bytes]]:
    """Some committed, some aborted, some records outside of any; offset and value of what counts."""
    name = wanted(config)[0].name
    producer = KafkaProducer(
        bootstrap_servers=config.bootstrap_servers, transactional_id=config.topic_prefix + "in"
    )
    producer.init_transactions()
    kept = []
    for i in range(count):
        producer.begin_transaction()
        futures = [producer.send(name, b"%d.%d" % (i, j), partition=0) for j in range(1 + i % 3)]
        producer.flush()
        if i % 4 == 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
            kept += [(future.get(5).offset, b"%d.%d" % (i, j)) for j, future in enumerate(futures)]
    producer.close()
    return kept


def pairs(found: Any) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.value) for record in found]


def test_any_order_of_readings_gives_exactly_the_committed_records(config: Kafka, log: Log) -> None:
    """Following the end, reading in the middle, and asking for the bounds do not disturb each other."""
    kept = transactions(config, 20)
    end = kept[-1][0] + 2  # the last one's marker
    rng = random.Random(5)
    followed = 0
    for _ in range(60):
        match rng.choice(["read", "tail", "bounds"]):
            case "read":
                start, stop = sorted(rng.randrange(end + 1) for _ in range(2))
                assert pairs(log.read(0, start, stop)) == [p for p in kept if start <= p[0] < stop]
            case "tail":
                expected = [p for p in kept if p[0] >= followed]
                found = pairs(log.tail(0, followed, 5.0 if expected else 0.0))
                assert found == expected[: len(found)]
                assert found or not expected
                followed = found[rng.randrange(len(found))][0] + 1 if found else 0
            case "bounds":
                assert log.bounds() == {0: (0, end)}


def test_a_tail_waits_for_what_is_committed_and_no_longer_than_it_may(config: Kafka, log: Log) -> None:
    started_s = time.monotonic()
    assert list(log.tail(0, 0, 0.3)) == []
    assert time.monotonic() - started_s >= 0.3
    sending = threading.Thread(target=send, args=(config, [(0, None, b"a")]))
    sending.start()
    assert pairs(log.tail(0, 0, 20.0)) == [(0, b"a")]
    sending.join()
    send(config, [(0, None, b"b")], transactional_id=config.topic_prefix + "in")
    assert pairs(log.tail(0, 1, 20.0)) == [(1, b"b")]
    send(config, [(0, None, b"c")])
    assert pairs(log.tail(0, 2, 20.0)) == [(3, b"c")], "behind the marker"


def test_a_tail_that_is_told_to_stop_gives_up_soon_and_still_sees_what_is_there(
    config: Kafka, log: Log, stopping: threading.Event
) -> None:
    """The last step of an engine that was told to stop must be read back too."""
    send(config, [(0, None, b"a")])
    assert log.bounds() == {0: (0, 1)}
    stopping.set()
    assert pairs(log.tail(0, 0, 20.0)) == [(0, b"a")]
    started_s = time.monotonic()
    assert list(log.tail(0, 1, 60.0)) == []
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("how", ["tail", "read"])
def test_an_offset_that_is_not_there_any_more_is_never_jumped_over(config: Kafka, log: Log, how: str) -> None:
    send(config, [(0, None, b"%d" % i) for i in range(10)])
    assert log.bounds() == {0: (0, 10)}
    with KafkaAdminClient(bootstrap_servers=config.bootstrap_servers) as admin:
        admin.delete_records({TopicPartition(wanted(config)[0].name, 0): 5})
    with pytest.raises(SourceGone, match="no longer there"):
        list(log.tail(0, 2, 20.0) if how == "tail" else log.read(0, 2, 7))
