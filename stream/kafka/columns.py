"""kafka-python reads the log; the records inside of its batches are read here, as columns.

Theory of operation. The library goes on doing all that must be exact: it fetches, checks, decompresses, leaves
out aborted transactions and control batches, and keeps the positions, batch by batch. Only the walk through a
batch is replaced (`chunks`). The library's own generator is led to believe that a batch holds one record,
whose value is a `Chunk`; so `poll` gives chunks where it gave records.

One place is hooked: the class that a fetcher makes of each partition's answer. Rules that keep it safe:

- a batch that the walk does not understand is left to the library, record by record: it says what is wrong;
- before the first use, batches made for it are read both ways and compared, cut where fetches and steps may cut
  them. A library that does not agree, or has no such place, is used as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.version import __version__ as library_version

from .chunks import Chunk, chunk_of, chunk_of_one

log = logging.getLogger("shoal")

_FEW = 4  # records; the library is as fast with fewer
_CUTS = (2, 3, 1, 50)


def use_columns(consumer: Any) -> bool:
    """From here on `consumer.poll` gives chunks, not records. False: it does not, this library is another."""
    if agrees():
        consumer._fetcher.PartitionRecords = ColumnRecords
    return agrees()


class Taken:
    """n records in chunks. The library counts the records, and keeps the chunks."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._count = 0

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._count += len(chunk)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)


class ColumnRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition.

    Always true between calls: `next_fetch_offset` is behind the last record that was taken, or further, behind
    markers, when nothing is left; `_rest` is of the batch that the library's generator stands at.
    """

    def __init__(self, fetch_offset: int, tp: TopicPartition, records: Any, **configs: Any) -> None:
        super().__init__(fetch_offset, tp, _Batches(records), **configs)
        self._rest: Chunk | None = None

    def take(self, n: int) -> Taken:
        """Up to n next records; what is wrong behind some is told in the next call, as the library does it."""
        self._maybe_raise_next_inline_exception()
        taken = Taken()
        try:
            while len(taken) < n and (chunk := self._next()) is not None:
                left = n - len(taken)
                self._rest = chunk.rows(left, len(chunk)) if len(chunk) > left else None
                taken.add(chunk.rows(0, left))
                self.next_fetch_offset = int(chunk.offsets[:left][-1]) + 1
        except Exception as error:
            if not taken:
                raise
            self._next_inline_exception = error
        return taken

    def _next(self) -> Chunk | None:
        if self._rest is not None:
            return self._rest
        record = next(self.record_iterator, None)
        if record is None:
            return None
        chunk = record.value if isinstance(record.value, Chunk) else chunk_of_one(record)
        return chunk.since(self.fetch_offset)  # a fetch may begin inside of a batch, which comes whole

    def drain(self) -> None:
        self._rest = None
        super().drain()


class _Batches:
    """What the library's generator asks for one batch after the other."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if not isinstance(batch, DefaultRecordBatch) or batch.is_control_batch or batch.records_count < _FEW:
            return batch
        return _Batch(batch)


class _Batch:
    """A batch with one record; all else about it is the library's."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        batch = iter(self._batch)  # decompresses
        data = bytes(memoryview(batch._buffer)[batch._pos :])
        chunk = chunk_of(data, batch.base_offset, batch.records_count)
        if chunk is None:
            return iter(batch)
        last = int(chunk.offsets[-1])
        return iter((DefaultRecord(batch.size_in_bytes, last, -1, 0, None, chunk, ()),))


# --- the look before the first use ------------------------------------------------------------------------------


@cache
def agrees() -> bool:
    """Whether what is read in columns is what the library itself reads. Warns once when it is not."""
    try:
        same = _seen(Fetcher.PartitionRecords) == _seen(ColumnRecords)
    except (KafkaError, AttributeError, TypeError, ValueError, IndexError, AssertionError) as error:
        log.debug("reading in columns: %r", error)
        same = False
    if not same:
        log.warning(
            "kafka-python %s is not one that is known: its own, slow reading is used", library_version
        )
    return same


def _seen(kind: Any) -> list[object]:
    """What a class of partition records makes of three batches, from inside of the first, in some portions."""
    data = b"".join(_made(base, count) for base, count in ((100, 8), (108, 3), (120, 9)))
    part = kind(103, TopicPartition("t", 0), MemoryRecords(data))
    seen: list[object] = []
    for count in _CUTS:
        found = part.take(count)
        seen += [len(found), part.next_fetch_offset, bool(part)]
        for chunk in found:
            chunk = chunk if isinstance(chunk, Chunk) else chunk_of_one(chunk)
            traces = chunk.traceparents
            rows = zip(chunk.offsets.tolist(), chunk.keys, chunk.values, strict=True)
            seen += [(*row, traces.get(i)) for i, row in enumerate(rows)]
    return seen


def _made(base: int, count: int) -> bytes:
    """A batch with nulls, headers, and lengths of one and two bytes."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    for i in range(count):
        key, value = (None if i == 1 else b"k%d" % i), (None if i == 2 else b"v" * (i * 40))
        headers = [("other", None), ("traceparent", b"00-%d" % i)][: i % 3]
        builder.append(i, 1_700_000_000_000 + i, key, value, headers)
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)
