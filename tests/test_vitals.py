"""Cohesion, age and trend of segments, against plain recounts."""

import doctest

import numpy as np
import pytest
from decisions import scored
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream import exemplars, hierarchy, names, naming_zh, traits, vitals
from shoal.stream.exemplars import EXEMPLARS_MAX, MEMBERS_MIN, Exemplars, pseudonym
from shoal.stream.vitals import GROWING, PAST_MS, SHRINKING, STABLE, Vitals, trend

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("module", [vitals, exemplars, hierarchy, names, naming_zh, traits])
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


# --- cohesion ----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_cohesion_is_the_weighted_mean_of_the_simplified_silhouette(seed, n, k):
    rng = np.random.default_rng(seed)
    distances, centres = rng.uniform(0, 9, (n, k)), rng.integers(0, k, n).astype(np.int32)
    weights = rng.uniform(0.1, 1, n)
    got = Vitals(k)
    got.watch(np.arange(1, k + 1), np.full(k, 9), NOW_MS)
    for at in np.array_split(np.arange(n), 3):
        got.learn(distances[at], centres[at], weights[at])
    for c in range(k):
        rows = np.flatnonzero(centres == c)
        if not len(rows):
            assert got.of(c).cohesion is None
            continue
        a = np.sqrt(distances[rows, c])
        b = np.sqrt(np.delete(distances[rows], c, axis=1).min(axis=1))
        wanted = np.average((b - a) / np.maximum(a, b), weights=weights[rows])
        assert got.of(c).cohesion == pytest.approx(wanted)


def test_cohesion_is_one_far_from_all_else_and_negative_among_others():
    got = Vitals(2)
    got.watch(np.array([1, 2]), np.array([5, 5]), NOW_MS)
    got.learn(np.array([[0.0, 9.0], [9.0, 1.0], [4.0, 16.0]]), np.array([0, 0, 1], np.int32), np.ones(3))
    assert got.of(0).cohesion == pytest.approx((1 - 2 / 3) / 2)
    assert got.of(1).cohesion == pytest.approx(-0.5)


def test_rows_that_are_not_finite_say_nothing_and_a_lonely_segment_has_no_cohesion():
    got = Vitals(2)
    got.watch(np.array([1, 0]), np.array([5, 0]), NOW_MS)
    got.learn(np.array([[1.0, np.inf], [np.nan, 1.0]]), np.zeros(2, np.int32), np.ones(2))
    assert not got.weight.any()
    assert got.of(0).cohesion is None


def test_yesterdays_rows_weigh_less():
    got = Vitals(2)
    got.watch(np.array([1, 2]), np.array([5, 5]), NOW_MS)
    got.learn(np.array([[0.0, 1.0]]), np.zeros(1, np.int32), np.ones(1))  # 1
    got.fade(0.5)
    got.learn(np.array([[1.0, 1.0]]), np.zeros(1, np.int32), np.ones(1))  # 0
    assert got.of(0).cohesion == pytest.approx(1 / 3)


# --- age and trend -----------------------------------------------------------------------------------------


def told(*sizes, every_ms=DAY_MS):
    """The vitals of a segment with these sizes, a refresh a day."""
    got = Vitals(1)
    for i, size in enumerate(sizes):
        got.watch(np.array([7]), np.array([size]), NOW_MS + i * every_ms)
    return got.of(0)


def test_age_counts_from_the_first_refresh():
    assert told(10).age_ms == 0
    assert told(10, 10, 10).age_ms == 2 * DAY_MS
    assert told(10, 10, 10).since_ms == NOW_MS


def test_a_trend_is_defined_before_a_week_has_passed():
    assert (told(100).ratio, told(100).trend) == (1.0, STABLE)
    assert (told(100, 150).ratio, told(100, 150).trend) == (1.5, GROWING)
    assert (told(100, 50).ratio, told(100, 50).trend) == (0.5, SHRINKING)


def test_the_past_is_a_week_old_on_average():
    """A size that grows by one a day is compared with what it was seven days ago."""
    grown = told(*range(1000, 1200))
    assert 1199 / grown.ratio == pytest.approx(1199 - PAST_MS / DAY_MS, abs=0.6)


def test_it_does_not_matter_how_often_it_is_refreshed():
    daily, hourly = told(*[100] * 20, *[160] * 5), told(*[100] * 480, *[160] * 120, every_ms=DAY_MS // 24)
    assert daily.ratio == pytest.approx(hourly.ratio, rel=0.05)


def test_a_refresh_at_the_same_time_changes_no_past():
    got = Vitals(1)
    for size in (100, 150, 3, 150):
        got.watch(np.array([7]), np.array([size]), NOW_MS)
    assert got.of(0).ratio == 1.5


def test_a_few_users_more_are_no_trend_and_an_empty_segment_is_stable():
    assert trend(5, 3) == STABLE
    assert told(3, 5).trend == STABLE
    assert (told(0, 0).ratio, told(0, 0).trend) == (1.0, STABLE)
    assert told(100, 0).trend == SHRINKING


def test_a_merge_makes_nothing_grow_and_a_new_segment_is_of_no_age():
    got = Vitals(3)
    got.watch(np.array([1, 2, 0]), np.array([100, 60, 0]), NOW_MS)
    got.watch(np.array([1, 2, 0]), np.array([100, 60, 0]), NOW_MS + DAY_MS)
    got.hand_over(1, 0)
    got.watch(np.array([1, 3, 0]), np.array([160, 5, 0]), NOW_MS + 2 * DAY_MS)
    assert (got.of(0).trend, got.of(0).ratio, got.of(0).age_ms) == (STABLE, pytest.approx(1.0), 2 * DAY_MS)
    assert (got.of(1).age_ms, got.of(1).ratio) == (0, 1.0)


def test_what_is_known_of_a_segment_follows_its_id_to_another_centre():
    got = Vitals(3)
    for day in range(3):
        got.watch(np.array([1, 2, 0]), np.array([100, 60 + day, 0]), NOW_MS + day * DAY_MS)
    got.learn(np.array([[4.0, 1.0, 9.0]]), np.array([1], np.int32), np.ones(1))
    got.watch(np.array([2, 9, 1]), np.array([62, 4, 100]), NOW_MS + 3 * DAY_MS)
    assert (got.of(0).age_ms, got.of(2).age_ms, got.of(1).age_ms) == (3 * DAY_MS, 3 * DAY_MS, 0)
    assert got.of(0).cohesion == pytest.approx(0.5)
    assert got.of(1).cohesion is None
    assert got.of(2).ratio == pytest.approx(1.0)


def test_vitals_go_on_after_a_restart_as_if_nothing_had_happened():
    one = Vitals(2)
    one.watch(np.array([1, 2]), np.array([50, 70]), NOW_MS)
    one.learn(np.array([[1.0, 4.0]]), np.zeros(1, np.int32), np.ones(1))
    one.watch(np.array([1, 2]), np.array([80, 70]), NOW_MS + DAY_MS)
    other = Vitals(2)
    other.restore(one.snapshot())
    for each in (one, other):
        each.learn(np.array([[2.0, 4.0]]), np.ones(1, np.int32), np.ones(1))
        each.watch(np.array([1, 2]), np.array([90, 60]), NOW_MS + 2 * DAY_MS)
    assert [one.of(c) for c in range(2)] == [other.of(c) for c in range(2)]


# --- exemplars ---------------------------------------------------------------------------------------------

CENTRES = np.array([[0.0], [100.0]])


def seen(chosen, slots, points, centres=None):
    """One step in which these users are scored at these points on a line."""
    batch = scored(slots, np.array(points, float)[:, None], CENTRES)
    chosen.learn(batch, batch.nearest if centres is None else np.asarray(centres, np.int32))


def slots_of(chosen, centre, where=None, size=MEMBERS_MIN):
    where = np.full(1000, centre, np.int32) if where is None else where
    return [one.slot for one in chosen.of(centre, size, where)]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.floats(-40, 140)), max_size=9, unique_by=lambda p: p[0]),
        max_size=5,
    )
)
@settings(max_examples=80, deadline=None)
def test_exemplars_are_the_nearest_as_each_user_was_seen_last(steps):
    """Where nobody is seen twice they are the nearest of all; a user never stands twice; nearest first."""
    chosen = Exemplars(2, 1)
    once: dict[int, tuple[float, int]] = {}
    twice = False
    for points in steps:
        seen(chosen, [slot for slot, _ in points], [x for _, x in points] or np.empty(0))
        for slot, x in points:
            twice |= slot in once
            once[slot] = (min(x * x, (x - 100) ** 2), int(x * x > (x - 100) ** 2))
    for centre in (0, 1):
        found = slots_of(chosen, centre)
        assert len(set(found)) == len(found) <= EXEMPLARS_MAX
        if not twice:
            ranked = sorted(gap for gap, at in once.values() if at == centre)[:EXEMPLARS_MAX]
            assert [once[slot][0] for slot in found] == pytest.approx(ranked)
            assert all(once[slot][1] == centre for slot in found)


def test_exemplars_are_shown_with_the_row_they_had():
    chosen = Exemplars(2, 1)
    seen(chosen, [4, 5], [3.0, 2.0])
    assert [(one.slot, one.row.tolist()) for one in chosen.of(0, 20, np.zeros(9, np.int32))] == [
        (5, [2.0]),
        (4, [3.0]),
    ]


def test_a_segment_below_twenty_members_has_no_exemplars():
    chosen = Exemplars(2, 1)
    seen(chosen, [4], [3.0])
    assert slots_of(chosen, 0, size=MEMBERS_MIN - 1) == []
    assert slots_of(chosen, 0, size=MEMBERS_MIN) == [4]


def test_who_has_moved_away_stands_for_the_segment_no_more():
    chosen = Exemplars(2, 1)
    seen(chosen, [4, 5], [3.0, 2.0])
    where = np.zeros(9, np.int32)
    where[5] = 1
    assert slots_of(chosen, 0, where) == [4]


def test_after_a_refresh_newcomers_stand_first_and_the_old_fill_up():
    chosen = Exemplars(2, 1)
    seen(chosen, [1, 2, 3], [1.0, 2.0, 3.0])
    chosen.age()
    assert slots_of(chosen, 0) == [1, 2, 3]
    seen(chosen, [7, 2], [9.0, 8.0])
    assert slots_of(chosen, 0) == [2, 7, 1]


def test_who_is_erased_or_forgotten_is_no_exemplar_and_leaves_no_row():
    chosen = Exemplars(2, 1)
    seen(chosen, [1, 2, 3], [1.0, 2.0, 3.0])
    seen(chosen, [8], [99.0])
    chosen.clear(np.array([1, 8, 77], np.int32))
    assert slots_of(chosen, 0) == [2, 3]
    assert slots_of(chosen, 1) == []
    state = chosen.snapshot()
    assert sorted(state["rows"].ravel().tolist()) == [0, 0, 0, 0, 2, 3]
    seen(chosen, [6], [2.5])
    assert slots_of(chosen, 0) == [2, 6, 3]


def test_users_in_no_segment_and_rows_that_are_not_finite_are_passed_over():
    chosen = Exemplars(2, 1)
    seen(chosen, [1, 2], [1.0, np.inf], centres=[-1, 0])
    assert slots_of(chosen, 0) == []


def test_exemplars_go_on_after_a_restart_as_if_nothing_had_happened():
    one, other = Exemplars(2, 1), Exemplars(2, 1)
    seen(one, [1, 2, 3], [5.0, 4.0, 90.0])
    other.restore(one.snapshot())
    for each in (one, other):
        seen(each, [2, 9, 8], [7.0, 6.0, 101.0])
    for name, value in one.snapshot().items():
        assert np.array_equal(value, other.snapshot()[name])


def test_a_pseudonym_is_another_one_in_every_segment_and_configuration():
    made = {pseudonym(*of) for of in [("a", 1, "x"), ("b", 1, "x"), ("a", 2, "x"), ("a", 1, "y")]}
    assert len(made) == 4
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in made)
    assert pseudonym("a", 1, "x") == pseudonym("a", 1, "x")
