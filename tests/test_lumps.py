"""Two lumps or one: the valley test, on groups that a variance would misjudge."""

import numpy as np
import pytest

from shoal.stream.clustering.lumps import ONE, TWO, neighbours, valley
from shoal.stream.clustering.sample import Sample


def lump(rng, n, d, kind):
    """n rows round zero, of unit variance or so."""
    rows = rng.standard_normal((n, d))
    if kind == "heavy":
        return rows / np.sqrt(rng.chisquare(3, (n, 1)) / 3)
    if kind == "stretched":
        return rows * np.where(np.arange(d) == 0, 5.0, 1.0)
    return rng.uniform(-1, 1, (n, d)) if kind == "flat" else rows


def halves(rows):
    """The means of the rows on either side of the first coordinate's median."""
    side = rows[:, 0] > np.median(rows[:, 0])
    return rows[~side].mean(axis=0), rows[side].mean(axis=0)


@pytest.mark.parametrize("kind", ["round", "heavy", "stretched", "flat"])
@pytest.mark.parametrize("d", [1, 8])
def test_a_lump_cut_in_two_has_no_valley(kind, d):
    """Heavy tails and long axes are no second lump; a flat one is not told apart from one either."""
    rng = np.random.default_rng(3)
    depths = [valley(rows, *halves(rows)) for rows in (lump(rng, 400, d, kind) for _ in range(60))]
    assert max(depths) < TWO
    if kind != "flat":
        assert np.mean(np.array(depths) <= ONE) > 0.8


@pytest.mark.parametrize("kind", ["round", "heavy", "stretched"])
@pytest.mark.parametrize("small", [40, 400])
def test_two_lumps_have_a_valley_between_them_however_unequal(kind, small):
    """Nine deviations apart, ten to one."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        far = np.zeros(8)
        far[1] = 9.0
        large, little = lump(rng, 400, 8, kind), far + lump(rng, small, 8, kind)
        assert valley(np.concatenate([large, little]), np.zeros(8), far) >= TWO


def test_a_valley_does_not_change_with_unit_or_origin():
    rng = np.random.default_rng(5)
    rows = np.concatenate([rng.standard_normal((90, 3)), 5 + rng.standard_normal((60, 3))])
    a, b = np.zeros(3), np.full(3, 5.0)
    depth = valley(rows, a, b)
    for factor in (2.0**-20, 2.0**20):
        assert valley(factor * rows, factor * a, factor * b) == depth


def test_points_in_one_place_have_no_valley():
    """Nor do no rows at all."""
    assert valley(np.ones((9, 2)), np.ones(2), np.ones(2)) == 0.0
    assert valley(np.ones((0, 2)), np.zeros(2), np.ones(2)) == 0.0


def test_a_neighbour_is_who_would_get_the_rows_and_for_a_centre_without_rows_the_nearest():
    """Slots that are not in use are nobody's neighbour."""
    label, second = np.array([0, 0, 0, 1], np.int32), np.array([1, 2, 2, 0], np.int32)
    nothing = np.zeros(4)
    sample = Sample(np.zeros((4, 1)), label, second, nothing, nothing)
    centres = np.array([[0.0], [1.0], [9.0], [9.5], [1.1]])
    used = np.array([True, True, True, True, False])
    assert neighbours(sample, centres, used).tolist() == [2, 0, 3, 2, -1]
    assert neighbours(sample, centres, np.arange(5) == 1).tolist() == [-1] * 5
