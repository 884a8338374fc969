"""shoal verify: a whole deployment passes, and any single fault in it is found and named with step and offset."""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from broker import Broker
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, TopicPartition
from kafka_kit import create_topics, eventually, kafka_config, read_committed, send
from processes import engine as process
from processes import shoal, write_config
from shop import engine, events, small

from shoal.sinks.files import FileSink
from shoal.sinks.memory import MemorySink
from shoal.stream import epochs
from shoal.stream.auditing.access import reading
from shoal.stream.auditing.auditor import TOPICS
from shoal.stream.auditing.comparison import Comparison, Difference
from shoal.stream.auditing.expected import Expected
from shoal.stream.auditing.kept import KeptSnapshots
from shoal.stream.auditing.line import Line
from shoal.stream.auditing.verification import Report, Verification
from shoal.stream.config import Config, Kafka
from shoal.stream.digest import content_hash
from shoal.stream.events import (
    CATALOG,
    CHANGES,
    COMPACTED,
    LINEAGE,
    MANIFEST,
    MEMBERS,
    REJECTED,
    Counts,
    Manifest,
    Output,
    OutRecord,
    Range,
)
from shoal.stream.kafka.admin import input_topic
from shoal.stream.manifest import encode_manifest
from shoal.stream.ports import (
    ConfigError,
    Published,
    ReplayMismatch,
    ShoalError,
    SourceGone,
    StateMismatch,
    Store,
)
from shoal.stream.snapshots import DirectoryStore, NoStore
from shoal.stream.sources import FileSource, MemorySource
from shoal.stream.wiring import build_pipeline

EVERY_3 = "engine.snapshot_every_steps=3"
CROWDED = ("features.users_max=80", "engine.step_records_max=64")


class Recording(MemorySink):
    """Knows, beside what it keeps, which step published what: the oracle of these tests."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []  # of each record

    def commit(self, output: Output) -> None:
        super().commit(output)
        self.steps += [output.step] * len(output.records)

    def copy(self) -> Recording:
        other = Recording()
        other.records, other._manifests = list(self.records), list(self._manifests)
        other.steps = list(self.steps)
        return other


@pytest.fixture(scope="module")
def whole() -> Recording:
    """An uninterrupted run over one partition."""
    sink = Recording()
    engine(small(), sink=sink).run()
    return sink


def run(
    sink: MemorySink,
    config: Config | None = None,
    source: MemorySource | None = None,
    store: Store | None = None,
    **options: bool | float,
) -> Report:
    config = config or small()
    ports = (source or MemorySource([events()]), sink, store or NoStore())
    return Verification(config, ports, partial(build_pipeline, config), **options).run()  # type: ignore[arg-type]


def total(report: Report, what: str) -> int:
    return sum(getattr(tally, what) for tally in report.topics.values())


# --- what is whole -----------------------------------------------------------------------------------------------


def test_a_whole_run_is_compared_from_its_beginning_to_its_end(whole):
    """Every step, every input record, every published record."""
    report = run(whole)
    assert (report.steps, report.last_step) == (len(whole._manifests), len(whole._manifests))
    assert report.records == len(events())
    assert total(report, "compared") == len(whole.records)
    assert (total(report, "gone"), total(report, "earlier"), report.chained) == (0, 0, 0)
    assert report.state_hash == whole._manifests[-1].state_hash
    assert report.from_snapshot is None


def snapshots(folder: Path, kept: int = 4) -> tuple[Recording, Store]:
    sink = Recording()
    engine(small(EVERY_3), sink=sink, store=DirectoryStore(folder, kept=kept)).run()
    return sink, KeptSnapshots(folder)


def test_it_starts_from_the_oldest_snapshot_and_compares_the_others_with_the_state_of_then(tmp_path):
    """Nothing is judged twice and nothing passed over in silence: the report adds up."""
    sink, store = snapshots(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    report = run(sink, small(EVERY_3), store=store)
    assert report.from_snapshot == 6
    assert report.snapshots == [9, 12, 15]
    assert (report.chained, report.steps) == (6, len(sink._manifests) - 6)
    assert total(report, "compared") + total(report, "earlier") == len(sink.records)
    assert total(report, "earlier") == sum(step <= 6 for step in sink.steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "looking leaves no trace"


def test_from_scratch_starts_from_no_snapshot_and_compares_all_of_them(tmp_path):
    """The digest of the whole state, beside the chain of hashes."""
    sink, store = snapshots(tmp_path)
    report = run(sink, small(EVERY_3), store=store, from_scratch=True)
    assert report.from_snapshot is None
    assert report.snapshots == [6, 9, 12, 15]
    assert total(report, "earlier") == 0


def test_a_snapshot_that_an_engine_is_writing_is_left_alone(tmp_path):
    """An engine's store removes what killed processes left; who only looks must not."""
    sink, store = snapshots(tmp_path)
    writing = tmp_path / "snapshot-000000000018-0123456789abcdef.4711.tmp"
    writing.write_bytes(b"half")
    run(sink, small(EVERY_3), store=store)
    assert writing.read_bytes() == b"half"


# --- a fault in what was published, in files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over files."""
    path = tmp_path_factory.mktemp("files")
    (path / "events.jsonl").write_bytes(b"\n".join(value or b"" for value in events()) + b"\n")
    engine(small(), FileSource(str(path / "events.jsonl")), FileSink(path / "out")).run()
    return path


@pytest.fixture
def files(folder: Path, tmp_path: Path) -> Callable[[str], list[bytes]]:
    """The lines of an output file of a copy of that run; with a second argument: what stands there instead."""
    for path in (folder / "out").glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def lines(topic: str, instead: Sequence[bytes] | None = None) -> list[bytes]:
        path = tmp_path / f"{topic}.jsonl"
        if instead is not None:
            path.write_bytes(b"".join(instead))
        return path.read_bytes().splitlines(keepends=True)

    lines.source = str(folder / "events.jsonl")  # type: ignore[attr-defined]
    lines.output = str(tmp_path)  # type: ignore[attr-defined]
    return lines


def check_files(files: Callable[[str], list[bytes]]) -> Report:
    config = small()
    ports = reading(config, files.source, files.output)  # type: ignore[attr-defined]
    return Verification(config, ports, partial(build_pipeline, config)).run()


def steps_of(whole: Recording, topic: str) -> list[int]:
    """Which step published each record of a topic."""
    return [step for record, step in zip(whole.records, whole.steps, strict=True) if record.topic == topic]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_changed_byte_of_any_output_is_named_with_its_offset_and_its_step(files, whole, topic):
    """Not the record's content: that holds a user id."""
    lines = files(topic)
    at = len(lines) // 2
    changed = lines[at].replace(b'"value":', b'"value": ', 1) if topic != REJECTED else None
    changed = changed or lines[at].replace(b'"value', b'"VALUE', 1)
    files(topic, [*lines[:at], changed, *lines[at + 1 :]])
    with pytest.raises(ReplayMismatch) as caught:
        check_files(files)
    assert f"{topic} partition 0 offset {at}: " in str(caught.value)
    assert f"step {steps_of(whole, topic)[at]}" in str(caught.value)


def swap_two_of_one_key(lines: list[bytes]) -> tuple[list[bytes], int]:
    keys = [line[: line.index(b',"headers"')] for line in lines]
    a = next(i for i, key in enumerate(keys) if key in keys[i + 1 :])
    b = keys.index(keys[a], a + 1)
    swapped = list(lines)
    swapped[a], swapped[b] = lines[b], lines[a]
    return swapped, a


@pytest.mark.parametrize("topic", [CHANGES, MEMBERS])
@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("not the value of", lambda ls: ([*ls[:9], ls[9].replace(b'"value":{', b'"value":{ '), *ls[10:]], 9)),
        ("not the headers of", lambda ls: ([*ls[:9], ls[9].replace(b"1.0", b"1.1", 1), *ls[10:]], 9)),
        ("is missing before this", lambda ls: ([*ls[:9], *ls[10:]], 9)),
        ("no step publishes", lambda ls: ([*ls[:9], ls[3], *ls[9:]], 9)),
        ("not at its place", swap_two_of_one_key),
        ("not at its place", lambda ls: ([*ls[:9], ls[10], ls[9], *ls[11:]], 9)),
        ("not a record that Shoal writes", lambda ls: ([*ls[:9], b"garbage\n", *ls[10:]], 9)),
    ],
    ids=["value", "header", "missing", "added", "swapped for a key", "swapped", "garbage"],
)  # fmt: skip
def test_whatever_was_done_to_a_file_is_told_apart(files, whole, topic, what, spoil):
    """Changed, removed, added, moved: each by its name, where it was done."""
    spoiled, at = spoil(files(topic))
    files(topic, spoiled)
    with pytest.raises(ReplayMismatch) as caught:
        check_files(files)
    assert f"{topic} partition 0 offset {at}: " in str(caught.value)
    assert what in str(caught.value)
    wanted = steps_of(whole, topic)
    assert f"step {wanted[at - 1 if 'no step' in what else at]}" in str(caught.value)
    assert not any(user in str(caught.value) for user in ("user-", "u0", "anon"))


def test_a_last_record_that_was_cut_off_is_missing(files, whole):
    """There is no offset to name; the step that published it is."""
    lines = files(CHANGES)
    files(CHANGES, lines[:-1])
    with pytest.raises(ReplayMismatch, match=rf"step {steps_of(whole, CHANGES)[-1]} publishes is missing"):
        check_files(files)


def test_of_several_differences_the_one_of_the_earliest_step_is_named(files, whole):
    """In whichever topic."""
    late, early = files(CHANGES), files(REJECTED)
    files(CHANGES, late[:-1])
    files(REJECTED, early[1:])
    with pytest.raises(ReplayMismatch, match=rf"{REJECTED} .*step {steps_of(whole, REJECTED)[0]} "):
        check_files(files)


def test_verify_of_a_finished_run_over_files_says_what_it_compared(files):
    """The whole of it, and for people in one sentence."""
    report = check_files(files)
    assert "from the beginning to step 17" in report.text()
    assert "the same bytes" in report.text()
    assert report.as_dict()["published"] == sum(len(files(topic)) for topic in TOPICS)


# --- a fault in the input ---------------------------------------------------------------------------------------


def test_a_changed_byte_of_the_input_is_named_with_its_step_and_range(whole):
    """The step that read it, and which offsets it read."""
    at = 1000
    log = list(events())
    log[at] = (log[at] or b"") + b" "  # still the same event: a reader that parses would not see it
    log[at + 1] = b"{" + (log[at + 1] or b"")
    step = next(m for m in whole._manifests if m.ranges[0].end > at + 1)
    with pytest.raises(ReplayMismatch, match=rf"^step {step.step} \(partition 0 \[{step.ranges[0].start}, "):
        run(whole, source=MemorySource([log]))


def test_an_input_that_ends_too_early_is_gone_and_not_different(whole):
    """Exit code 5: nothing can be said about the bytes."""
    with pytest.raises(SourceGone):
        run(whole, source=MemorySource([events()[:3000]]))


def test_another_configuration_is_told_apart_from_a_difference(whole):
    """Exit code 7, before anything is computed."""
    with pytest.raises(StateMismatch, match="same --config, --set"):
        run(whole, small("segmenter.step=0.05"))


# --- a fault in the manifests ----------------------------------------------------------------------------------


def chained(manifests: Sequence[Manifest]) -> list[Manifest]:
    """The same with the hashes a forger would make right."""
    done: list[Manifest] = []
    for manifest in manifests:
        previous = content_hash(encode_manifest(done[-1])) if done else ""
        done.append(replace(manifest, previous_hash=previous))
    return done


def test_where_the_first_manifests_are_gone_a_partition_may_be_named_late(whole):
    """It was read before; only where an epoch's first step is there, one named late begins at 0."""
    parts = [(Range(0, 0, 1), Range(1, 0, 5)), (Range(0, 1, 2),), (Range(1, 5, 9),)]
    line = chained([replace(m, ranges=r) for m, r in zip(list(whole.manifests())[:3], parts, strict=True)])
    followed = Line()
    for manifest in line[1:]:
        followed.follow(manifest)
    assert followed.step == 3
    wrong = chained([replace(line[0], ranges=parts[0][:1]), *line[1:]])
    followed = Line()
    followed.follow(wrong[0])
    followed.follow(wrong[1])
    with pytest.raises(ReplayMismatch, match=r"offsets \[0, 5\) are in no step"):
        followed.follow(wrong[2])


def spoiled(whole: Recording, at: int, **changes: object) -> Recording:
    sink = whole.copy()
    sink._manifests[at] = replace(sink._manifests[at], **changes)
    return sink


def test_a_manifest_that_was_removed_is_named(whole):
    """In the middle of the line it can only have been removed."""
    sink = whole.copy()
    del sink._manifests[4]
    with pytest.raises(ReplayMismatch, match="wanted step 5, found step 6"):
        run(sink)


def test_manifests_that_are_gone_from_the_beginning_are_named_as_gone(whole, tmp_path):
    """Retention, not a forger: exit code 5, and a snapshot that reaches beyond them is enough."""
    sink = whole.copy()
    del sink._manifests[:4]
    with pytest.raises(SourceGone, match="steps 1 to 4 are gone"):
        run(sink)
    sink, store = snapshots(tmp_path)
    del sink._manifests[:4]
    report = run(sink, small(EVERY_3), store=store)
    assert (report.from_snapshot, report.chained) == (6, 2)


@pytest.mark.parametrize(
    "name", ["as_of_ms", "watermark_ms", "output_hash", "versions", "closing", "state_hash"]
)
def test_a_manifest_that_was_changed_breaks_the_chain_at_the_next_one(whole, name):
    """Whatever field it is; the step is named."""
    value = {"versions": {**whole._manifests[6].versions, "encoder": 77}, "closing": True}.get(name, 123)
    sink = spoiled(whole, 6, **{name: value if name not in ("output_hash", "state_hash") else "f" * 32})
    with pytest.raises(ReplayMismatch, match=r"step 8 follows a manifest .* that of step 7"):
        run(sink)


def test_a_manifest_that_was_changed_with_all_hashes_after_it_differs_when_computed(whole):
    """A forger who makes the chain right again is found by computing: the field is named."""
    sink = spoiled(whole, 6, watermark_ms=123)
    sink._manifests = chained(sink._manifests)
    with pytest.raises(ReplayMismatch, match=r"step 7 .* differs in watermark_ms"):
        run(sink)


def test_counts_that_do_not_add_up_are_named(whole):
    """Every record has one outcome."""
    counts = whole._manifests[6].counts
    with pytest.raises(ReplayMismatch, match=rf"step 7 counts {counts.records} records, but"):
        run(spoiled(whole, 6, counts=replace(counts, accepted=counts.accepted - 1)))


@pytest.mark.parametrize(
    ("shift", "said"), [(5, r"\[1536, 1541\) are in no step"), (-5, r"\[1531, 1536\) are in two steps")]
)
def test_a_gap_and_an_overlap_are_named_with_their_offsets(whole, shift, said):
    """Also where every hash of the line was made right again."""
    r = whole._manifests[6].ranges[0]
    assert r.start == 1536
    sink = spoiled(whole, 6, ranges=(Range(0, r.start + shift, r.end),))
    sink._manifests = chained(sink._manifests)
    with pytest.raises(ReplayMismatch, match=rf"step 7 starts partition 0 .*{said}"):
        run(sink)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "other"}, "step 7 has input other, but epoch 1 began in step 1 with none"),
        ({"config_hash": "c"}, "step 7 has configuration c"),
        ({"epoch": 2}, "step 7 is of epoch 2 .not opening., the step before it of epoch 1"),
        ({"ranges": (Range(0, 1536, 1530),)}, "step 7 ends partition 0 at 1530"),
        ({"ranges": (Range(3, 7, 9),)}, r"step 7 starts partition 3 at offset 7, .*\[0, 7\) are in no step"),
    ],
    ids=["source", "configuration", "epoch", "backwards", "partition"],
)
def test_what_cannot_follow_in_a_line_is_named(whole, changes, said):
    """Within an epoch nothing but the position moves."""
    sink = spoiled(whole, 6, **changes)
    with pytest.raises(ReplayMismatch, match=said):
        deque(map(Line().follow, chained(sink._manifests)))


def test_a_deployment_without_steps_is_reported_as_that():
    """Nothing compared is not the same bytes; the command says so."""
    assert run(MemorySink()).last_step == 0


# --- a fault in a snapshot ---------------------------------------------------------------------------------------


def rewrite(folder: Path, step: int, change: Callable[[dict], None]) -> None:
    """A snapshot with another state, made by somebody who knows the format: its name is right."""
    found = next(s for s in KeptSnapshots(folder).newest(step) if s[0] == step)
    (path,) = folder.glob(f"snapshot-{step:012d}-*.safetensors")
    path.unlink()
    change(found[2])
    other = folder / "other"
    DirectoryStore(other, kept=9).save(step, found[1], lambda: found[2])
    (made,) = other.glob("snapshot-*.safetensors")
    made.rename(folder / made.name)
    other.rmdir()


def one_user_elsewhere(state: dict) -> None:
    membership = state["pipeline"]["membership"]
    membership["since_ms"] = membership["since_ms"] + (membership["segment"] == 1)


def test_a_snapshot_that_holds_another_state_is_found_and_its_part_named(tmp_path):
    """Although its own hash is right, and although no later step may ever look at that number."""
    sink, store = snapshots(tmp_path)
    rewrite(tmp_path, 12, one_user_elsewhere)
    with pytest.raises(ReplayMismatch, match=r"snapshot of step 12 .*pipeline\.membership\.since_ms"):
        run(sink, small(EVERY_3), store=store)


def test_a_wrong_snapshot_to_start_from_is_suspected_first(tmp_path):
    """The input is fine: --from-scratch says so, and names the snapshot."""
    sink, store = snapshots(tmp_path)

    def other_centres(state: dict) -> None:
        segmenter = state["pipeline"]["segmenter"]
        segmenter["centres"] = segmenter["centres"] + 1.0

    rewrite(tmp_path, 6, other_centres)
    with pytest.raises(ReplayMismatch, match=r"^step 7 .*from the snapshot of step 6: if --from-scratch"):
        run(sink, small(EVERY_3), store=store)
    with pytest.raises(ReplayMismatch, match=r"^the snapshot of step 6 .*segmenter\.centres"):
        run(sink, small(EVERY_3), store=store, from_scratch=True)


def test_a_damaged_snapshot_is_passed_over_and_named(tmp_path, caplog):
    """It is a cache: engines pass it over as well. The next oldest one is the start."""
    sink, store = snapshots(tmp_path)
    (path,) = tmp_path.glob("snapshot-000000000006-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    report = run(sink, small(EVERY_3), store=store)
    assert (report.from_snapshot, report.snapshots) == (9, [12, 15])
    assert f"{path.name} is damaged" in caplog.text


def test_a_snapshot_of_another_line_is_passed_over_and_named(tmp_path, whole, caplog):
    """Left from a history that was given up: its manifest is not in this one."""
    _, store = snapshots(tmp_path)
    other = Recording()
    engine(small("segmenter.step=0.05", EVERY_3), sink=other).run()
    report = run(other, small("segmenter.step=0.05", EVERY_3), store=store)
    assert (report.from_snapshot, report.snapshots) == (None, [])
    assert "the snapshot of step 15 belongs to none of the manifests" in caplog.text


# --- what topics lose by right -----------------------------------------------------------------------------------


class Topics(Recording):
    """Records in partitions with offsets, as a broker keeps them: markers between steps, deletion, compaction."""

    def __init__(self, partitions: int = 3) -> None:
        super().__init__()
        self.partitions = partitions
        self.logs: dict[str, list[list[tuple[int, OutRecord]]]] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self.first: dict[tuple[str, int], int] = {}

    def commit(self, output: Output) -> None:
        super().commit(output)
        touched = set()
        for record in output.records:
            key = record.key if record.key is not None else record.headers[-1][1]
            p = sum(key) % self.partitions
            logs = self.logs.setdefault(record.topic, [[] for _ in range(self.partitions)])
            at = self.ends.get((record.topic, p), 0)
            logs[p].append((at, record))
            self.ends[record.topic, p] = at + 1
            touched.add((record.topic, p))
        for place in touched:
            self.ends[place] += 1  # the transaction's marker

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {
            p: (self.first.get((topic, p), 0), self.ends.get((topic, p), 0)) for p in range(self.partitions)
        }

    def published(self, topic: str) -> Iterator[Published]:
        for p, log in enumerate(self.logs.get(topic, [])):
            yield from (Published(record, p, at) for at, record in list(log))

    # what a broker does by right

    def delete_until(self, topic: str, partition: int, offset: int) -> None:
        self.first[topic, partition] = offset
        log = self.logs[topic][partition]
        log[:] = [(at, record) for at, record in log if at >= offset]

    def compact(
        self, topic: str, partition: int, share: float, chance: random.Random, tombstones: bool
    ) -> None:
        """Some records that are not their key's newest; with `tombstones`, keys that end in one go whole."""
        log = self.logs[topic][partition]
        newest = {record.key: at for at, record in log}
        dead = {record.key for at, record in log if newest[record.key] == at and record.value is None}
        log[:] = [
            (at, record)
            for at, record in log
            if (at == newest[record.key] or chance.random() > share)
            and not (tombstones and record.key in dead)
        ]


@pytest.fixture(scope="module")
def broker_like() -> Topics:
    """More users than there is room for: they leave and return, so members have tombstones."""
    sink = Topics()
    engine(small(*CROWDED), sink=sink).run()
    assert any(record.topic == MEMBERS and record.value is None for record in sink.records)
    for topic in TOPICS:
        assert sum(map(len, sink.logs[topic])) > 3
    return sink


def copied(sink: Topics) -> Topics:
    other = Topics(sink.partitions)
    other.records, other._manifests, other.steps = list(sink.records), list(sink._manifests), list(sink.steps)
    other.logs = {topic: [list(log) for log in logs] for topic, logs in sink.logs.items()}
    other.ends, other.first = dict(sink.ends), dict(sink.first)
    return other


def test_topics_in_partitions_without_losses_are_compared_whole(broker_like):
    """Partitions interleave; each key's own order counts, and each partition's."""
    report = run(broker_like, small(*CROWDED))
    assert total(report, "compared") == len(broker_like.records)
    assert total(report, "gone") == 0


def test_what_retention_took_is_counted_and_no_difference(broker_like):
    """A suffix remains of one partition, nothing of another, all of the third."""
    sink = copied(broker_like)
    log = sink.logs[CHANGES][0]
    sink.delete_until(CHANGES, 0, log[len(log) // 2][0])
    sink.delete_until(CHANGES, 1, sink.ends[CHANGES, 1])
    report = run(sink, small(*CROWDED))
    left = sum(map(len, sink.logs[CHANGES]))
    assert report.topics[CHANGES].compared == left
    assert report.topics[CHANGES].gone == sum(map(len, broker_like.logs[CHANGES])) - left > 0
    assert "deleted since" in report.text()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_broker_may_delete_is_no_difference(broker_like, computed, data):
    """Retention anywhere, compaction of any share, tombstones kept or gone."""
    sink, chance = copied(broker_like), random.Random(data.draw(st.integers(0, 1 << 30)))
    topic, partition = data.draw(st.sampled_from(TOPICS)), data.draw(st.integers(0, 2))
    if topic in COMPACTED:
        sink.compact(topic, partition, data.draw(st.floats(0, 1)), chance, data.draw(st.booleans()))
    if topic not in COMPACTED or data.draw(st.booleans()):
        sink.delete_until(topic, partition, data.draw(st.integers(0, sink.ends[topic, partition])))
    assert compare(sink, computed[topic]) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_record_that_no_broker_would_delete_is_missed(broker_like, computed, step_of, data):
    """Any one behind the first that is left of its partition; in a compacted topic, any key's newest value."""
    sink, chance = copied(broker_like), random.Random(data.draw(st.integers(0, 1 << 30)))
    topic = data.draw(st.sampled_from(TOPICS))
    partition = data.draw(st.sampled_from([p for p in range(3) if len(sink.logs[topic][p]) > 1]))
    if topic in COMPACTED:
        sink.compact(topic, partition, data.draw(st.floats(0, 1)), chance, tombstones=False)
    elif data.draw(st.booleans()):
        first = data.draw(st.integers(0, len(sink.logs[topic][partition]) - 2))
        sink.delete_until(topic, partition, sink.logs[topic][partition][first][0])
    log = sink.logs[topic][partition]
    shortened = sink.first.get((topic, partition), 0) > 0
    first_step = step_of(log[0][1])
    newest = {record.key: at for at, record in log}
    victims = [
        i
        for i, (at, record) in enumerate(log)
        if (at == newest[record.key] and record.value is not None if topic in COMPACTED else True)
        and (not shortened or step_of(record) > first_step)
    ]
    if not victims:
        return
    at = data.draw(st.sampled_from(victims))
    step = step_of(log[at][1])
    del log[at]
    found = compare(sink, computed[topic])
    assert found is not None
    assert (found.what, found.step) == ("missing", step)


@pytest.fixture(scope="module")
def computed(broker_like: Topics) -> dict[str, Expected]:
    """What computing gives: the records as they were committed."""
    expected = {topic: Expected(topic) for topic in TOPICS}
    for record, step in zip(broker_like.records, broker_like.steps, strict=True):
        expected[record.topic].add(step, record)
    return expected


@pytest.fixture(scope="module")
def step_of(broker_like: Topics) -> Callable[[OutRecord], int]:
    steps = dict(zip(broker_like.records, broker_like.steps, strict=True))
    return lambda record: steps[record]


def compare(sink: Topics, expected: Expected) -> Difference | None:
    comparison = Comparison(expected, sink.bounds(expected.topic), sink.steps[-1], whole=True)
    return comparison.run(partial(sink.published, expected.topic))


def tombstoned(values: Sequence[str | None]) -> tuple[Topics, Expected]:
    """A member's values, one a step, in a topic where transactions leave gaps."""
    sink, expected = Topics(1), Expected(MEMBERS)
    for step, value in enumerate(values, 1):
        record = OutRecord(
            MEMBERS, b"k", None if value is None else value.encode(), (("ce_id", b"%d" % step),)
        )
        expected.add(step, record)
        logs = sink.logs.setdefault(MEMBERS, [[]])
        logs[0].append((2 * step - 2, record))
        sink.ends[MEMBERS, 0] = 2 * step
    return sink, expected


def remaining(values: Sequence[str | None], kept: Sequence[int]):
    sink, expected = tombstoned(values)
    log = sink.logs[MEMBERS][0]
    log[:] = [log[i] for i in kept]
    found = Comparison(expected, sink.bounds(MEMBERS), len(values), whole=True).run(
        partial(sink.published, MEMBERS)
    )
    return None if found is None else (found.what, found.step)


def test_a_tombstone_may_vanish_only_when_everything_of_its_key_has():
    """Else a subscriber who reads from the beginning sees a member who left."""
    assert remaining(["a", "b", None], [0, 1, 2]) is None
    assert remaining(["a", "b", None], [2]) is None
    assert remaining(["a", "b", None], []) is None
    assert remaining(["a", "b", None], [0]) == ("missing", 3)
    assert remaining(["a", None, "c"], [2]) is None
    assert remaining(["a", None, "c"], [0, 1]) == ("missing", 3)
    assert remaining(["a", "b"], []) == ("missing", 2)


def test_in_a_compacted_topic_without_gaps_nothing_may_be_missing():
    """Compaction leaves a gap in the offsets. A file has none: a removed line moves the others up."""
    sink, expected = tombstoned(["a", "b", "c"])
    log = sink.logs[MEMBERS][0]
    log[:] = [(0, log[0][1]), (1, log[2][1])]
    sink.ends[MEMBERS, 0] = 2
    found = Comparison(expected, sink.bounds(MEMBERS), 3, whole=True).run(partial(sink.published, MEMBERS))
    assert found is not None
    assert (found.what, found.step, found.offset) == ("missing", 2, 1)


def test_records_without_a_key_may_lie_in_any_partition():
    """Rejects whose originals had no key: no order between partitions, but each exactly once."""
    records = [OutRecord(REJECTED, None, b"{", (("offset", b"%d" % i),)) for i in range(6)]
    expected = Expected(REJECTED)
    for record in records:
        expected.add(1, record)
    bounds = {0: (0, 9), 1: (0, 9)}

    def found(zero: Sequence[int], one: Sequence[int]):
        published = [Published(records[i], 0, at) for at, i in enumerate(zero)]
        published += [Published(records[i], 1, at) for at, i in enumerate(one)]
        wrong = Comparison(expected, bounds, 1, whole=True).run(lambda: published)
        return None if wrong is None else wrong.what

    assert found([1, 4], [0, 2, 3, 5]) is None
    assert found([1, 4], [0, 2, 5]) == "missing"
    assert found([1, 4], [0, 2, 3, 4, 5]) == "extra"
    assert found([4, 1], [0, 2, 3, 5]) == "order"


# --- while an engine runs -----------------------------------------------------------------------------------------


class Growing(Topics):
    """Another step is committed whenever somebody looks: a running engine, as fast as it can be."""

    def __init__(self, behind: Sequence[tuple[Output, int]]) -> None:
        super().__init__()
        self.outputs = [output for output, _ in behind]
        self.hidden = 0  # manifests that are not visible yet

    def grow(self) -> None:
        if self.outputs:
            self.commit(self.outputs.pop(0))

    def last(self) -> Manifest | None:
        self.grow()
        return super().last()

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        self.grow()
        return super().bounds(topic)

    def published(self, topic: str) -> Iterator[Published]:
        self.grow()
        return super().published(topic)


class Outputs(MemorySink):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[tuple[Output, int]] = []

    def commit(self, output: Output) -> None:
        super().commit(output)
        self.outputs.append((output, len(self.outputs)))


@pytest.fixture(scope="module")
def outputs() -> list[tuple[Output, int]]:
    sink = Outputs()
    engine(small("engine.step_records_max=100"), sink=sink).run()
    return sink.outputs


@pytest.mark.parametrize("head_start", [1, 5, 9, 23])
def test_nothing_is_called_missing_or_extra_because_the_engine_is_faster(outputs, head_start):
    """Steps are committed between any two looks at the topics."""
    sink = Growing(outputs)
    for _ in range(head_start):
        sink.grow()
    report = run(sink, small("engine.step_records_max=100"))
    assert report.last_step > head_start
    assert total(report, "compared") > 0


def test_a_fault_is_found_while_the_engine_runs(outputs):
    """The engine being faster is no excuse for what is old."""
    sink = Growing(outputs)
    for _ in range(20):
        sink.grow()
    partition = next(p for p, log in enumerate(sink.logs[CHANGES]) if len(log) > 4)
    del sink.logs[CHANGES][partition][2]
    with pytest.raises(ReplayMismatch, match=rf"{CHANGES}.* is missing"):
        run(sink, small("engine.step_records_max=100"))


def test_a_transaction_whose_manifest_shows_later_is_waited_for(outputs):
    """Its end is told to each partition by itself: the outputs can be there a moment before the manifest."""

    class Late(Growing):
        looks = 0

        def manifests(self, after: int = 0) -> Iterator[Manifest]:
            return (m for m in super().manifests(after) if m.step < 21 or self.looks > 2)

        def last(self) -> Manifest | None:
            self.looks += 1
            return self._manifests[-1 if self.looks > 2 else -2]

        def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
            return Topics.bounds(self, topic)

        published = Topics.published

    def late() -> Late:
        sink = Late(outputs)
        for _ in range(21):
            sink.commit(sink.outputs.pop(0))
        return sink

    config = small("engine.step_records_max=100")
    with pytest.raises(ReplayMismatch, match="no step publishes"):
        run(late(), config)
    assert run(late(), config, patience_s=5.0).last_step == 21


@pytest.mark.kafka
def test_a_deployment_on_kafka_is_verified_while_it_runs_and_after_retention(broker: Broker, tmp_path: Path):
    """Deleted records are counted, alien ones are named; neither engine nor group notices who looks."""
    kafka = create_topics(kafka_config(broker, partitions=2))
    state = str(tmp_path / "state")
    path = write_config(
        tmp_path / "shoal.toml", kafka, segmenter={"warmup_rows": 40, "segments": 4},
        engine={"step_records_max": 60, "snapshot_every_steps": 5, "state_dir": state},
    )  # fmt: skip
    rows = [(i % 2, b"%d" % i, value) for i, value in enumerate(events())]
    send(kafka, rows[:1500])
    with process(path, tmp_path / "log") as running:
        eventually(lambda: steps_done(kafka) >= 12 or running.must_run(), 60)
        eventually(lambda: list(Path(state).glob("snapshot-*.safetensors")) or running.must_run())
        rest = threading.Thread(target=send, args=(kafka, rows[1500:]))
        rest.start()
        report = verified(path)
        assert report["last_step"] >= 12
        assert report["from_snapshot"] is not None
        assert report["gone"] == 0
        rest.join()
        eventually(lambda: records_read(kafka) == len(rows) or running.must_run(), 60)
        changes = TopicPartition(kafka.topic_prefix + CHANGES, 0)
        with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
            offsets = [r.offset for r in read_committed(kafka, CHANGES) if r.partition == 0]
            admin.delete_records({changes: offsets[len(offsets) // 2]})
        report = verified(path, "--from-scratch")
        assert report["topics"][CHANGES]["gone"] == len(offsets) // 2
        assert report["records"] == len(rows)
        running.must_run()
    send(kafka, [(1, b"alien", b"{}")], CHANGES)
    (alien,) = [r for r in read_committed(kafka, CHANGES) if r.key == b"alien"]
    done = shoal("verify", "--config", str(path), "--from-scratch")
    assert done.returncode == 6, done.stderr
    assert f"{CHANGES} partition 1 offset {alien.offset}: a record that no step publishes" in done.stderr
    replayed = shoal("replay", "--config", str(path), "--until", "12", "--json")
    assert replayed.returncode == 0, replayed.stderr
    step = [json.loads(r.value) for r in read_committed(kafka, MANIFEST)][11]
    assert json.loads(replayed.stdout)["state_hash"] == step["state_hash"]


def verified(path: Path, *arguments: str) -> dict:
    done = shoal("verify", "--config", str(path), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def steps_done(kafka: Kafka) -> int:
    return len(read_committed(kafka, MANIFEST))


def records_read(kafka: Kafka) -> int:
    return sum(json.loads(r.value)["counts"]["records"] for r in read_committed(kafka, MANIFEST))


@pytest.mark.kafka
def test_a_topic_that_was_created_again_is_not_what_was_read(broker: Broker, tmp_path: Path):
    """Exit code 5, and not `different bytes`: which topic it was stands in every manifest."""
    kafka = create_topics(kafka_config(broker, partitions=1))
    path = write_config(tmp_path / "shoal.toml", kafka, segmenter={"warmup_rows": 40, "segments": 4})
    send(kafka, [(0, b"%d" % i, value) for i, value in enumerate(events()[:200])])
    with process(path, tmp_path / "log") as running:
        eventually(lambda: records_read(kafka) == 200 or running.must_run(), 60)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        admin.delete_topics([input_topic(kafka)])
        eventually(lambda: input_topic(kafka) not in admin.list_topics())
    create_topics(kafka)
    done = shoal("verify", "--config", str(path))
    assert done.returncode == 5, done.stderr
    assert "created again" in done.stderr


# --- epochs ------------------------------------------------------------------------------------------------------


def two_epochs(second: str, farewells: int = 10) -> Recording:
    sink = Recording()
    first = engine(small(), MemorySource([events()[:2000]]), sink)
    first._close = lambda: None  # type: ignore[method-assign]
    first.run()
    before, epochs.FAREWELLS_MAX = epochs.FAREWELLS_MAX, farewells
    try:
        engine(small(second), sink=sink, fresh=2).run()
    finally:
        epochs.FAREWELLS_MAX = before
    return sink


def test_an_earlier_epoch_of_another_configuration_is_only_followed():
    """This process cannot compute it; it says of how many steps that is so."""
    sink = two_epochs("segmenter.step=0.05")
    opened = [m.step for m in sink._manifests if m.epoch == 1 or m.opening]
    for from_scratch in (False, True):
        report = run(sink, small("segmenter.step=0.05"), from_scratch=from_scratch)
        assert report.chained == len(opened) > 9
        assert report.steps == len(sink._manifests) - len(opened)
        assert total(report, "compared") + total(report, "earlier") == len(sink.records)
        assert "manifests checked" in report.text()
    with pytest.raises(StateMismatch):
        run(sink)


def test_from_scratch_computes_every_epoch_of_this_configuration_and_makes_the_openings_again(monkeypatch):
    """The farewells follow from the records before them; nothing is taken on trust."""
    sink = two_epochs("engine.poll_timeout_s=0.3")
    monkeypatch.setattr(epochs, "FAREWELLS_MAX", 10)
    assert sum(m.opening for m in sink._manifests) > 2
    assert run(sink).chained > 0
    report = run(sink, from_scratch=True)
    assert (report.chained, report.epoch) == (0, 2)
    assert total(report, "compared") == len(sink.records)
    at = next(i for i, m in enumerate(sink._manifests) if m.opening)
    forged = sink.copy()
    forged._manifests[at] = replace(forged._manifests[at], next_lineage_id=99)
    forged._manifests = chained(forged._manifests)
    with pytest.raises(ReplayMismatch, match=rf"step {at + 1} \(it opens epoch 2\).*next_lineage_id"):
        run(forged, from_scratch=True)


def test_an_epoch_that_begins_meanwhile_is_not_mixed_up_with_this_one(whole):
    """It is another state; whoever wants to know about that one starts again."""

    class Restarted(Recording):
        def last(self) -> Manifest | None:
            last = self._manifests[-1]
            return replace(last, step=last.step + 1, epoch=2, opening=True)

    sink = Restarted()
    sink.records, sink._manifests = whole.records, whole._manifests
    with pytest.raises(ConfigError, match="epoch 2 began"):
        run(sink)


def test_an_opening_step_reads_nothing(whole):
    """Its ranges only say where the epoch begins to read."""
    line = Line()
    line.follow(whole._manifests[0])
    opening = replace(
        whole._manifests[1],
        epoch=2,
        opening=True,
        ranges=(Range(0, 9, 9),),
        counts=Counts(),
        previous_hash=line.hash,
    )
    reads = replace(opening, ranges=(Range(0, 9, 12),))
    with pytest.raises(ReplayMismatch, match="step 2 opens an epoch, yet it reads"):
        line.follow(reads)


def test_every_failure_has_the_exit_code_that_the_help_names():
    """6, 7, 5 and 2."""
    codes: dict[type[ShoalError], int] = {ReplayMismatch: 6, StateMismatch: 7, SourceGone: 5, ConfigError: 2}
    assert {kind: kind.exit_code for kind in codes} == codes


def test_unused_topics_are_fine():
    """A run in which nothing was rejected, renamed or decided publishes little: there is nothing to miss."""
    sink = MemorySink()
    config = small("segmenter.warmup_rows=4000", "segmenter.warmup_ms=999999999999")
    engine(config, MemorySource([events()[:10]]), sink).run()
    assert run(sink, config, MemorySource([events()[:10]])).steps > 0
    assert {CATALOG, LINEAGE} <= set(TOPICS)
