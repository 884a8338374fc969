"""Stages by a user's own rhythm, tiers by comparison with everybody: against plain recounts."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from decisions import events, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream import lifecycle
from shoal.stream.config import Membership as Config
from shoal.stream.lifecycle import MEASURES, STAGES, TIERS, Lifecycle

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS
NAMES = ("events_1d", "money_1d", "events_30d", "money_30d")


def made(users_max=64, k=3, **config):
    return Lifecycle(Config(**config), NAMES, users_max, k)


def users_of(seen, users_max=64):
    """`seen` by slot: times of events, in days before now."""
    users = SimpleNamespace(first_ms=np.zeros(users_max, np.int64), last_ms=np.zeros(users_max, np.int64))
    for slot, days in seen.items():
        users.first_ms[slot] = NOW_MS - int(max(days) * DAY_MS)
        users.last_ms[slot] = NOW_MS - int(min(days) * DAY_MS)
    return users


def lived(seen, **config):
    """A lifecycle that has met these users' events, in order, and its users."""
    life = made(**config)
    for slot, days in seen.items():
        times = NOW_MS - (np.array(sorted(days, reverse=True)) * DAY_MS).astype(np.int64)
        life.meet(np.full(len(times), slot, np.int32), events([f"u{slot}"] * len(times), times=times))
    return life, users_of(seen)


def told(life, slots, users):
    return [orjson.loads(text) for text in life.of(slots, users, NOW_MS)]


def stage(days, **config):
    life, users = lived({0: days}, **config)
    return told(life, np.array([0], np.int32), users)[0]["stage"]


# --- stages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        ([0.1], "new"),
        ([6.9], "new"),
        ([7.1], "at_risk"),  # came once, a week ago
        ([15], "silent"),
        ([0.5, 3, 5, 6], "new"),
        (range(30), "active"),  # every day
        (range(4, 30), "at_risk"),  # every day, then not for four
        (range(8, 40), "silent"),  # every day, then not for eight
        (range(0, 70, 7), "active"),
        (range(6, 70, 7), "active"),  # every week, and the next week is not over
        (range(25, 100, 7), "at_risk"),
        (range(30, 400, 30), "active"),  # every month, a month ago
        (range(46, 400, 30), "at_risk"),  # half of silent_ms
        (range(91, 400, 30), "silent"),  # more than silent_ms
    ],
)
def test_a_stage_follows_from_the_users_own_rhythm(days, wanted):
    assert stage(list(days)) == wanted


def test_a_visit_with_a_hundred_events_makes_nobody_a_daily_user():
    """Days count, not events: the weekly user who clicks a lot is not at risk after a few hours."""
    busy = [week * 7 + event / 1000 for week in range(1, 9) for event in range(100)]
    assert stage(busy) == "active"


def test_the_bounds_are_the_operators():
    assert stage([3.5], new_ms=2 * DAY_MS) == "at_risk"
    assert stage(range(0, 70, 7), silent_ms=DAY_MS) == "active"
    assert stage(range(1, 71, 7), silent_ms=DAY_MS) == "at_risk"
    assert stage(range(2, 71, 7), silent_ms=DAY_MS) == "silent"


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(1, 30), st.integers(1, 200))
@settings(max_examples=80, deadline=None)
def test_stages_equal_the_rule_as_it_is_written(days, new, silent):
    got = stage(days, new_ms=new * DAY_MS, silent_ms=silent * DAY_MS)
    distinct = len(set(days))
    span = (max(days) - min(days)) * DAY_MS
    rhythm = max((span + new * DAY_MS // 3) // distinct, DAY_MS)
    silence = min(days) * DAY_MS
    if silence > 6 * rhythm or silence > silent * DAY_MS:
        wanted = "silent"
    elif silence > 3 * rhythm or silence > silent * DAY_MS // 2:
        wanted = "at_risk"
    else:
        wanted = "new" if max(days) < new else "active"
    assert got == wanted


# --- tiers -------------------------------------------------------------------------------------------------


def rows(life, frequency, money):
    """Let users 0.. have been scored with so many events and so much money in the longest window."""
    n = len(frequency)
    raw = np.column_stack([np.zeros(n), np.zeros(n), frequency, money]).astype(np.float32)
    slots = np.arange(n, dtype=np.int32)
    life.see(scored(slots, np.zeros((n, 2)), np.zeros((3, 2)), raw=raw))
    return slots


def tiers(frequency, money, silence_days):
    life = made()
    slots = rows(life, frequency, money)
    users = users_of({slot: [days] for slot, days in enumerate(silence_days)})
    life.census(users, np.where(np.arange(64) < len(slots), 0, -1).astype(np.int32), NOW_MS)
    return told(life, slots, users), life


def test_high_is_more_than_four_in_five_have_and_mid_is_more_than_half():
    found, _ = tiers(range(1, 11), [10.0 * 2**i for i in range(10)], range(1, 11))
    assert [one["frequency"] for one in found] == ["low"] * 5 + ["mid"] * 3 + ["high"] * 2
    assert [one["monetary"] for one in found] == ["low"] * 5 + ["mid"] * 3 + ["high"] * 2
    assert [one["recency"] for one in found] == ["high"] * 2 + ["mid"] * 3 + ["low"] * 5


def test_whoever_spends_nothing_is_low_and_where_most_spend_nothing_the_others_are_high():
    found, _ = tiers([1] * 10, [0, 0, 0, 0, 0, 0, 0, 0, -5, 30], [1] * 10)
    assert [one["monetary"] for one in found] == ["low"] * 9 + ["high"]
    assert {one["frequency"] for one in found} == {"low"}, "who is like everybody has no more than others"


@given(st.lists(st.integers(0, 32), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_tiers_equal_a_plain_count_of_who_has_less_or_as_much(have):
    """Up to 32 events every number has a bin of its own, so the bins hide nothing."""
    found, life = tiers(have, have, [1] * len(have))
    n = len(have)
    for own, one in zip(have, found, strict=True):
        fewer = sum(other < own for other in have)
        wanted = "high" if fewer >= 0.8 * n else "mid" if fewer >= 0.5 * n else "low"
        assert one["frequency"] == one["monetary"] == wanted
    shares = life.shares(0)
    for tier in TIERS:
        counted = sum(one["frequency"] == tier for one in found) / n
        assert shares["frequency"][tier] == pytest.approx(counted)


@given(st.lists(st.floats(0, 2.0**99, width=32), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_bins_keep_the_order_and_are_five_per_cent_wide(values):
    bins = lifecycle._bin(np.array(values, np.float32))
    assert bins.min() >= 0
    assert bins.max() < lifecycle._BINS
    for a, b in pairwise(values):
        i, j = lifecycle._bin(np.array([a, b], np.float32)).tolist()
        assert (i <= j) if a <= b else (j <= i)
        if i == j and min(a, b) > 1e-30:
            assert max(a, b) <= min(a, b) * (1 + 1 / 16)


# --- shares, state -----------------------------------------------------------------------------------------


def test_shares_are_those_of_each_segments_members_and_sum_to_one():
    seen = {0: [0.1], 1: [0.2], 2: [15], 3: range(30), 4: range(30)}
    life, users = lived(seen)
    centres = np.full(64, -1, np.int32)
    centres[:5] = [0, 0, 0, 2, 2]
    rows(life, [5, 1, 1, 9, 9], [1, 2, 3, 4, 5])
    life.census(users, centres, NOW_MS)
    assert life.shares(0)["stage"] == {"new": 2 / 3, "active": 0.0, "at_risk": 0.0, "silent": 1 / 3}
    assert life.shares(2)["stage"]["active"] == 1.0
    assert life.shares(2)["frequency"] == {"low": 0.0, "mid": 1.0, "high": 0.0}
    for measure in ("stage", *MEASURES):
        assert sum(life.shares(0)[measure].values()) == pytest.approx(1.0)
        assert set(life.shares(1)[measure].values()) == {0.0}, "nobody is there"


def test_a_census_looks_at_a_bounded_number_of_users(monkeypatch):
    monkeypatch.setattr(lifecycle, "CENSUS_MAX", 10)
    looked = []
    life, users = lived({i: [1.0] for i in range(64)})
    plain = life._have
    monkeypatch.setattr(life, "_have", lambda slots, *rest: looked.append(len(slots)) or plain(slots, *rest))
    life.census(users, np.zeros(64, np.int32), NOW_MS)
    assert looked[0] <= 10
    assert life.shares(0)["stage"]["new"] == 1.0


def test_who_is_forgotten_leaves_nothing_behind():
    life, _ = lived({0: range(30), 1: [1]})
    rows(life, [9, 9], [9, 9])
    life.clear(np.array([0], np.int32))
    fresh, _ = lived({1: [1]})
    rows(fresh, [0, 9], [0, 9])
    for name in ("day", "days", "bins"):
        assert np.array_equal(life.snapshot()[name], fresh.snapshot()[name])


def test_restore_continues_as_if_nothing_had_happened():
    seen = {i: [i % 9 + 0.5, i % 13] for i in range(20)}
    one, users = lived(seen)
    slots = rows(one, range(20), range(20))
    centres = np.where(np.arange(64) < 20, np.arange(64) % 3, -1).astype(np.int32)
    one.census(users, centres, NOW_MS)
    other = made()
    other.meet(np.array([50], np.int32), events(["x"], times=[NOW_MS]))  # overwritten
    other.restore(one.snapshot())
    for life in (one, other):
        life.meet(np.array([3], np.int32), events(["u3"], times=[NOW_MS]))
    assert told(one, slots, users) == told(other, slots, users)
    assert [one.shares(c) for c in range(3)] == [other.shares(c) for c in range(3)]
    for name, value in one.snapshot().items():
        assert np.array_equal(value, other.snapshot()[name])
    assert {life["stage"] for life in told(one, slots, users)} <= set(STAGES)
