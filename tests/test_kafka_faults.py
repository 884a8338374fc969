"""The broker goes away, freezes, and comes back: what the source and the sink make of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from broker import Broker, ContainerBroker, JarBroker
from kafka_kit import create_topics, kafka_config, kafka_sink, kafka_source, output, read_committed, send

from shoal.stream.config import Kafka
from shoal.stream.events import CHANGES, OutRecord, Range
from shoal.stream.kafka import watch as kafka_watch
from shoal.stream.kafka.client import wait_for_broker
from shoal.stream.ports import BrokerGone, CommitUnknown, Phase, Stopped

pytestmark = pytest.mark.kafka
both = pytest.mark.usefixtures("client")
"""Runs with each client library."""

Own = JarBroker | ContainerBroker


@pytest.fixture
def own(broker: Broker) -> Own:
    """A broker that may be stopped and frozen; it runs again after the test."""
    if not isinstance(broker, JarBroker | ContainerBroker):
        pytest.skip("somebody else's broker is neither stopped nor frozen")
    return broker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_watch, "PROBE_EVERY_S", 0.5)
    monkeypatch.setattr(kafka_watch, "_ANSWER_MS", 1000)


def running(config: Kafka, on_phase: Callable[[Phase], None] | None = None) -> Any:
    source = kafka_source(config, on_phase)
    assert source.open(lambda: False)
    source.seek({})
    return source


def poll_values(source: Any, wanted: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    for _ in range(300):
        records, _ = source.poll(100, 0.1) or (None, ())
        found += list(records.values) if records is not None else []
        if len(found) >= wanted:
            return found
    raise AssertionError(f"{len(found)} of {wanted} records came")


@both
def test_a_broker_that_restarts_is_waited_for_and_reading_goes_on(own: Own) -> None:
    """Same process, same place in the group, same offsets: nothing is lost and nothing comes twice."""
    config = create_topics(kafka_config(own, session_timeout_ms=45_000))
    phases: list[Phase] = []

    def phase(now: Phase) -> None:
        phases.append(now)
        if now is Phase.WAITING:
            threading.Thread(target=own.start, daemon=True).start()

    source = running(config, phase)
    send(config, [(0, None, b"before")])
    assert poll_values(source, 1) == [b"before"]
    own.stop()
    while Phase.RUNNING not in phases:
        source.poll(10, 0.1)
    assert phases == [Phase.WAITING, Phase.RUNNING]
    send(config, [(0, None, b"after"), (1, None, b"after")])
    assert poll_values(source, 2) == [b"after", b"after"]
    source.close()


@both
def test_a_broker_that_stays_away_ends_the_wait_after_the_configured_time(own: Own) -> None:
    """Frozen is worse than gone: the connection stands and nothing is ever said."""
    config = create_topics(kafka_config(own, broker_wait_s=1.0))
    source = running(config)
    poll_quietly(source)
    with own.frozen():
        started_s = time.monotonic()
        with pytest.raises(BrokerGone, match="for 1 s"):
            poll_values(source, 1)
        assert time.monotonic() - started_s < 15
        closing_s = time.monotonic()
        source.close()
        assert time.monotonic() - closing_s < 6


def poll_quietly(source: Any) -> None:
    assert source.poll(1, 0.1) is not None


@both
def test_waiting_ends_at_once_when_told_to_stop(own: Own) -> None:
    stopping = threading.Event()
    config = create_topics(kafka_config(own))
    source = kafka_source(config, lambda phase: stopping.set())
    assert source.open(stopping.is_set)
    source.seek({})
    with own.frozen():
        while not stopping.is_set():
            source.poll(10, 0.1)
        records, ranges = source.poll(10, 0.1) or (None, ())
        assert records is not None
        assert (len(records), ranges) == (0, ())
        source.close()


@both
@pytest.mark.parametrize("when", ["opening the source", "opening the sink", "reading", "replaying"])
def test_a_stop_is_over_within_five_seconds_also_while_the_broker_is_frozen(own: Own, when: str) -> None:
    """The connection stands and nobody answers: every wait asks whether to go on, every close is bounded."""
    config = create_topics(kafka_config(own))
    send(config, [(0, None, b"a")])
    stopping = threading.Event()
    source = kafka_source(config)
    sink = kafka_sink(config, source.group_metadata, source.stopping)
    waits: dict[str, Callable[[], object]] = {
        "opening the source": lambda: kafka_source(config).open(stopping.is_set),
        "opening the sink": sink.open,
        "reading": lambda: [source.poll(10, 0.1) for _ in iter(stopping.is_set, True)],
        "replaying": lambda: source.read([Range(0, 0, 1)]),
    }
    assert source.open(stopping.is_set)
    source.seek({})
    with own.frozen():
        waiting = threading.Thread(target=lambda: suppressed(waits[when]), daemon=True)
        waiting.start()
        threading.Event().wait(1.5)
        assert waiting.is_alive()
        started_s = time.monotonic()
        stopping.set()
        waiting.join(10)
        source.close()
        sink.close()
        assert not waiting.is_alive()
        assert time.monotonic() - started_s < 5


def suppressed(call: Callable[[], object]) -> None:
    with suppress(Stopped):
        call()


@both
def test_a_commit_to_a_frozen_broker_is_unknown_and_a_restart_decides(own: Own) -> None:
    """Whatever became of it, subscribers see all of the step or nothing, and the manifest says which."""
    config = create_topics(kafka_config(own, delivery_timeout_ms=1000))
    sink = kafka_sink(config)
    sink.open()
    records = [OutRecord(CHANGES, b"u%d" % i, b"{}") for i in range(20)]
    sink.commit(output(1, records))
    sink.confirm()
    with own.frozen():
        started_s = time.monotonic()
        with pytest.raises(CommitUnknown) as caught:
            sink.commit(output(2, records))
        assert caught.value.broker_away
        sink.close()
        assert time.monotonic() - started_s < 15
    wait_for_broker(config, lambda: False)
    again = kafka_sink(config)
    last = again.open()
    assert last is not None
    assert len(read_committed(config, CHANGES)) == 20 * last.step
    again.commit(output(last.step + 1, records))
    assert [m.step for m in again.manifests()] == list(range(1, last.step + 2))
    again.close()


def test_a_broker_that_appears_is_noticed(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    own.stop()
    threading.Thread(target=own.start, daemon=True).start()
    wait_for_broker(Kafka(bootstrap_servers=own.address, broker_wait_s=30), lambda: False)
    assert "does not answer" in caplog.text


def test_the_place_where_the_broker_keeps_its_data_is_the_same_after_a_restart(own: Own) -> None:
    """The fixture itself: what was committed before a kill is there after it."""
    config = create_topics(kafka_config(own))
    send(config, [(0, None, b"kept")])
    own.kill()
    own.start()
    source = running(config)
    assert poll_values(source, 1) == [b"kept"]
    source.close()
