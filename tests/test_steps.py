"""Steps that find their own size: the theory's figures, and River's rule whatever they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.clustering.river_backend import river_model
from shoal.stream.clustering.steps import STEP_MAX, STEP_MIN, follow


def tracked(d, drift, rows=12_000, tail=False, seed=0):
    """Geometric mean of the steps of one centre behind a moving point, and its error per dimension."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, d))
    if tail:
        noise /= np.sqrt(rng.chisquare(3, (rows, 1)))
    way = np.outer(np.arange(rows) * drift, np.ones(d) / np.sqrt(d))
    centre, steps = np.zeros((1, d)), np.array([0.05])
    traces, energy = np.zeros((1, d)), np.full(1, float(d))
    logs, errors = [], []
    for at in range(0, rows, 40):
        if at > rows // 3:
            logs.append(np.log(steps[0]))
            errors.append(((centre[0] - way[at]) ** 2).mean())
        follow(centre, way[at : at + 40] + noise[at : at + 40], steps, traces, energy)
    return float(np.exp(np.mean(logs))), float(np.mean(errors))


@pytest.mark.parametrize("d", [1, 4, 16])
@pytest.mark.parametrize("drift", [0.002, 0.006])
def test_the_step_settles_near_the_best_one_for_the_drift(d, drift):
    """(4 v^2 / S)^(1/3), within a factor of 1.6; and the error is within 1.6 of what that step would give."""
    best = (4 * drift**2 / d) ** (1 / 3)
    step, error = tracked(d, drift)
    assert 1 / 1.6 < step / best < 1.6
    least = best / (2 - best) + drift**2 / best**2 / d
    assert error < 1.6 * least


@pytest.mark.parametrize("tail", [False, True])
def test_without_drift_the_step_falls_to_its_floor(tail):
    """Also where rows ten deviations away occur: they are no evidence of a move."""
    step, error = tracked(16, 0.0, tail=tail)
    assert step < 1.6 * STEP_MIN
    assert error < 0.004


def test_a_centre_left_behind_by_a_jump_arrives_within_sixty_rows():
    """From the smallest step there is: a mean of all rows would need a thousand."""
    rng = np.random.default_rng(1)
    d = 16
    centre, steps = np.zeros((1, d)), np.array([STEP_MIN])
    traces, energy = np.zeros((1, d)), np.full(1, float(d))
    follow(centre, rng.standard_normal((2000, d)), steps, traces, energy)
    follow(centre, 1.5 + rng.standard_normal((60, d)), steps, traces, energy)
    assert np.abs(centre - 1.5).mean() < 0.35
    follow(centre, 1.5 + rng.standard_normal((4000, d)), steps, traces, energy)
    assert steps[0] < 5 * STEP_MIN, "and is calm again afterwards"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), st.booleans(), st.floats(STEP_MIN, STEP_MAX)
)
def test_a_river_model_given_each_rows_step_follows_bit_for_bit(d, k, seed, grid, first):
    """`halflife` is set, before each row, to the step that was used; ties and rows that are not finite included."""
    rng = np.random.default_rng(seed)
    rows = 2 * rng.standard_normal((60, d))
    rows = np.round(rows) if grid else rows
    rows[rng.integers(60), 0] = np.nan
    centres = np.round(2 * rng.standard_normal((k, d)))
    river = river_model(centres, first, seed=1)
    learned = follow(centres, rows, np.full(k, first), np.zeros((k, d)), np.full(k, float(d)))
    for i, row in enumerate(rows.tolist()):
        if learned.winner[i] >= 0:
            river.halflife = float(learned.step[i])
            assert river.learn_predict_one(dict(enumerate(row))) == learned.winner[i]
    assert centres.tolist() == [[river.centers[c][j] for j in range(d)] for c in range(k)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_what_is_told_of_a_row_is_what_a_dumb_look_at_the_centres_tells(d, k, seed):
    """The two nearest centres and their squared distances, before the row moves anything."""
    rng = np.random.default_rng(seed)
    rows, centres = rng.standard_normal((20, d)), rng.standard_normal((k, d))
    steps, traces, energy = np.full(k, 0.3), np.zeros((k, d)), np.ones(k)
    for row in rows:
        gaps = np.sort(((centres - row) ** 2).sum(axis=1))
        order = np.argsort(((centres - row) ** 2).sum(axis=1), kind="stable")
        one = follow(centres, row[None], steps, traces, energy)
        assert one.winner[0] == order[0]
        assert one.near[0] == pytest.approx(gaps[0])
        assert one.second[0] == (order[1] if k > 1 else -1)
        assert one.next[0] == pytest.approx(gaps[1] if k > 1 else np.inf)


def test_how_far_out_a_row_is_says_nothing_beyond_twice_the_usual_error():
    """Five deviations or fifty: the same step afterwards. Half a deviation more within reach is another one."""

    def step_after(gap):
        rng = np.random.default_rng(2)
        centre, steps = np.zeros((1, 4)), np.array([0.02])
        traces, energy = np.zeros((1, 4)), np.full(1, 4.0)
        follow(centre, rng.standard_normal((50, 4)), steps, traces, energy)
        follow(centre, centre + gap * np.ones(4), steps, traces, energy)
        follow(centre, centre + np.ones((1, 4)), steps, traces, energy)
        return float(steps[0])

    assert step_after(5.0) == pytest.approx(step_after(50.0), rel=1e-9)
    assert step_after(1.7) != pytest.approx(step_after(1.2), rel=1e-3)
    assert step_after(2.4) == pytest.approx(step_after(50.0), rel=1e-9), "from twice the usual on"
