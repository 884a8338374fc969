"""The estimator is river.cluster.KMeans for its users: from row 1, with gaps, late features and round trips."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks, cluster, compose, preprocessing

from shoal.stream.clustering.river_estimator import KMeans

features = st.integers(-5, 2000)
values = st.one_of(st.integers(-3, 3), st.floats(-100, 100, width=32))
rows = st.lists(st.dictionaries(features, values, max_size=6), min_size=1, max_size=25)
parameters = st.fixed_dictionaries(
    {
        "n_clusters": st.integers(1, 6),
        "halflife": st.sampled_from([0.01, 0.3, 0.5, 0.99]),
        "mu": st.sampled_from([0, -2.5]),
        "sigma": st.sampled_from([1, 0, 10.0]),
        "p": st.sampled_from([1, 2, 3]),
        "seed": st.integers(0, 2**32),
    }
)


def facts(model):
    """Centres of either estimator, bit for bit, with the order of their features."""
    return {c: [(key, value.hex()) for key, value in centre.items()] for c, centre in model.centers.items()}


@settings(max_examples=150, deadline=None)
@given(parameters, rows)
def test_it_is_rivers_from_the_first_row_on(params, stream):
    """The same draws, labels and centres, whatever integers name the features and whichever are missing or late."""
    ours, river = KMeans(**params), cluster.KMeans(**params)
    for i, x in enumerate(stream):
        if i % 3 == 2:
            assert ours.predict_one(x) == river.predict_one(x)
        assert ours.learn_predict_one(x) == river.learn_predict_one(x)
    assert facts(ours) == facts(river)


@settings(max_examples=60, deadline=None)
@given(parameters, rows, rows)
def test_a_round_trip_changes_nothing_that_follows(params, before, after):
    """River to ours and back, then new features too: the generator travels along."""
    river = cluster.KMeans(**params)
    for x in before:
        river.learn_one(x)
    ours = KMeans.from_river(river)
    back = ours.to_river()
    for x in after:
        assert ours.learn_predict_one(x) == river.learn_predict_one(x) == back.learn_predict_one(x)
    assert facts(ours) == facts(river) == facts(back)


@settings(max_examples=60, deadline=None)
@given(parameters, st.integers(0, 2**32 - 1), st.booleans())
def test_frames_are_rows_one_by_one(params, seed, late):
    """learn_many and predict_many against River's learn_one and predict_one, also where a frame lacks a feature."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(np.round(rng.normal(size=(30, 5)) * 2, rng.integers(0, 3)), columns=[7, 0, 3, 90, 1])
    parts = [frame[[0, 7, 3]], frame] if late else [frame, frame[[3, 7]], frame]
    ours, river = KMeans(**params), cluster.KMeans(**params)
    for part in parts:
        ours.learn_many(part)
        for x in part.to_dict("records"):
            river.learn_one(x)
        labels = ours.predict_many(part)
        assert labels.tolist() == [river.predict_one(x) for x in part.to_dict("records")]
        assert labels.index.equals(part.index)
    assert facts(ours) == facts(river)


@pytest.mark.parametrize("check", list(checks.yield_checks(KMeans(n_clusters=3))), ids=lambda c: c.__name__)
def test_rivers_own_checks_pass(check):
    check(KMeans(n_clusters=3))


def test_it_takes_rivers_place_in_a_pipeline():
    """StandardScaler before it: labels and centres are those of the pipeline with River's own."""
    rng = np.random.default_rng(4)
    pair = [
        compose.Pipeline(preprocessing.StandardScaler(), kind(n_clusters=4, halflife=0.1, seed=3))
        for kind in (KMeans, cluster.KMeans)
    ]
    for row in rng.normal(size=(200, 5)) * [1, 10, 100, 0.1, 5]:
        x = dict(enumerate(row.tolist()))
        ours, rivers = (model.predict_one(x) for model in pair)
        assert ours == rivers
        for model in pair:
            model.learn_one(x)
    assert facts(pair[0]["KMeans"]) == facts(pair[1]["KMeans"])


def test_it_learns_in_batches_behind_a_scaler():
    """The pipeline's mini-batch interface; River's scaler wants columns with names."""
    frame = pd.DataFrame(np.random.default_rng(4).normal(size=(50, 3)) * 9, columns=["a", "b", "c"])
    piped = preprocessing.StandardScaler() | KMeans(n_clusters=4, seed=3)
    alone, scaler = KMeans(n_clusters=4, seed=3), preprocessing.StandardScaler()
    piped.learn_many(frame)
    scaler.learn_many(frame)
    alone.learn_many(scaler.transform_many(frame))
    assert facts(piped["KMeans"]) == facts(alone)
    assert piped.predict_many(frame).tolist() == alone.predict_many(scaler.transform_many(frame)).tolist()


def test_string_features_are_walked_in_the_order_they_came():
    """So the hash seed of the process has no say: integers in that order give the same centres."""
    ours, numbered = KMeans(seed=5), KMeans(seed=5)
    for row in np.random.default_rng(1).normal(size=(40, 4)).tolist():
        ours.learn_one(dict(zip(["zeta", "a", "longer name", "b"], row, strict=True)))
        numbered.learn_one(dict(enumerate(row)))
    assert [list(c.values()) for c in ours.centers.values()] == [
        list(c.values()) for c in numbered.centers.values()
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_value_that_is_not_finite_teaches_nothing(bad):
    ours = KMeans(seed=5)
    ours.learn_one({0: 1.0, 1: 2.0})
    before = facts(ours)
    assert ours.learn_predict_one({0: 1.0, 1: bad}) == 0
    ours.learn_many(pd.DataFrame([[1.0, bad]]))
    assert ours.predict_many(pd.DataFrame([[1.0, bad]])).tolist() == [0]
    assert facts(ours) == before


def test_centres_that_disagree_are_refused():
    """Reading a River centre by hand draws for that one alone."""
    river = cluster.KMeans(n_clusters=2, seed=1)
    river.centers[0]["read"]
    with pytest.raises(ValueError, match="different features"):
        KMeans.from_river(river)


def test_the_step_can_be_changed_on_the_way():
    """`mutate` as River's pipelines do it; the next row moves by the new share."""
    ours, river = KMeans(seed=2), cluster.KMeans(seed=2)
    for model in (ours, river):
        model.learn_one({0: 1.0})
        model.mutate({"halflife": 0.01})
        model.learn_one({0: 5.0})
    assert facts(ours) == facts(river)
