"""The tree of segments: Ward's rule and its cuts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.hierarchy import LEVELS, Hierarchy, _tree
from shoal.stream.ports import Intervention


def made(seed: int, n: int, d: int = 3, spare: int = 0, ties: bool = False) -> dict[str, Any]:
    """n segments on n + spare centres, in no order; with `ties`, many equal sizes and distances."""
    rng = np.random.default_rng(seed)
    k = n + spare
    ids = np.zeros(k, np.int64)
    ids[rng.permutation(k)[:n]] = 1 + rng.permutation(3 * n)[:n]
    means = rng.integers(0, 3, (k, d)).astype(float) if ties else rng.normal(0, 1, (k, d))
    return {"ids": ids, "sizes": rng.integers(0, 12 if ties else 1000, k), "means": means}


def tree(of: dict[str, Any]) -> Hierarchy:
    hierarchy = Hierarchy(*of["means"].shape)
    hierarchy.build(**of)
    return hierarchy


segments = st.builds(
    made, st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4), st.integers(0, 5), st.booleans()
)


def greedy(means: Any, weights: Any) -> list[frozenset[int]]:
    """The dumb oracle: join the cheapest pair of all, again and again; the groups in the order they appear."""
    groups = [(frozenset([i]), means[i], weights[i]) for i in range(len(means))]
    joined = []
    while len(groups) > 1:
        _, i, j = min(
            (wa * wb / (wa + wb) * np.square(a - b).sum(), i, j)
            for i, (_, a, wa) in enumerate(groups)
            for j, (_, b, wb) in enumerate(groups[:i])
        )
        (x, a, wa), (y, b, wb) = groups[i], groups[j]
        groups = [group for at, group in enumerate(groups) if at not in (i, j)]
        groups.append((x | y, (wa * a + wb * b) / (wa + wb), wa + wb))
        joined.append(x | y)
    return joined


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_the_chain_finds_the_tree_that_joining_the_cheapest_pair_each_time_gives(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    means, weights = rng.normal(0, 1, (n, 3)), rng.integers(1, 1000, n).astype(float)
    members = [frozenset([i]) for i in range(n)]
    for a, b in _tree(means, weights).tolist():
        members.append(members[a] | members[b])
    assert members[n:] == greedy(means, weights)


def test_with_equal_sizes_it_is_the_ward_of_everybody_else() -> None:
    scipy = pytest.importorskip("scipy.cluster.hierarchy")
    points = np.random.default_rng(3).normal(0, 1, (60, 5))
    ours = tree({"ids": np.arange(1, 61), "sizes": np.full(60, 7), "means": points}).groups()
    theirs = scipy.ward(points)
    for level in LEVELS:
        flat = scipy.fcluster(theirs, level, "maxclust")
        first = {label: 1 + int(np.flatnonzero(flat == label)[0]) for label in set(flat.tolist())}
        assert [ours[i + 1][str(level)] for i in range(60)] == [f"{level}:{first[x]}" for x in flat.tolist()]


@settings(max_examples=60, deadline=None)
@given(segments)
def test_levels_nest_and_have_as_many_groups_as_they_say(of: dict[str, Any]) -> None:
    groups = tree(of).groups()
    live = sorted(of["ids"][of["ids"] > 0].tolist())
    assert sorted(groups) == live
    levels = [level for level in LEVELS if level < len(live)]
    assert all(list(own) == [str(level) for level in levels] for own in groups.values())
    for level in levels:
        assert len({own[str(level)] for own in groups.values()}) == level
    for coarse, fine in pairwise(levels):
        pairs = {(own[str(fine)], own[str(coarse)]) for own in groups.values()}
        assert len(pairs) == fine, "a finer group lies in two coarser ones"
    for level in levels:
        named = {segment: own[str(level)] for segment, own in groups.items()}
        for segment, group in named.items():
            first = min(other for other in groups if named[other] == named[segment])
            assert group == f"{level}:{first}"


@settings(max_examples=60, deadline=None)
@given(segments)
def test_the_nearest_segment_is_the_cheapest_to_join(of: dict[str, Any]) -> None:
    live = np.flatnonzero(of["ids"])
    nearest = tree(of).nearest()
    weights, means, ids = np.maximum(of["sizes"], 1), of["means"], of["ids"]
    for i in live.tolist():
        others = [j for j in live.tolist() if j != i]
        if not others:
            assert nearest == {}
            return
        cost = {
            j: weights[i] * weights[j] / (weights[i] + weights[j]) * np.square(means[i] - means[j]).sum()
            for j in others
        }
        at = int(np.flatnonzero(ids == nearest[int(ids[i])])[0])
        assert cost[at] <= min(cost.values()) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(segments, st.integers(0, 2**32 - 1))
def test_which_centre_a_segment_has_makes_no_difference(of: dict[str, Any], seed: int) -> None:
    places = np.random.default_rng(seed).permutation(len(of["ids"]))
    moved = {name: np.asarray(value)[places] for name, value in of.items()}
    here, there = tree(of), tree(moved)
    assert here.groups() == there.groups()
    assert here.nearest() == there.nearest()


def test_before_the_first_build_there_is_no_tree() -> None:
    empty = Hierarchy(4, 2)
    assert (empty.groups(), empty.nearest(), len(empty)) == ({}, {}, 0)


def test_a_new_segment_stands_by_its_parent_until_it_is_known_and_one_given_up_has_no_place() -> None:
    of = {
        "ids": np.array([1, 2, 3, 4]),
        "sizes": np.array([50, 40, 60, 70]),
        "means": np.array([[0.0], [5], [10], [50]]),
    }
    hierarchy = tree(of)
    ids = np.array([1, 5, 3, 4])
    hierarchy.intervene([Intervention("swap", 1, 0, 3, "test", 0.1)], ids)
    assert len(hierarchy) == 4
    assert hierarchy.nearest()[5] == 4
    hierarchy.intervene([Intervention("merge", 2, 0, -1, "test", 0.1)], np.array([1, 5, 0, 4]))
    assert sorted(hierarchy.groups()) == [1, 4, 5]
    hierarchy.intervene([Intervention("birth", 2, -1, -1, "test", 0.1)], np.array([1, 5, 6, 4]))
    assert sorted(hierarchy.groups()) == [1, 4, 5, 6]


@settings(max_examples=60, deadline=None)
@given(segments)
def test_it_goes_on_after_a_restart_as_if_nothing_had_happened(of: dict[str, Any]) -> None:
    before = tree(of)
    after = Hierarchy(*of["means"].shape)
    after.restore(before.snapshot())
    assert before.groups() == after.groups()
    assert before.nearest() == after.nearest()
