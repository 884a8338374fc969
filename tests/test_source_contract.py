"""One contract for every source: memory, file, Kafka by both libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka_kit import CLIENTS, create_topics, kafka_config, kafka_source, send, with_client

from shoal.stream.events import Range, Records
from shoal.stream.ports import Source, SourceGone
from shoal.stream.sources import FileSource, MemorySource

VALUES = [[b"a%d" % i for i in range(40)], [b"", b"\xff\xfe not text", "\N{SNOWMAN}".encode(), *[b"b"] * 22]]


class Case:
    """A log that does not change, and sources over it."""

    def __init__(self, log: Sequence[Sequence[bytes]], make: Callable[[], Source]) -> None:
        self.log = log
        self.make = make
        self._made: list[Source] = []

    def source(self) -> Source:
        """Opened, not yet positioned; whoever worked before has left."""
        self.close()
        source = self.make()
        self._made.append(source)
        assert source.open(lambda: False)
        return source

    def close(self) -> None:
        while self._made:
            self._made.pop().close()

    @property
    def records(self) -> int:
        return sum(len(partition) for partition in self.log)


def _memory_case(request: pytest.FixtureRequest) -> Case:
    return Case(VALUES, lambda: MemorySource(VALUES))


def _file_case(request: pytest.FixtureRequest) -> Case:
    folder: Path = request.getfixturevalue("tmp_path")
    path = folder / "events.jsonl"
    lines = [value for partition in VALUES for value in partition]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return Case([lines], lambda: FileSource(str(path), follow=False))


def _kafka_case(request: pytest.FixtureRequest) -> Case:
    config = create_topics(kafka_config(request.getfixturevalue("broker")))
    send(config, [(p, None, value) for p, partition in enumerate(VALUES) for value in partition])
    return Case(VALUES, lambda: kafka_source(config))


CASES = {"memory": _memory_case, "file": _file_case} | dict.fromkeys(CLIENTS, _kafka_case)
PARAMS = ["memory", "file", *(pytest.param(name, marks=pytest.mark.kafka) for name in CLIENTS)]


@pytest.fixture(params=PARAMS)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param in CLIENTS:
        with_client(request.param, monkeypatch)
    made = CASES[request.param](request)
    yield made
    made.close()


Polled = list[tuple[Records, tuple[Range, ...]]]


def poll_all(source: Source, max_records: int, wanted: int) -> Polled:
    """Polls until `wanted` records came; every source must get there."""
    found: Polled = []
    for _ in range(10_000):
        polled = source.poll(max_records, 0.2)
        if polled is None or (polled[1] and not found.append(polled) and count(found) >= wanted):
            break
    assert count(found) == wanted
    return found


def count(polled: Polled) -> int:
    return sum(len(records) for records, _ in polled)


def values_of(polled: Polled) -> dict[tuple[int, int], bytes | None]:
    return {
        (int(p), int(o)): value
        for records, _ in polled
        for p, o, value in zip(records.partitions, records.offsets, records.values, strict=True)
    }


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_polls_give_every_record_once_and_their_ranges_tile_the_log(case: Case, max_records: int) -> None:
    """Whatever the cut, the bytes come back unchanged, in (partition, offset) order, with contiguous ranges."""
    source = case.source()
    source.seek({})
    polled = poll_all(source, max_records, case.records)
    expected = {(p, o): value for p, log in enumerate(case.log) for o, value in enumerate(log)}
    assert values_of(polled) == expected
    at = dict.fromkeys(range(len(case.log)), 0)
    for records, ranges in polled:
        assert 0 < len(records) <= max_records
        order = list(zip(records.partitions.tolist(), records.offsets.tolist(), strict=True))
        assert order == sorted(order)
        assert [r.partition for r in ranges] == sorted(r.partition for r in ranges)
        for r in ranges:
            assert r.start == at[r.partition] <= r.end
            at[r.partition] = r.end
        covered = {(r.partition, o) for r in ranges for o in range(r.start, r.end)}
        assert set(order) <= covered
    assert at == {p: len(log) for p, log in enumerate(case.log)}


def test_records_have_the_promised_types(case: Case) -> None:
    """Partitions int32, offsets int64, keys and values as long as both, values bytes."""
    source = case.source()
    source.seek({})
    records, _ = poll_all(source, 5, 5)[0] if case.records == 5 else _first(source)
    assert records.partitions.dtype == np.int32
    assert records.offsets.dtype == np.int64
    assert len(records) == len(records.keys) == len(records.values) == len(records.offsets)
    assert all(isinstance(value, bytes) for value in records.values)


def _first(source: Source) -> tuple[Records, tuple[Range, ...]]:
    for _ in range(100):
        polled = source.poll(5, 0.2)
        assert polled is not None
        if polled[1]:
            return polled
    raise AssertionError("nothing came")


def test_seek_goes_on_at_the_named_offsets_and_at_the_first_one_elsewhere(case: Case) -> None:
    source = case.source()
    source.seek({0: 25})
    polled = poll_all(source, 10, case.records - 25)
    firsts = {p: min(o for q, o in values_of(polled) if q == p) for p in range(len(case.log))}
    assert firsts == {p: 25 if p == 0 else 0 for p in range(len(case.log))}


def test_seek_back_gives_the_same_records_again(case: Case) -> None:
    source = case.source()
    source.seek({})
    before = poll_all(source, 9, case.records)
    source.seek({0: 3})
    again = values_of(poll_all(source, 9, case.records - 3))
    assert again == {at: value for at, value in values_of(before).items() if at[0] != 0 or at[1] >= 3}


def test_read_gives_exactly_what_poll_gave_and_does_not_disturb_it(case: Case) -> None:
    """Replay: recorded ranges, in order, while nothing else is polled; then going on where they ended."""
    source = case.source()
    source.seek({})
    recorded = [_first(source) for _ in range(4)]
    for records, ranges in recorded:
        again = source.read(ranges)
        assert list(again.values) == list(records.values)
        assert again.offsets.tolist() == records.offsets.tolist()
        assert again.partitions.tolist() == records.partitions.tolist()
    rest = poll_all(source, 1000, case.records - count(recorded))
    assert len(values_of(recorded + rest)) == case.records


def test_a_new_process_reads_recorded_ranges_and_goes_on_where_they_end(case: Case) -> None:
    first = case.source()
    first.seek({})
    recorded = [_first(first) for _ in range(3)]
    positions = {r.partition: r.end for _, ranges in recorded for r in ranges}
    second = case.source()
    assert [list(second.read(ranges).values) for _, ranges in recorded] == [
        list(r.values) for r, _ in recorded
    ]
    second.seek(positions)
    rest = poll_all(second, 1000, case.records - count(recorded))
    assert len(values_of(recorded + rest)) == case.records


def test_reading_nothing_gives_no_records(case: Case) -> None:
    assert len(case.source().read(())) == 0


def test_a_range_that_is_not_in_the_log_is_an_error_and_never_fewer_records(case: Case) -> None:
    source = case.source()
    end = len(case.log[0])
    with pytest.raises(SourceGone):
        source.read((Range(0, end - 1, end + 1),))


def test_a_position_after_the_end_of_the_log_is_an_error(case: Case) -> None:
    source = case.source()
    with pytest.raises(SourceGone):
        source.seek({0: len(case.log[0]) + 1})


def test_at_the_end_a_finite_source_says_so_and_an_endless_one_is_merely_empty(case: Case) -> None:
    source = case.source()
    source.seek({})
    poll_all(source, 1000, case.records)
    polled = source.poll(10, 0.01)
    if source.finite:
        assert polled is None
    else:
        assert polled is not None
        assert len(polled[0]) == 0
        assert polled[1] == ()


def test_lag_counts_what_was_not_polled_yet_and_ends_at_zero(case: Case) -> None:
    source = case.source()
    source.seek({})
    poll_all(source, 7, case.records)
    lag = source.lag()
    assert set(lag) <= set(range(len(case.log)))
    assert all(value == 0 for value in lag.values())


def test_open_returns_false_when_it_is_told_to_stop(case: Case) -> None:
    source = case.make()
    assert source.open(lambda: True) is False
    source.close()


def test_close_is_allowed_at_any_time_and_twice(case: Case) -> None:
    case.make().close()
    source = case.source()
    source.close()
    source.close()
