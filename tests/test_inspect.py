"""What the engine knows of users and segments: true, the same as published, and read without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import engine, events, small
from test_output_schemas import VALIDATORS
from test_purity import STREAM, _offences

from shoal.sinks.memory import MemorySink
from shoal.stream.engine import Engine
from shoal.stream.events import CATALOG, CHANGES, MEMBERS
from shoal.stream.inspecting.keys import published_key
from shoal.stream.inspecting.meanings import meaning, unit
from shoal.stream.inspecting.overview import SEGMENTS_MAX, features, segment, segments
from shoal.stream.inspecting.portrait import portrait, reasons
from shoal.stream.packing import pack
from shoal.stream.pipeline import Pipeline
from shoal.stream.sources import MemorySource
from shoal.stream.users import ANONYMOUS
from shoal.stream.values import user_key


@cache
def stopped(count: int) -> Engine:
    """An engine after so many records, with what it published in its sink; nobody may change it."""
    running = engine(small(), MemorySource([events()[:count]]), MemorySink())
    running._close = lambda: None  # type: ignore[method-assign]
    running.run()
    return running


def everybody(pipeline: Pipeline) -> Iterator[str]:
    for slot in np.flatnonzero(pipeline.users.last_ms).tolist():
        yield pipeline.users.names(np.array([slot], np.int32))[0]


def packed(pipeline: Pipeline) -> bytes:
    return b"".join(bytes(part) for part in pack(pipeline.snapshot()))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([40, 300, 1500, 4000]), st.randoms(use_true_random=False))
def test_asking_leaves_no_trace(count, chance):
    """Every byte of the state, and what every later step depends on, is as it was: before warm-up and after."""
    pipeline = stopped(count).pipeline
    before, hashed = packed(pipeline), pipeline.segmenter.fingerprint() + pipeline.features.fingerprint()
    live = np.flatnonzero(pipeline.users.last_ms).astype(np.int32)
    due = pipeline.features.due(live, pipeline.clock.now_ms + 3_600_000)
    for name in chance.sample(known := list(everybody(pipeline)), min(5, len(known))):
        assert portrait(pipeline, name) is not None
        reasons(pipeline, name)
    segments(pipeline), features(pipeline), segment(pipeline, 1)
    assert packed(pipeline) == before
    assert pipeline.segmenter.fingerprint() + pipeline.features.fingerprint() == hashed
    assert np.array_equal(pipeline.features.due(live, pipeline.clock.now_ms + 3_600_000), due)


def test_asking_all_the_time_changes_no_output():
    """A run in which everything is asked between any two steps writes the bytes of one in which nothing is."""

    class Curious:
        def look(self, pipeline: Pipeline) -> None:
            for name in list(everybody(pipeline))[:7]:
                portrait(pipeline, name), reasons(pipeline, name)
            segments(pipeline)
            features(pipeline)

        def tell(self) -> None:
            pass

        close = tell

    plain, asked = MemorySink(), MemorySink()
    engine(small(), sink=plain).run()
    engine(small(), sink=asked, questions=Curious()).run()
    assert asked.records == plain.records
    assert list(asked.manifests()) == list(plain.manifests())


def test_a_look_is_the_row_that_a_step_would_build():
    """Bit by bit, for everybody, at times when windows have lost tiles: the same as `rows` on a copy of the state."""
    running = stopped(4000)
    copy = engine(small()).pipeline
    copy.restore(running.pipeline.snapshot())
    now_ms = running.pipeline.clock.now_ms
    slots = np.flatnonzero(running.pipeline.users.last_ms).astype(np.int32)
    seen = running.pipeline.features.look(slots, running.pipeline.users, now_ms)
    assert np.array_equal(seen, copy.features.rows(slots, copy.users, now_ms))
    assert len(np.unique(seen, axis=0)) > len(slots) // 2


def newest(sink: MemorySink, topic: str) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for record in sink.records:
        if record.topic == topic:
            found.pop(record.key.decode(), None)
            if record.value is not None:
                found[record.key.decode()] = orjson.loads(record.value)
    return found


def test_a_portrait_says_what_subscribers_were_told():
    """Segment, since and sequence of every user are those of its newest membership."""
    running = stopped(4000)
    members = newest(running.sink, MEMBERS)
    assert len(members) > 50
    for name in everybody(running.pipeline):
        found = portrait(running.pipeline, name)
        place, told = found["segment"], members.get(user_key(name))
        assert found["user"]["key"] == user_key(name)
        if told is None:
            assert place is None
            continue
        assert (place["segment_id"], place["since"], place["sequence"]) == (
            told["segment_id"], told["since"], told["sequence"],
        )  # fmt: skip


def test_a_portrait_of_somebody_who_just_changed_has_the_confidence_that_was_published():
    """In the step of a change nothing has moved since: the same distances, the same figures, but for learning."""
    running = stopped(4000)
    last_ms = running.pipeline.clock.now_ms
    fresh = [
        c for c in newest(running.sink, CHANGES).values() if c["times"]["decided_time"] == last_ms and c["to"]
    ]
    assert fresh
    for change in fresh:
        found = portrait(running.pipeline, change["user"]["key"])
        assert found["confidence"]["events_seen"] >= change["confidence"]["events_seen"]
        assert abs(found["confidence"]["score"] - change["confidence"]["score"]) < 0.2


def test_the_numbers_of_a_portrait_are_the_states():
    """Against a dumb reading of the same arrays: distances in order, the own segment marked, means and values."""
    pipeline = stopped(4000).pipeline
    for name in list(everybody(pipeline))[:20]:
        slot = pipeline.users.slot(name)
        found = portrait(pipeline, name)
        raw = pipeline.features.look(np.array([slot], np.int32), pipeline.users, pipeline.clock.now_ms)
        z = pipeline.publisher.encode(pipeline.features.scale(raw))
        gaps = np.sqrt(((pipeline.segmenter.centres - z.astype(np.float64)) ** 2).sum(axis=1))
        listed = [near["distance"] for near in found["nearest"]]
        assert listed == pytest.approx(sorted(gaps[pipeline.segmenter.used])[: len(listed)], rel=1e-5)
        own = [near for near in found["nearest"] if near["own"]]
        assert [near["ratio"] for near in own] == [1.0]
        assert own[0]["segment_id"] == pipeline.membership.ids[pipeline.membership.centre[slot]]
        told = {f["feature"]: f for group in found["quantities"] for f in group["features"]}
        plain = [n for n in pipeline.features.names if not n.startswith("interest")]
        assert sorted(told) == sorted(plain)
        for j, feature in enumerate(plain):
            assert told[feature]["user_value"] == pytest.approx(float(raw[0, j]), rel=1e-5)
        strength = [max(abs(f["deviations"]) for f in group["features"]) for group in found["quantities"]]
        assert strength == sorted(strength, reverse=True)


def test_before_the_first_segments_a_user_is_in_none():
    """What it does is known all the same."""
    pipeline = stopped(40).pipeline
    name = next(everybody(pipeline))
    found = portrait(pipeline, name)
    assert (found["segment"], found["confidence"], found["pending"], found["nearest"]) == (
        None,
        None,
        None,
        [],
    )
    assert found["seen"]["events"] > 0
    assert reasons(pipeline, name)["than_everybody"] is None
    assert segments(pipeline)["segments"] == []


def test_a_user_nobody_keeps_is_nobody():
    """None, and no slot was made for it."""
    pipeline = stopped(300).pipeline
    users = len(pipeline.users)
    assert portrait(pipeline, "nobody") is None
    assert reasons(pipeline, "nobody") is None
    assert len(pipeline.users) == users


def test_reasons_say_what_speaks_for_the_segment_and_shares_add_up():
    """Against the runner-up and against everybody; each share positive, together at most 1."""
    pipeline = stopped(4000).pipeline
    explained = 0
    for name in everybody(pipeline):
        found = reasons(pipeline, name)
        if found["segment"] is None:
            continue
        near = [n["segment_id"] for n in portrait(pipeline, name)["nearest"] if not n["own"]]
        assert found["against"]["segment_id"] == near[0]
        for which in ("than_the_next", "than_everybody"):
            shares = [f["contribution"] for f in found[which]["features"]]
            assert all(share > 0 for share in shares)
            assert sum(shares) <= 1.0 + 1e-5
            explained += len(shares)
    assert explained > 100


def test_a_segment_that_was_given_up_is_named_with_what_becomes_of_it():
    """Whoever has not been told yet is shown where it was told to be, and where it will be."""
    pipeline = engine(small()).pipeline
    pipeline.restore(stopped(4000).pipeline.snapshot())
    membership = pipeline.membership
    slot = int(np.flatnonzero(membership.segment)[0])
    old, heir = int(membership.centre[slot]), int((membership.centre[slot] + 1) % membership.k)
    told = int(membership.segment[slot])
    membership._hand_over(np.flatnonzero(membership.centre == old), old, heir)
    membership.identities.ids[old] = 0
    found = portrait(pipeline, pipeline.users.names(np.array([slot], np.int32))[0])["segment"]
    assert found["segment_id"] == told
    assert found["becomes"]["segment_id"] == int(membership.ids[heir])


def test_a_move_that_is_being_confirmed_is_shown():
    """Where to, and how far that has come: half of what it takes."""
    pipeline = engine(small()).pipeline
    pipeline.restore(stopped(4000).pipeline.snapshot())
    slot = int(np.flatnonzero(pipeline.membership.segment)[0])
    target = int((pipeline.membership.centre[slot] + 1) % pipeline.membership.k)
    policy = pipeline.membership.policy
    policy._rival[slot], policy._evidence[slot], policy._restless[slot] = target, 1.0, 0.0
    found = portrait(pipeline, pipeline.users.names(np.array([slot], np.int32))[0])["pending"]
    assert (found["segment_id"], found["confirmed"]) == (int(pipeline.membership.ids[target]), 0.5)


# --- segments and features ------------------------------------------------------------------------------


def test_segments_are_profiles_with_the_sizes_of_now():
    """Each fits the catalog's schema; sizes are the recount of memberships, the largest first."""
    running = stopped(4000)
    found = segments(running.pipeline)
    sizes = running.pipeline.membership.sizes()
    assert {s["segment_id"]: s["size"] for s in found["segments"]} == sizes
    assert found["total"] == len(sizes) <= SEGMENTS_MAX
    assert [s["size"] for s in found["segments"]] == sorted(sizes.values(), reverse=True)
    assert sum(s["share"] for s in found["segments"]) == pytest.approx(1.0, abs=1e-4)
    catalog = newest(running.sink, CATALOG)
    for profile in found["segments"]:
        VALIDATORS[CATALOG].validate(profile)
        assert profile["name"] == catalog[str(profile["segment_id"])]["name"]
        assert segment(running.pipeline, profile["segment_id"]) == profile
    assert segment(running.pipeline, 0) is None
    assert segment(running.pipeline, 10**6) is None


def test_every_feature_has_a_meaning_a_unit_and_what_is_usual():
    """None is left unexplained: a new quantity without words would be seen here."""
    pipeline = stopped(4000).pipeline
    found = features(pipeline)
    plain = [name for name in pipeline.features.names if not name.startswith("interest")]
    assert [one["feature"] for one in found["features"]] == plain
    assert found["interest_columns"] == 8
    assert found["version"] == pipeline.features.version
    for one in found["features"]:
        assert one["meaning"] != one["feature"].replace("_", " "), one["feature"]
        assert one["unit"] in ("events", "money", "pieces", "ms", "items", "share")
        assert one["population_deviation"] >= 0
    assert unit("recency_ms") == "ms"
    assert meaning("distinct_items_7d") == "different items touched in the last 7d"


def test_what_is_read_is_pure():
    """No clock, no chance, no I/O in what reads the state."""
    for name in ("portrait.py", "overview.py", "meanings.py", "keys.py"):
        assert _offences(STREAM / "inspecting" / name) == []


@given(st.text(min_size=1, max_size=20))
def test_an_id_becomes_the_key_under_which_it_is_published(name):
    """An anonymous id always; a key stays what it is."""
    assert published_key(name, anonymous=True) == user_key(ANONYMOUS + name)
    assert published_key(user_key(name), anonymous=False) == user_key(name)
