"""Means in which everybody weighs about the same, against plain recounts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.means import FIRST_MS, HALF_LIFE_MS, Means, Sightings, group_sums

HOUR_MS = 3_600_000


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=1, max_size=5), st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_means_equal_a_weighted_recount(steps, seed):
    """However the rows are cut into steps, and with old ones faded in between."""
    rng = np.random.default_rng(seed)
    means, rows, groups, weights = Means(4, 3), [], [], np.zeros(0)
    for step in steps:
        batch, new = rng.normal(5, 2, (len(step), 3)).astype(np.float32), rng.uniform(0.1, 5, len(step))
        kept = float(rng.uniform(0.3, 1))
        means.fade(kept)
        means.learn(batch, np.array(step, np.int32), new)
        rows.append(batch)
        groups += step
        weights = np.concatenate([weights * kept, new])
    every, group_of = np.concatenate(rows).astype(np.float64), np.array(groups)
    mean = np.average(every, axis=0, weights=weights)
    np.testing.assert_allclose(means.population_mean, mean, rtol=1e-9)
    variance = np.average((every - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(means.population_variance, variance, rtol=1e-6, atol=1e-12)
    for group in range(4):
        own = group_of == group
        wanted = np.average(every[own], axis=0, weights=weights[own]) if own.any() else mean
        np.testing.assert_allclose(means.known()[group], wanted, rtol=1e-9)
        np.testing.assert_allclose(means.of(group), means.known()[group], rtol=0)
        assert means.weight[group] == pytest.approx(weights[own].sum())


def test_the_population_is_the_groups_by_their_weight():
    """What is said of segments and what is said of everybody never contradict each other."""
    rng = np.random.default_rng(2)
    means = Means(3, 2)
    for _ in range(5):
        means.fade(0.9)
        means.learn(
            rng.normal(size=(9, 2)).astype(np.float32), rng.integers(0, 3, 9).astype(np.int32), rng.random(9)
        )
    together = np.average(means.known(), axis=0, weights=means.weight)
    np.testing.assert_allclose(means.population_mean, together, rtol=1e-9)


def test_what_is_all_but_forgotten_still_stands():
    """After years of silence a mean has no weight left, and is what is known until the next row."""
    means = Means(1, 1)
    means.learn(np.full((1, 1), 7, np.float32), np.zeros(1, np.int32), np.ones(1))
    means.fade(0.0)
    assert means.known().tolist() == [[7.0]]
    means.learn(np.full((1, 1), 9, np.float32), np.zeros(1, np.int32), np.ones(1))
    assert means.known()[0, 0] == pytest.approx(9.0)
    assert means.population_mean[0] == pytest.approx(9.0)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_user_weighs_the_same_however_often_it_is_seen(gaps_h, seed):
    """After any course of steps, two users whose first and last steps are shared have equal weight."""
    rng = np.random.default_rng(seed)
    seen, weight, now_ms = Sightings(), np.zeros(2), HOUR_MS
    both = np.array([0, 1], np.int32)
    weight += (seen.advance(np.array([now_ms])), seen.weigh(both, 2))[1]
    for i, gap in enumerate(gaps_h):
        now_ms += gap * HOUR_MS
        weight *= seen.advance(np.array([now_ms]))
        slots = both if i == len(gaps_h) - 1 else both[: 1 + rng.integers(0, 2)]
        weight[slots] += seen.weigh(slots, 2)
    known_ms = FIRST_MS + sum(gaps_h) * HOUR_MS
    assert weight.tolist() == pytest.approx([1 - 0.5 ** (known_ms / HALF_LIFE_MS)] * 2)


def test_no_row_weighs_nothing():
    """Two steps at the same time: a weight of 0 could leave a mean without any."""
    seen = Sightings()
    seen.advance(np.array([HOUR_MS]))
    seen.weigh(np.array([0], np.int32), 1)
    assert seen.weigh(np.array([0], np.int32), 1)[0] > 0


def test_old_weights_halve_with_stream_time_that_never_goes_back():
    seen = Sightings()
    assert seen.advance(np.array([5 * HALF_LIFE_MS])) == 1.0  # nothing was learned before
    assert seen.advance(np.array([6 * HALF_LIFE_MS, 3])) == 0.5
    assert seen.advance(np.array([HALF_LIFE_MS])) == 1.0
    assert seen.advance(np.zeros(0, np.int64)) == 1.0


def test_group_sums_equal_the_plain_loop():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    added, sums = group_sums(rows, np.array([1, 0, 1, 1], np.int32), np.array([1.0, 2, 1, 0.5]), 3)
    assert added.tolist() == [2, 2.5, 0]
    assert sums.tolist() == [[6, 8, 10], [10.5, 13, 15.5], [0, 0, 0]]


def test_restore_continues_as_if_nothing_had_happened():
    """And the snapshot stays what it was while the original goes on."""
    one, other = Sightings(), Sightings()
    one.advance(np.array([HOUR_MS]))
    one.weigh(np.array([1], np.int32), 4)
    state = one.snapshot()
    for seen in (one, other):
        if seen is other:
            other.restore(state)
        seen.advance(np.array([2 * HOUR_MS]))
    slots = np.arange(4, dtype=np.int32)
    assert one.weigh(slots, 4).tolist() == other.weigh(slots, 4).tolist()
    assert state["last_ms"].tolist() == [0, HOUR_MS]
