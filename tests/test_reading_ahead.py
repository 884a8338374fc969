"""What is read and decoded ahead is what would have been read and decoded when it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof.committing import AtLast
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream.committing import AtOnce, Beside, Committing
from shoal.stream.config import Input
from shoal.stream.engine import Engine
from shoal.stream.events import Range, Records
from shoal.stream.ports import SourceGone
from shoal.stream.reading_ahead import ReadingAhead, merged, read_ahead
from shoal.stream.snapshots import NoStore
from shoal.stream.sources import MemorySource
from shoal.stream.watching.progress import Tee
from shoal.stream.wire import Decoder
from shoal.stream.wiring import build_pipeline

WAYS: dict[str, Callable[[], Committing]] = {"at once": AtOnce, "at last": AtLast, "beside": Beside}


class Told:
    """A decoder that tells how many records it was given at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._decoder = Decoder(Input())

    def decode(self, records: Records) -> Any:
        self.sizes.append(len(records))
        return self._decoder.decode(records)


class Trickle(MemorySource):
    """What is polled comes in portions; 0: nothing is there. At last an error, if there is one."""

    finite, wall_clock = False, True

    def __init__(self, logs: list[list[bytes | None]], portions: list[int], error: Exception | None = None):
        super().__init__(logs)
        self._portions, self._error = portions, error

    def poll(self, max_records: int, timeout_s: float) -> Any:
        if not self._portions and self._error is not None:
            raise self._error
        count = min(max_records, self._portions.pop(0)) if self._portions else max_records
        return (super().poll(count, timeout_s) if count else None) or (Records.empty(), ())


def log_of(count: int, name: str) -> list[bytes | None]:
    value = '{"event_id":"%s%d","type":"view","user_id":"%s","event_time":%d}'
    return [(value % (name, i, name, 1_700_000_000_000 + i)).encode() for i in range(count)]


def ahead(source: MemorySource, way: str = "at once") -> tuple[ReadingAhead, Told]:
    told = Told()
    source.open(lambda: False)
    source.seek({})
    return ReadingAhead(source, told, WAYS[way]()), told


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.lists(st.integers(0, 9), max_size=40),
    st.integers(1, 8),
    st.sampled_from(sorted(WAYS)),
)
def test_every_record_is_handed_out_once_in_order_and_decoded_as_ever(logs, portions, most, way):
    """Ranges touch each other, records are in (partition, offset) order, and no step is larger than it may be."""
    values = [log_of(count, f"p{p}u") for p, count in enumerate(logs)]
    source, _ = ahead(Trickle(values, list(portions)), way)
    at = dict.fromkeys(range(len(logs)), 0)
    for _ in range(len(portions) + sum(logs) + 2):
        held = sum(source.lag().values())
        records, ranges = source.poll(most, 0.0)
        assert held - sum(source.lag().values()) == len(records) <= most, "what is held was not handed out"
        places = list(zip(records.partitions.tolist(), records.offsets.tolist(), strict=True))
        assert places == [(r.partition, o) for r in ranges for o in range(r.start, r.end)] == sorted(places)
        assert list(records.values) == [values[p][o] for p, o in places]
        for r in ranges:
            assert at[r.partition] == r.start
            at[r.partition] = r.end
        got, rejects = source.decode(records)
        expected, _ = Decoder(Input()).decode(records)
        assert not rejects
        assert got.users == expected.users
        assert got.time_ms.tolist() == expected.time_ms.tolist()
    assert list(at.values()) == logs


def test_a_backlog_is_decoded_before_it_is_asked_for_and_once():
    source, told = ahead(MemorySource([log_of(20, "u")]))
    for size, decoded in ((8, [8, 8]), (8, [8, 8, 4]), (4, [8, 8, 4])):  # the second one before the first
        records, _ = source.poll(8, 0.0)
        assert len(records) == size
        source.decode(records)
        assert told.sizes == decoded


def test_who_has_caught_up_reads_nothing_ahead():
    source, told = ahead(Trickle([log_of(20, "u")], [3, 2, 3]))
    assert [len(source.poll(8, 0.0)[0]) for _ in range(3)] == [3, 2, 3]
    assert told.sizes == []


def test_what_is_held_is_filled_up_at_the_end_of_a_backlog():
    """So that a few records do not make a step of their own when more have come meanwhile."""
    source, _ = ahead(Trickle([log_of(12, "a"), log_of(5, "b")], [8, 2, 6]))
    assert [len(source.poll(8, 0.0)[0]) for _ in range(2)] == [8, 8]


def test_an_error_is_told_when_all_before_it_was_handed_out():
    source, _ = ahead(Trickle([log_of(20, "u")], [8, 8], SourceGone("cut off")))
    assert [len(source.poll(8, 0.0)[0]) for _ in range(2)] == [8, 8]
    for _ in range(2):
        with pytest.raises(SourceGone, match="cut off"):
            source.poll(8, 0.0)


def test_what_decoding_raises_is_raised_and_not_lost():
    source, _ = ahead(MemorySource([log_of(20, "u")]), "beside")
    source._decoder = None  # type: ignore[assignment]
    assert len(source.poll(8, 0.0)[0]) == 8
    with pytest.raises(AttributeError):
        source.poll(8, 0.0)
    source.close()


def test_seeking_forgets_what_was_read_ahead():
    source, _ = ahead(MemorySource([log_of(20, "u")]), "beside")
    source.poll(8, 0.0)
    source.seek({0: 3})
    assert source.poll(8, 0.0)[1] == (Range(0, 3, 11),)
    source.close()


def test_two_polls_as_one_keep_the_order_and_what_belongs_to_a_record():
    def poll(*rows: tuple[int, int]) -> Any:
        p, o = np.array(rows).T
        texts = [b"%d-%d" % row for row in rows]
        starts = {at: int(o[p == at].min()) for at in p.tolist()}
        ranges = tuple(Range(at, start, int(o[p == at].max()) + 1) for at, start in sorted(starts.items()))
        return Records(p.astype(np.int32), o.astype(np.int64), texts, texts, dict(enumerate(texts))), ranges

    records, ranges = merged(poll((-1, 0), (0, 4), (1, 7)), poll((0, 5), (0, 6), (2, 0)))
    assert records.partitions.tolist() == [-1, 0, 0, 0, 1, 2]
    assert list(records.values) == [b"-1-0", b"0-4", b"0-5", b"0-6", b"1-7", b"2-0"] == list(records.keys)
    assert [records.traceparents[i] for i in range(6)] == records.values
    assert ranges == (Range(-1, 0, 1), Range(0, 4, 7), Range(1, 7, 8), Range(2, 0, 1))


@pytest.mark.parametrize("committing", [AtOnce, Beside])
def test_an_engine_that_reads_ahead_publishes_the_same_bytes(committing):
    config = small()
    plain, other = MemorySink(), MemorySink()
    engine(config, sink=plain).run()
    pipeline = build_pipeline(config)
    source = read_ahead(MemorySource([events()]), pipeline)
    Engine(config, pipeline, source, other, NoStore(), Tee([]), committing=committing()).run()
    hashes = [[m.output_hash for m in sink.manifests()] for sink in (plain, other)]
    assert len(hashes[0]) > 10
    assert hashes[0] == hashes[1]
