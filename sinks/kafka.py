"""One Kafka transaction per step: outputs, manifest and input positions, all or nothing.

Theory of operation. kafka-python can report a commit that never happened (the process was paused past the
transaction timeout), publish half of a step if a failed future is overlooked, and time out although the
commit went through. These rules, in this order, hold against all of it:

1. begin only when the computing is done;
2. send everything, flush, and look at every single future;
3. only then send the input positions, with the group's generation, and commit;
4. any error, or more time than the transaction may take, makes the outcome unknown: CommitUnknown, and this
   producer is never used again;
5. the truth about an unknown commit is the manifest topic, read with `read_committed` after fencing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from ..stream.config import Kafka
from ..stream.events import MANIFEST, Manifest, Output, OutRecord
from ..stream.kafka.admin import REJECTED_MAX_BYTES, input_topic
from ..stream.kafka.client import (
    Patience,
    bounded,
    broker_away,
    close_quietly,
    make,
    never,
)
from ..stream.kafka.reader import Reader, read_all
from ..stream.kafka.settings import settings, transactional_id
from ..stream.manifest import decode_manifest, encode_manifest
from ..stream.ports import CommitUnknown, ConfigError, Published, ShoalError, Stopped

log = logging.getLogger("shoal")

_CLOSE_S = 1.5
_NOTHING = ("shoal_null", b"1")
"""Header of a record that had neither key nor value: the client refuses to send that, an empty value stands in."""


class KafkaSink:
    """A transactional producer. `group` says who we are in the input's consumer group; None: for reading only.

    Memory: at most `bytes_max` of a step are in flight; a larger step is sent in parts, in one transaction.
    """

    def __init__(
        self,
        config: Kafka,
        group: Callable[[], ConsumerGroupMetadata] | None,
        bytes_max: int = 64 << 20,
        stopping: Callable[[], bool] = never,
    ) -> None:
        self._config = config
        self._group = group
        self._bytes_max = bytes_max
        self._stopping = stopping
        self._producer: KafkaProducer | None = None
        self._usable = True

    # --- opening ----------------------------------------------------------------------------------------------

    def open(self) -> Manifest | None:
        """Raises BrokerGone; Stopped when told to stop while waiting; ConfigError when the broker refuses the
        transactional id."""
        self._producer = self._fence()
        return self.last()

    def _fence(self) -> KafkaProducer:
        """From here on nobody else can commit with this transactional id, and nothing of theirs is pending."""
        patience = Patience(self._config, self._stopping)
        while True:
            producer = None
            try:
                producer = make(KafkaProducer, **self._producer_settings())
                limit_s = self._config.delivery_timeout_ms / 1000 + 1
                bounded(lambda made=producer: (made.init_transactions(),), limit_s, "fence", self._stopping)  # type: ignore[misc]
                return producer
            except (KafkaError, TimeoutError) as error:
                if producer is not None:
                    close_quietly(lambda made=producer: made.close(timeout=1), _CLOSE_S, "producer")  # type: ignore[misc]
                if not broker_away(error):
                    raise ConfigError(
                        f"transactional id {transactional_id(self._config)!r} cannot be used: {error}. Check this "
                        f"user's permissions and kafka.transaction_timeout_ms with `shoal doctor`"
                    ) from None
                if not patience.pause(error):
                    raise Stopped from None

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

    # --- committing -------------------------------------------------------------------------------------------

    def commit(self, output: Output) -> None:
        assert self._producer is not None, "open before commit"
        assert self._usable, "a producer whose last commit is in doubt is never used again"
        assert self._group is not None, "this sink is for reading only"
        member = self._group()
        self._usable = False
        started_s = time.monotonic()
        try:
            self._transact(output, member, started_s)
        except ShoalError:
            raise
        except (KafkaError, TimeoutError, RuntimeError, ValueError) as error:
            raise self._unknown(output.step, error) from None
        self._usable = True

    def _unknown(self, step: int, error: BaseException) -> CommitUnknown:
        text = f"{type(error).__name__}: {error}"
        if "Fenced" in text or "InvalidProducerEpoch" in text:
            name = transactional_id(self._config)
            return CommitUnknown(
                f"step {step}: refused, another engine took over transactional id {name!r} (this one was silent "
                f"for too long, or two are configured alike); the manifest topic tells what was committed"
            )
        return CommitUnknown(
            f"step {step}: the transaction failed ({text}); the manifest topic will tell what was committed",
            broker_away=broker_away(error),
        )

    def _transact(self, output: Output, member: ConsumerGroupMetadata, started_s: float) -> None:
        producer = self._producer
        assert producer is not None
        limit_s = self._config.transaction_timeout_ms / 1000
        producer.begin_transaction()
        self._send(output)
        offsets = {
            TopicPartition(input_topic(self._config), r.partition): OffsetAndMetadata(r.end, "", -1)
            for r in output.manifest.ranges
        }

        def finish() -> bool:
            if offsets:
                producer.send_offsets_to_transaction(offsets, member)
            producer.commit_transaction()
            return True

        bounded(finish, max(0.1, limit_s - (time.monotonic() - started_s)), "commit")
        took_s = time.monotonic() - started_s
        if took_s >= limit_s:
            raise CommitUnknown(
                f"step {output.step}: its transaction took {took_s:.1f} s, kafka.transaction_timeout_ms is "
                f"{limit_s:g} s: the broker may have aborted it although the commit seemed to succeed (was this "
                f"process paused?)",
                broker_away=True,
            )

    def _send(self, output: Output) -> None:
        """Everything of the step is stored on the broker, not yet visible. Raises KafkaError."""
        futures: list[Any] = []
        in_flight_bytes = 0
        for record in output.records:
            size = _size(record)
            if in_flight_bytes + size > self._bytes_max and futures:
                self._settle(futures)
                futures, in_flight_bytes = [], 0
            futures.append(self._send_one(record))
            in_flight_bytes += size
        futures.append(self._send_one(OutRecord(MANIFEST, None, encode_manifest(output.manifest))))
        self._settle(futures)

    def _send_one(self, record: OutRecord) -> Any:
        """Keyed records go where their key's hash says, the others to partition 0, so that they have one order."""
        assert self._producer is not None
        value, headers = record.value, list(record.headers)
        if record.key is None and value is None:
            value, headers = b"", [*headers, _NOTHING]
        return self._producer.send(
            self._config.topic_prefix + record.topic,
            key=record.key,
            value=value,
            headers=headers,
            partition=0 if record.key is None else None,
        )

    def _settle(self, futures: Sequence[Any]) -> None:
        assert self._producer is not None
        self._producer.flush(timeout=self._config.delivery_timeout_ms / 1000)
        for future in futures:
            if not future.succeeded():
                raise future.exception or KafkaTimeoutError("a record was not acknowledged")

    # --- reading back -------------------------------------------------------------------------------------------

    def confirm(self) -> None:
        pass

    def last(self) -> Manifest | None:
        found = self._last_record()
        return None if found is None else decode_manifest(found.value)

    def _last_record(self) -> Any:
        """The newest committed manifest record, or None."""
        reader = Reader(self._config, self._config.topic_prefix + MANIFEST, self._stopping)
        try:
            first, end = reader.bounds()[0]
            back = 16  # markers and aborted transactions stand between the last manifest and the end
            while True:
                start = max(first, end - back)
                found = list(reader.read(0, start, end))
                if found:
                    return found[-1]
                if start == first:
                    return None
                back *= 8
        finally:
            reader.close()

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        reader = Reader(self._config, self._config.topic_prefix + MANIFEST, self._stopping)
        try:
            first, end = reader.bounds()[0]
            for record in reader.read(0, _start_of(reader, first, end, after), end):
                manifest = decode_manifest(record.value)
                if manifest.step > after:
                    yield manifest
        finally:
            reader.close()

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        reader = Reader(self._config, self._config.topic_prefix + topic, self._stopping)
        try:
            return reader.bounds()
        finally:
            reader.close()

    def published(self, topic: str) -> Iterator[Published]:
        """Every committed record of a topic (contract name), in the order of each key."""
        for record in read_all(self._config, self._config.topic_prefix + topic):
            headers = tuple(record.headers)
            if _NOTHING in headers:
                headers = tuple(h for h in headers if h != _NOTHING)
                found = OutRecord(topic, None, None, headers)
            else:
                found = OutRecord(topic, record.key, record.value, headers)
            yield Published(found, record.partition, record.offset)

    def close(self) -> None:
        """Never hangs; a transaction that is still open is aborted by the broker."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            close_quietly(lambda: producer.close(timeout=1), _CLOSE_S, "producer")


def _start_of(reader: Reader, first: int, end: int, after: int) -> int:
    """An offset at or before the manifest of step `after` + 1, found from the end in growing strides."""
    back = 64
    while after > 0 and end - back > first:
        start = end - back
        record = next(reader.read(0, start, end), None)
        if record is not None and decode_manifest(record.value).step <= after + 1:
            return start
        back *= 4
    return first


def _size(record: OutRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
