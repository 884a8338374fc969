"""A member of the group in trouble: what the library then raises never ends an engine without an explanation.

Partitions are taken away on the client's I/O thread, between any two lines of ours; the group says no; a
standby that stood for days meets its first hiccup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from broker import Broker
from kafka import TopicPartition
from kafka.errors import (
    CommitFailedError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
)
from kafka_kit import (
    CLIENTS,
    create_topics,
    eventually,
    kafka_config,
    kafka_library,
    kafka_source,
    send,
    with_client,
)

from shoal.stream.config import Kafka
from shoal.stream.events import Range
from shoal.stream.kafka.admin import wanted
from shoal.stream.kafka.port import ClientError
from shoal.stream.kafka.source import KafkaSource
from shoal.stream.ports import BrokerGone, CommitUnknown, ConfigError

kafka = pytest.mark.kafka


@contextmanager
def opened(config: Kafka) -> Iterator[Any]:
    source = kafka_source(config)
    try:
        assert source.open(lambda: False)
        source.seek({})
        yield source
    finally:
        source.close()


# --- the group takes something away ---------------------------------------------------------------------------


def _poll(source: KafkaSource) -> None:
    source.poll(10, 0.0)


def _replay(source: KafkaSource) -> None:
    source.read([Range(0, 0, 1)])


def _seek(source: KafkaSource) -> None:
    source.seek({})


@kafka
@pytest.mark.parametrize("call", [_poll, _replay, _seek])
def test_partitions_that_go_at_any_moment_are_a_lost_place_and_nothing_else(
    broker: Broker, call: Callable[[KafkaSource], None]
) -> None:
    """Here the library still says that they are ours, and forgets them before the next call about them."""
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        send(config, [(0, None, b"a")])
        eventually(lambda: source.poll(10, 0.1)[1])
        consumer = source._consumer
        before = consumer.assignment()
        consumer.assignment = lambda: before
        consumer._subscription.assign_from_subscribed([])
        assert set(source.lag().values()) == {0}
        source._join(0)  # as a standby does: no error
        source._ownership.on_partitions_lost(before)
        source._kept_s = 0.0
        with pytest.raises(CommitUnknown, match="silent for longer") as caught:
            call(source)
        assert caught.value.broker_away


@kafka
def test_a_place_that_goes_behind_a_fetch_is_a_lost_place_too(broker: Broker) -> None:
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        source._consumer._subscription.assign_from_subscribed([])
        with pytest.raises(CommitUnknown, match="silent for longer"):
            source._collect({TopicPartition(source._topic, 0): []})


@kafka
def test_a_commit_of_a_generation_that_is_over_is_tried_by_a_new_process(broker: Broker) -> None:
    """Nobody fenced this engine: it comes back as a new member."""
    config = create_topics(kafka_config(broker))
    with opened(config) as source:
        stale = source.group_metadata()
    with opened(config):
        producer = kafka_library(config)[1](config).producer()
        producer.begin()
        with pytest.raises(ClientError, match=r"UnknownMemberId|IllegalGeneration") as caught:
            producer.send_offsets(wanted(config)[0].name, {0: 0}, stale, 10)
        assert (caught.value.away, caught.value.fenced) == (True, False)
        producer.close()


# --- the group says no --------------------------------------------------------------------------------------------


@kafka
@pytest.mark.parametrize("client", CLIENTS)
def test_a_session_timeout_that_the_broker_does_not_allow_is_named_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    with_client(client, monkeypatch)
    config = create_topics(kafka_config(broker, session_timeout_ms=900))
    source = kafka_source(config)
    try:
        with pytest.raises(ConfigError, match=r"refuses kafka.session_timeout_ms = 900: .*group.min.session"):
            source.open(_within(10.0))
    finally:
        source.close()


@kafka
def test_a_group_that_works_with_librdkafka_is_not_joined_with_kafka_python(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two elect in different ways; waiting for a broker that is there would explain nothing."""
    with_client("confluent", monkeypatch)
    config = create_topics(kafka_config(broker))
    with opened(config):
        other = KafkaSource(config)
        with pytest.raises(ConfigError, match=r"same\s+kafka.client"):
            other.open(_within(10.0))
        other.close()


def _within(seconds: float) -> Callable[[], bool]:
    ended = threading.Event()
    timer = threading.Timer(seconds, ended.set)
    timer.daemon = True
    timer.start()
    return ended.is_set


# --- hiccups --------------------------------------------------------------------------------------------------


class Consumer:
    """A library whose poll raises these, one after the other."""

    def __init__(self, *errors: KafkaError) -> None:
        self._errors = list(errors)

    def assignment(self) -> set[TopicPartition]:
        return set()

    def pause(self, *partitions: TopicPartition) -> None: ...

    resume = pause

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        if self._errors:
            raise self._errors.pop(0)
        return {}


@pytest.mark.parametrize("call", [KafkaSource._keep_place, lambda source: source._fetch(1, 0)])
@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (CoordinatorNotAvailableError(), None),
        (KafkaTimeoutError(), None),
        (GroupAuthorizationFailedError("g"), ConfigError),
        (CommitFailedError("odd"), BrokerGone),
        (KafkaError("record batch failed crc check"), BrokerGone),
    ],
)
def test_no_error_of_the_library_escapes_as_it_is(
    call: Callable[[Any], Any], error: KafkaError, becomes: type[Exception] | None
) -> None:
    """Neither while recorded steps are computed again nor in the work itself."""
    source: Any = KafkaSource(Kafka())
    source._consumer, source._watch = Consumer(error), object()
    if becomes is None:
        call(source)
    else:
        with pytest.raises(becomes):
            call(source)


class Group:
    """A settled group that gives this member the work when it is told to; its watch always hears an answer."""

    settled, lost = True, False

    def __init__(self) -> None:
        self.holds = False

    def turn(self, timeout_s: float) -> None: ...
    def look(self, positions: object) -> None: ...
    def close(self) -> None: ...


def _standing(config: Kafka, group: Group) -> Any:
    """A source whose group is this one."""
    source: Any = kafka_source(config)
    source._look_at_topics = lambda: True
    if config.client == "kafka-python":
        source._names = [0]
        source._subscribe = lambda: True
        source._is_stable = lambda: True
        source._join = lambda timeout_ms: (
            group.holds and source._ownership.on_partitions_assigned(source._partitions)
        )
        source._watch = group
    else:
        source._leave = lambda: None
        source._join = lambda: True
        source._elector = source._watch = group
    return source


@pytest.mark.parametrize("client", CLIENTS)
def test_a_standby_that_stood_for_long_waits_for_the_broker_as_long_as_any_other(
    monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """The time it stood by is no time that it waited: here it stands longer than it may wait, then hiccups."""
    with_client(client, monkeypatch)
    group, turns = Group(), 0
    started_s = time.monotonic()

    def meanwhile() -> None:
        nonlocal turns
        turns += 1
        group.holds = turns == 4
        if turns == 3:
            assert time.monotonic() - started_s > 0.4
            raise KafkaTimeoutError("a hiccup")

    source = _standing(Kafka(client=client, broker_wait_s=0.3), group)
    assert source.open(lambda: False, meanwhile)
    assert turns == 4
