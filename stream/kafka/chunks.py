"""Records of one partition as columns: one compiled walk through the bytes of a batch.

A record of its own costs a client library in Python more than everything that Shoal does with an event. So a
`Chunk` keeps the bytes of a batch and a table of where keys, values and traceparents stand in it; nothing
else is made before somebody asks. What the walk does not understand to the last byte is nobody's chunk.

The format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiling import kernel
from ..events import I64, Records

TRACEPARENT_BYTES_MAX = 256  # the standard's has 55; a longer one would only swell every record it passes to
_TRACEPARENT = np.frombuffer(b"traceparent", np.uint8)
_OFFSET, _KEY, _VALUE, _TRACE, _COLUMNS = 0, 1, 3, 5, 7
"""Columns of a table: offset, then start and end of each part; where the end is before the start, there is none."""

_CUT_OFF = -1
_VARINT_BITS = 63  # a longer number wraps here, and would not in the library: it is left to the library
_RECORD_BYTES_MIN = 7  # the least that a record takes: a batch that says it has more is not believed


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some records of one partition, in order: n of them, and the bytes that they stand in."""

    data: bytes
    table: I64  # (n, 7): see `_COLUMNS`

    def __len__(self) -> int:
        return len(self.table)

    @property
    def offsets(self) -> I64:
        return self.table[:, _OFFSET]

    @property
    def keys(self) -> list[bytes | None]:
        return self._part(_KEY)

    @property
    def values(self) -> list[bytes | None]:
        return self._part(_VALUE)

    @property
    def traceparents(self) -> dict[int, bytes]:
        """row -> traceparent, where there is one."""
        rows = np.flatnonzero(self.table[:, _TRACE + 1] >= self.table[:, _TRACE])
        places = self.table[rows, _TRACE:].tolist()
        return {row: self.data[start:end] for row, (start, end) in zip(rows.tolist(), places, strict=True)}

    def _part(self, column: int) -> list[bytes | None]:
        data, (starts, ends) = self.data, self.table[:, column : column + 2].T
        places = zip(starts.tolist(), ends.tolist(), strict=True)
        if (ends >= starts).all():
            return [data[start:end] for start, end in places]
        return [data[start:end] if end >= start else None for start, end in places]

    def rows(self, start: int, end: int) -> Chunk:
        return Chunk(self.data, self.table[start:end])

    def since(self, offset: int) -> Chunk:
        """Without the records before `offset`. At least one is not."""
        return self.rows(int(np.argmax(self.offsets >= offset)), len(self))


def chunk_of(data: bytes, base_offset: int, count: int) -> Chunk | None:
    """The `count` records of a batch, decompressed; None unless they are all of `data`, and make sense."""
    if count > len(data) // _RECORD_BYTES_MIN:
        return None
    table = np.empty((count, _COLUMNS), np.int64)
    found = _walk(np.frombuffer(data, np.uint8), base_offset, table, _TRACEPARENT, TRACEPARENT_BYTES_MAX)
    return Chunk(data, table) if found else None


def chunk_of_one(record: Any) -> Chunk:
    """A record of the library's."""
    traces = [value for name, value in record.headers if name == "traceparent" and _is_short(value)]
    data, row = b"", [record.offset]
    for part in (record.key, record.value, *(traces[-1:] or (None,))):
        row += [len(data), _CUT_OFF if part is None else len(data) + len(part)]
        data += part or b""
    return Chunk(data, np.array([row], np.int64))


def _is_short(value: bytes | None) -> bool:
    return value is not None and len(value) <= TRACEPARENT_BYTES_MAX


def to_records(partition: int, chunks: Sequence[Chunk]) -> Records:
    """Chunks of one partition as columns; bytes stay as they are."""
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    traceparents: dict[int, bytes] = {}
    for chunk in chunks:
        traceparents |= {len(values) + row: found for row, found in chunk.traceparents.items()}
        keys += chunk.keys
        values += chunk.values
    offsets = np.concatenate([chunk.offsets for chunk in chunks])
    return Records(np.full(len(values), partition, np.int32), offsets, keys, values, traceparents)


# --- the walk: a place that is cut off is -1 -------------------------------------------------------------------


@kernel
def _walk(data: NDArray[np.uint8], base: int, table: I64, wanted: NDArray[np.uint8], bytes_max: int) -> bool:
    """Fill a row of `table` (n, 7) for each record; whether `data` is n records and nothing else."""
    at = 0
    for i in range(len(table)):
        length, start = _varint(data, at)
        if start < 0 or start >= len(data) or data[start] != 0:  # attributes: no format uses them yet
            return False
        _, at = _varint(data, start + 1)  # the time it was sent; events say when they happened
        delta, at = _varint(data, at)
        table[i, 0] = base + delta
        for column in (1, 3):
            table[i, column], table[i, column + 1] = _part(data, at)
            at = max(table[i, column], table[i, column + 1])
        at = _headers(data, at, table[i, 5:], wanted, bytes_max)
        if at < 0 or at != start + length:
            return False
    return at == len(data)


@kernel
def _varint(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """A number, zigzag, seven bits a byte; and where it ends."""
    found, shift = 0, 0
    while 0 <= at < len(data) and shift < _VARINT_BITS:
        found |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return (found >> 1) ^ -(found & 1), at
    return 0, -1


@kernel
def _part(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Start and end of bytes behind their length; for null the end is before the start."""
    length, start = _varint(data, at)
    if start < 0 or length < -1 or length > len(data) - start:
        return -1, -1
    return start, start + length


@kernel
def _headers(data: NDArray[np.uint8], at: int, place: I64, wanted: NDArray[np.uint8], bytes_max: int) -> int:
    """Where a record's headers end. The last traceparent that is not too long is noted in `place` (2,)."""
    place[0], place[1] = 0, -1
    count, at = _varint(data, at)
    if count < 0:
        return -1
    for _ in range(count):
        name, name_end = _part(data, at)
        if name_end < name:
            return -1
        start, end = _part(data, name_end)
        at = max(start, end)
        if at < 0:
            return -1
        if 0 <= end - start <= bytes_max and _same(data[name:name_end], wanted):
            place[0], place[1] = start, end
    return at


@kernel
def _same(name: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> bool:
    return len(name) == len(wanted) and bool((name == wanted).all())
