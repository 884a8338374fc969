"""Batches read as columns are what the library itself reads from the same bytes, whatever these are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from broker import Broker
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka_kit import create_topics, kafka_config, kafka_source, read_committed

from shoal.stream.config import Kafka
from shoal.stream.kafka import columns, reader
from shoal.stream.kafka.chunks import Chunk, chunk_of, to_records
from shoal.stream.kafka.client import never
from shoal.stream.kafka.columns import ColumnRecords, agrees, use_columns

TP = TopicPartition("t", 0)
PRODUCERS = (7, 8)

parts = st.none() | st.binary(max_size=200)
names = st.sampled_from(["traceparent", "ce_id", "", "Traceparent", "traceparen", "\u00e9" * 70])
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=300)), max_size=3)
records = st.tuples(st.integers(0, 3), parts, parts, headers)  # how many offsets compaction took before it


class Gone:
    """What a fetch answers about an aborted transaction."""

    def __init__(self, producer_id: int, first_offset: int) -> None:
        self.producer_id, self.first_offset = producer_id, first_offset


class Marker(DefaultRecordBatchBuilder):
    """A control batch, which only brokers make."""

    def _get_attributes(self, *_: object) -> int:
        return self.CONTROL_MASK | self.TRANSACTIONAL_MASK


def built(
    base: int, found: Sequence[Any], codec: int = 0, producer_id: int = -1, control: bytes | None = None
) -> tuple[bytes, int]:
    """A batch as a broker stores it, and the offset behind it. `control`: the key of a marker."""
    transactional = producer_id >= 0
    kind = DefaultRecordBatchBuilder if control is None else Marker
    builder = kind(2, codec if control is None else 0, transactional, producer_id, 0, 0, 1 << 30)
    if control is not None:
        found = [(0, control, bytes(6), [])]
    delta = -1
    for skipped, key, value, named in found:
        delta += 1 + skipped
        builder.append(delta, 1_700_000_000_000 - delta, key, value, named)
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data), base + delta + 1


def columns_of(found: Any) -> list[tuple[Any, ...]]:
    made = to_records(0, list(found)) if isinstance(next(iter(found)), Chunk) else reader.to_records(0, found)
    traces = [made.traceparents.get(row) for row in range(len(made))]
    return list(zip(made.offsets.tolist(), made.keys, made.values, traces, strict=True))


@given(st.lists(records, min_size=1, max_size=12), st.integers(0, 2**40), st.integers(0, 4))
@settings(max_examples=80, deadline=None)
def test_a_batch_in_columns_is_the_batch(found: list[Any], base: int, codec: int) -> None:
    """Nulls, empty bytes, any header, offsets that compaction took away, every compression."""
    data, _ = built(base, found, codec)
    batch = iter(DefaultRecordBatch(data))
    chunk = chunk_of(bytes(memoryview(batch._buffer)[batch._pos :]), base, len(found))
    assert chunk is not None
    assert columns_of([chunk]) == columns_of(list(batch))


@given(st.lists(records, min_size=1, max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_bytes_that_are_no_records_are_understood_as_the_library_does_or_not_at_all(
    found: list[Any], data: st.DataObject
) -> None:
    """Some bytes changed, lost or added: never other columns, and never a look behind the end."""
    header = DefaultRecordBatch.HEADER_STRUCT.size
    whole = bytearray(built(5, found)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(header, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(-3, 3))
    changed = bytes(whole[: len(whole) + cut] if cut < 0 else whole + b"\0" * cut)
    chunk = chunk_of(changed[header:], 5, len(found))
    if chunk is not None:
        assert columns_of([chunk]) == columns_of(list(DefaultRecordBatch(changed)))


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, int, list[Gone]]:
    """Batches of plain producers and of transactions, open, committed and aborted; and the offset behind them."""
    data, at, aborted, open_since = b"", draw(st.integers(0, 1000)), [], dict[int, int]()
    for _ in range(draw(st.integers(1, 8))):
        producer_id = draw(st.sampled_from((-1, *PRODUCERS)))
        control = None
        if producer_id in open_since and draw(st.booleans()):
            commit = draw(st.booleans())
            control = b"\0\0\0\1" if commit else b"\0\0\0\0"
            first = open_since.pop(producer_id)
            aborted += [] if commit else [Gone(producer_id, first)]
        elif producer_id >= 0:
            open_since.setdefault(producer_id, at)
        found = draw(st.lists(records, min_size=1, max_size=9))
        more, at = built(at, found, draw(st.sampled_from((0, 0, 3))), producer_id, control)
        data += more
    return data, at, aborted


@given(logs(), st.data())
@settings(max_examples=80, deadline=None)
def test_any_log_cut_anywhere_is_read_as_the_library_reads_it(
    log: tuple[bytes, int, list[Gone]], data: st.DataObject
) -> None:
    """Portion by portion: the records, where the next fetch begins, and whether more is there; from any offset,
    with aborted transactions and markers between the records."""
    stored, end, aborted = log
    first = int.from_bytes(stored[:8], "big")
    start = data.draw(st.integers(first, end - 1))
    both = [
        kind(
            start,
            TP,
            MemoryRecords(stored),
            isolation_level=IsolationLevel.READ_COMMITTED,
            aborted_transactions=aborted,
        )
        for kind in (Fetcher.PartitionRecords, ColumnRecords)
    ]
    while both[0]:
        n = data.draw(st.integers(1, 12))
        theirs, ours = both[0].take(n), both[1].take(n)
        assert len(ours) == len(theirs)
        assert (columns_of(ours) if ours else []) == (columns_of(theirs) if theirs else [])
        assert both[1].next_fetch_offset == both[0].next_fetch_offset
        assert bool(both[1]) == bool(both[0])
    assert not both[1]


def test_a_batch_that_is_damaged_is_the_librarys_to_explain() -> None:
    """What stands before it is handed out, then its error is raised, as without columns."""
    good, at = built(0, [(0, b"k", b"v", [])] * 6)
    bad = bytearray(built(at, [(0, b"k", b"v", [])] * 6)[0])
    bad[-1] ^= 0xFF
    part = ColumnRecords(0, TP, MemoryRecords(good + bytes(bad)))
    assert len(part.take(100)) == 6
    assert part.next_fetch_offset == 6
    with pytest.raises(CorruptRecordError, match="crc"):
        part.take(100)


# --- the look before the first use --------------------------------------------------------------------------------


@pytest.fixture
def _fresh_look() -> Any:
    agrees.cache_clear()
    yield
    agrees.cache_clear()


class Renamed:
    """A fetcher of another version: what is hooked has another shape."""

    def __init__(self, *_: object) -> None:
        raise TypeError("unexpected arguments")


@pytest.mark.usefixtures("_fresh_look")
@pytest.mark.parametrize("what", ["other columns", "another library"])
def test_a_library_that_is_not_known_is_used_as_it_is(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "other columns":
        real = chunk_of
        monkeypatch.setattr(columns, "chunk_of", lambda data, base, n: real(data, base + 1, n))
    else:
        monkeypatch.setattr(Fetcher, "PartitionRecords", Renamed)
    with caplog.at_level(logging.WARNING, "shoal"):
        assert not use_columns(None)
        assert not use_columns(None)
    assert caplog.text.count("is not one that is known") == 1


@pytest.mark.usefixtures("_fresh_look")
def test_the_library_that_is_installed_is_known() -> None:
    """Else every run would be three times slower, and nothing but a log line would say so."""
    assert agrees()


# --- against a broker -----------------------------------------------------------------------------------------------


def filled(config: Kafka) -> None:
    """Plain, compressed, committed and aborted records, keys and values of every kind, in one partition."""
    topic = config.topic_prefix + config.events_topic
    for turn, codec in enumerate((None, "gzip", "snappy", "lz4", "zstd")):
        for ending in ("plain", "commit", "abort"):
            transaction = {} if ending == "plain" else {"transactional_id": f"{topic}-{turn}-{ending}"}
            producer = KafkaProducer(
                bootstrap_servers=config.bootstrap_servers,
                compression_type=codec,
                linger_ms=50,
                **transaction,
            )
            if transaction:
                producer.init_transactions()
                producer.begin_transaction()
            for i in range(40):
                key, value = (b"k%d" % i, None, b"")[i % 3], (b"v" * (i * 30), b"", None)[i % 7 % 3]
                key = b"k" if key is None and value is None else key
                trace = [("traceparent", b"00-%d-%d" % (turn, i)), ("other", b"")][: i % 3]
                producer.send(topic, value, key=key, headers=trace, partition=0)
            producer.flush(20)
            if transaction:
                getattr(producer, f"{ending}_transaction")()
            producer.close(5)


@pytest.mark.kafka
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("portion", [7, 1000])
def test_what_is_polled_is_what_an_ordinary_subscriber_reads(
    broker: Broker, known: bool, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every compression, aborted transactions, nulls, headers, batches cut by the size of a step; and with a
    library that is not known just the same."""
    monkeypatch.setattr(columns, "agrees", lambda: known)
    config = create_topics(kafka_config(broker))
    filled(config)
    expected = [
        (r.offset, r.key, r.value, dict(r.headers).get("traceparent")) for r in read_committed_input(config)
    ]
    assert len(expected) == 5 * 2 * 40
    source = kafka_source(config)
    found: list[tuple[Any, ...]] = []
    at = 0
    try:
        assert source.open(never)
        source.seek({})
        while len(found) < len(expected):
            polled = source.poll(portion, 1.0)
            assert polled is not None
            made, ranges = polled
            assert len(made) <= portion
            for r in (r for r in ranges if r.partition == 0):
                assert r.start == at
                at = r.end
            traces = [made.traceparents.get(row) for row in range(len(made))]
            found += zip(made.offsets.tolist(), made.keys, made.values, traces, strict=True)
    finally:
        source.close()
    assert found == expected


def read_committed_input(config: Kafka) -> list[Any]:
    return read_committed(config, config.events_topic)
