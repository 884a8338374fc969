"""Measures of a grouping equal scikit-learn's, and say nan where there is nothing to measure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from shoal.stream import quality

groupings = st.tuples(st.integers(3, 60), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))


def made(case, grid=False):
    n, d, groups, seed = case
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)).astype(np.float32)
    return np.round(z) if grid else z, rng.integers(0, groups, n), rng.integers(0, groups, n)


@settings(max_examples=60, deadline=None)
@given(groupings, st.booleans())
def test_silhouette_is_scikit_learns(case, grid):
    z, labels, _ = made(case, grid)
    if 2 <= len(np.unique(labels)) < len(labels):
        expected = metrics.silhouette_score(z.astype(np.float64), labels)
        assert quality.silhouette(z, labels) == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(quality.silhouette(z, labels))


@settings(max_examples=60, deadline=None)
@given(groupings, st.booleans())
def test_davies_bouldin_is_scikit_learns(case, grid):
    z, labels, _ = made(case, grid)
    if 2 <= len(np.unique(labels)) < len(labels):
        expected = metrics.davies_bouldin_score(z.astype(np.float64), labels)
        assert quality.davies_bouldin(z, labels) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(groupings)
def test_agreement_with_truth_is_scikit_learns(case):
    _, a, b = made(case)
    for x, y in ((a, b), (a, a), (a, np.zeros_like(a))):
        assert quality.adjusted_rand(x, y) == pytest.approx(metrics.adjusted_rand_score(x, y), abs=1e-9)
        expected = metrics.normalized_mutual_info_score(x, y)
        assert quality.normalised_mutual_information(x, y) == pytest.approx(expected, abs=1e-9)


def test_blocks_give_what_one_block_gives():
    """More rows than a block, against scikit-learn."""
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(700, 4)), rng.integers(0, 5, 700)
    assert quality.silhouette(z, labels) == pytest.approx(metrics.silhouette_score(z, labels), abs=1e-9)


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
