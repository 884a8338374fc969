"""The compiled rule is River's wherever its shortcuts could go wrong: ties, jumps, far-off data, any scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.benchmarks.segmenter_proof import verify
from shoal.stream.clustering.river_backend import river_model
from shoal.stream.clustering.river_rule import label_rows, learn_rows, nearest_row
from shoal.stream.clustering.sieve import ROWS, aligned, make_sieve
from shoal.stream.segmenter import KMeans

cases = st.fixed_dictionaries(
    {
        "d": st.integers(1, 35),
        "k": st.sampled_from([1, 2, 3, 15, 16, 17, 33, 48]),
        "n": st.integers(0, 40),
        "p": st.sampled_from([1, 2]),
        "seed": st.integers(0, 2**32 - 1),
        "offset": st.sampled_from([0.0, 1e3, -1e9]),
        "scale": st.sampled_from([1e-25, 1e-3, 1.0, 1e12, 1e30]),
        "grid": st.booleans(),
    }
)


def made(case):
    """Centres (k, d), some of them twice, rows (n, d) and a step per centre."""
    rng = np.random.default_rng(case["seed"])
    data = rng.normal(size=(case["k"] + case["n"], case["d"])) * 2
    data = (np.round(data) if case["grid"] else data) * case["scale"] + case["offset"]
    centres, rows = data[: case["k"]].copy(), data[case["k"] :].copy()
    centres[-1] = centres[0]
    return centres, rows, rng.choice([1e-3, 0.05, 0.5, 0.999], case["k"])


def rivers(centres, rows, steps, p):
    """Labels and centres of a River object whose `halflife` is set, before each row, to its winner's step."""
    model = river_model(centres, 0.5, seed=1, p=p)
    labels = []
    for x in rows.tolist():
        row = dict(enumerate(x))
        model.halflife = float(steps[model.predict_one(row)])
        labels.append(model.learn_predict_one(row))
    return labels, np.array(
        [[model.centers[c][j] for j in range(centres.shape[1])] for c in range(len(centres))]
    )


@settings(max_examples=120, deadline=None)
@given(cases)
def test_a_step_per_centre_is_rivers_rule_bit_for_bit(case):
    """Also where float32 has lost all digits, or overflows, and where two centres are the same."""
    centres, rows, steps = made(case)
    labels, moved = rivers(centres, rows, steps, case["p"])
    winners, skipped = learn_rows(centres, rows, steps, case["p"])
    assert winners.tolist() == labels
    assert centres.tobytes() == moved.tobytes()
    assert skipped == 0


def test_a_centre_that_jumps_from_far_away_is_seen_where_it_is():
    """Within a block of rows: from 1e9 to the row at once, then two centres lie close together."""
    centres = np.array([[1e9, 1e9], [-3e9, 5.0]])
    rows = np.array([[1.0, 1.0], [1.0, 1.25], [1.5, 1.0], [0.0, 0.0], [1.0, 1.0]] * 3)
    steps = np.array([0.9999999999, 0.3])
    labels, moved = rivers(centres, rows, steps, 2)
    assert learn_rows(centres, rows, steps, 2)[0].tolist() == labels
    assert centres.tobytes() == moved.tobytes()


@settings(max_examples=40, deadline=None)
@given(cases, st.integers(0, 40))
def test_the_result_does_not_depend_on_how_rows_are_cut_into_calls(case, cut):
    centres, rows, steps = made(case)
    whole, halves = centres.copy(), centres.copy()
    winners = learn_rows(whole, rows, steps, case["p"])[0]
    parts = [learn_rows(halves, part, steps, case["p"])[0] for part in (rows[:cut], rows[cut:])]
    assert np.concatenate(parts).tolist() == winners.tolist()
    assert halves.tobytes() == whole.tobytes()


@settings(max_examples=40, deadline=None)
@given(cases)
def test_labels_alone_are_those_of_river(case):
    """For many rows and for one; and nothing moves."""
    centres, rows, _ = made(case)
    model = river_model(centres, 0.5, seed=1, p=case["p"])
    labels = [model.predict_one(dict(enumerate(x))) for x in rows.tolist()]
    assert label_rows(centres, rows, case["p"]).tolist() == labels
    assert [nearest_row(centres, x, case["p"]) for x in rows] == labels


def test_float32_rows_give_what_the_same_values_give_in_float64():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(301, 9)).astype(np.float32)
    first, second = (rng.normal(size=(5, 9)) for _ in range(2))
    second[:] = first
    labels = [learn_rows(c, z, 0.1, 2)[0] for c, z in ((first, rows), (second, rows.astype(np.float64)))]
    assert labels[0].tolist() == labels[1].tolist()
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("p", [1, 2])
def test_float32_centres_follow_closely_and_flip_few_labels(p):
    """The float32 mode against float64 on the same rows; its centres stay float32."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(20, 12))
    rows = centres[rng.integers(0, 20, 4000)] + rng.normal(size=(4000, 12))
    wide, narrow = (KMeans(20, 12, 0.02, seed=1, p=p, dtype=dtype) for dtype in (np.float64, np.float32))
    for part in (wide, narrow):
        part.carry(centres)
    assert (wide.learn(rows) != narrow.learn(rows)).mean() < 0.002
    assert narrow.centres.dtype == np.float32
    np.testing.assert_allclose(narrow.centres, wide.centres, atol=0.05)
    again = KMeans(20, 12, 0.02, seed=1, p=p, dtype=np.float32)
    again.restore(narrow.snapshot())
    assert again.learn(rows).tolist() == narrow.learn(rows).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_bad_rows_anywhere_in_a_block_change_nothing(dtype, bad):
    """Each place among the rows scored together; also where the bad value is the last of the row."""
    rng = np.random.default_rng(3)
    start, rows = rng.normal(size=(3, 5)).astype(dtype), rng.normal(size=(3 * ROWS, 5))
    clean = start.copy()
    winners = learn_rows(clean, rows, 0.3, 2)[0]
    for at in range(ROWS):
        dirty, mixed = start.copy(), np.insert(rows, at, 1.0, axis=0)
        mixed[at, 4] = bad
        labels, skipped = learn_rows(dirty, mixed, 0.3, 2)
        assert (skipped, labels[at]) == (1, -1)
        assert label_rows(start, mixed, 2)[at] == -1
        if dtype == np.float64:
            assert np.delete(labels, at).tolist() == winners.tolist()
            assert dirty.tobytes() == clean.tobytes()


def test_the_sieves_arrays_begin_on_cache_lines_and_padding_never_wins():
    sieve = make_sieve(np.zeros((17, 3)))
    assert all(part.ctypes.data % 64 == 0 for part in sieve)
    assert len(sieve.base) == 32
    assert np.isneginf(sieve.base).all()
    assert not aligned(5, np.float32).any()


def test_the_proof_compares_as_many_rows_as_asked_and_sees_a_difference(monkeypatch):
    """No difference as the code is; with labels that are off by one, every row differs."""
    assert verify(3000, 7) == {"seed": 7, "rows": 3000, "streams": 1, "different": 0, "centres_different": 0}
    learn = KMeans.learn
    monkeypatch.setattr(KMeans, "learn", lambda self, z: learn(self, z) + 1)
    assert verify(50, 7)["different"] == 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_rows_are_rivers_bit_for_bit():
    """A million: `shoal bench segmenter --verify 1000000`."""
    result = verify(100_000, 11)
    assert (result["rows"], result["different"], result["centres_different"]) == (100_000, 0, 0)
