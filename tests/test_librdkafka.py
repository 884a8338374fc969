"""The second client library, confluent-kafka: what only it does, or does its own way. The contracts hold too."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker import PASSWORD, USER, Broker
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions
from kafka_kit import (
    create_topics,
    eventually,
    kafka_config,
    kafka_sink,
    kafka_source,
    output,
    read_committed,
    send,
    with_client,
)

from shoal.sinks.kafka import KafkaSink
from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, REJECTED, OutRecord, Range
from shoal.stream.kafka.admin import REJECTED_MAX_BYTES, wanted
from shoal.stream.kafka.port import ClientError
from shoal.stream.kafka.settings import PASSWORD_VARIABLE
from shoal.stream.ports import CommitUnknown, ConfigError, Phase, SourceGone
from shoal.stream.wiring import kafka_library

kafka = pytest.mark.kafka


@pytest.fixture(autouse=True)
def _second_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with_client("confluent", monkeypatch)


@contextmanager
def opened(config: Kafka) -> Iterator[Any]:
    source = kafka_source(config)
    try:
        assert source.open(lambda: False)
        source.seek({})
        yield source
    finally:
        source.close()


@contextmanager
def opened_sink(config: Kafka, group: Any = None) -> Iterator[KafkaSink]:
    sink = kafka_sink(config, group)
    try:
        sink.open()
        yield sink
    finally:
        sink.close()


# --- choosing it -----------------------------------------------------------------------------------------


def test_a_missing_library_is_a_configuration_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("shoal.stream.librdkafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'shoal\[confluent\]'"):
        kafka_library(Kafka(client="confluent"))


def test_the_library_is_not_imported_unless_it_is_chosen() -> None:
    """It is an extra, and costs memory and time at start."""
    import subprocess
    import sys

    code = (
        "import sys; from shoal.stream.config import Config; from shoal.stream.wiring import kafka_ports; "
        "kafka_ports(Config()); sys.exit('confluent_kafka' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- settings --------------------------------------------------------------------------------------------


def secret(**changes: Any) -> Kafka:
    fields: dict[str, Any] = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "me", **changes}
    return Kafka(client="confluent", **fields)


def test_a_password_from_a_file_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.stream.librdkafka import settings

    monkeypatch.setenv(PASSWORD_VARIABLE, "from-env")
    assert settings.producing(secret())["sasl.password"] == "from-env"
    (tmp_path / "password").write_text("from-file\n")
    config = secret(sasl_password_file=str(tmp_path / "password"))
    assert settings.reading(config)["sasl.password"] == "from-file"
    assert settings.electing(config)["sasl.mechanism"] == "PLAIN"


def test_a_password_that_is_nowhere_and_a_certificate_that_is_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from shoal.stream.librdkafka import settings

    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=PASSWORD_VARIABLE):
        settings.reading(secret())
    with pytest.raises(ConfigError, match=r"no-such-ca\.pem"):
        settings.reading(Kafka(security_protocol="SSL", ssl_cafile="no-such-ca.pem"))


@pytest.mark.parametrize("transaction_timeout_ms", [1000, 60_000])
def test_the_library_accepts_what_it_is_given(transaction_timeout_ms: int) -> None:
    """It refuses unknown keys, and a delivery that may take longer than the transaction."""
    from confluent_kafka import Consumer, Producer

    from shoal.stream.librdkafka import settings

    config = Kafka(transaction_timeout_ms=transaction_timeout_ms, bootstrap_servers="127.0.0.1:1")
    Producer(settings.producing(config), logger=settings.LIBRARY_LOG)
    for made in (settings.reading(config), settings.electing(config)):
        Consumer(made, logger=settings.LIBRARY_LOG).close()


@kafka
def test_an_engine_works_over_a_listener_that_wants_a_password(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = sasl_config(broker, PASSWORD, tmp_path)
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, "librdkafka"),
        opened(config) as source,
        opened_sink(config, source.group_metadata) as sink,
    ):
        sink.commit(output(1, [OutRecord(CHANGES, b"u", b"{}")], [Range(0, 0, 0)]))
    assert PASSWORD not in caplog.text


@kafka
@pytest.mark.parametrize("what", ["producer", "log"])
def test_a_wrong_password_is_refused_and_never_shown(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    config = sasl_config(broker, "wrong-one-1234", tmp_path)
    client = kafka_library(config)[1](config)
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, "librdkafka"),
        pytest.raises(ConfigError, match="refused user 'shoal'") as caught,
    ):
        client.producer() if what == "producer" else client.log("any").bounds()
    assert "wrong-one-1234" not in caplog.text + str(caught.value)


def sasl_config(broker: Broker, password: str, folder: Path) -> Kafka:
    if broker.sasl is None:
        pytest.skip("this broker has no listener with passwords")
    (folder / "password").write_text(password)
    return kafka_config(
        broker,
        bootstrap_servers=broker.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password_file=str(folder / "password"),
        create_topics=True,
    )


# --- errors in the port's words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "away", "fenced"),
    [
        ("_FENCED", False, True),
        ("PRODUCER_FENCED", False, True),
        ("INVALID_PRODUCER_EPOCH", False, True),
        ("_MSG_TIMED_OUT", True, False),
        ("_TRANSPORT", True, False),
        ("COORDINATOR_LOAD_IN_PROGRESS", True, False),
        ("ILLEGAL_GENERATION", True, False),
        ("MSG_SIZE_TOO_LARGE", False, False),
        ("TOPIC_AUTHORIZATION_FAILED", False, False),
    ],
)
def test_an_error_says_whether_waiting_helps_and_whether_another_engine_took_over(
    name: str, away: bool, fenced: bool
) -> None:
    from confluent_kafka import KafkaError

    from shoal.stream.librdkafka.errors import client_error

    made = client_error(KafkaError(getattr(KafkaError, name)))
    assert (made.away, made.fenced) == (away, fenced)
    assert name in str(made)


# --- the producer ----------------------------------------------------------------------------------------


@kafka
def test_a_key_goes_to_the_same_partition_with_either_library(broker: Broker) -> None:
    """Otherwise changing kafka.client would split a user's history over two partitions."""
    config = create_topics(kafka_config(broker, partitions=7))
    keys = [str(uuid.UUID(int=i)).encode()[: i % 37] or b"empty" for i in range(200)]
    with opened_sink(config) as sink:
        sink.commit(output(1, [OutRecord(CHANGES, key, b"new") for key in keys]))
    producer = KafkaProducer(bootstrap_servers=broker.address)
    for key in keys:
        producer.send(config.topic_prefix + CHANGES, b"old", key=key)
    producer.close()
    placed: dict[bytes, set[int]] = {}
    for record in read_committed(config, CHANGES):
        placed.setdefault(record.key, set()).add(record.partition)
    assert len(placed) == len(set(keys))
    assert all(len(partitions) == 1 for partitions in placed.values())


@kafka
def test_a_record_that_the_broker_refuses_fails_the_flush_although_the_others_were_stored(
    broker: Broker,
) -> None:
    """The library takes it, the topic does not: only that record's delivery report says so."""
    config = create_topics(kafka_config(broker))
    producer = kafka_library(config)[1](config).producer()
    producer.begin()
    for value in (b"fine", b"x" * (2 << 20), b"fine too"):
        producer.send(config.topic_prefix + CHANGES, b"k", value, (), None)
    with pytest.raises(ClientError, match="MSG_SIZE_TOO_LARGE") as caught:
        producer.flush(20)
    assert not caught.value.away
    with pytest.raises((ClientError, AssertionError)):
        producer.commit(5)
    producer.close()
    assert read_committed(config, CHANGES) == []


@kafka
def test_a_record_too_large_for_any_topic_is_refused_before_it_is_sent(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    with (
        opened_sink(config) as sink,
        pytest.raises(CommitUnknown, match="MSG_SIZE_TOO_LARGE"),
    ):
        sink.commit(output(1, [OutRecord(REJECTED, b"k", b"x" * (REJECTED_MAX_BYTES + 1))]))


@kafka
def test_a_full_queue_makes_room_and_loses_nothing(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB of room for 2 MiB of records."""
    from shoal.stream.librdkafka import settings

    monkeypatch.setattr(settings, "_QUEUE_KIB", 64)
    config = create_topics(kafka_config(broker))
    with opened_sink(config) as sink:
        sink.commit(output(1, [OutRecord(CHANGES, b"%d" % i, b"x" * 10_000) for i in range(200)]))
    assert len(read_committed(config, CHANGES)) == 200


# --- the group -------------------------------------------------------------------------------------------


@kafka
def test_commits_go_on_while_another_engine_joins_and_leaves(broker: Broker) -> None:
    """Each time there is a new generation, and nobody tells the one that works: it asks when it commits."""
    config = create_topics(kafka_config(broker))
    with opened(config) as source, opened_sink(config, source.group_metadata) as sink:
        member = source.group_metadata()
        generations = {str(member.metadata())}
        for step in range(1, 6, 2):
            with standing_by(config):
                sink.commit(output(step, (), [Range(0, step, step + 1)]))
                generations.add(str(member.metadata()))
            eventually(lambda: str(member.metadata()) not in generations)
            generations.add(str(member.metadata()))
            sink.commit(output(step + 1, (), [Range(0, step + 1, step + 2)]))
        assert len(generations) == 7
        assert source.poll(1, 0.0) is not None


@contextmanager
def standing_by(config: Kafka) -> Iterator[None]:
    """Another engine of the group, while the block runs."""
    phases: list[Phase] = []
    ended = threading.Event()
    other = kafka_source(config, phases.append)
    thread = threading.Thread(target=lambda: other.open(ended.is_set))
    thread.start()
    try:
        eventually(lambda: Phase.STANDBY in phases)
        yield
    finally:
        ended.set()
        thread.join()
        other.close()


@kafka
def test_a_generation_that_is_over_cannot_commit(broker: Broker) -> None:
    """The broker's own check: offsets are sent with the place in the group, and it looks."""
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        stale = source.group_metadata().metadata()
    with opened(config):
        producer = kafka_library(config)[1](config).producer()
        producer.begin()
        with pytest.raises(ClientError, match=r"UNKNOWN_MEMBER_ID|ILLEGAL_GENERATION"):
            producer.send_offsets(wanted(config)[0].name, {0: 0}, _Frozen(stale), 10)
        producer.close()


class _Frozen:
    """A member that never looks again who it is."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def metadata(self) -> Any:
        return self._metadata


@kafka
def test_a_group_that_works_with_the_other_library_is_not_joined(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two elect in different ways: mixed, two engines could believe that they were chosen."""
    with_client("kafka-python", monkeypatch)
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        ended = threading.Event()
        thread = threading.Thread(target=lambda: [source.poll(1, 0.1) for _ in iter(ended.is_set, True)])
        thread.start()
        try:
            import msgspec

            other = kafka_source(msgspec.structs.replace(config, client="confluent"))
            with pytest.raises(ConfigError, match=r"same\s+kafka.client"):
                other.open(lambda: False)
            other.close()
        finally:
            ended.set()
            thread.join()


# --- reading ---------------------------------------------------------------------------------------------


@kafka
@pytest.mark.parametrize("held_bytes_max", [0, 1000, 32 << 20])
def test_any_reading_of_any_part_of_a_log_gives_exactly_its_records(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, held_bytes_max: int
) -> None:
    """Forwards, backwards, overlapping, over markers and aborted records, whatever was held back before."""
    from shoal.stream.librdkafka import log as log_module

    monkeypatch.setattr(log_module, "_HELD_BYTES_MAX", held_bytes_max)
    monkeypatch.setattr(log_module, "_SKIP_MAX", 5)
    config = create_topics(kafka_config(broker, partitions=3))
    rng = random.Random(4)
    _write_transactions(config, rng)
    truth: dict[int, list[tuple[int, bytes]]] = {0: [], 1: [], 2: []}
    for record in read_committed(config, config.events_topic):
        truth[record.partition].append((record.offset, record.value))
    log = kafka_library(config)[1](config).log(wanted(config)[0].name)
    bounds = log.bounds()
    for _ in range(50):
        p = rng.randrange(3)
        start = rng.randrange(bounds[p][1] + 1)
        end = rng.randrange(start, bounds[p][1] + 1)
        found = [(record.offset, record.value) for record in log.read(p, start, end)]
        assert found == [(o, v) for o, v in truth[p] if start <= o < end]
        if rng.random() < 0.3 and (rest := [(o, v) for o, v in truth[p] if o >= end]):
            tail = [(record.offset, record.value) for record in log.tail(p, end, 10)]
            assert tail
            assert tail == rest[: len(tail)]
    log.close()


def _write_transactions(config: Kafka, rng: random.Random) -> None:
    producer = KafkaProducer(
        bootstrap_servers=config.bootstrap_servers, transactional_id=config.topic_prefix + "in"
    )
    producer.init_transactions()
    for number in range(60):
        producer.begin_transaction()
        for i in range(rng.randrange(1, 12)):
            value = b"%d %d " % (number, i) * rng.randrange(1, 30)
            producer.send(wanted(config)[0].name, value, partition=rng.randrange(3))
        producer.flush()
        (producer.abort_transaction if rng.random() < 0.3 else producer.commit_transaction)()
    producer.close()


@kafka
def test_a_tail_waits_for_what_comes_and_no_longer_than_it_may(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    log = kafka_library(config)[1](config).log(wanted(config)[0].name)
    assert list(log.tail(0, 0, 0.3)) == []
    threading.Timer(0.3, lambda: send(config, [(0, b"k", b"v")])).start()
    (record,) = log.tail(0, 0, 20)
    assert (record.offset, record.key, record.value, list(record.headers)) == (0, b"k", b"v", [])
    log.close()


class _NotText(str):
    """A header's name as no well-behaved producer would write it."""

    def encode(self, *how: str) -> bytes:
        return b"\xff\xfe"


@kafka
def test_headers_whose_names_are_not_text_do_not_stop_the_engine(broker: Broker) -> None:
    """A bad record is a value, never an exception; the library itself would end the process."""
    config = create_topics(kafka_config(broker))
    producer = KafkaProducer(bootstrap_servers=broker.address)
    for i in range(300):
        odd = [("ok", b"1"), (_NotText("x"), b"v")]
        headers = (odd, [("traceparent", b"%d" % i)], [])[i % 3]
        producer.send(wanted(config)[0].name, b"%d" % i, partition=0, headers=headers)
    producer.close()
    expected = {i: b"%d" % i for i in range(1, 300, 3)}
    with opened(config) as source:
        records = source.read((Range(0, 0, 300),))
        assert list(records.values) == [b"%d" % i for i in range(300)]
        assert records.traceparents == expected
        polled: dict[int, bytes] = {}
        while len(polled) < len(expected):
            records, _ = source.poll(1000, 0.1)
            polled |= {int(records.offsets[row]): value for row, value in records.traceparents.items()}
        assert polled == expected
    log = kafka_library(config)[1](config).log(wanted(config)[0].name)
    assert [list(record.headers) for record in log.read(0, 0, 3)] == [[], [("traceparent", b"1")], []]
    log.close()


@kafka
def test_a_topic_that_gets_more_partitions_while_it_is_read_stops_the_engine(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.stream.librdkafka import source as source_module

    monkeypatch.setattr(source_module, "_COUNT_EVERY_S", 0.1)
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        source.poll(10, 0.1)
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            admin.create_partitions({wanted(config)[0].name: NewPartitions(5)})
        with pytest.raises(SourceGone, match="re-partitioned"):
            eventually(lambda: source.poll(10, 0.1) is None)
