"""The records of one topic as they were computed, small enough to keep: 24 bytes a record.

A record becomes three digests of eight bytes: of its key, of its value, of its headers. They are keyed with
chance, so nobody can make another record that has the same ones; that two of a billion records are taken for
one another by accident is about as likely as a wrong bit in memory.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from bisect import bisect_right

import numpy as np

from ..events import I64, U64, OutRecord

_SECRET = secrets.token_bytes(32)
_TOMBSTONE = 1  # lowest bit of a value's digest


def digests(record: OutRecord) -> tuple[int, int, int]:
    """Of key, value and headers. A record without a key is its own key: no order among those is promised."""
    headers = _digest(b"".join(_framed(name.encode()) + _framed(value) for name, value in record.headers))
    value = _digest(record.value or b"") & ~_TOMBSTONE | (record.value is None)
    if record.key is None:
        return _digest(b"\x00", headers.to_bytes(8, "big"), value.to_bytes(8, "big")), value, headers
    return _digest(b"\x01", record.key), value, headers


def _digest(*parts: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8, key=_SECRET).digest(), "big")


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


class Expected:
    """Grows by one record at a time, in the order in which the steps publish them."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._keys, self._values, self._headers = array("Q"), array("Q"), array("Q")
        self._steps, self._ends = array("q"), array("q")  # steps that published here; records by then

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, step: int, record: OutRecord) -> None:
        key, value, headers = digests(record)
        self._keys.append(key)
        self._values.append(value)
        self._headers.append(headers)
        if not self._steps or self._steps[-1] != step:
            self._steps.append(step)
            self._ends.append(0)
        self._ends[-1] = len(self._keys)

    def step_of(self, ordinal: int) -> int:
        """The step that published record number `ordinal`, from 0."""
        return self._steps[bisect_right(self._ends, ordinal)]

    def until(self, step: int) -> int:
        """How many records the steps up to this one published."""
        at = bisect_right(self._steps, step)
        return self._ends[at - 1] if at else 0

    def by_key(self) -> ByKey:
        return ByKey(*(np.array(column, np.uint64) for column in (self._keys, self._values, self._headers)))


class ByKey:
    """n computed records sorted by key, each key's in their own order; position p is a place in that sorting.

    Memory: 32 bytes a record and 24 a key, while the topic is compared.
    """

    def __init__(self, keys: U64, values: U64, headers: U64) -> None:
        order = np.argsort(keys, kind="stable")
        self.ordinal: I64 = order  # (n,) position -> number in the order of computing
        self.value: U64 = values[order]  # (n,)
        self.headers: U64 = headers[order]  # (n,)
        self.keys, first = np.unique(keys[order], return_index=True)  # (g,)
        self.first: I64 = np.append(first, len(keys))  # (g+1,) positions of group g: first[g] to first[g+1]

    def group(self, key: int) -> int | None:
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        return at if at < len(self.keys) and int(self.keys[at]) == key else None

    def find(self, value: int, headers: int, start: int, end: int) -> int | None:
        """The first position of [start, end) with this content."""
        if start < end and int(self.value[start]) == value and int(self.headers[start]) == headers:
            return start
        same = (self.value[start:end] == np.uint64(value)) & (self.headers[start:end] == np.uint64(headers))
        found = np.flatnonzero(same)
        return start + int(found[0]) if len(found) else None

    def tombstone(self) -> np.ndarray:
        return (self.value & np.uint64(_TOMBSTONE)).astype(np.bool_)
