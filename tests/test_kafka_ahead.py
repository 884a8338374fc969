"""Reading ahead: the same records as fetched range by range, with far fewer fetches, within its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.stream.kafka import ahead
from shoal.stream.kafka.ahead import Ahead
from shoal.stream.ports import SourceGone


@dataclass
class Record:
    offset: int
    key: bytes | None = None
    value: bytes | None = b"x" * 100


class Log:
    """A reader over one partition; offsets that are markers have no record. Counts what it is asked."""

    def __init__(self, offsets: list[int], first: int, end: int) -> None:
        self._records = [Record(offset) for offset in offsets]
        self.first, self._end, self.known_end = first, end, end
        self.reads = self.records = 0

    def end(self, partition: int) -> int:
        return self.known_end

    def check(self, partition: int, start: int, end: int) -> None:
        if end > self.known_end:
            self.known_end = self._end
        if start < self.first or end > self.known_end:
            raise SourceGone("gone")

    def read(self, partition: int, start: int, end: int) -> Iterator[Any]:
        self.reads += 1
        for record in self._records:
            if start <= record.offset < end:
                self.records += 1
                yield record

    def grow(self, end: int) -> None:
        self._records += [Record(offset) for offset in range(self._end, end)]
        self._end = end


def offsets(found: list[Any]) -> list[int]:
    return [record.offset for record in found]


@given(
    markers=st.sets(st.integers(0, 59)),
    ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12),
    bytes_max=st.integers(0, 1500),
    records_max=st.integers(0, 20),
)
def test_any_ranges_in_any_order_hold_exactly_their_records(
    markers: set[int], ranges: list[list[int]], bytes_max: int, records_max: int
) -> None:
    log = Log([offset for offset in range(60) if offset not in markers], 0, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "_RECORDS_MAX", records_max)
        reading = Ahead(log, 0, bytes_max)  # type: ignore[arg-type]
        for start, end in ranges:
            assert offsets(reading.read(start, end)) == [o for o in range(start, end) if o not in markers]


def test_a_row_of_steps_costs_one_fetch_and_what_came_since_one_more() -> None:
    log = Log(list(range(1000)), 0, 1000)
    reading = Ahead(log, 0, 1 << 20)  # type: ignore[arg-type]
    for start in range(0, 1000, 20):
        assert offsets(reading.read(start, start + 20)) == list(range(start, start + 20))
    assert log.reads == 1
    log.grow(1500)
    for start in range(1000, 1500, 20):
        assert offsets(reading.read(start, start + 20)) == list(range(start, start + 20))
    assert log.reads == 2


def test_no_more_is_kept_than_the_bytes_allow() -> None:
    log = Log(list(range(1000)), 0, 1000)
    reading = Ahead(log, 0, 5000)  # type: ignore[arg-type]
    reading.read(0, 10)
    assert log.records <= 10 + 5000 // 100


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 5), (95, 105)])
def test_what_the_log_does_not_hold_is_refused_also_an_empty_range(start: int, end: int) -> None:
    reading = Ahead(Log(list(range(10, 100)), 10, 100), 0, 1 << 20)  # type: ignore[arg-type]
    with pytest.raises(SourceGone):
        reading.read(start, end)
