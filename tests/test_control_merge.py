"""Merges, pins, names and freezing: what operators say holds, and only that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shop
from hypothesis import given, settings
from hypothesis import strategies as st
from made import T0, Touch, columns, config
from test_control import PLAIN, Commanded, changes, mirror, snapshot_bytes, validator, warm
from test_pipeline import KINDS, T0_MS, crowd

from shoal.stream.control.people import Aliases
from shoal.stream.control.pins import Pins
from shoal.stream.events import CATALOG, CHANGES, CHANNELS, LINEAGE, REJECTED
from shoal.stream.interest import Interest
from shoal.stream.windows import Windows

# --- windows and interest -----------------------------------------------------------------------------------

touches = st.builds(
    Touch,
    st.sampled_from(["a", "b", "c"]),
    st.integers(T0 - 3_700_000, T0 + 70_000),
    st.sampled_from([*CHANNELS, "refund", "cart_remove"]),
    value=st.sampled_from([0.0, 0.01, 12.5, 3e6]),
    quantity=st.sampled_from([0.0, 1.0, 2.5]),
    dwell_ms=st.sampled_from([0, 500, 90_000]),
    item=st.sampled_from(["", "x", "y", "z", *map(str, range(40))]),
    tokens=st.sampled_from([(), ("t1",), ("t1", "t2")]),
)


def played(history, owner):
    windows = Windows(config())
    for begin in range(0, len(history), 7):
        part = sorted(history[begin : begin + 7], key=lambda touch: touch.time_ms)
        made = columns(part)
        windows.update(np.array([owner[touch.user] for touch in part], np.int32), made)
    return windows


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


@settings(max_examples=150, deadline=None)
@given(st.lists(touches, max_size=60), st.lists(touches, max_size=10))
def test_merged_windows_are_to_the_byte_those_of_a_history_that_was_one_users(before, after):
    """Whatever either did, late or not, and whatever comes after the merge."""
    apart = played(before, {"a": 3, "b": 5, "c": 0})
    apart._pool.reserve()
    apart.merge(3, 5)
    apart.clear(np.array([3], np.int32))
    together = played(before, {"a": 5, "b": 5, "c": 0})
    apart._pool.check()
    now_ms = T0 + 70_000
    rows = [np.zeros((2, len(apart.names)), np.float32) for _ in range(2)]
    for windows, out in zip((apart, together), rows, strict=True):
        windows.fill(np.array([0, 5], np.int32), now_ms, out)
    assert rows[0].tobytes() == rows[1].tobytes()
    same(apart.snapshot(), together.snapshot())
    for windows in (apart, together):
        part = [replace(touch, time_ms=touch.time_ms + 90_000, user="b") for touch in after]
        windows.update(np.full(len(part), 5, np.int32), columns(sorted(part, key=lambda t: t.time_ms)))
    same(apart.snapshot(), together.snapshot())


@settings(max_examples=60, deadline=None)
@given(st.lists(touches, max_size=30))
def test_merged_interest_is_that_of_a_history_that_was_one_users(history):
    """With the same meanings, up to float32 rounding."""
    apart, together = Interest(config()), Interest(config())
    for owner, interest in (({"a": 1, "b": 2, "c": 0}, apart), ({"a": 2, "b": 2, "c": 0}, together)):
        for touch in history:
            interest.update(np.array([owner[touch.user]], np.int32), columns([touch]), learning=False)
    apart.merge(1, 2)
    assert np.allclose(apart._sums[2], together._sums[2], atol=1e-4)
    past = [i._scale[2] * i._history[2].astype(np.float64) for i in (apart, together)]
    assert np.allclose(*past, atol=2e-3 * max(1.0, np.abs(past[1]).max()))


# --- merge --------------------------------------------------------------------------------------------------


def merge(driver, source, into):
    return driver.command("merge", **{"from": {"user_id": source}, "into": {"user_id": into}})


def features_of(driver, user):
    p = driver.pipeline
    slot = np.array([p.users.slot(user)], np.int32)
    return p.features.rows(slot, p.users, p.clock.now_ms)[0, : p.features.interest.start]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=25),
    st.lists(st.integers(0, 5), max_size=10),
    st.booleans(),
)
def test_after_a_merge_the_survivor_is_as_if_all_had_been_its_own(before, after, known):
    """Activity features to the bit, also where the survivor was not known until then; the other is gone."""
    apart, together = (Commanded(shop.small(*PLAIN, "segmenter.warmup_rows=500")) for _ in range(2))
    into = "u001" if known else "new"

    def play(driver, users, renamed):
        for i, (user, kind) in enumerate(users):
            name = f"u{user:03d}"
            name = into if renamed and name == "u000" else name
            driver.step(driver.event(name, KINDS[kind], T0_MS + i, items=[{"id": f"x{i % 3}"}]))

    start = [(0, 1), (1, 2), *before]
    play(apart, start, renamed=False)
    play(together, start, renamed=True)
    output = apart.obey(merge(apart, "u000", into))
    together.obey()
    assert output.counts.commands == 1
    later = [(user, 3) for user in after]
    play(apart, later, renamed=False)
    play(together, later, renamed=True)
    assert apart.pipeline.users.slot("u000") is None
    for user in {into, *(f"u{u:03d}" for u, _ in start)} - {"u000"}:
        assert features_of(apart, user).tobytes() == features_of(together, user).tobytes()
    slots = [d.pipeline.users.slot(into) for d in (apart, together)]
    for name in ("first_ms", "last_ms", "events_seen"):
        a, b = (getattr(d.pipeline.users, name)[s] for d, s in zip((apart, together), slots, strict=True))
        assert a == b


def test_a_merge_ends_the_membership_of_the_one_and_scores_the_other():
    """`left`, by an operator; and who was not known until then is assigned in the same step."""
    driver = warm()
    output = driver.obey(merge(driver, "u000", "u001"), merge(driver, "u002", "new"))
    told = {(c["user"]["key"], c["transition"]): c for c in changes(output)}
    assert told["u000", "left"]["reason"]["kind"] == told["u002", "left"]["reason"]["kind"] == "operator"
    assert told["new", "assigned"]["to"] is not None
    for change in told.values():
        validator(CHANGES).validate(change)
    members = mirror([r for o in driver.outputs for r in o.records])
    assert not {"u000", "u002"} & members.keys()
    assert {"u001", "new"} <= members.keys()


def test_chains_of_merges_end_at_one_person_and_cycles_are_refused():
    """Whoever was merged into somebody who is merged further goes along."""
    driver = warm()
    driver.obey(merge(driver, "u000", "u001"))
    driver.obey(merge(driver, "u001", "u002"))
    for source, into, done in (
        ("u002", "u000", 0),
        ("u000", "u001", 1),
        ("u003", "u003", 0),
        ("x", "u000", 1),
    ):
        assert driver.obey(merge(driver, source, into)).counts.commands == done
    assert driver.pipeline.control.aliases.of("u000") == driver.pipeline.control.aliases.of("x") == "u002"
    seen = driver.pipeline.users.events_seen[driver.pipeline.users.slot("u002")]
    driver.step(driver.event("u000"), driver.event("u001"), driver.event("x"))
    assert driver.pipeline.users.events_seen[driver.pipeline.users.slot("u002")] == seen + 3


def test_erasing_any_of_the_names_erases_the_person_and_the_links():
    """Later events of the old name are somebody new, not the person again."""
    driver = warm()
    driver.obey(merge(driver, "u000", "u001"))
    output = driver.obey(driver.erase("u000"), events=[driver.event("u000"), driver.event("u001")])
    (change,) = changes(output)
    assert change["user"]["key"] == "u001"
    assert "aliases" in change["receipt"]["erased"]
    assert output.counts.withheld == 2
    state = snapshot_bytes(driver)
    assert b"u000" not in state
    assert b"u001" not in state


def test_who_withdrew_under_one_name_has_withdrawn_under_all():
    """And is merged with nobody until consent is given again."""
    driver = warm("control.aliases_max=1")
    driver.obey(merge(driver, "u000", "u001"))
    assert driver.obey(merge(driver, "u002", "u003")).counts.rejected == {"schema": 1}
    driver.obey(driver.consent("u000", given=False))
    output = driver.step(driver.event("u000"), driver.event("u001"), driver.event("u002"))
    assert output.counts.withheld == 2
    assert driver.obey(merge(driver, "u002", "u001")).counts.rejected == {"schema": 1}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
def test_aliases_are_flat_and_agree_with_a_union(pairs):
    """Two names lead to the same person exactly where merges joined them."""
    aliases, group = Aliases(100), {i: {i} for i in range(9)}
    for a, b in pairs:
        source, into = aliases.of(str(a)), aliases.of(str(b))
        if source != into:
            aliases.add(source, into)
            joined = group[a] | group[b]
            for i in joined:
                group[i] = joined
    for a in range(9):
        for b in range(9):
            assert (aliases.of(str(a)) == aliases.of(str(b))) == (b in group[a])
        assert aliases.of(aliases.of(str(a))) == aliases.of(str(a))


# --- pin ----------------------------------------------------------------------------------------------------


def pin(driver, user, segment_id):
    return driver.command("pin", user={"user_id": user}, segment_id=segment_id)


def segment_of(driver, user):
    return int(driver.pipeline.membership.segment[driver.pipeline.users.slot(user)])


def test_a_pinned_user_goes_there_at_once_stays_whatever_it_does_and_is_let_go():
    """One change, by an operator; behaviour counts again afterwards."""
    driver = warm()
    home = segment_of(driver, "u000")
    away = segment_of(driver, "u001")
    (change,) = changes(driver.obey(pin(driver, "u000", away)))
    validator(CHANGES).validate(change)
    assert (change["transition"], change["reason"]["kind"]) == ("moved", "operator")
    for i in range(6):
        output = driver.step(driver.event("u000", KINDS[0], T0_MS + i))
        assert not [c for c in changes(output) if c["user"]["key"] == "u000"]
        assert segment_of(driver, "u000") == away
    driver.obey(pin(driver, "u000", None))
    for i in range(6):
        driver.step(driver.event("u000", KINDS[0], T0_MS + 10 + i))
    assert segment_of(driver, "u000") == home


def test_pins_on_what_is_not_there_are_refused():
    """An unknown user, an unknown segment, one pin too many."""
    driver = warm("control.pins_max=1")
    home = segment_of(driver, "u000")
    for command, done in (
        (pin(driver, "stranger", home), 0),
        (pin(driver, "u000", 99), 0),
        (pin(driver, "u000", home), 1),
        (pin(driver, "u001", home), 0),
        (pin(driver, "u000", None), 1),
    ):
        output = driver.obey(command)
        assert (output.counts.commands, sum(output.counts.rejected.values())) == (done, 1 - done)
        assert len([r for r in output.records if r.topic == REJECTED]) == 1 - done


def test_a_pin_ends_with_its_user():
    """Whoever gets the slot is free."""
    driver = warm()
    driver.obey(pin(driver, "u000", segment_of(driver, "u001")))
    (change,) = changes(driver.obey(driver.erase("u000")))
    assert "pin" in change["receipt"]["erased"]
    assert len(driver.pipeline.membership.pins) == 0


@given(st.dictionaries(st.integers(0, 20), st.integers(1, 5), max_size=6), st.lists(st.integers(0, 20)))
def test_pins_hold_where_they_say_and_nowhere_else(held, slots):
    """Against a dictionary; a segment without a centre holds nobody."""
    pins = Pins(10)
    for slot, segment_id in held.items():
        pins.put(slot, segment_id)
    pins.follow([(1, 2)])
    ids = np.array([0, 3, 2, 5])  # by centre
    slots = np.array(slots, np.int32)
    target = np.zeros(len(slots), np.int32)
    wanted = {slot: 2 if seg == 1 else seg for slot, seg in held.items()}
    expected = [ids.tolist().index(wanted[s]) if wanted.get(s) in (2, 3, 5) else 0 for s in slots.tolist()]
    assert pins.hold(slots, target, ids).tolist() == expected
    again = Pins(10)
    again.restore(pins.snapshot())
    assert again.of(slots).tolist() == [wanted.get(s, 0) for s in slots.tolist()]


# --- names, freezing ------------------------------------------------------------------------------------------


def test_a_renamed_segment_keeps_its_name_until_the_engine_may_name_it_again():
    """Lineage and catalog say so in the step of the command."""
    driver = warm()
    segment_id = segment_of(driver, "u000")
    output = driver.obey(driver.command("rename", segment_id=segment_id, name="Night owls"))
    (fact,) = changes(output, LINEAGE)
    validator(LINEAGE).validate(fact)
    assert (fact["kind"], fact["name"], fact["segment_id"]) == ("rename", "Night owls", segment_id)
    profiles = {p["segment_id"]: p["name"] for p in changes(output, CATALOG)}
    assert profiles[segment_id] == "Night owls"
    for i in range(3):
        driver.step(*crowd(driver, 60, T0_MS + i))
    (fact,) = changes(driver.obey(driver.command("rename", segment_id=segment_id)), LINEAGE)
    assert fact["previous_name"] == "Night owls"
    assert driver.obey(driver.command("rename", segment_id=99, name="x")).counts.rejected == {"schema": 1}


@pytest.mark.parametrize("kind", ["identity", "linear"])
def test_while_frozen_nothing_is_learned_and_users_are_scored_all_the_same(kind):
    """Everything that all users share stays to the byte; a user still moves; then learning goes on."""
    driver = Commanded(
        shop.small(*PLAIN, f"encoder.kind={kind}", "membership.confirmations=1", "membership.margin=0.0")
    )
    driver.step(*crowd(driver, 60))
    p = driver.pipeline

    def learned():
        parts = p.segmenter.fingerprint(), p.publisher.fingerprint(), p.features.fingerprint()
        return *parts, p.catalog.raw.mean.tobytes(), p.catalog.labels._counts.tobytes()

    output = driver.obey(driver.command("freeze", learning=False))
    (fact,) = changes(output, LINEAGE)
    validator(LINEAGE).validate(fact)
    assert (fact["kind"], fact["segment_id"], fact["name"]) == ("freeze", None, None)
    before = learned()
    for i in range(10):
        driver.step(*(driver.event("u000", KINDS[2], T0_MS + i, items=[{"id": "y"}]) for _ in range(9)))
    assert learned() == before
    assert [c["user"]["key"] for o in driver.outputs[2:] for c in changes(o)] == ["u000"]
    assert not changes(driver.obey(driver.command("freeze", learning=False)), LINEAGE)
    (fact,) = changes(driver.obey(driver.command("freeze", learning=True)), LINEAGE)
    assert fact["kind"] == "unfreeze"
    driver.step(driver.event("u000"))
    assert learned() != before


# --- all of it ------------------------------------------------------------------------------------------------

actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["erase", "withdraw", "give", "merge", "pin", "release", "rename", "freeze", "thaw", "no"]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=12,
)


def body(driver, kind, a, b):
    user = f"u{a:03d}"
    match kind:
        case "erase":
            return driver.erase(user)
        case "withdraw" | "give":
            return driver.consent(user, given=kind == "give")
        case "merge":
            return merge(driver, user, f"u{b:03d}")
        case "pin" | "release":
            return pin(driver, user, b % 5 + 1 if kind == "pin" else None)
        case "rename":
            return driver.command("rename", segment_id=b % 5 + 1, name=f"name {a}")
        case "freeze" | "thaw":
            return driver.command("freeze", learning=kind == "thaw")
        case _:
            return b"no command"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(actions, st.lists(st.integers(0, 9), max_size=8)), min_size=1, max_size=6), st.data()
)
def test_any_history_of_commands_balances_fits_its_schemas_and_goes_on_from_any_snapshot(history, data):
    """No user changes twice in a step; the members are the engine's; a copy restored in the middle agrees."""
    driver, copy = warm(), None
    cut = data.draw(st.integers(0, len(history) - 1))
    checks = {topic: validator(topic) for topic in (CHANGES, LINEAGE)}
    for i, (said, users) in enumerate(history):
        if i == cut:
            copy = Commanded(shop.small(*PLAIN))
            copy.pipeline.restore(driver.pipeline.snapshot())
            copy.outputs = list(driver.outputs)
        commands = [body(driver, *one) for one in said]
        events = [driver.event(f"u{u:03d}", KINDS[u % 4], T0_MS + i) for u in users]
        output = driver.obey(*commands, events=events)
        assert output.counts.balanced()
        told = changes(output)
        assert len({c["user"]["key"] for c in told}) == len(told)
        for topic, check in checks.items():
            for value in changes(output, topic):
                check.validate(value)
        if copy is not None:
            again = copy.obey(*commands, events=events)
            assert again.records == output.records
            assert again.manifest == output.manifest
    p = driver.pipeline
    slots = np.flatnonzero(p.membership.segment).astype(np.int32)
    own = dict(zip(p.users.names(slots), p.membership.segment[slots].tolist(), strict=True))
    members = mirror([r for o in driver.outputs for r in o.records])
    assert {key: value["segment_id"] for key, value in members.items()} == own
    assert snapshot_bytes(driver) == snapshot_bytes(copy)
