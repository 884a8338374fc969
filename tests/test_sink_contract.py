"""One contract for every sink: memory, files, Kafka by both libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import pytest
from kafka_kit import CLIENTS, create_topics, kafka_config, kafka_sink, output, with_client

from shoal.sinks.files import FileSink
from shoal.sinks.memory import MemorySink
from shoal.stream.events import (
    CATALOG,
    CHANGES,
    LINEAGE,
    MEMBERS,
    REJECTED,
    Manifest,
    Output,
    OutRecord,
    Range,
)


class ReadableSink(Protocol):
    """A Sink that also gives back what it published, as `shoal verify` needs it."""

    def open(self) -> Manifest | None: ...
    def commit(self, output: Output) -> None: ...
    def manifests(self, after: int = 0) -> Iterable[Manifest]: ...
    def published(self, topic: str) -> Iterable[OutRecord]: ...
    def close(self) -> None: ...


class Case:
    """A place to write to; `sink()` is a new process that opens it after the last one ended."""

    def __init__(self, make: Callable[[], ReadableSink]) -> None:
        self._make = make
        self._now: ReadableSink | None = None

    def sink(self) -> tuple[ReadableSink, Manifest | None]:
        self.close()
        self._now = self._make()
        return self._now, self._now.open()

    def close(self) -> None:
        if self._now is not None:
            self._now.close()
            self._now = None


def _memory_case(request: pytest.FixtureRequest) -> Case:
    sink = MemorySink()
    return Case(lambda: sink)


def _file_case(request: pytest.FixtureRequest) -> Case:
    folder: Path = request.getfixturevalue("tmp_path") / "out"
    return Case(lambda: FileSink(folder))


def _kafka_case(request: pytest.FixtureRequest) -> Case:
    config = create_topics(kafka_config(request.getfixturevalue("broker")))
    return Case(lambda: kafka_sink(config))


CASES = {"memory": _memory_case, "file": _file_case} | dict.fromkeys(CLIENTS, _kafka_case)
PARAMS = ["memory", "file", *(pytest.param(name, marks=pytest.mark.kafka) for name in CLIENTS)]


@pytest.fixture(params=PARAMS)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param in CLIENTS:
        with_client(request.param, monkeypatch)
    made = CASES[request.param](request)
    yield made
    made.close()


HEADERS = (("ce_id", b"u1:1"), ("ce_type", b"segment.change"), ("traceparent", b"00-ab-cd-01"))
STEP_1 = (
    OutRecord(LINEAGE, b"l1", b'{"birth":1}', HEADERS),
    OutRecord(CATALOG, b"s1", b'{"name":"one"}'),
    OutRecord(CHANGES, b"u1", b'{"n":1}', HEADERS),
    OutRecord(MEMBERS, b"u1", b'{"segment":"s1"}'),
    OutRecord(CHANGES, b"u1", b'{"n":2}', HEADERS),
)
STEP_2 = (
    OutRecord(CHANGES, b"u2", b'{"n":3}', HEADERS),
    OutRecord(MEMBERS, b"u1", None),
    OutRecord(REJECTED, b"k", b"\xff\x00 not text", (("reason", b"encoding"),)),
    OutRecord(REJECTED, None, b"keyless", (("reason", b"json"),)),
    OutRecord(REJECTED, None, None, (("reason", b"tombstone"),)),
    OutRecord(REJECTED, None, b"", (("reason", b"json"),)),
)


def per_key(records: Iterable[OutRecord]) -> dict[bytes | None, list[OutRecord]]:
    """Order is promised per key, not between keys."""
    found: dict[bytes | None, list[OutRecord]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record)
    return found


def test_a_fresh_sink_has_no_manifest(case: Case) -> None:
    sink, last = case.sink()
    assert last is None
    assert list(sink.manifests()) == []
    assert list(sink.published(CHANGES)) == []


def test_everything_committed_is_read_back_as_it_was(case: Case) -> None:
    """Keys, values, headers, tombstones and bytes that are not text, in each key's order."""
    sink, _ = case.sink()
    sink.commit(output(1, STEP_1, [Range(0, 0, 5)]))
    sink.commit(output(2, STEP_2, [Range(0, 5, 6), Range(1, 0, 2)]))
    for topic in (LINEAGE, CATALOG, CHANGES, MEMBERS, REJECTED):
        expected = [record for record in STEP_1 + STEP_2 if record.topic == topic]
        assert per_key(found.record for found in sink.published(topic)) == per_key(expected), topic


def test_a_new_process_finds_the_last_manifest_and_all_before_it(case: Case) -> None:
    sink, _ = case.sink()
    outputs = [output(step, STEP_1, [Range(0, step, step + 1)]) for step in range(1, 31)]
    for each in outputs:
        sink.commit(each)
    again, last = case.sink()
    assert last == outputs[-1].manifest
    assert list(again.manifests()) == [each.manifest for each in outputs]
    assert [m.step for m in again.manifests(after=27)] == [28, 29, 30]
    assert next(iter(again.manifests(after=11))).step == 12
    assert list(again.manifests(after=30)) == []


def test_two_readers_of_manifests_do_not_disturb_each_other(case: Case) -> None:
    sink, _ = case.sink()
    for step in range(1, 6):
        sink.commit(output(step))
    outer = []
    for manifest in sink.manifests():
        assert next(iter(sink.manifests(after=2))).step == 3
        outer.append(manifest.step)
    assert outer == [1, 2, 3, 4, 5]


def test_a_step_without_records_or_input_commits_its_manifest(case: Case) -> None:
    sink, _ = case.sink()
    sink.commit(output(1))
    assert case.sink()[1] == output(1).manifest


def test_a_new_process_goes_on_after_the_last_step(case: Case) -> None:
    sink, _ = case.sink()
    sink.commit(output(1, STEP_1))
    again, _ = case.sink()
    again.commit(output(2, STEP_2))
    assert [m.step for m in again.manifests()] == [1, 2]
    assert len(list(again.published(CHANGES))) == 3


def test_close_is_allowed_twice(case: Case) -> None:
    sink, _ = case.sink()
    sink.close()
    sink.close()
