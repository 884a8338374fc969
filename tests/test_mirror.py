"""A mirror equals the engine's own table, whatever order, repetition and loss do to the records."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrors import Row, compacted, folded, held, placed, table
from shop import engine, events, small
from test_lineage import PLAN, Rearranged
from test_purity import STREAM, _offences

from shoal.sinks.memory import MemorySink
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS, Output, OutRecord
from shoal.stream.sources import MemorySource
from shoal.stream.subscribing import Change, MirrorFull, Record, SegmentMirror
from shoal.stream.subscribing.facts import Start

seeds = st.integers(0, 2**32 - 1)


class Told(MemorySink):
    """Remembers, with every step, the engine's table of then."""

    running: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[int, dict[str, Row]]] = []  # records so far, table

    def commit(self, output: Output) -> None:
        super().commit(output)
        table_now = {} if output.manifest.opening else table(self.running.pipeline)
        self.tables.append((len(self.records), table_now))


@cache
def told() -> Told:
    """Two epochs of a small shop: merges, splits, users who leave and come back, publications."""
    sink = Told()
    for overrides, count, fresh in (
        (("features.users_max=64", "engine.step_records_max=64"), 2000, None),
        ((), 3600, 0),
    ):
        made = engine(
            small("segmenter.segments=5", *overrides), MemorySource([events()[:count]]), sink, fresh=fresh
        )
        made.pipeline.segmenter = Rearranged(made.pipeline.publisher.d_out, PLAN)
        made._close = lambda: None  # type: ignore[method-assign]
        sink.running = made
        made.run()
    return sink


def final() -> dict[str, Row]:
    return told().tables[-1][1]


def changes() -> list[OutRecord]:
    return [record for record in told().records if record.topic == CHANGES]


def apply(mirror: SegmentMirror, record: OutRecord | Record) -> Any:
    return mirror.apply(record.topic, record.key, record.value, record.headers)


def test_the_run_has_everything_in_it() -> None:
    """Or the tests below would prove little."""
    transitions = {json.loads(record.value or b"")["transition"] for record in changes()}
    assert transitions == {"assigned", "moved", "left", "remapped"}
    kinds = {json.loads(r.value or b"")["kind"] for r in told().records if r.topic == LINEAGE}
    assert {"birth", "merge", "split", "death"} <= kinds
    again = [json.loads(r.value or b"") for r in changes()]
    starts = [c["user"]["key"] for c in again if c["transition"] == "assigned"]
    assert len(starts) > len(set(starts)), "nobody came back"
    assert len(final()) > 30


# --- equal to the engine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("topics", [(CHANGES,), (MEMBERS,), (CHANGES, MEMBERS)], ids=" ".join)
def test_after_every_step_the_mirror_is_the_table_of_the_step(topics: tuple[str, ...]) -> None:
    """From either topic, or from both. Nothing is missing, nothing is odd."""
    mirror, at = SegmentMirror(), 0
    for end, wanted in told().tables:
        for record in told().records[at:end]:
            if record.topic in topics:
                apply(mirror, record)
        at = end
        if wanted:
            assert held(mirror) == wanted
    assert (mirror.counts.gaps, mirror.counts.conflicts, mirror.troubles) == (0, 0, ())
    assert not mirror.ailing


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_members_and_changes_join_exactly_wherever_they_overlap(seed: int) -> None:
    """Members up to any end, compacted or not; then changes from any position that was taken before."""
    dice = Random(seed)
    before, after = sorted(dice.choices([0, *(end for end, _ in told().tables)], k=2))
    logs = placed(told().records[:after])
    read = [r for (topic, _), log in logs.items() if topic == MEMBERS for r in compacted(log, dice, True)]
    mirror = SegmentMirror()
    list(mirror.heal(read))
    assert held(mirror) == next((wanted for end, wanted in told().tables if end == after), {})
    for record in told().records[before:]:
        if record.topic == CHANGES:
            apply(mirror, record)
    assert held(mirror) == final()
    assert (mirror.counts.gaps, mirror.counts.conflicts) == (0, 0)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_records_in_any_order_of_partitions_again_and_again_after_restarts(seed: int) -> None:
    """Partitions progress at will; now and then the subscriber dies and goes on from its last snapshot."""
    dice = Random(seed)
    topics = dice.choice([(CHANGES,), (MEMBERS,), (CHANGES, MEMBERS), (CHANGES, MEMBERS, CATALOG, LINEAGE)])
    logs = {place: log for place, log in placed(told().records).items() if place[0] in topics}
    mirror = SegmentMirror()
    saved, done = mirror.snapshot(), []  # type: ignore[var-annotated]
    kept = 0  # of `done`, when it was saved
    numbered = dice.random() < 0.5
    while open_ := [place for place in logs if _at(mirror, place) < len(logs[place])]:
        place = dice.choice(open_)
        at = _at(mirror, place)
        again = max(0, at - dice.choice([0, 0, 0, 5, 100]))
        for record in logs[place][again : at + dice.randint(1, 300)]:
            one = record if numbered or record.offset >= at else msgspec.structs.replace(record, offset=-1)
            done.append(mirror.take(one).change)
        if dice.random() < 0.2:
            saved, kept = mirror.snapshot(), len(done)
        if dice.random() < 0.2:
            mirror = SegmentMirror.restore(saved)
            del done[kept:]
    assert held(mirror) == final()
    assert mirror.snapshot() == SegmentMirror.restore(mirror.snapshot()).snapshot()
    assert (mirror.counts.gaps, mirror.counts.conflicts) == (0, 0)
    assert folded(filter(None, done)) == {key: row[:2] for key, row in final().items()}


def _at(mirror: SegmentMirror, place: tuple[str, int]) -> int:
    return mirror.positions.get(place[0], {}).get(place[1], 0)


# --- gaps, and healing -----------------------------------------------------------------------------------------


@given(seeds, st.floats(0.001, 0.5))
@settings(max_examples=20, deadline=None)
def test_lost_changes_are_noticed_and_the_members_heal_them(seed: int, share: float) -> None:
    """A lost record shows at the user's next one; after healing the table is exact, whatever was lost."""
    dice = Random(seed)
    lost = {i for i in range(len(changes())) if dice.random() < share}
    mirror, said = SegmentMirror(), []
    for i, record in enumerate(changes()):
        if i not in lost:
            said.append(apply(mirror, record).change)
    assert mirror.counts.gaps >= _noticeable(lost)
    assert {"gap", "conflict"} >= {trouble.kind for trouble in mirror.troubles}
    assert mirror.ailing == bool(mirror.counts.gaps + mirror.counts.conflicts)
    logs = placed(told().records)
    read = [r for (topic, _), log in logs.items() if topic == MEMBERS for r in compacted(log, dice, False)]
    said += mirror.heal(read)
    assert held(mirror) == final()
    assert not mirror.ailing
    assert folded(filter(None, said)) == {key: row[:2] for key, row in final().items()}


def _noticeable(lost: set[int]) -> int:
    """Changes in the middle of a stay whose predecessor is lost: each must be told."""
    last: dict[bytes | None, int] = {}
    found = 0
    for i, record in enumerate(changes()):
        if i not in lost:
            middle = json.loads(record.value or b"")["from"] is not None
            found += middle and last.get(record.key) in lost
        last[record.key] = i
    return found


def test_without_loss_there_is_nothing_to_heal() -> None:
    mirror = SegmentMirror()
    for record in told().records:
        apply(mirror, record)
    assert (
        list(mirror.heal(r for (t, _), log in placed(told().records).items() if t == MEMBERS for r in log))
        == []
    )


def test_a_mirror_that_begins_in_the_middle_takes_the_records_word_for_who_was_where() -> None:
    mirror = SegmentMirror(whole=False)
    record = next(r for r in changes() if json.loads(r.value or b"")["transition"] == "moved")
    change = apply(mirror, record).change
    source = json.loads(record.value or b"")["from"]
    assert change.before.name == source["name"]
    assert not change.after_gap
    assert mirror.counts.gaps == 0


class Log:
    """A reader of one partition per topic, as told; `lost_at` says at which batch something is gone."""

    def __init__(
        self, records: list[Record], members: list[Record], batch: int = 50, bootstrap: bool = False
    ) -> None:
        self.records, self.all_members, self.batch = records, members, batch
        self.bootstrap, self.at, self.gone = bootstrap, 0, False

    def start(self, positions: Any) -> Start:
        self.at = positions.get(CHANGES, {}).get(0, 0)
        return Start(positions or {CHANGES: {0: self.at}}, whole=True, bootstrap=self.bootstrap)

    def poll(self) -> list[Record] | None:
        if self.at >= len(self.records):
            return None
        found = self.records[self.at : self.at + self.batch]
        self.at += self.batch
        return found

    def lost(self) -> bool:
        gone, self.gone = self.gone, False
        return gone

    def members(self) -> list[Record]:
        return self.all_members


def one_partition(topic: str) -> list[Record]:
    return placed(told().records, 1)[topic, 0]


def test_following_yields_every_change_of_the_table_once() -> None:
    mirror = SegmentMirror()
    said = list(mirror.follow(Log(one_partition(CHANGES), [])))
    assert len(said) == len(changes())
    assert held(mirror) == final()
    assert list(mirror.follow(Log(one_partition(CHANGES), []))) == []


def test_following_heals_a_gap_when_it_meets_one() -> None:
    """The table is exact at the end although half of the records never came."""
    log = one_partition(CHANGES)
    mirror = SegmentMirror()
    said = list(mirror.follow(Log(log[: len(log) // 4] + log[3 * len(log) // 4 :], one_partition(MEMBERS))))
    assert mirror.counts.gaps
    assert mirror.counts.healed
    assert held(mirror) == final()
    assert folded(said) == {key: row[:2] for key, row in final().items()}


def test_what_was_there_before_is_no_change_for_whoever_begins_now() -> None:
    reader = Log([], one_partition(MEMBERS), bootstrap=True)
    mirror = SegmentMirror()
    assert list(mirror.follow(reader)) == []
    assert held(mirror) == final()


def test_a_subscriber_that_dies_while_healing_heals_again() -> None:
    mirror = SegmentMirror()
    log = one_partition(CHANGES)
    following = mirror.follow(Log(log[:10] + log[-50:], one_partition(MEMBERS), batch=5000))
    for change in following:
        if change.reason is None:
            break
    again = SegmentMirror.restore(mirror.snapshot())
    assert again.ailing
    list(again.follow(Log(log, one_partition(MEMBERS), batch=1)))
    assert held(again) == final()


# --- what a record may be ----------------------------------------------------------------------------------------


def value(**changes: Any) -> dict[str, Any]:
    base = {
        "user": {"key": "u", "kind": "user"},
        "transition": "assigned",
        "from": None,
        "to": {"segment_id": 1, "name": "one", "since": 5},
        "reason": {"kind": "user_behavior", "user_shift": 0.0, "model_shift": 0.0},
        "confidence": {"score": 0.5, "margin": 0.1, "events_seen": 3, "provisional": False},
        "explanation": None,
        "position": {"topic": "behavior.events", "partition": 0, "offset": 1, "sequence": 7},
        "times": {"event_time": 4, "decided_time": 5},
    }
    return base | changes


def sent(mirror: SegmentMirror, body: Any, topic: str = CHANGES, key: bytes = b"u", headers: Any = ()) -> Any:
    return mirror.apply(topic, key, None if body is None else orjson.dumps(body), headers)


def member(sequence: int, segment: int = 1, **more: Any) -> dict[str, Any]:
    base = value()
    place = {"segment_id": segment, "name": "one", "since": 5}
    return {"user": base["user"], **place, "sequence": sequence, "confidence": base["confidence"], **more}


def tombstone(sequence: int) -> tuple[tuple[str, bytes], ...]:
    return (("ce_id", b"u:%d" % sequence), ("ce_type", b"shoal.segment.member.v1"))


def test_fields_that_a_later_version_adds_are_passed_over() -> None:
    """At any depth; a transition that is not known goes where it says."""
    mirror = SegmentMirror()
    body = value(transition="welcomed", later={"a": 1})
    body["to"] |= {"colour": "blue"}
    body["confidence"] |= {"calibrated": 0.7}
    assert sent(mirror, body).change.transition == "welcomed"
    assert mirror.members["u"].place.name == "one"


@pytest.mark.parametrize("path", ["user", "transition", "from", "to", "position", "times", "reason"])
def test_a_record_without_what_a_mirror_needs_is_broken_and_changes_nothing(path: str) -> None:
    mirror = SegmentMirror()
    body = value()
    del body[path]
    applied = sent(mirror, body)
    assert (applied.kind, applied.trouble.kind, mirror.counts.broken) == ("broken", "broken", 1)
    assert not mirror.members
    assert mirror.ailing


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"user":1}', b"null"])
@pytest.mark.parametrize("topic", [CHANGES, MEMBERS, CATALOG, LINEAGE, MANIFEST])
def test_no_record_can_raise(topic: str, data: bytes) -> None:
    mirror = SegmentMirror()
    assert mirror.apply(topic, b"u", data).kind == "broken"
    assert mirror.apply(topic, None, data).kind == "broken"
    assert mirror.apply(topic, b"\xff", data).kind == "broken"


@given(st.sampled_from([CHANGES, MEMBERS, CATALOG, LINEAGE, MANIFEST]), st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_come_nothing_is_raised(topic: str, data: bytes) -> None:
    assert SegmentMirror().apply(topic, data[:3], data, (("ce_id", data),)).kind in {"broken", "noted"}


def test_a_record_of_a_later_version_is_counted_and_is_not_fatal() -> None:
    mirror = SegmentMirror()
    later = (("ce_type", b"shoal.segment.change.v2"),)
    assert sent(mirror, {"all": "new"}, headers=later).kind == "unknown"
    assert mirror.apply("segment.top_items", b"1", b"{}").kind == "unknown"
    assert (mirror.counts.unknown, mirror.counts.records) == (2, 2)
    assert not mirror.ailing


def test_a_record_under_another_users_key_is_broken() -> None:
    mirror = SegmentMirror()
    assert sent(mirror, value(), key=b"other").kind == "broken"
    assert sent(mirror, member(7), MEMBERS, key=b"other").kind == "broken"
    assert not mirror.members


def test_an_older_record_that_comes_late_is_ignored() -> None:
    mirror = SegmentMirror()
    sent(mirror, member(9, 2), MEMBERS)
    assert sent(mirror, member(8, 1), MEMBERS).kind == "duplicate"
    assert sent(mirror, None, MEMBERS, headers=tombstone(8)).kind == "duplicate"
    assert mirror.members["u"].place.segment_id == 2
    sent(mirror, None, MEMBERS, headers=tombstone(10))
    assert sent(mirror, member(9, 2), MEMBERS).kind == "duplicate"
    assert not mirror.members


def test_two_records_of_one_sequence_that_differ_are_a_conflict() -> None:
    mirror = SegmentMirror()
    sent(mirror, value())
    applied = sent(mirror, member(7, 2), MEMBERS)
    assert (applied.kind, applied.trouble.kind, mirror.counts.conflicts) == ("duplicate", "conflict", 1)
    assert mirror.members["u"].place.segment_id == 1


def test_a_change_from_where_the_user_is_not_is_a_conflict_and_is_followed() -> None:
    mirror = SegmentMirror()
    sent(mirror, value())
    body = value(transition="moved", position={"sequence": 8})
    body["from"] = {"segment_id": 5, "name": "five", "since": 1}
    body["to"] = {"segment_id": 6, "name": "six", "since": 9}
    applied = sent(mirror, body)
    assert applied.trouble.kind == "conflict"
    assert (applied.change.before.segment_id, applied.change.after.segment_id) == (1, 6)


def test_a_tombstone_without_headers_is_the_next_change() -> None:
    mirror = SegmentMirror()
    sent(mirror, member(9), MEMBERS)
    assert sent(mirror, None, MEMBERS).change.transition == "left"
    assert sent(mirror, member(9), MEMBERS).kind == "duplicate"


def erased(sequence: int) -> dict[str, Any]:
    return value(
        transition="erased", to=None, confidence=None, position={"sequence": sequence},
        reason={"kind": "erasure"},
    ) | {"from": {"segment_id": 1, "name": "one", "since": 5}}  # fmt: skip


@pytest.mark.parametrize("first", ["change", "tombstone", "never met"])
def test_an_erased_user_leaves_no_trace(first: str) -> None:
    """Told to the subscriber in any case, also where the tombstone was faster or the user was never met."""
    mirror = SegmentMirror()
    if first != "never met":
        sent(mirror, value())
    if first == "tombstone":
        sent(mirror, None, MEMBERS, headers=tombstone(8))
    assert sent(mirror, erased(8)).change.transition == "erased"
    assert not mirror.members
    assert (kept := json.loads(mirror.snapshot()))["members"] == kept["gone"] == []
    sent(mirror, None, MEMBERS, headers=tombstone(8))
    assert (kept := json.loads(mirror.snapshot()))["members"] == kept["gone"] == []
    back = value(position={"sequence": 12})
    assert sent(mirror, back).change.transition == "assigned"
    assert sent(mirror, erased(8)).kind == "duplicate", "the user came back since"
    assert "u" in mirror.members
    sent(mirror, None, MEMBERS, headers=tombstone(13))
    assert sent(mirror, erased(8)).kind == "duplicate", "and left again"


def test_a_replay_from_before_an_erasure_brings_nobody_back() -> None:
    """No number of an erased user is kept, so it is the position in the log that tells."""
    mirror = SegmentMirror()
    log = [
        Record(CHANGES, b"u", orjson.dumps(body), (), 0, i, i + 1)
        for i, body in enumerate([value(), erased(8)])
    ]
    assert [mirror.take(record).kind for record in log] == ["change", "change"]
    assert [mirror.take(record).kind for record in log] == ["duplicate", "duplicate"]
    assert not mirror.members


def test_of_who_left_no_name_is_kept() -> None:
    mirror = SegmentMirror()
    sent(mirror, value())
    sent(mirror, None, MEMBERS, headers=tombstone(8))
    assert b'"u"' not in mirror.snapshot()
    assert sent(mirror, value()).kind == "duplicate"


# --- segments -------------------------------------------------------------------------------------------------


def test_segments_and_lineage_are_those_of_the_catalog() -> None:
    """Given-up segments are gone from the catalog; their successors are known."""
    mirror = SegmentMirror()
    for record in told().records:
        apply(mirror, record)
    live = told().running.pipeline.membership.ids
    assert set(mirror.segments) == set(live[live > 0].tolist())
    assert [fact.lineage_id for fact in mirror.lineage] == list(range(1, len(mirror.lineage) + 1))
    merges = [fact for fact in mirror.lineage if fact.kind == "merge"]
    assert merges
    for old, new in (pair for fact in merges for pair in fact.remap):
        assert mirror.successor(old) == mirror.successor(new) != old
    assert all(segment.profile["size"] >= 0 for segment in mirror.segments.values())


def test_a_lineage_kind_that_is_not_known_is_kept() -> None:
    mirror = SegmentMirror()
    fact = {
        "lineage_id": 4, "kind": "fold", "segment_id": 2, "name": "two", "previous_name": None, "parents": [1],
        "remap": [], "decided_time": 5, "more": {},
    }  # fmt: skip
    assert sent(mirror, fact, LINEAGE, b"4").kind == "noted"
    assert sent(mirror, fact, LINEAGE, b"4").kind == "duplicate"
    assert mirror.lineage[0].kind == "fold"


def test_remaps_in_a_circle_end() -> None:
    mirror = SegmentMirror()
    for number, (old, new) in enumerate([(1, 2), (2, 1)], 1):
        fact = {
            "lineage_id": number, "kind": "merge", "segment_id": new, "name": "x", "parents": [],
            "remap": [{"from": old, "to": new}], "decided_time": 1,
        }  # fmt: skip
        sent(mirror, fact, LINEAGE)
    assert mirror.successor(1) in {1, 2}


# --- bounds, snapshots -------------------------------------------------------------------------------------------


def test_everything_it_holds_has_a_limit() -> None:
    mirror = SegmentMirror(users_max=3, gone_max=2, segments_max=2, lineage_max=2, troubles_max=2)
    for i in range(3):
        body = value(user={"key": f"u{i}", "kind": "user"})
        sent(mirror, body, key=b"u%d" % i)
    for i in range(3):
        sent(mirror, None, MEMBERS, b"u%d" % i)
        body = value(user={"key": f"u{i}", "kind": "user"}, position={"sequence": 20})
        sent(mirror, body, key=b"u%d" % i)
    for i in range(3):
        sent(mirror, None, MEMBERS, b"u%d" % i)
    for i in range(4, 7):
        sent(mirror, value(user={"key": f"u{i}", "kind": "user"}), key=b"u%d" % i)
    with pytest.raises(MirrorFull, match="users_max=3"):
        sent(mirror, value(user={"key": "u7", "kind": "user"}), key=b"u7")
    for i in range(9):
        mirror.apply(CHANGES, b"x", b"{")
        fact = {"lineage_id": i, "kind": "birth", "segment_id": 1, "name": "x", "parents": [], "remap": []}
        sent(mirror, fact | {"decided_time": 1}, LINEAGE)
    assert [fact.lineage_id for fact in mirror.lineage] == [7, 8]
    assert len(mirror.troubles) == 2
    assert len(json.loads(mirror.snapshot())["gone"]) == 2
    mirror.apply(CATALOG, b"9" * 5000, None)
    for i in range(2):
        sent(mirror, {"segment_id": i, "name": "x"}, CATALOG, b"%d" % i)
    with pytest.raises(MirrorFull, match="segments_max=2"):
        sent(mirror, {"segment_id": 2, "name": "x"}, CATALOG, b"2")


def test_a_snapshot_is_json_and_nothing_else_is_taken_for_one() -> None:
    mirror = SegmentMirror()
    for record in told().records[:500]:
        apply(mirror, record)
    assert json.loads(mirror.snapshot())["format"] == 1
    for bad in (b"", b"{}", mirror.snapshot()[:-1], mirror.snapshot().replace(b'"format":1', b'"format":2')):
        with pytest.raises(ValueError, match="mirror's snapshot"):
            SegmentMirror.restore(bad)


def test_views_cannot_be_written_to() -> None:
    mirror = SegmentMirror()
    sent(mirror, value())
    with pytest.raises(TypeError):
        mirror.members["u"] = None  # type: ignore[index]
    with pytest.raises(AttributeError):
        mirror.members["u"].sequence = 3  # type: ignore[misc]
    mirror.counts.records = 0
    mirror.positions.clear()  # type: ignore[attr-defined]
    assert mirror.counts.records == 1


def test_a_change_is_a_plain_value() -> None:
    """It can be sent on as JSON and read back."""
    mirror = SegmentMirror()
    change = sent(mirror, value()).change
    assert msgspec.json.decode(msgspec.json.encode(change), type=Change) == change


@pytest.mark.parametrize("name", ["mirror", "table", "wire", "stored", "facts"])
def test_the_fold_does_no_effects(name: str) -> None:
    assert _offences(STREAM / "subscribing" / f"{name}.py") == []


def test_the_docstring_runs() -> None:
    import doctest

    from shoal.stream.subscribing import mirror

    assert doctest.testmod(mirror).attempted > 4
    assert doctest.testmod(mirror).failed == 0
