"""Records framed all at once, and handed to kafka-python as whole batches.

The library's `send` takes 45 to 70 microseconds of pure Python a record: it hashes the key, writes numbers byte by
byte, estimates sizes, and makes a future that takes part in the answer. Here a batch's bytes are joined from parts
that are mostly ready. The library goes on from there, as with batches of its own: it numbers and checks them, adds
their partitions to the transaction, sends and repeats them, and tells what became of them.

Rules that keep it safe: nothing of the library is replaced; and before the first use some records are framed both
ways and compared. A library that does not agree, or has no such places, gets its records one by one.

The format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from kafka import TopicPartition
from kafka.errors import IllegalStateError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.partitioner.default import murmur2
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import encode_varint
from kafka.version import __version__ as library_version

from ..compiling import kernel
from ..events import I64

log = logging.getLogger("shoal")

_FORMAT = 2
_NONE = b"\x01"  # the length of what is not there
_FRAME_BYTES = DefaultRecordBatchBuilder.header_size_in_bytes()


class Sending(NamedTuple):
    """A record on its way; without a partition, its key's hash chooses one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None


class Batch(NamedTuple):
    """Some records of one partition, in order, as they stand behind a batch's own header."""

    data: bytearray
    records: int


def send_all(producer: Any, records: Sequence[Sending]) -> list[Any]:
    """Hand the records to a KafkaProducer; futures that tell, after a flush, what became of all of them.

    Raises KafkaError: no such topic, a record that is too large, or a producer that can do no more.
    """
    if not (agrees() and _fits(producer)):
        return [
            producer.send(r.topic, key=r.key, value=r.value, headers=list(r.headers), partition=r.partition)
            for r in records
        ]
    futures = []
    most_bytes = producer.config["max_request_size"]
    for place, own in _by_partition(producer, records).items():
        producer._transaction_manager.maybe_add_partition_to_transaction(place)
        for batch in framed(own, producer.config["batch_size"]):
            if len(batch.data) > most_bytes:  # then it holds one record
                raise MessageSizeTooLargeError(
                    f"a record for {place.topic} is larger than {most_bytes} bytes ({len(batch.data)})"
                )
            futures.append(_hand_over(producer._accumulator, place, batch))
    producer._sender.wakeup()
    return futures


def _hand_over(accumulator: Any, place: TopicPartition, batch: Batch) -> Any:
    """Put the batch behind those that wait. Its future is that of its first record: all share one fate, since
    the broker stores a batch, or does not."""
    now_ms = int(time.time() * 1000)
    waiting = ProducerBatch(place, _as_the_librarys(batch, now_ms))
    future = FutureRecordMetadata(waiting.produce_future, 0, now_ms, None, -1, -1, -1)
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(place):
            if accumulator._closed:
                raise IllegalStateError("the producer is closed")
            accumulator._batches[place].append(waiting)
            accumulator._incomplete.add(waiting)
    finally:
        accumulator._appends_in_progress.decrement()
    return future


def _as_the_librarys(batch: Batch, now_ms: int) -> MemoryRecordsBuilder:
    """The batch as if its records had been appended one by one. It is full: nobody adds to it."""
    records = MemoryRecordsBuilder(_FORMAT, 0, len(batch.data))
    builder = records._builder
    builder._buffer = batch.data
    builder._num_records = batch.records
    builder._last_offset = batch.records - 1
    builder._first_timestamp = builder._max_timestamp = now_ms
    records._next_offset = batch.records
    return records


# --- which partition ------------------------------------------------------------------------------------------


def _by_partition(producer: Any, records: Sequence[Sending]) -> dict[TopicPartition, list[Sending]]:
    """Each partition's records, in their order."""
    by_topic: dict[str, list[Sending]] = defaultdict(list)
    for r in records:
        by_topic[r.topic].append(r)
    found: dict[TopicPartition, list[Sending]] = defaultdict(list)
    for topic, own in by_topic.items():
        partitions = producer.partitions_for(
            topic
        )  # waits for them; the sender must know who leads them, too
        if not partitions:
            raise KafkaTimeoutError(f"nobody knows the partitions of {topic}")
        places = [TopicPartition(topic, partition) for partition in sorted(partitions)]
        hashes = key_hashes([r.key or b"" for r in own]).tolist()
        for r, hashed in zip(own, hashes, strict=True):
            chosen = (
                places[hashed % len(places)] if r.partition is None else TopicPartition(topic, r.partition)
            )
            found[chosen].append(r)
    return found


def key_hashes(keys: Sequence[bytes]) -> I64:
    """(n,) murmur2 of each key without its sign, as Java's producer and kafka-python choose partitions by."""
    ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
    found: I64 = _hashes(np.frombuffer(b"".join(keys), np.uint8), ends)
    return found


@kernel
def _hashes(data: Any, ends: Any) -> Any:
    found = np.zeros(len(ends), np.int64)
    m = np.uint32(0x5BD1E995)
    start = 0
    for row in range(len(ends)):
        length = ends[row] - start
        h = np.uint32(np.uint32(0x9747B28C) ^ np.uint32(length))
        whole = length // 4
        for word in range(whole):
            k = np.uint32(0)
            for byte in range(4):
                k |= np.uint32(np.uint32(data[start + 4 * word + byte]) << np.uint32(8 * byte))
            k = np.uint32(k * m)
            k ^= np.uint32(k >> np.uint32(24))
            k = np.uint32(k * m)
            h = np.uint32(np.uint32(h * m) ^ k)
        rest = length - 4 * whole
        if rest:
            for byte in range(rest):
                h ^= np.uint32(np.uint32(data[start + 4 * whole + byte]) << np.uint32(8 * byte))
            h = np.uint32(h * m)
        h ^= np.uint32(h >> np.uint32(13))
        h = np.uint32(h * m)
        h ^= np.uint32(h >> np.uint32(15))
        found[row] = np.int64(h) & 0x7FFFFFFF
        start = ends[row]
    return found


# --- framing --------------------------------------------------------------------------------------------------


def framed(records: Sequence[Sending], most_bytes: int) -> Iterator[Batch]:
    """The records in batches of at most so many bytes; a record that is larger has a batch of its own."""
    parts: list[bytes] = []
    size = _FRAME_BYTES
    count = 0
    for r in records:
        rest = _rest(r)
        body = len(rest) + 2 + len(number(count))
        more = body + len(number(body))
        if count and size + more > most_bytes:
            yield Batch(bytearray(b"".join((bytes(_FRAME_BYTES), *parts))), count)
            parts, size, count = [], _FRAME_BYTES, 0
            body = len(rest) + 2 + len(number(0))
            more = body + len(number(body))
        parts += (number(body), b"\x00\x00", number(count), rest)  # no attributes, no time since the batch's
        size += more
        count += 1
    if count:
        yield Batch(bytearray(b"".join((bytes(_FRAME_BYTES), *parts))), count)


def _rest(r: Sending) -> bytes:
    """A record behind its place in the batch."""
    key, value, headers = r.key, r.value, r.headers
    return b"".join(
        (
            *((number(len(key)), key) if key is not None else (_NONE,)),
            *((number(len(value)), value) if value is not None else (_NONE,)),
            number(len(headers)),
            *(part for name, held in headers for part in (_header_name(name), number(len(held)), held)),
        )
    )


@lru_cache(1 << 16)
def number(n: int) -> bytes:
    """A number as the format has it."""
    found = bytearray()
    encode_varint(n, found.append)
    return bytes(found)


@lru_cache(1 << 10)
def _header_name(name: str) -> bytes:
    raw = name.encode()
    return number(len(raw)) + raw


# --- whether this library is the one it was written for ------------------------------------------------------


@cache
def agrees() -> bool:
    """Whether the library frames and places some records as is done here; asked once."""
    try:
        found = all(_same(records) for records in _SOME)
    except Exception as error:  # whatever another version's insides do
        log.debug("kafka-python %s: %s", library_version, error)
        found = False
    if not found:
        log.warning("kafka-python %s frames records in another way: records go one by one", library_version)
    return found


def _fits(producer: Any) -> bool:
    accumulator = getattr(producer, "_accumulator", None)
    places = "_appends_in_progress", "_batches", "_closed", "_incomplete", "_tp_lock"
    return all(hasattr(accumulator, name) for name in places) and hasattr(
        producer._transaction_manager, "maybe_add_partition_to_transaction"
    )


def _same(records: Sequence[Sending]) -> bool:
    theirs = MemoryRecordsBuilder(_FORMAT, 0, 1 << 20)
    for r in records:
        theirs.append(1, r.key, r.value, list(r.headers))
    (batch,) = framed(records, 1 << 20)
    ours = _as_the_librarys(batch, 1)
    for builder in (theirs, ours):
        builder.set_producer_state(7, 3, 11, True)
        builder.close()
    keys = [r.key or b"" for r in records]
    return (
        bytes(ours.buffer()) == bytes(theirs.buffer())
        and ours.next_offset() == theirs.next_offset()
        and key_hashes(keys).tolist() == [murmur2(key) & 0x7FFFFFFF for key in keys]
    )


_SOME = [
    [Sending("t", b"k" * n, b"v" * (n * n), [("name", b"h" * n)] * (n % 3), None) for n in range(70)],
    [Sending("t", None, b"v", [], 0), Sending("t", b"\xff\x80key", None, [("\u00e9", b"")], 1)],
]
