"""Starting over: an epoch ends and another begins, and nothing that was published gets another meaning."""

from __future__ import annotations

import orjson
import pytest
from shop import engine, events, small

from shoal.sinks.memory import MemorySink
from shoal.stream import epochs
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS, Output
from shoal.stream.ports import ReplayMismatch, SourceGone, StateMismatch
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import FileSource, MemorySource

OTHER = "segmenter.step=0.05"  # a configuration that cannot go on with the first one's state


class Crash(BaseException):
    pass


class Growing(MemorySink):
    """Dies at the commit of a step, before or after it counts."""

    crash_at, after = 0, False

    def commit(self, output: Output) -> None:
        if output.step == self.crash_at and not self.after:
            raise Crash
        super().commit(output)
        if output.step == self.crash_at:
            raise Crash


def source(count: int) -> MemorySource:
    """The first `count` events, as a log that will grow."""
    return MemorySource([events()[:count]])


@pytest.fixture
def before() -> Growing:
    """An epoch that stopped after 2,000 of 4,000 events, without a closing step."""
    sink = Growing()
    running = engine(small(), source(2000), sink)
    running._close = lambda: None  # type: ignore[method-assign]
    running.run()
    return sink


def values(sink: MemorySink, topic: str, first: int = 0) -> list[tuple[bytes, dict | None]]:
    """Keys and values of one topic, from the record with this number on."""
    said = [r for r in sink.records[first:] if r.topic == topic and r.key is not None]
    return [(r.key, None if r.value is None else orjson.loads(r.value)) for r in said]


def fold(sink: MemorySink) -> dict[bytes, int]:
    members: dict[bytes, int] = {}
    for key, value in values(sink, MEMBERS):
        members.pop(key, None)
        if value is not None:
            members[key] = value["segment_id"]
    return members


def test_another_configuration_goes_on_in_a_new_epoch_where_the_old_one_stopped(before):
    """Steps, segment ids and lineage ids go on; no record of the input is read twice or left out."""
    told = len(before.records)
    last = before.last()
    assert last is not None
    ids = set(fold(before).values())
    with pytest.raises(StateMismatch, match="--fresh-state"):
        engine(small(OTHER), sink=before).run()
    engine(small(OTHER), sink=before, fresh=0).run()
    manifests = list(before.manifests())
    assert [m.step for m in manifests] == list(range(1, len(manifests) + 1))
    opening = manifests[last.step]
    assert (opening.epoch, opening.opening) == (2, True)
    assert [(r.partition, r.start, r.end) for r in opening.ranges] == [(0, 2000, 2000)]
    assert next(r.start for m in manifests[last.step + 1 :] for r in m.ranges) == 2000
    assert manifests[-1].ranges[-1].end == 4000 if manifests[-1].ranges else manifests[-1].closing
    born = [v["segment_id"] for _, v in values(before, LINEAGE, told) if v["kind"] == "birth"]
    assert born
    assert min(born) > max(ids)
    lineage = [v["lineage_id"] for _, v in values(before, LINEAGE)]
    assert lineage == list(range(1, len(lineage) + 1))


def test_the_end_of_an_epoch_is_told_to_every_subscriber(before):
    """Deaths first, then tombstones, then a farewell for everybody: who folds the topics is left with nobody."""
    told, members, last = len(before.records), fold(before), before.last()
    assert last is not None
    assert members
    engine(small(OTHER), source(2000), before, fresh=0).run()
    said = list(before.records[told:])
    dead = [v["segment_id"] for _, v in values(before, LINEAGE, told) if v["kind"] == "death"]
    assert set(members.values()) <= set(dead)
    assert all(r.topic == LINEAGE for r in said[: len(dead)])
    assert [r.key for r in said[len(dead) : 2 * len(dead)]] == [str(i).encode() for i in sorted(dead)]
    assert all(r.topic == CATALOG and r.value is None for r in said[len(dead) : 2 * len(dead)])
    farewells = [(k, v) for k, v in values(before, CHANGES, told) if v["reason"]["kind"] == "lineage"]
    assert {k: v["from"]["segment_id"] for k, v in farewells} == members
    sequences: dict[bytes, int] = {}
    for key, change in values(before, CHANGES):
        sequence = change["position"]["sequence"]
        first = change["transition"] == "assigned"
        assert first or sequence == sequences[key] + 1
        assert sequence > sequences.get(key, 0), "a sequence that repeats would hide a change"
        sequences[key] = sequence


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_an_epoch_opens_loses_and_doubles_nothing(before, after, monkeypatch):
    """The farewells are told in parts; whoever comes next tells the rest, and only the rest."""
    monkeypatch.setattr(epochs, "FAREWELLS_MAX", 10)
    last = before.last()
    assert last is not None
    whole = Growing()
    whole.records, whole._manifests = list(before.records), list(before.manifests())
    engine(small(OTHER), sink=whole, fresh=2).run()
    openings = sum(m.opening for m in whole.manifests())
    assert openings > 3
    before.after = after
    for step in range(last.step + 1, last.step + openings + 2):
        before.crash_at = step
        with pytest.raises(Crash):
            engine(small(OTHER), sink=before, fresh=2).run()
    before.crash_at = 0
    engine(small(OTHER), sink=before, fresh=2).run()
    assert before.records == whole.records
    assert list(before.manifests()) == list(whole.manifests())


def test_a_number_opens_an_epoch_once_and_a_bare_flag_each_time(before):
    """A supervisor that starts the same command again and again does not empty the state each time."""
    engine(small(), source(3000), before, fresh=2).run()
    engine(small(), source(4000), before, fresh=2).run()
    assert max(m.epoch for m in before.manifests()) == 2
    engine(small(), source(4000), before, fresh=0).run()
    assert max(m.epoch for m in before.manifests()) == 3


def test_with_nothing_recorded_a_fresh_state_is_what_there_is_anyway():
    """No opening step where there is nothing to end."""
    sink, plain = MemorySink(), MemorySink()
    engine(small(), sink=sink, fresh=0).run()
    engine(small(), sink=plain).run()
    assert sink.records == plain.records


def test_recovery_in_a_later_epoch_computes_that_epoch_only(before, tmp_path):
    """The old epoch's configuration is not needed any more, nor its input; its snapshots are not used."""
    old = DirectoryStore(tmp_path, kept=99)
    first = MemorySink()
    running = engine(small("engine.snapshot_every_steps=2"), source(2000), first, old)
    running._close = lambda: None  # type: ignore[method-assign]
    running.run()
    config = small(OTHER, "engine.snapshot_every_steps=1000")
    engine(config, source(3000), first, old, fresh=2).run()
    before_it, again = len(first.records), engine(config, sink=first, store=old)
    read = again.source.read
    ranges_read: list[int] = []
    again.source.read = lambda ranges: ranges_read.extend(r.start for r in ranges) or read(ranges)  # type: ignore[method-assign]
    again.run()
    assert min(ranges_read) >= 2000
    assert len(first.records) > before_it
    assert again.pipeline.chain.epoch == 2


def test_an_input_that_was_created_again_is_read_from_its_beginning(before):
    """Offsets of another topic by the same name mean nothing; that is said, and refused without the flag."""
    other = MemorySource([events(4000, 6)])
    other.mark = "another topic"
    with pytest.raises(SourceGone, match="is not the one that was read before"):
        engine(small(), other, before).run()
    engine(small(), other, before, fresh=0).run()
    last = before.last()
    assert last is not None
    assert last.source == "another topic"
    opening = next(m for m in before.manifests() if m.opening)
    assert [(r.partition, r.start, r.end) for r in opening.ranges] == [(0, 0, 0)]


def test_a_truncated_input_goes_on_where_the_log_begins(before):
    """Positions that the log no longer holds are given up, those that it holds are kept."""
    with pytest.raises(SourceGone):
        engine(small(), source(1000), before).run()
    engine(small(), source(1000), before, fresh=0).run()
    opening = next(m for m in before.manifests() if m.opening)
    assert [(r.partition, r.start) for r in opening.ranges] == [(0, 0)]


def test_a_replay_that_differs_is_refused_until_somebody_starts_over(before):
    """Code or log changed under recorded steps: never skipped in silence, and the flag is the way on."""
    changed = list(events())
    changed[300] = b"{}"
    with pytest.raises(ReplayMismatch, match="--fresh-state"):
        engine(small(), MemorySource([changed]), before).run()
    engine(small(), MemorySource([changed]), before, fresh=0).run()
    assert fold(before)


def test_folding_members_over_epochs_gives_the_last_epochs_table(before):
    """Fold: members after everything = the engine's own table."""
    running = engine(small(OTHER), sink=before, fresh=0)
    running.run()
    sizes: dict[int, int] = {}
    for segment in fold(before).values():
        sizes[segment] = sizes.get(segment, 0) + 1
    assert sizes == {s: n for s, n in running.pipeline.membership.sizes().items() if n}


def test_an_engine_that_will_start_over_does_not_follow_the_old_epoch(before):
    """Stands by for its turn with another configuration: that is no mismatch, and nothing to compute again."""

    class Waiting(MemorySource):
        def open(self, stopping, meanwhile):
            meanwhile()
            seen.append(running.steps)
            return super().open(stopping, meanwhile)

    seen: list[int] = []
    running = engine(small(OTHER), Waiting([events()]), before, fresh=2)
    running.run()
    assert seen == [0]
    assert running.pipeline.chain.epoch == 2


class Ticking:
    """A second passes at every look: the time of a turn is over after one manifest."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def time_ns(self) -> int:
        return 0


def test_who_stands_by_gets_past_a_long_history_of_earlier_epochs_turn_by_turn(before, tmp_path):
    """However short a turn is, it gets further; snapshots are looked for once, not in every turn."""
    engine(small(), sink=before, fresh=2).run()
    last = before.last()
    assert last is not None
    looked = []

    class Looked(DirectoryStore):
        def newest(self, not_past):
            looked.append(not_past)
            return super().newest(not_past)

    cold = engine(small(), sink=before, store=Looked(tmp_path, kept=3), clock=Ticking())
    for _ in range(last.step):
        cold._follow()
    assert cold.steps == last.step
    assert looked == [last.step]


def test_a_stop_between_opening_steps_ends_the_engine_and_the_rest_is_told_later(before, monkeypatch):
    """A million farewells take minutes; a stop takes one step."""
    monkeypatch.setattr(epochs, "FAREWELLS_MAX", 10)
    last = before.last()
    assert last is not None
    whole = Growing()
    whole.records, whole._manifests = list(before.records), list(before.manifests())
    engine(small(OTHER), sink=whole, fresh=2).run()

    class Stopping(Growing):
        def commit(self, output: Output) -> None:
            super().commit(output)
            first.stop()

    stopping = Stopping()
    stopping.records, stopping._manifests = list(before.records), list(before.manifests())
    first = engine(small(OTHER), sink=stopping, fresh=2)
    first.run()
    assert [m.opening for m in stopping.manifests(after=last.step)] == [True]
    before.records, before._manifests = stopping.records, stopping._manifests
    engine(small(OTHER), sink=before, fresh=2).run()
    assert before.records == whole.records


def test_a_new_epoch_over_a_file_that_was_cut_reads_what_the_file_holds(tmp_path):
    """Where the old position is gone the file is read from its beginning, not from where the search ended."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(5)))
    source = FileSource(str(path))
    assert source.open(lambda: False)
    assert source.nearest({0: 9}) == {0: 0}
    source.seek({0: 0})
    polled = source.poll(9, 0.0)
    assert polled is not None
    assert list(polled[0].values) == [b"0", b"1", b"2", b"3", b"4"]
