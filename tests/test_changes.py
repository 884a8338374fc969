"""What the narrator says: keys, order, headers, explanations; and that folding it gives the table back."""

import doctest
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest
from decisions import NAMES, Stage, events
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream import explain, labels, naming, values
from shoal.stream.catalog import Catalog
from shoal.stream.config import Membership as Config
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS, REJECTED, Reason, Records, Reject, Step
from shoal.stream.explain import explain as explain_rows
from shoal.stream.explain import rounded
from shoal.stream.membership import Moves
from shoal.stream.values import rfc3339, user_key, user_name

CENTRES = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]


def of(records, topic):
    return [record for record in records if record.topic == topic]


def bodies(records, topic):
    return [orjson.loads(record.value) for record in of(records, topic) if record.value is not None]


def header(record, name):
    found = [value for key, value in record.headers if key == name]
    assert len(found) <= 1, f"{name} stands {len(found)} times"
    return found[0] if found else None


# --- keys and rounding -------------------------------------------------------------------------------------

names = st.one_of(st.text(min_size=1), st.text(min_size=1).map(lambda s: "\x00" + s), st.sampled_from(
    ["anon:a", "user:a", "user:anon:a", "user:user:a", "a", "\x00a", "\x00anon:a", "\x00user:a", "anon:", "\x00"]
))  # fmt: skip


@given(names, names)
def test_different_users_have_different_keys(one, other):
    """Whatever a user id looks like, its key stands for it alone, and leads back to it."""
    assert user_name(user_key(one)) == one
    assert (user_key(one) == user_key(other)) == (one == other)


def test_an_ordinary_user_id_is_its_own_key():
    assert user_key("42") == "42"
    assert user_key("Ünal:7") == "Ünal:7"


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e20, max_value=1e20))
def test_rounding_keeps_six_digits_and_prints_them(value):
    """As the decimal that %.6g prints, up to one unit where halves are rounded the other way."""
    got, wanted = float(rounded([value])[0]), float(f"{value:.6g}")
    if abs(value) < 1e-17:
        assert got == 0.0
    else:
        assert got == pytest.approx(wanted, rel=1.1e-5)
        assert float(f"{got:.6g}") == got


@given(st.integers(0, 253_402_300_799_999))
def test_times_in_headers_are_rfc3339(time_ms):
    text = rfc3339(time_ms)
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo == UTC
    assert text.endswith("Z")
    assert round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == time_ms


@pytest.mark.parametrize("module", [values, explain, naming, labels])
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


# --- order, headers, contents ------------------------------------------------------------------------------


def test_the_reading_order_is_lineage_catalog_farewells_changes_rejects():
    """Nothing speaks of a segment before its lineage and its profile; a membership follows its change."""
    stage = Stage(CENTRES)
    first = stage.step([0, 1], [[1, 0], [9, 0]])
    assert [r.topic for r in first] == [LINEAGE] * 3 + [CATALOG] * 3 + [CHANGES, MEMBERS] * 2
    bad = Reject(0, Reason.JSON, "event: not JSON")
    later = stage.step([1, 2], [[1, 1], [9, 0]], gone=[0], rejects=[bad], values=(b"{",), keys=(b"k",))
    assert [r.topic for r in later] == [CHANGES, MEMBERS] * 3 + [REJECTED]
    assert [b["transition"] for b in bodies(later, CHANGES)] == ["left", "moved", "assigned"]


def test_births_and_profiles_carry_the_same_names_as_the_changes():
    stage = Stage(CENTRES)
    records = stage.step([0, 1], [[1, 0], [9, 0]])
    catalog = {b["segment_id"]: b["name"] for b in bodies(records, CATALOG)}
    assert {b["segment_id"]: b["name"] for b in bodies(records, LINEAGE)} == catalog
    assert [b["kind"] for b in bodies(records, LINEAGE)] == ["birth"] * 3
    for change in bodies(records, CHANGES):
        assert change["to"]["name"] == catalog[change["to"]["segment_id"]]
    assert [r.key for r in of(records, CATALOG)] == [b"1", b"2", b"3"]


def test_a_new_name_is_announced_before_it_is_used():
    """When the members of two segments swap their ways, renames stand before the profiles."""
    names = ("purchase_count_7d", "view_count_7d")
    stage = Stage([[0.0, 0.0], [10.0, 0.0]], names=names, catalog_every_rows=4, confirmations=99)
    stage.step([0, 1, 2, 3], [[0, 0], [0, 0], [10, 0], [10, 0]], told=events(["user-0"], times=[1]))
    assert stage.catalog.segment_names == ["rare buyers", "frequent buyers"]
    later = events(["user-0"], times=[10 * 86_400_000])  # what was is forgotten by then
    records = stage.step([0, 1, 2, 3], [[10, 0], [10, 0], [0, 0], [0, 0]], told=later)
    assert [r.topic for r in records] == [LINEAGE] * 2 + [CATALOG] * 2
    assert [
        (b["kind"], b["lineage_id"], b["previous_name"], b["name"]) for b in bodies(records, LINEAGE)
    ] == [
        ("rename", 3, "rare buyers", "frequent buyers"),
        ("rename", 4, "frequent buyers", "rare buyers"),
    ]
    assert [b["name"] for b in bodies(records, CATALOG)] == ["frequent buyers", "rare buyers"]


def test_every_record_of_a_segment_topic_is_a_cloudevent():
    """Binary mode: required attributes in headers; source and id together name one record."""
    stage = Stage(CENTRES)
    records = [*stage.step([0, 1], [[1, 0], [9, 0]]), *stage.step([0, 1], [[9, 0], [9, 0]], gone=[2])]
    ids = [(header(r, "ce_source"), header(r, "ce_id")) for r in records]
    assert len(set(ids)) == len(ids)
    for record in records:
        assert header(record, "ce_specversion") == b"1.0"
        assert header(record, "ce_source").startswith(b"shoal/0123456789ab")
        assert header(record, "ce_type").startswith(b"shoal.segment.")
        assert header(record, "ce_time") == b"2023-11-14T22:13:20.000Z"
        assert header(record, "content-type") == b"application/json"
    change = of(records, CHANGES)[-1]
    assert (change.key, header(change, "ce_id")) == (b"user-0", b"user-0:2")


def test_a_change_points_at_the_users_last_event_and_passes_its_trace_on():
    """Position, event time and traceparent are those of the last of the user's events in the step."""
    stage = Stage(CENTRES)
    told = events(["user-0", "user-1", "user-0"], times=[100, 200, 300], rows=[1, 2, 5])
    trace = {1: b"00-first", 5: b"00-last", 2: b"00-other"}
    records = stage.step([0, 1, 2], [[1, 0], [9, 0], [0, 9]], told, touched=2, traceparents=trace)
    by_key = {r.key: r for r in of(records, CHANGES)}
    first, silent = (orjson.loads(by_key[k].value) for k in (b"user-0", b"user-2"))
    assert first["position"] == {"topic": "behavior.events", "partition": 0, "offset": 1005, "sequence": 1}
    assert first["times"] == {"event_time": 300, "decided_time": 1_700_000_000_000}
    assert header(by_key[b"user-0"], "traceparent") == b"00-last"
    assert header(of(records, MEMBERS)[1], "traceparent") == b"00-other"
    assert (
        silent["position"]["offset"]
        is silent["position"]["partition"]
        is silent["times"]["event_time"]
        is None
    )
    assert header(by_key[b"user-2"], "traceparent") is None


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 7), unique=True, max_size=8))
def test_the_cause_is_the_users_last_event_of_the_step(owners, moved):
    """An oracle: look through the events from the end; nobody else's event, and none for the silent."""
    told = events([f"u{slot}" for slot in owners], times=[1000 + i for i in range(len(owners))])
    none = np.zeros(len(moved), np.int64)
    moves = Moves.to_nowhere(np.array(moved, np.int32), none, none.astype(np.int32), none, none)
    row, time_ms = values.causes(moves, told, np.array(owners, np.int32))
    last = {slot: i for i, slot in enumerate(owners)}
    assert row.tolist() == [int(told.row[last[slot]]) if slot in last else -1 for slot in moved]
    assert time_ms.tolist() == [1000 + last[slot] if slot in last else 0 for slot in moved]


def test_a_farewell_is_a_change_and_a_tombstone():
    """The user's name is read before its slot is released; there is no explanation for silence."""
    stage = Stage(CENTRES)
    stage.user_names[0] = "\x00visitor"
    stage.step([0], [[1, 0]])
    records = stage.step(gone=[0])
    change, member = records
    body = orjson.loads(change.value)
    assert (change.key, member.key, member.value) == (b"anon:visitor", b"anon:visitor", None)
    assert body["user"] == {"key": "anon:visitor", "kind": "anonymous"}
    assert (body["transition"], body["reason"]["kind"], body["to"]) == ("left", "expiry", None)
    assert body["from"]["segment_id"] == 1
    assert body["confidence"] is body["explanation"] is None
    assert body["position"]["sequence"] == 2


def test_rejects_keep_the_original_bytes():
    """Key and value as they came, even where they are no text; the reason in the headers."""
    stage = Stage(CENTRES)
    rejects = [Reject(0, Reason.ENCODING, "byte 0: not UTF-8"), Reject(2, Reason.TOMBSTONE, "empty value")]
    records = stage.step(
        rejects=rejects,
        keys=(b"\xff", None, b"k"),
        values=(b"\xfe{", b"{}", None),
        partitions=np.array([3, 3, 4], np.int32),
        offsets=np.array([7, 8, 9]),
        traceparents={0: b"00-t"},
    )
    one, other = of(records, REJECTED)
    assert (one.key, one.value) == (b"\xff", b"\xfe{")
    assert dict(one.headers) == {
        "reason": b"encoding",
        "detail": b"byte 0: not UTF-8",
        "partition": b"3",
        "offset": b"7",
        "traceparent": b"00-t",
    }
    assert (other.key, other.value) == (b"k", None)
    assert header(other, "offset") == b"9"


def test_reasons_are_counted_per_step():
    stage = Stage(CENTRES)
    stage.step([0, 1], [[1, 0], [9, 0]])
    assert stage.narrator.changes_by_reason()["user_behavior"] == 2
    stage.step(gone=[0])
    assert stage.narrator.changes_by_reason() == {
        "user_behavior": 0,
        "segment_moved": 0,
        "encoder_published": 0,
        "expiry": 1,
        "lineage": 0,
        "operator": 0,
        "erasure": 0,
    }


def test_before_the_segments_are_born_there_is_no_catalog():
    """A step of the warm-up has rejects at most, even when it closes the input."""
    stage = Stage(CENTRES)
    stage.narrator.begin(Step(1, (), Records.empty(), None, closing=True))
    stage.narrator.profiles(force=True)
    assert stage.narrator.end() == ()


# --- explanations ------------------------------------------------------------------------------------------


def plain_explanation(catalog, raw, x, before, after):
    """One user, feature by feature: quantity -> (contribution, user, new segment, old segment, population)."""
    old = catalog.scaled.known()[before] if before >= 0 else catalog.scaled.population_mean
    new = catalog.scaled.known()[after]
    gains: dict[str, list[tuple[float, int]]] = {}
    for j, name in enumerate(catalog.features):
        gain = (float(x[j]) - old[j]) ** 2 - (float(x[j]) - new[j]) ** 2
        gains.setdefault(name.rpartition("_")[0], []).append((gain, j))
    total = sum(max(0.0, sum(g for g, _ in group)) for group in gains.values())
    found = {}
    for what, group in gains.items():
        share = sum(g for g, _ in group) / total if total else 0.0
        j = max(group, key=lambda item: (item[0], -item[1]))[1]
        if what == "interest":
            axis = [i for i, n in enumerate(catalog.features) if n.startswith("interest_")]
            direction = (new - old)[axis]
            length = float(np.sqrt((direction**2).sum()))
            direction = direction / length if length else direction
            points = (np.asarray(x, np.float64), new, old, catalog.scaled.population_mean)
            found[what] = (share, *(float(p[axis] @ direction) for p in points))
        else:
            usual = catalog.raw.population_mean[j]
            raw_means = (
                catalog.raw.known()[after][j],
                catalog.raw.known()[before][j] if before >= 0 else usual,
                usual,
            )
            found[what] = (share, float(raw[j]), *map(float, raw_means))
    return found


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_explanations_equal_the_plain_calculation(seed):
    """Gains by quantity, the share of all that speaks for the move, and readable values."""
    rng = np.random.default_rng(seed)
    d = len(NAMES)
    catalog = Catalog(Config(), 3, NAMES)
    catalog.scaled.learn(
        rng.normal(size=(30, d)).astype(np.float32), rng.integers(0, 3, 30).astype(np.int32), np.ones(30)
    )
    catalog.raw.learn(
        rng.normal(5, 2, (30, d)).astype(np.float32), rng.integers(0, 3, 30).astype(np.int32), np.ones(30)
    )
    raw, x = rng.normal(5, 2, (4, d)).astype(np.float32), rng.normal(size=(4, d)).astype(np.float32)
    before, after = np.array([-1, 0, 1, 2], np.int32), np.array([1, 1, 2, 0], np.int32)
    got = explain_rows(catalog, raw, x, before, after)
    for i in range(4):
        wanted = plain_explanation(catalog, raw[i], x[i], before[i], after[i])
        best = sorted((share for share, *_ in wanted.values() if share > 0), reverse=True)[
            : len(got.quantity[i])
        ]
        np.testing.assert_allclose(got.contribution[i][: len(best)], best, rtol=1e-6)
        assert (got.contribution[i][len(best) :] == 0).all()
        for q, *numbers in zip(
            got.quantity[i], got.user_value[i], got.segment_mean[i], got.previous_mean[i], got.population_mean[i],
            strict=True,
        ):  # fmt: skip
            np.testing.assert_allclose(numbers, wanted[catalog.quantities[q]][1:], rtol=1e-5, atol=1e-9)


def test_a_planted_reason_comes_first():
    """A user who starts to buy is explained by buying, in the feature's own unit."""
    stage = Stage([[0.0, 0.0], [10.0, 0.0]], names=("purchase_count_7d", "view_count_7d"))
    stage.step([0, 1, 2], [[0, 3], [10, 3], [1, 3]])
    (change,) = bodies(stage.step([2], [[9, 3]]), CHANGES)
    top = change["explanation"]["features"][0]
    assert (top["feature"], top["user_value"]) == ("purchase_count_7d", 9.0)
    assert top["contribution"] > 0.9
    assert change["reason"]["kind"] == "user_behavior"


# --- the fold law ------------------------------------------------------------------------------------------


@st.composite
def scenes(draw):
    """Steps of where users are, and who is forgotten first."""
    where = st.sampled_from([(1.0, 0.0), (9.0, 1.0), (1.0, 9.0), (5.2, 0.0)])
    steps = draw(
        st.lists(
            st.tuples(
                st.dictionaries(st.integers(0, 5), where, max_size=5), st.sets(st.integers(0, 5), max_size=2)
            ),
            min_size=1,
            max_size=10,
        )
    )
    return [(dict(sorted(points.items())), sorted(gone - set(points))) for points, gone in steps]


@given(scenes(), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_folding_the_changes_gives_the_members_and_the_table(scene, confirmations):
    """segment.changes folded = segment.members compacted = the engine's own table; sizes are sums."""
    stage = Stage(CENTRES, users_max=6, confirmations=confirmations)
    stage.user_names[1], stage.user_names[2] = "\x00user-2", "anon:user-2"
    folded: dict[bytes, tuple[int, int]] = {}
    members: dict[bytes, tuple[int, int]] = {}
    since: dict[bytes, int] = {}
    for points, gone in scene:
        stage.clock.now_ms += 1000
        for record in stage.step(list(points), list(points.values()), gone=gone):
            if record.topic == CHANGES:
                change = orjson.loads(record.value)
                key, sequence = record.key, change["position"]["sequence"]
                before = folded.pop(key, None)
                assert (change["from"] is None) == (before is None)
                if before is not None:
                    assert change["from"]["segment_id"] == before[0]
                    assert change["from"]["since"] == since[key]
                    assert sequence == before[1] + 1
                if change["to"] is not None:
                    folded[key] = change["to"]["segment_id"], sequence
                    since[key] = change["to"]["since"]
            elif record.topic == MEMBERS:
                members.pop(record.key, None)
                if record.value is not None:
                    member = orjson.loads(record.value)
                    assert member["user"]["key"].encode() == record.key
                    members[record.key] = member["segment_id"], member["sequence"]
        table = stage.membership
        placed = np.flatnonzero(table.segment).tolist()
        own = {
            user_key(stage.user_names[s]).encode(): (int(table.segment[s]), int(table.sequence[s]))
            for s in placed
        }
        assert folded == members == own
        for segment, size in table.sizes().items():
            assert size == sum(at == segment for at, _ in folded.values())


def test_the_same_scene_gives_the_same_bytes():
    """Nothing in a record depends on anything but the scene."""

    def told():
        stage = Stage(CENTRES)
        out = [
            stage.step([0, 1, 2], [[1, 0], [9, 0], [0, 9]]),
            stage.step([0, 1], [[9, 0], [1, 0]], gone=[2]),
        ]
        return [record for records in out for record in records]

    assert told() == told()
