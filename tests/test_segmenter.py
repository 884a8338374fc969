"""The segmenter is River's KMeans rule: laws against River itself, and what happens to bad rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import cluster

from shoal.stream import config
from shoal.stream.clustering.river_backend import RiverSegmenter, river_model
from shoal.stream.clustering.seeding import kmeans_plus_plus
from shoal.stream.packing import pack, unpack
from shoal.stream.segmenter import KMeans, make_segmenter


def rows_of(seed, n, d, grid=False):
    """Normal rows, or rows on a coarse grid where distances tie all the time."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * 2
    return (np.round(rows) if grid else rows).astype(np.float32)


def as_river(row):
    return dict(enumerate(row.astype(np.float64).tolist()))


def facts(part):
    """A segmenter's state as values that compare bit for bit."""
    return {name: getattr(value, "tobytes", lambda v=value: v)() for name, value in part.snapshot().items()}


def centres_of(model, d):
    return np.array([[model.centers[c][j] for j in range(d)] for c in range(model.n_clusters)])


cases = st.fixed_dictionaries(
    {
        "d": st.integers(1, 9),
        "k": st.integers(1, 9),
        "p": st.sampled_from([1, 2]),
        "step": st.sampled_from([0.001, 0.02, 0.3, 0.5, 0.999]),
        "seed": st.integers(0, 2**32 - 1),
        "grid": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_labels_and_centres_are_rivers_bit_for_bit(case):
    """With a constant step, whatever d, k, step, p, and with ties."""
    d, k = case["d"], case["k"]
    centres = rows_of(case["seed"] + 1, k, d, case["grid"]).astype(np.float64)
    ours = KMeans(k, d, case["step"], seed=1, p=case["p"])
    ours.carry(centres)
    river = river_model(centres, case["step"], seed=1, p=case["p"])
    rows = rows_of(case["seed"], 80, d, case["grid"])
    labels = ours.learn(rows)
    assert labels.tolist() == [river.learn_predict_one(as_river(row)) for row in rows]
    assert ours.centres.tobytes() == centres_of(river, d).tobytes()


@pytest.mark.parametrize("p", [1, 2])
def test_it_stays_rivers_over_many_rows(p):
    """5,000 rows with eight centres."""
    rows = rows_of(3, 5000, 6)
    ours = KMeans(8, 6, 0.05, seed=1, p=p)
    ours.seed(rows[:500])
    river = river_model(ours.centres, 0.05, seed=1, p=p)
    assert ours.learn(rows).tolist() == [river.learn_predict_one(as_river(row)) for row in rows]
    assert ours.centres.tobytes() == centres_of(river, 6).tobytes()


def test_a_near_tie_goes_where_rivers_rounding_says():
    """Distances of the same terms in another order differ in the last bit only, and pow is not v * v there."""
    rng = np.random.default_rng(5)
    d, wins = 7, [0, 0]
    for _ in range(1500):
        gap = rng.normal(size=d)
        centres = np.stack([rng.permutation(gap) for _ in range(5)])
        ours = KMeans(5, d, 0.1, seed=1)
        ours.carry(centres)
        expected = river_model(centres, 0.1, seed=1).predict_one(dict.fromkeys(range(d), 0.0))
        assert ours.score(np.zeros((1, d), np.float32))[0][0] == expected
        wins[int(expected == np.argmin([sum(v * v for v in centre) for centre in centres]))] += 1
    assert wins[0] > 0, "no case in which v * v alone would have named another centre"


def test_an_exact_tie_goes_to_the_lowest_id():
    ours = KMeans(3, 1, 0.5, seed=1)
    ours.carry(np.array([[2.0], [-1.0], [1.0]]))
    assert ours.score(np.zeros((1, 1), np.float32))[0].tolist() == [1]


@settings(max_examples=25, deadline=None)
@given(cases)
def test_both_backends_give_the_same_bytes(case):
    """Through the whole port: seed, score, learn, carry, snapshot."""
    d, k = case["d"], case["k"]
    parts = [kind(k, d, case["step"], 7, case["p"]) for kind in (KMeans, RiverSegmenter)]
    rows = rows_of(case["seed"], 60, d, case["grid"])
    rows[11, 0] = np.nan
    states = []
    for part in parts:
        part.seed(rows[:30])
        nearest, distances = part.score(rows)
        labels = part.learn(rows)
        part.carry(part.centres + 0.25)
        part.learn(rows[:5])
        states.append([nearest.tobytes(), distances.tobytes(), labels.tobytes(), facts(part)])
    assert states[0] == states[1]


def test_the_factory_follows_the_configuration():
    made = make_segmenter(config.Segmenter(mode="constant", segments=3, step=0.1), 4)
    assert isinstance(made, KMeans)
    assert (made.k, made.centres.shape, made.seeded) == (3, (3, 4), False)
    assert isinstance(make_segmenter(config.Segmenter(backend="river"), 4), RiverSegmenter)


@pytest.mark.parametrize("kind", [KMeans, RiverSegmenter])
def test_restore_continues_as_if_nothing_happened(kind):
    """Also through the bytes of a snapshot; and a snapshot does not change with the live centres."""
    rows = rows_of(9, 400, 5)
    first = kind(4, 5, 0.1, 1)
    first.seed(rows[:100])
    first.learn(rows[:200])
    state = first.snapshot()
    before = state["centres"].copy()
    first.learn(rows[200:])
    assert np.array_equal(state["centres"], before)
    second = kind(4, 5, 0.1, 1)
    second.restore(unpack(b"".join(pack(state))))
    second.learn(rows[200:])
    assert facts(second) == facts(first)


@pytest.mark.parametrize("kind", [KMeans, RiverSegmenter])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_never_learned_from(kind, bad):
    """It leaves the centres as if it had not come, is counted, and has label -1."""
    rows = rows_of(2, 50, 3)
    with_bad = np.insert(rows, [7, 20], [1.0, bad, 1.0], axis=0)
    clean, dirty = kind(3, 3, 0.2, 1), kind(3, 3, 0.2, 1)
    for part in (clean, dirty):
        part.seed(rows)
    clean.learn(rows)
    labels = dirty.learn(with_bad)
    assert dirty.centres.tobytes() == clean.centres.tobytes()
    assert dirty.skipped == 2
    assert np.flatnonzero(labels == -1).tolist() == [7, 21]
    nearest, distances = dirty.score(with_bad[7:8])
    assert nearest.tolist() == [0]
    assert np.isinf(distances).all()


def test_values_whose_square_river_cannot_hold_are_not_learned_from():
    """River would raise OverflowError."""
    ours = KMeans(2, 1, 0.5, seed=1)
    ours.carry(np.array([[0.0], [1.0]]))
    assert ours.learn(np.array([[1e200]])).tolist() == [-1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 2]))
def test_a_score_does_not_depend_on_the_other_rows(seed, p):
    """Row by row gives the same bytes as all at once, and the distances are those of a dumb sum."""
    rows = rows_of(seed, 12, 5)
    ours = KMeans(4, 5, 0.1, seed=1, p=p)
    ours.seed(rows)
    nearest, distances = ours.score(rows)
    single = [ours.score(rows[i : i + 1]) for i in range(len(rows))]
    assert np.concatenate([part[0] for part in single]).tobytes() == nearest.tobytes()
    assert np.concatenate([part[1] for part in single]).tobytes() == distances.tobytes()
    dumb = (np.abs(rows[:, None].astype(np.float64) - ours.centres) ** p).sum(axis=2)
    np.testing.assert_allclose(distances, dumb, rtol=1e-12)
    assert (nearest == distances.argmin(axis=1)).all()


def test_scoring_moves_nothing_and_no_rows_are_no_work():
    rows = rows_of(1, 20, 3)
    ours = KMeans(2, 3, 0.1, seed=1)
    ours.seed(rows)
    before = ours.centres.tobytes()
    ours.score(rows)
    assert ours.score(rows[:0])[1].shape == (0, 2)
    assert ours.learn(rows[:0]).shape == (0,)
    assert ours.centres.tobytes() == before


def test_the_version_counts_interventions_not_learning():
    rows = rows_of(1, 20, 3)
    ours = KMeans(2, 3, 0.1, seed=1)
    assert (ours.version, ours.seeded) == (0, False)
    ours.seed(rows)
    ours.learn(rows)
    assert (ours.version, ours.seeded) == (1, True)
    ours.carry(ours.centres + 1)
    assert ours.version == 2
    with pytest.raises(AssertionError, match="not finite"):
        ours.carry(np.full((2, 3), np.nan))


def test_carried_centres_are_a_copy():
    centres = np.zeros((1, 2))
    ours = KMeans(1, 2, 0.5, seed=1)
    ours.carry(centres)
    ours.learn(np.ones((3, 2), np.float32))
    assert not centres.any()


# --- River's objects ---------------------------------------------------------------------------------


def test_a_river_model_is_taken_over_and_handed_back():
    """Whichever of the two sees the next rows, the centres are the same bits."""
    rows = rows_of(4, 300, 4)
    river = cluster.KMeans(n_clusters=3, halflife=0.2, sigma=2, p=1, seed=9)
    for row in rows[:100]:
        river.learn_one(as_river(row))
    ours = KMeans.from_river(river, 4)
    back = ours.to_river()
    ours.learn(rows[100:])
    for row in rows[100:]:
        river.learn_one(as_river(row))
        back.learn_one(as_river(row))
    assert ours.centres.tobytes() == centres_of(river, 4).tobytes() == centres_of(back, 4).tobytes()


def test_a_river_model_that_has_seen_nothing_draws_its_own_centres():
    """The same that it would have drawn at its first row."""
    rows = rows_of(4, 50, 4)
    fresh, taken = (cluster.KMeans(n_clusters=3, halflife=0.2, seed=9) for _ in range(2))
    ours = KMeans.from_river(taken, 4)
    labels = ours.learn(rows)
    assert labels.tolist() == [fresh.learn_predict_one(as_river(row)) for row in rows]


# --- where centres start -------------------------------------------------------------------------------


def test_seeding_finds_separate_groups():
    """Each of eight groups gets one centre, and the same buffer gives the same centres."""
    rng = np.random.default_rng(6)
    homes = rng.normal(size=(8, 5)) * 20
    rows = (homes[rng.integers(0, 8, 600)] + rng.normal(size=(600, 5))).astype(np.float32)
    ours, again = KMeans(8, 5, 0.1, seed=3), KMeans(8, 5, 0.1, seed=3)
    ours.seed(rows)
    again.seed(rows)
    gaps = np.linalg.norm(homes[:, None] - ours.centres, axis=2)
    assert sorted(gaps.argmin(axis=1).tolist()) == list(range(8))
    assert gaps.min(axis=1).max() < 1
    assert ours.centres.tobytes() == again.centres.tobytes()


def test_a_few_rows_far_away_get_no_centre():
    """Three bots among four hundred people: every group has a centre, whatever the seed."""
    rng = np.random.default_rng(6)
    homes = rng.normal(size=(8, 5)) * 8
    people = homes[rng.integers(0, 8, 400)] + rng.normal(size=(400, 5))
    rows = np.concatenate([people, np.full((3, 5), 300.0)]).astype(np.float32)
    for seed in range(20):
        ours = KMeans(8, 5, 0.1, seed=seed)
        ours.seed(rows)
        gaps = np.linalg.norm(homes[:, None] - ours.centres, axis=2)
        assert sorted(gaps.argmin(axis=1).tolist()) == list(range(8))


def test_of_several_tries_the_tightest_is_taken():
    """Sixteen equal groups: one draw of k-means++ often puts two centres into one of them."""
    rng = np.random.default_rng(3)
    homes = rng.normal(size=(16, 6)) * 6
    rows = (homes[rng.integers(0, 16, 800)] + rng.normal(size=(800, 6))).astype(np.float64)
    best = ((rows[:, None] - homes) ** 2).sum(axis=2).min(axis=1).sum()
    for seed in range(10):
        centres = kmeans_plus_plus(rows, 16, seed)
        assert ((rows[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum() < 1.02 * best


@pytest.mark.parametrize("rows", [np.ones((1, 3)), np.repeat([[1.0, 2, 3], [4, 5, 6]], 10, axis=0)])
def test_fewer_distinct_rows_than_centres_still_gives_distinct_finite_centres(rows):
    ours = KMeans(6, 3, 0.1, seed=1)
    ours.seed(rows.astype(np.float32))
    assert np.isfinite(ours.centres).all()
    assert len(np.unique(ours.centres, axis=0)) == 6


def test_seeding_leaves_out_rows_that_are_not_finite():
    rows = rows_of(1, 30, 2)
    rows[3] = np.nan
    ours = KMeans(4, 2, 0.1, seed=1)
    ours.seed(rows)
    assert np.isfinite(ours.centres).all()
    ours.seed(rows[3:4])
    assert np.isfinite(ours.centres).all()
