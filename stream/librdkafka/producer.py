"""librdkafka behind the port: its transactional producer, and what makes it and the logs.

As it was found: begin, send_offsets, commit and flush take a timeout and keep it; a record that fails says so in
its delivery report, which comes while flush() runs; after that the whole transaction refuses to commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Producer as LibraryProducer

from ..config import Kafka
from ..kafka.admin import REJECTED_MAX_BYTES
from ..kafka.client import Patience, bounded, close_quietly, never
from ..kafka.port import ClientError, Log, Producer
from ..kafka.settings import transactional_id
from ..ports import ConfigError, Stopped
from .errors import away, client_error, client_errors, reason, refusal, text
from .log import LibrdkafkaLog
from .settings import LIBRARY_LOG, producing

_CLOSE_S = 1.5
_MAKE_ROOM_S = 0.05
_ABORT_S = 1.0
_FLUSH_SLICE_S = 0.5  # behind a record that failed, those of its partition are waited for in vain


class LibrdkafkaClient:
    """`port.Client` by librdkafka. `stopping` is asked in every wait for an absent broker."""

    def __init__(self, config: Kafka, stopping: Callable[[], bool] = never) -> None:
        self._config = config
        self._stopping = stopping

    def log(self, topic: str) -> Log:
        return LibrdkafkaLog(self._config, topic, self._stopping)

    def producer(self) -> Producer:
        patience = Patience(self._config, self._stopping)
        while True:
            producer = LibrdkafkaProducer(self._config)
            try:
                producer.fence(self._config.delivery_timeout_ms / 1000 + 1, self._stopping)
                return producer
            except (KafkaException, TimeoutError) as error:
                producer.close()
                self._give_up_if_refused(error)
                if not patience.pause(error):
                    raise Stopped from None

    def _give_up_if_refused(self, error: KafkaException | TimeoutError) -> None:
        if isinstance(error, TimeoutError) or away(reason(error)):
            return
        raise refusal(self._config, reason(error)) or ConfigError(
            f"transactional id {transactional_id(self._config)!r} cannot be used: {text(reason(error))}. Check this "
            f"user's permissions and kafka.transaction_timeout_ms with `shoal doctor`"
        ) from None


class LibrdkafkaProducer:
    """`port.Producer` over a librdkafka producer; `fence` comes before everything else.

    Memory: at most 128 MiB of records that are not acknowledged yet; `send` waits for room.
    """

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._refused: KafkaError | None = None
        self._sent = self._acknowledged = 0
        self._failed: KafkaError | None = None
        settings = producing(config) | {"on_delivery": self._delivered, "error_cb": self._trouble}
        self._producer = LibraryProducer(settings, logger=LIBRARY_LOG)

    def fence(self, timeout_s: float, stopping: Callable[[], bool]) -> None:
        """Nobody else can commit with this transactional id from here on. Raises KafkaException, TimeoutError."""
        producer = self._producer

        def fence() -> bool:
            producer.init_transactions(timeout_s)
            return True

        try:
            bounded(fence, timeout_s + 1, "fence", stopping)
        except (KafkaException, TimeoutError):
            self._producer.poll(0)  # hears why
            if self._refused is not None:
                raise KafkaException(self._refused) from None
            raise

    def begin(self) -> None:
        with client_errors():
            self._producer.begin_transaction()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        more: dict[str, Any] = {} if partition is None else {"partition": partition}
        deadline_s = time.monotonic() + self._config.delivery_timeout_ms / 1000
        with client_errors():
            while True:
                try:
                    self._producer.produce(topic, value, key, headers=list(headers), **more)
                    break
                except KafkaException as error:
                    if reason(error).code() != KafkaError.MSG_SIZE_TOO_LARGE:
                        raise
                    raise ClientError(
                        f"{text(reason(error))}: a record for {topic} is larger than {REJECTED_MAX_BYTES} bytes"
                    ) from None
                except BufferError:  # full: the reports of what was sent make room
                    self._producer.poll(_MAKE_ROOM_S)
                    if time.monotonic() > deadline_s:
                        raise ClientError("the broker takes no more records", away=True) from None
        self._sent += 1

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        """A record's fate; called while flush() or poll() runs."""
        if error is None:
            self._acknowledged += 1
        else:
            self._failed = self._failed or error

    def _trouble(self, error: KafkaError) -> None:
        if refusal(self._config, error) is not None:
            self._refused = error

    def flush(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        left_s = timeout_s
        while self._acknowledged != self._sent and self._failed is None and left_s > 0:
            try:
                with client_errors():
                    self._producer.flush(min(_FLUSH_SLICE_S, left_s))
            except ClientError as error:
                raise self._why(error) from None
            left_s = deadline_s - time.monotonic()
        if self._failed is not None:
            raise self._why(client_error(self._failed))
        if self._acknowledged != self._sent:
            missing = self._sent - self._acknowledged
            raise ClientError(f"{missing} records were not acknowledged within {timeout_s:.1f} s", away=True)

    def _why(self, error: ClientError) -> ClientError:
        """The true reason: where another producer took over, the library may only say that it gave records up,
        or, at the same moment, fail without a word. Asked to abort, it says whether all is lost."""
        if error.fenced:
            return error
        try:
            with client_errors():
                self._producer.abort_transaction(_ABORT_S)
        except ClientError as known:
            return known if known.fenced else error
        return error

    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        named = [TopicPartition(topic, p, at) for p, at in offsets.items()]
        with client_errors():
            self._producer.send_offsets_to_transaction(named, member.metadata(), timeout_s)

    def commit(self, timeout_s: float) -> None:
        assert self._acknowledged == self._sent, (
            f"{self._sent - self._acknowledged} records sent, not flushed"
        )
        with client_errors():
            self._producer.commit_transaction(timeout_s)

    def close(self) -> None:
        close_quietly(self._end, _CLOSE_S, "producer")

    def _end(self) -> None:
        """Give up what is on its way; ending the library's threads may wait for the broker."""
        producer = self.__dict__.pop("_producer", None)
        if producer is not None:
            producer.purge()
