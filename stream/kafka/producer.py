"""kafka-python behind the port: its transactional producer and its reader, every call bounded in time.

As it was found: a commit and sending the offsets have no timeout; flush() returns although a record failed,
only that record's future says so; close() can hang; the true reason of an error is often only in its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from ..config import Kafka
from ..ports import ConfigError, Stopped
from .admin import REJECTED_MAX_BYTES
from .batches import Sending, send_all
from .client import Patience, bounded, broker_away, close_quietly, make, never
from .port import ClientError, Log, Producer
from .reader import Reader
from .settings import settings, transactional_id

_CLOSE_S = 1.5
_FENCED = ("Fenced", "InvalidProducerEpoch")
_REGROUPED = ("IllegalGeneration", "UnknownMemberId", "RebalanceInProgress")
"""The group moved on without a word to us: nobody fenced this engine, it may come back as a new member."""


class PythonClient:
    """`port.Client` by kafka-python. `stopping` is asked in every wait for an absent broker."""

    def __init__(self, config: Kafka, stopping: Callable[[], bool] = never) -> None:
        self._config = config
        self._stopping = stopping

    def log(self, topic: str) -> Log:
        return Reader(self._config, topic, self._stopping)

    def producer(self) -> Producer:
        patience = Patience(self._config, self._stopping)
        while True:
            try:
                return self._fence()
            except (KafkaError, TimeoutError) as error:
                if not broker_away(error):
                    raise ConfigError(
                        f"transactional id {transactional_id(self._config)!r} cannot be used: {error}. Check this "
                        f"user's permissions and kafka.transaction_timeout_ms with `shoal doctor`"
                    ) from None
                if not patience.pause(error):
                    raise Stopped from None

    def _fence(self) -> Producer:
        """One try: nobody else can commit with this transactional id, and nothing of theirs is pending."""
        limit_s = self._config.delivery_timeout_ms / 1000 + 1
        configs = self._producer_settings()
        producer = bounded(lambda: make(KafkaProducer, **configs), limit_s, "connect", self._stopping)
        _stay_fenced(producer)
        try:
            bounded(lambda: (producer.init_transactions(),), limit_s, "fence", self._stopping)
        except (KafkaError, TimeoutError):
            close_quietly(lambda: producer.close(timeout=1), _CLOSE_S, "producer")
            raise
        return PythonProducer(producer)

    def _producer_settings(self) -> dict[str, Any]:
        config = self._config
        return settings(config) | {
            "transactional_id": transactional_id(config),
            "transaction_timeout_ms": config.transaction_timeout_ms,
            "delivery_timeout_ms": config.delivery_timeout_ms,
            "request_timeout_ms": min(30_000, config.delivery_timeout_ms // 2),
            "max_block_ms": config.delivery_timeout_ms,
            "acks": "all",
            "linger_ms": 5,  # flush() does not wait for it; it only lets batches fill
            "batch_size": 256 << 10,
            "max_request_size": REJECTED_MAX_BYTES,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }


def _stay_fenced(producer: Any) -> None:
    """Once refused, always refused. The library would recover from a stale epoch by asking for a new one: that
    aborts what the successor is in the middle of, and may even fence it."""
    producer._transaction_manager._supports_epoch_bump = lambda: False


class PythonProducer:
    """`port.Producer` over a KafkaProducer whose transactions are initialised."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._sent: list[Sending] = []  # since the last flush

    def begin(self) -> None:
        with _client_errors():
            self._producer.begin_transaction()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        self._sent.append(Sending(topic, key, value, headers, partition))

    def flush(self, timeout_s: float) -> None:
        with _client_errors():
            futures = send_all(self._producer, self._sent)
            self._producer.flush(timeout=timeout_s)
            for future in futures:
                if not future.succeeded():
                    raise future.exception or KafkaTimeoutError("a record was not acknowledged")
        self._sent = []

    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        named = {TopicPartition(topic, p): OffsetAndMetadata(at, "", -1) for p, at in offsets.items()}
        with _client_errors():
            bounded(
                lambda: (self._producer.send_offsets_to_transaction(named, member),), timeout_s, "offsets"
            )

    def commit(self, timeout_s: float) -> None:
        assert not self._sent, f"{len(self._sent)} records sent, and not flushed"
        with _client_errors():
            bounded(lambda: (self._producer.commit_transaction(),), timeout_s, "commit")

    def close(self) -> None:
        close_quietly(lambda: self._producer.close(timeout=1), _CLOSE_S, "producer")


@contextmanager
def _client_errors() -> Iterator[None]:
    """What the library raises, in the port's words."""
    try:
        yield
    except (KafkaError, TimeoutError, RuntimeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        fenced = any(name in text for name in _FENCED)
        away = broker_away(error) or any(name in text for name in _REGROUPED)
        raise ClientError(text, away=away, fenced=fenced) from None
