"""kafka-python's own part of the bargain: what its producer must do so that the rules of a transaction hold."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, ProducerFencedError, TransactionalIdAuthorizationFailedError

from shoal.stream.config import Kafka
from shoal.stream.kafka import producer as python_client
from shoal.stream.kafka.port import ClientError
from shoal.stream.kafka.producer import PythonClient, PythonProducer
from shoal.stream.ports import ConfigError

CONFIG = Kafka(group_id="g")


@dataclass
class Future:
    """Of one record, as the library hands it out."""

    exception: Exception | None = None
    done: bool = True

    def succeeded(self) -> bool:
        return self.done and self.exception is None


class Library:
    """A KafkaProducer that does as it is told; it has none of the places that whole batches are put in."""

    _accumulator = None

    def __init__(self, futures: Sequence[Future] = (), **does: Any) -> None:
        self._futures = list(futures)
        self._does = does
        self.called: list[str] = []

    def send(self, topic: str, **record: Any) -> Future:
        return self._futures.pop(0)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **settings: Any) -> None:
            self.called.append(name)
            does = self._does.get(name)
            if isinstance(does, Exception):
                raise does
            if does is not None:
                does()

        return call


@pytest.mark.parametrize("bad", [Future(KafkaTimeoutError("lost")), Future(done=False)])
def test_every_single_records_fate_is_looked_at(bad: Future) -> None:
    """The library's flush returns although a record failed."""
    producer = PythonProducer(Library([Future(), bad, Future()]))
    for _ in range(3):
        producer.send("t", b"k", b"v", (), None)
    with pytest.raises(ClientError, match="KafkaTimeoutError") as caught:
        producer.flush(1.0)
    assert caught.value.away


def test_records_that_were_not_flushed_are_never_committed() -> None:
    library = Library()
    producer = PythonProducer(library)
    producer.send("t", b"k", b"v", (), None)
    with pytest.raises(AssertionError, match="1 records sent, and not flushed"):
        producer.commit(1.0)
    assert library.called == []


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_calls_without_a_timeout_of_their_own_get_one(call: str) -> None:
    """The library waits for ever; the caller must not."""
    hanging = threading.Event()
    producer = PythonProducer(Library(**{call: hanging.wait}))
    calls = {
        "send_offsets_to_transaction": lambda: producer.send_offsets("t", {0: 1}, "me", 0.05),
        "commit_transaction": lambda: producer.commit(0.05),
    }
    with pytest.raises(ClientError, match="took longer than") as caught:
        calls[call]()
    hanging.set()
    assert caught.value.away
    assert not caught.value.fenced


def test_closing_a_producer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_client, "_CLOSE_S", 0.05)
    hanging = threading.Event()
    PythonProducer(Library(close=hanging.wait)).close()
    hanging.set()


def test_a_fenced_producer_is_told_apart_from_a_broker_that_is_away() -> None:
    for error, fenced, away in [
        (ProducerFencedError("x"), True, False),
        (KafkaTimeoutError("x"), False, True),
        (ValueError("x"), False, False),
        (RuntimeError("x"), False, False),
    ]:
        with pytest.raises(ClientError) as caught:
            PythonProducer(Library(begin_transaction=error)).begin()
        assert (caught.value.fenced, caught.value.away) == (fenced, away), error


def made(monkeypatch: pytest.MonkeyPatch, *libraries: Library) -> None:
    """The libraries' producers come in this order, whenever one is made."""
    waiting = list(libraries)
    monkeypatch.setattr(python_client, "make", lambda kind, **configs: waiting.pop(0))


def test_fencing_is_tried_again_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Library(init_transactions=KafkaTimeoutError("no answer")), Library()
    made(monkeypatch, first, second)
    PythonClient(CONFIG).producer().begin()
    assert first.called == ["init_transactions", "close"]
    assert second.called == ["init_transactions", "begin_transaction"]


def test_a_refused_transactional_id_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, Library(init_transactions=TransactionalIdAuthorizationFailedError("no")))
    with pytest.raises(ConfigError, match=r"transactional id 'shoal-g' cannot be used.*shoal doctor"):
        PythonClient(CONFIG).producer()
