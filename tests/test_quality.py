"""Measures of a grouping equal scikit-learn's, and say nan where there is nothing to measure."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn import metrics
from sklearn.cluster import KMeans

from shoal.stream import quality

groupings = st.tuples(st.integers(3, 60), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
shapes = st.sampled_from(["cloud", "grid", "one place", "a line", "far away", "one far row", "apart"])
scales = st.sampled_from([1e-30, 1e-9, 1e-3, 1.0, 1e3, 1e12, 1e25])
kinds = st.sampled_from([np.float32, np.float64])


def made(case):
    n, d, groups, seed = case
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, groups, n), rng.integers(0, groups, n)


def shaped(case, shape, scale, kind):
    """Rows of one of the shapes that break a careless measure, and labels that need not be 0, 1, 2."""
    z, labels, _ = made(case)
    match shape:
        case "grid":
            z = np.round(z)  # many rows at one place
        case "one place":
            z[:] = z[0]
        case "a line":
            z[:, 1:] = 0.0
        case "far away":
            z += 300.0
        case "one far row":
            z[0] += 1e4
        case "apart":
            z = z * 0.01 + labels[:, None]
    names = np.random.default_rng(case[3]).permutation(np.array([-7, 0, 3, 40, 41, 1000]))
    return (z * scale).astype(kind), names[labels]


def defined(labels):
    return 2 <= len(np.unique(labels)) < len(labels)


@settings(max_examples=100, deadline=None)
@given(groupings, shapes, scales, kinds)
def test_silhouette_is_scikit_learns(case, shape, scale, kind):
    """Within 1e-6, on any shape, at any scale, of rows of either kind."""
    z, labels = shaped(case, shape, scale, kind)
    if defined(labels):
        plain = z.astype(np.float64) / scale  # where scikit-learn itself loses nothing
        expected = metrics.silhouette_score(plain - plain.mean(axis=0), labels)
        assert quality.silhouette(z, labels) == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(quality.silhouette(z, labels))


@settings(max_examples=60, deadline=None)
@given(groupings, shapes, kinds)
def test_davies_bouldin_is_scikit_learns(case, shape, kind):
    """Where centres are not the same but for rounding, which each library does its own way."""
    z, labels = shaped(case, shape, 1.0, kind)
    if defined(labels):
        plain = z.astype(np.float64)
        centres = np.array([plain[labels == name].mean(axis=0) for name in np.unique(labels)])
        assume(shape == "one place" or pdist(centres).min() > 1e-3)
        expected = metrics.davies_bouldin_score(plain - plain.mean(axis=0), labels)
        assert quality.davies_bouldin(z, labels) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(groupings, kinds)
def test_inertia_adds_up_to_scikit_learns(case, kind):
    """Per segment the mean, so that segments compare; times their sizes it is the inertia of `KMeans`."""
    z = made(case)[0].astype(kind)
    fitted = KMeans(min(3, len(z)), n_init=1, random_state=0).fit(z.astype(np.float64))
    mean = quality.inertia(z, fitted.labels_, fitted.cluster_centers_)
    sizes = np.bincount(fitted.labels_, minlength=len(mean))
    assert (mean * sizes).sum() == pytest.approx(fitted.inertia_, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(groupings)
def test_agreement_with_truth_is_scikit_learns(case):
    _, a, b = made(case)
    for x, y in ((a, b), (a, a), (a, np.zeros_like(a))):
        assert quality.adjusted_rand(x, y) == pytest.approx(metrics.adjusted_rand_score(x, y), abs=1e-9)
        expected = metrics.normalized_mutual_info_score(x, y)
        assert quality.normalised_mutual_information(x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [2, 8, 64])
def test_a_reservoir_as_large_as_the_default_is_measured_as_scikit_learn_does(kind, groups):
    """2,048 embeddings of 16."""
    rng = np.random.default_rng(groups)
    labels = rng.integers(0, groups, 2048)
    z = (rng.normal(size=(2048, 16)) + rng.normal(size=(groups, 16))[labels]).astype(kind)
    expected = metrics.silhouette_score(z.astype(np.float64), labels)
    assert quality.silhouette(z, labels) == pytest.approx(expected, abs=1e-6)
    expected = metrics.davies_bouldin_score(z.astype(np.float64), labels)
    assert quality.davies_bouldin(z, labels) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(3)
    z, labels, order = rng.normal(size=(90, 5)), rng.integers(0, 4, 90), rng.permutation(90)
    assert quality.silhouette(z[order], labels[order]) == pytest.approx(
        quality.silhouette(z, labels), abs=1e-12
    )


def test_where_the_rows_lie_does_not_matter():
    """A million away from the origin the silhouette is what it was."""
    rng = np.random.default_rng(2)
    z, labels = rng.normal(size=(80, 3)), rng.integers(0, 3, 80)
    assert quality.silhouette(z + 1e6, labels) == pytest.approx(quality.silhouette(z, labels), abs=1e-6)


def test_what_is_not_defined_is_nan():
    z, one, none = np.ones((4, 2)), np.zeros(4, int), np.empty(0, int)
    assert np.isnan(quality.silhouette(z, one))
    assert np.isnan(quality.davies_bouldin(z, one))
    assert np.isnan(quality.silhouette(z, np.arange(4)))
    assert np.isnan(quality.silhouette(z[:0], none))
    assert np.isnan(quality.davies_bouldin(z[:0], none))
    assert np.isnan(quality.adjusted_rand(none, none))
    assert np.isnan(quality.normalised_mutual_information(none, none))


def test_two_groups_at_one_place_are_not_apart():
    """No spread and no distance: both indices say 0, as scikit-learn's do."""
    z, labels = np.ones((4, 2)), np.array([0, 0, 1, 1])
    assert quality.silhouette(z, labels) == 0.0
    assert quality.davies_bouldin(z, labels) == 0.0


def test_inertia_is_the_mean_squared_distance_of_members():
    z = np.array([[0.0], [2.0], [10.0]], np.float32)
    centres = np.array([[0.0], [10.0], [99.0]])
    assert quality.inertia(z, np.array([0, 0, 1]), centres).tolist() == [2.0, 0.0, 0.0]
