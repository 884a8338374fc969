"""Scores are probabilities: learned from what became of earlier placements, bounded, and the same after a restore."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream import confidence as module
from shoal.stream.confidence import BUCKETS, FULL, PROFILE, STAY_EVENTS, Calibration, bucket, prior
from shoal.stream.evaluation.calibration import (
    DEVELOPMENT_SHAPES,
    Plan,
    calibration_error,
    evaluate,
    fit,
    reliability,
    render,
)


def place(calibration, slots, seen, margin, first=True, centres=8):
    n = len(slots)
    return calibration.place(
        np.array(slots, np.int32), np.full(n, seen), np.full(n, margin), np.full(n, first), centres
    )


def live(calibration, rng, risk, rounds, users=500, margin=0.3):
    """Users who leave with this risk within STAY_EVENTS events, evenly, and are placed again when they are through."""
    slots = np.arange(users, dtype=np.int32)
    seen = np.full(users, 5)
    place(calibration, slots, 5, margin)
    for _ in range(rounds):
        seen = seen + rng.integers(1, 4, users)
        gone = rng.random(users) < 1 - np.exp(-risk * 2 / STAY_EVENTS)
        calibration.observe(slots, seen, gone)
        free = calibration._bucket < 0
        n = int(free.sum())
        if n:
            calibration.place(slots[free], seen[free], np.full(n, margin), np.ones(n, np.bool_), 8)


def test_the_first_score_is_the_prior_and_thin_evidence_lowers_it():
    """Nothing was learned yet: one event says less than twenty, an unclear placement less than a clear one."""
    scores = [
        place(Calibration(4), [0], seen, margin)[0] for seen, margin in ((1, 0.3), (20, 0.3), (20, 0.02))
    ]
    expected = np.exp(-prior(np.array([20]), np.array([0.3]), np.array([True]), 8))[0]
    assert scores[1] == pytest.approx(expected)
    assert scores[0] < scores[1]
    assert scores[2] < scores[1]


@pytest.mark.parametrize("risk", [0.05, 0.5, 2.0])
def test_scores_come_to_what_really_happens(risk):
    """Whatever the prior thought, after some hundred outcomes the score is the share that stays."""
    calibration = Calibration(500)
    live(calibration, np.random.default_rng(1), risk, 200)
    seen = 400  # where these users have come to
    score = calibration.place(
        np.array([0], np.int32), np.array([seen]), np.array([0.3]), np.array([True]), 8
    )[0]
    ratio = calibration.ratios()[bucket(np.array([seen]), np.array([0.3]))[0]]
    assert score == pytest.approx(
        np.exp(-ratio * prior(np.array([seen]), np.array([0.3]), np.array([True]), 8)[0])
    )
    assert score == pytest.approx(np.exp(-risk), abs=0.07)


def test_placements_that_are_not_through_yet_bias_nothing():
    """Early departures come in first; what the others have withstood so far counts against them at once."""
    calibration, rng, n = Calibration(20_000), np.random.default_rng(2), 20_000
    slots = np.arange(n, dtype=np.int32)
    place(calibration, slots, 5, 0.3)
    risk = prior(np.array([5]), np.array([0.3]), np.array([True]), 8)[0]
    leaves = rng.random(n) < 1 - np.exp(-risk * PROFILE[4])  # within four events; the rest is not known yet
    calibration.observe(slots, np.full(n, 9), leaves)
    ratio = calibration.ratios()[bucket(np.array([5]), np.array([0.3]))[0]]
    assert ratio == pytest.approx(1.0, abs=0.15)


def test_what_happens_after_the_last_event_counts_neither_way():
    """Who leaves with its twenty-first event has stayed through twenty."""
    calibration = Calibration(2)
    place(calibration, [0, 1], 5, 0.3)
    calibration.observe(
        np.array([0, 1], np.int32), np.array([5 + STAY_EVENTS, 6 + STAY_EVENTS]), np.array([True, True])
    )
    assert calibration.left.sum() == 1.0
    calibration.observe(np.array([0, 1], np.int32), np.array([90, 90]), np.array([True, True]))
    assert calibration.left.sum() == 1.0


def test_what_was_learned_is_bounded_and_fades():
    """A full bucket forgets half, so it can follow: from risky to safe."""
    calibration, rng = Calibration(500), np.random.default_rng(3)
    live(calibration, rng, 2.0, 300)
    risky = calibration.ratios().max()
    live(calibration, rng, 0.02, 1500)
    assert (calibration.expected <= FULL + 200).all()
    at = bucket(np.array([5000]), np.array([0.3]))[0]
    assert calibration.ratios()[at] < risky / 4


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 7), unique=True, min_size=1, max_size=8),
            st.integers(0, 30),
            st.floats(0, 1),
            st.integers(0, 255),
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_restore_continues_as_if_nothing_had_happened(story, cut):
    """The same scores and the same state after restore(snapshot())."""
    one, other = Calibration(8), Calibration(8)
    seen = np.zeros(8, np.int64)
    for i, (slots, more, margin, mask) in enumerate(story):
        if i == cut:
            other.restore(one.snapshot(8))
        at = np.array(slots, np.int32)
        seen[at] += more
        gone = (mask >> at) & 1 == 1
        scores = []
        for calibration in (one, other) if i >= cut else (one,):
            calibration.observe(at, seen[at], gone)
            moved = at[gone]
            first = np.zeros(len(moved), np.bool_)
            scores.append(calibration.place(moved, seen[moved], np.full(len(moved), margin), first, 4))
        assert all(np.array_equal(scores[0], s) for s in scores)
        assert ((scores[0] > 0) & (scores[0] < 1)).all()
    if len(story) > cut:
        assert one.fingerprint() == other.fingerprint()


def test_who_left_is_watched_no_longer():
    """A slot's next user is not taken for the one before."""
    calibration = Calibration(2)
    place(calibration, [0], 5, 0.3)
    calibration.clear(np.array([0], np.int32))
    calibration.observe(np.array([0], np.int32), np.array([6]), np.array([True]))
    assert not calibration.left.any()
    assert all(
        not np.any(v + (name == "_bucket")) for name, v in calibration.snapshot(2).items() if name[0] == "_"
    )


def test_every_placement_has_a_bucket():
    seen, margin = np.meshgrid([1, 2, 4, 5, 49, 50, 10**6], [0.0, 0.05, 0.3, 1.0])
    found = bucket(seen.ravel(), margin.ravel())
    assert found.min() >= 0
    assert found.max() == BUCKETS - 1
    assert len(PROFILE) == STAY_EVENTS + 1
    assert PROFILE[-1] == 1.0
    assert set(module.PRIOR) == set(module.prior_terms(np.ones(1), np.ones(1), np.ones(1, bool), 8))


def test_the_calibration_error_is_zero_only_where_the_bins_keep_their_word():
    """An oracle: scores that say the share of their bin; and a constant that is off by what it is off."""
    rng = np.random.default_rng(4)
    stayed = rng.random(3000) < 0.7
    said = np.array([row["stayed"] for row in reliability(np.arange(3000.0), stayed)])
    score = np.repeat(said, 200)
    assert calibration_error(np.arange(3000) * 1e-9 + score, stayed) < 0.03
    assert calibration_error(np.full(3000, 0.2), stayed) == pytest.approx(abs(stayed.mean() - 0.2), abs=0.01)


def test_the_command_measures_and_fits():
    """In small: the score is better calibrated than both peers, and a fit names every term."""
    plan = Plan([8], [1], 250, 16_000, {"plain": DEVELOPMENT_SHAPES["plain"]})
    result = evaluate(plan)
    row = result["rows"][0]
    assert row["score"] < min(row["degree"], row["softmax"])
    assert "| plain | 8 | all |" in render(result)
    found = fit(plan)
    assert set(found["PRIOR"]) == set(module.PRIOR)
    assert found["PROFILE"][-1] == 1.0
    assert np.all(np.diff(found["PROFILE"]) >= 0)
