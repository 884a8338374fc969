"""Reading ahead for replay: what comes next is fetched together with what was asked for.

A recorded step is a few hundred records, a fetch costs a round trip and, at the end of the log, a wait; so
whoever replayed step by step with a fetch each would be hardly faster than the engine it follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from .reader import Reader

BYTES_MAX = 32 << 20
"""Read ahead of one topic at most, keys and values, all partitions together."""
_RECORDS_MAX = 20_000  # of a partition


class Ahead:
    """One partition. Always true: `_records` are all committed records of [`_start`, `_end`)."""

    def __init__(self, reader: Reader, partition: int, bytes_max: int) -> None:
        self._reader = reader
        self._partition = partition
        self._bytes_max = bytes_max
        self._records: deque[Any] = deque()
        self._start, self._end = 0, -1  # nothing, not even the empty range at 0

    def read(self, start: int, end: int) -> list[Any]:
        """ConsumerRecords of [start, end), in order. Raises SourceGone unless the log holds all of it."""
        if not self._start <= start <= end <= self._end:
            self._reader.check(self._partition, start, end)
            self._fill(start, end)
        found = [record for record in self._taken(end) if record.offset >= start]
        self._start = end
        return found

    def _fill(self, start: int, end: int) -> None:
        """The records of [start, end), and what follows as far as it is known to be there."""
        self._records.clear()
        self._start = self._end = start
        upto = max(end, min(self._reader.end(self._partition), end + _RECORDS_MAX))
        size_bytes = 0
        for record in self._reader.read(self._partition, start, upto):
            if record.offset >= end and size_bytes > self._bytes_max:
                self._end = record.offset
                return
            self._records.append(record)
            size_bytes += len(record.value or b"") + len(record.key or b"")
        self._end = upto

    def _taken(self, end: int) -> Iterator[Any]:
        while self._records and self._records[0].offset < end:
            yield self._records.popleft()
