"""Ids follow people: whoever is together stays together under one id, whichever slot serves them."""

from itertools import permutations

import numpy as np
import pytest
from decisions import scored
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.clustering.adaptive import AdaptiveKMeans
from shoal.stream.config import Membership as Config
from shoal.stream.membership import Membership
from shoal.stream.overlap import HALF, Table, dying, most_in_common, name_groups, table_of
from shoal.stream.packing import pack, unpack
from shoal.stream.people import MARKS, Past
from shoal.stream.ports import Intervention, Share
from shoal.stream.segmenter import KMeans


def table(people, new=None, ids=None, used=None, members=None, present=None):
    """People counted before (rows) and after (columns); everybody comes, unless told otherwise."""
    people = np.array(people, np.int64)
    k = len(people)
    ids = np.arange(1, k + 1) if ids is None else np.array(ids)
    members = people.sum(axis=1) if members is None else np.array(members)
    return Table(
        ids,
        np.ones(k, bool) if used is None else np.array(used, bool),
        people,
        np.zeros(k, np.int64) if new is None else np.array(new),
        members,
        members if present is None else np.array(present),
    )


def swap(centre, into, out_of):
    return Intervention("swap", centre, into, out_of, "misplaced", 0.1)


def merge(centre, into):
    return Intervention("merge", centre, into, -1, "dead", 0.1)


def said(naming):
    """(kind, place, into, out_of) of every fact."""
    return [(one.kind, one.centre, one.into, one.out_of) for one in naming.facts]


# --- the kinds -------------------------------------------------------------------------------------------


def test_a_swap_that_moves_people_together_and_apart_is_a_merge_and_a_split():
    """Slot 0's people are with those of 1, and slot 0 has a part of 2's."""
    naming = name_groups(table([[0, 50, 0], [0, 60, 0], [40, 0, 60]]), [swap(0, 1, 2)])
    assert said(naming) == [("merge", 0, 1, -1), ("split", 0, -1, 2)]
    merged, begun = naming.facts
    assert merged.overlap == (Share(2, 1.0),)
    assert begun.overlap == (Share(3, 1.0),)
    assert (merged.people, begun.people) == (50, 40)
    assert (merged.reason, merged.gain) == ("misplaced", 0.1)


def test_a_swap_inside_one_group_of_people_is_nothing():
    """Slot 0 was given up and placed again, but its people are all with it: the id goes on."""
    assert name_groups(table([[50, 0, 0], [0, 60, 0], [0, 0, 60]]), [swap(0, 1, 2)]).facts == ()


def test_two_slots_that_exchange_their_people_exchange_their_places():
    """No fact; slot 1 has to stand where the people of segment 1 were before."""
    naming = name_groups(table([[3, 50, 0], [60, 2, 0], [0, 0, 60]]), [swap(0, 1, 1)])
    assert naming.facts == ()
    assert naming.order.tolist() == [1, 0, 2]


def test_people_who_part_into_many_groups_are_a_death():
    people = [[0, 15, 16, 14], [0, 60, 0, 0], [0, 0, 60, 0], [0, 0, 0, 60]]
    naming = name_groups(table(people, used=[0, 1, 1, 1]), [merge(0, 1)])
    assert said(naming) == [("death", 0, 2, -1)]
    assert [share.segment_id for share in naming.facts[0].overlap] == [3, 2, 4]


def test_people_who_come_no_more_are_a_death():
    """The few that came are with segment 2; had they come like the others, it would be a merge."""
    people = [[0, 10], [0, 90]]
    dead = table(people, used=[0, 1], members=[100, 100], present=[10, 90])
    alive = table(people, used=[0, 1], members=[100, 100], present=[85, 90])
    assert said(name_groups(dead, [merge(0, 1)])) == [("death", 0, 1, -1)]
    assert said(name_groups(alive, [merge(0, 1)])) == [("merge", 0, 1, -1)]


def test_where_everybody_comes_seldom_nobody_is_dead():
    people = [[0, 10], [0, 11]]
    rare = table(people, used=[0, 1], members=[1000, 1000], present=[10, 11])
    assert said(name_groups(rare, [merge(0, 1)])) == [("merge", 0, 1, -1)]


def test_new_people_are_a_birth():
    people = [[60, 0, 5], [0, 60, 0], [0, 0, 0]]
    naming = name_groups(
        table(people, new=[0, 0, 40], ids=[1, 2, 0]), [Intervention("split", 2, -1, 0, "two_lumps", 0.1)]
    )
    assert said(naming) == [("birth", 2, -1, -1)]
    assert naming.facts[0].overlap[0] == Share(0, 40 / 45)


def test_where_everybody_is_new_a_split_is_a_split():
    """Half of the parent's people are new too: new people say nothing about the part."""
    people = [[30, 0, 20], [0, 60, 0], [0, 0, 0]]
    naming = name_groups(
        table(people, new=[30, 30, 20], ids=[1, 2, 0]), [Intervention("split", 2, -1, 0, "two_lumps", 0.1)]
    )
    assert said(naming) == [("split", 2, -1, 0)]


def test_people_from_many_segments_are_a_birth():
    people = [[60, 0, 0, 14], [0, 60, 0, 15], [0, 0, 60, 13], [0, 0, 0, 0]]
    naming = name_groups(table(people, ids=[1, 2, 3, 0]), [Intervention("split", 3, -1, 0, "two_lumps", 0.1)])
    assert said(naming) == [("birth", 3, -1, -1)]
    assert naming.facts[0].people == 42


def test_others_where_the_dead_were_are_a_death_and_a_birth_in_place():
    """Nothing was rearranged: the centre followed new people, and its id must not."""
    people = [[0, 0], [0, 90]]
    naming = name_groups(table(people, new=[50, 0], members=[100, 100], present=[0, 90]), ())
    assert said(naming) == [("death", 0, 1, -1), ("birth", 0, -1, -1)]
    assert naming.facts[0].in_place


def test_a_segment_whose_people_come_no_more_keeps_its_id_while_nobody_else_is_there():
    people = [[0, 0], [0, 90]]
    assert name_groups(table(people, members=[100, 100], present=[0, 90]), ()).facts == ()


def test_a_segment_that_people_pass_through_stays_what_it_is():
    """The same counts, but the centre is where it was: its people are elsewhere and others are there, as ever."""
    people = [[5, 80], [0, 90]]
    passing = table(people, new=[70, 0])
    assert said(name_groups(passing, (), np.array([True, False]))) == [
        ("merge", 0, 1, -1),
        ("birth", 0, -1, -1),
    ]
    assert name_groups(passing, (), np.array([False, False])).facts == ()


def test_too_few_people_leave_it_to_the_model():
    """Seven people of slot 0 are scattered, and it is merged as told."""
    people = [[0, 3, 4], [0, 60, 0], [0, 0, 60]]
    naming = name_groups(table(people, used=[0, 1, 1]), [merge(0, 1)])
    assert said(naming) == [("merge", 0, 2, -1)]


def test_as_many_people_as_possible_keep_their_id():
    """60 + 50 are together now: if the older id stayed with them, 90 people would change theirs instead of 60."""
    people = [[60, 40], [50, 0]]
    naming = name_groups(table(people), None)
    assert naming.facts == ()
    assert naming.order.tolist() == [1, 0]


@given(st.integers(4, 12), st.integers(8, 400), st.floats(0.0, 1.0))
def test_where_everybody_is_on_the_move_every_id_stays_at_its_centre(k, people, stayed):
    """However few stay: in each group as many as in any other."""
    here = round(stayed * people)
    rest = [(people - here) // (k - 1)] * (k - 1)
    rows = [[*rest[:i], here, *rest[i:]] for i in range(k)]
    naming = name_groups(table(rows, new=[people] * k), [], np.ones(k, bool))
    assert not naming.facts
    assert naming.order.tolist() == list(range(k))


def test_a_group_whose_people_stayed_surely_less_than_usual_ends_where_half_of_all_are_on_the_move():
    """60 of 120 stayed in each of three groups, 3 of 120 in the fourth: others are at its centre now."""
    rows = [[60, 20, 20, 20], [20, 60, 20, 20], [20, 20, 60, 20], [39, 39, 39, 3]]
    (ended, begun) = name_groups(table(rows, new=[0, 0, 0, 200]), [], np.ones(4, bool)).facts
    assert (ended.kind, ended.centre, ended.in_place) == ("death", 3, True)
    assert (begun.kind, begun.centre) == ("birth", 3)
    rows[3] = [
        36,
        36,
        36,
        12,
    ]  # a quarter of the usual share is too few; a quarter of twelve people says little
    assert name_groups(table(rows, new=[0, 0, 0, 200]), [], np.ones(4, bool)).facts
    few = [*rows[:3], [4, 4, 3, 1]]
    assert not name_groups(table(few, new=[0, 0, 0, 200]), [], np.ones(4, bool)).facts


# --- laws ------------------------------------------------------------------------------------------------


@st.composite
def tables(draw):
    k = draw(st.integers(2, 5))
    ids = [s + 1 if draw(st.integers(0, 4)) else 0 for s in range(k)]
    ids[0] = 1
    used = [bool(draw(st.integers(0, 4))) for _ in range(k)]
    somewhere = draw(st.integers(0, k - 1))
    used[somewhere] = True
    counts = st.sampled_from([0, 0, 0, 1, 5, 9, 40, 60])
    people = np.array([[draw(counts) if ids[i] and used[j] else 0 for j in range(k)] for i in range(k)])
    people[0, somewhere] = 60  # somebody is there
    new = np.array([draw(counts) if used[j] else 0 for j in range(k)])
    members = people.sum(axis=1) + np.array([draw(counts) if ids[i] else 0 for i in range(k)])
    return Table(np.array(ids), np.array(used), people, new, members, people.sum(axis=1))


@given(tables())
@settings(max_examples=300, deadline=None)
def test_every_id_goes_on_or_ends_once_and_every_slot_in_use_gets_one(told):
    """Whatever the table: facts can be applied in order, and afterwards ids stand exactly where slots are used."""
    naming = name_groups(told, None)
    assert sorted(naming.order.tolist()) == list(range(len(told.ids)))
    ids = told.ids.copy()
    for one in naming.facts:
        if one.ends:
            assert ids[one.centre]
            assert ids[one.into]
            assert one.into != one.centre
            ids[one.centre] = 0
        else:
            assert not ids[one.centre]
            ids[one.centre] = 99
    assert ((ids > 0) == told.used[naming.order]).all()


@given(tables(), st.data())
@settings(max_examples=200, deadline=None)
def test_slots_play_no_part(told, data):
    """Exchange the slots after: who goes on, ends and begins is the same, about the same people."""
    k = len(told.ids)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    jitter = rng.permutation(k * k).reshape(k, k)  # no two counts alike: ties may go either way
    people = told.people * 100 + np.where(told.people > 0, jitter, 0)
    told = Table(told.ids, told.used, people, told.new * 100, people.sum(axis=1), people.sum(axis=1))
    turned = np.array(data.draw(st.permutations(range(k))))
    other = Table(
        told.ids, told.used[turned], told.people[:, turned], told.new[turned], told.members, told.present
    )

    def facts(naming):
        found = [
            (one.kind, one.overlap, one.people, one.into if one.ends else one.out_of) for one in naming.facts
        ]
        return sorted(found, key=str)

    assert facts(name_groups(told, None)) == facts(name_groups(other, None))


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_the_match_is_the_best_of_all(seed, n):
    weights = np.random.default_rng(seed).integers(0, 9, (n, n)).astype(float)
    found = most_in_common(weights)
    best = max(sum(weights[i, j] for i, j in enumerate(order)) for order in permutations(range(n)))
    assert sum(weights[i, j] for i, j in enumerate(found.tolist()) if j >= 0) == best
    taken = [j for j in found.tolist() if j >= 0]
    assert len(set(taken)) == len(taken)
    assert all(weights[i, j] > 0 for i, j in enumerate(found.tolist()) if j >= 0)


def test_counting():
    home, after = np.array([0, 0, 1, -1, 2], np.int32), np.array([0, 1, 1, 1, 2], np.int32)
    ids, used = np.array([4, 5, 6]), np.ones(3, bool)
    counted = table_of(ids, used, home, after, np.zeros(3, np.int64), np.zeros(3, np.int64))
    assert counted.people.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert counted.new.tolist() == [0, 1, 0]
    assert counted.after.tolist() == [1, 3, 1]


@pytest.mark.parametrize(("present", "dies"), [(0, True), (20, True), (50, False), (100, False)])
def test_who_comes_less_than_half_as_often_as_everybody_dies(present, dies):
    """Surely so: a small group that is absent by chance does not."""
    ids = np.array([1, 2])
    assert dying(ids, np.array([100, 1000]), np.array([present, 1000]))[0] == dies
    assert not dying(ids, np.array([5, 1000]), np.array([0, 1000]))[0]
    assert HALF == 0.5


# --- who is asked ----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), min_size=1, max_size=80),
    st.integers(0, 20_000),
)
@settings(max_examples=100, deadline=None)
def test_the_past_knows_what_time_it_was_so_many_rows_ago(steps, rows):
    """Or a little earlier, by one mark; what nobody knows is the first time known. Bounded, and restored exactly."""
    past, now_ms, times = Past(), 0, []
    for learned, passed in steps:
        now_ms += passed
        times += [now_ms] * learned
        past.learned(learned, now_ms, 100)
    found = past.ago_ms(rows)
    again = Past()
    again.restore(unpack(b"".join(pack(past.snapshot()))))
    assert again.ago_ms(rows) == found
    slack = past.home_rows // MARKS + 400  # a mark is made between steps
    if rows + slack < len(times):
        assert times[len(times) - rows - slack] <= found <= (times[len(times) - rows - 1] if rows else now_ms)
    assert len(past.snapshot()["marks"]) <= MARKS + 2


def test_a_centre_is_elsewhere_when_it_went_half_the_way_to_another_one():
    """As of a while ago; not under another encoder, and not one that has just begun there."""
    segmenter, past = KMeans(3, 1, 0.1, 1), Past()
    segmenter.carry(np.array([[0.0], [10.0], [30.0]]))
    past.see(segmenter, 1)
    segmenter.carry(np.array([[1.0], [4.0], [30.0]]))
    assert past.elsewhere(segmenter).tolist() == [False, True, False]
    past.rearranged(np.array([2, 1, 0]), [1], segmenter.centres)
    segmenter.permute(np.array([2, 1, 0]))
    assert past.elsewhere(segmenter).tolist() == [False, False, False]
    segmenter.carry(np.array([[0.0], [10.0], [30.0]]))
    assert past.elsewhere(segmenter).any()
    past.see(segmenter, 2)
    assert not past.elsewhere(segmenter).any()


def test_home_is_the_segment_of_then():
    """Who stayed is at home; who moved since is at home where they came from; the new, and those whose segment
    ended, are nowhere. Being told another id of the same segment is no move."""
    members = Membership(Config(confirmations=1, margin=0.0), 8, 3)
    members.begin(0)
    centres = np.array([[0.0], [10.0], [20.0]])

    def place(slots, at, now_ms):
        members.decide(
            scored(slots, [[c] for c in at], centres), np.full(len(slots), 9, np.int64), now_ms, now_ms
        )

    place([0, 1, 2], [0.0, 10.0, 20.0], 1)
    place([1, 3], [20.0, 0.0], 9)
    assert members.home(np.arange(4), 5).tolist() == [0, 1, 2, -1]
    assert members.home(np.arange(4), 9).tolist() == [0, 2, 2, 0]
    members.intervene([Intervention("merge", 1, 0, -1, "test", 0.0)], 10)
    assert members.home(np.arange(4), 5).tolist() == [0, -1, 2, -1]
    members.intervene([Intervention("merge", 0, 2, -1, "test", 0.0)], 11)
    place([0, 3], [20.0, 20.0], 12)
    assert members.home(np.array([0, 3]), 5).tolist() == [2, 2]


@pytest.mark.parametrize("k", [3, 6])
def test_learning_goes_on_after_an_exchange_of_slots_as_if_it_always_had_been(k):
    """Permute, then learn and tend, is learn and tend, then permute: also through a snapshot."""
    rng = np.random.default_rng(k)
    places = 6.0 * rng.normal(size=(k + 1, 4))

    def rows(n, groups):
        return (places[rng.integers(*groups, n)] + rng.normal(size=(n, 4))).astype(np.float32)

    first, second = (AdaptiveKMeans(k, 4, 1, 2) for _ in range(2))
    buffer, order = rows(500, (0, k)), np.roll(np.arange(k), 1)
    for one in (first, second):
        one.seed(buffer)
    second.permute(order)
    second.restore(unpack(b"".join(pack(second.snapshot()))))
    for _ in range(12):
        z = rows(300, (1, k + 1))
        labels, renamed = first.learn(z), second.learn(z)
        assert (np.argsort(order)[labels] == renamed).all()
        assert len(first.tend()) == len(second.tend())
    assert np.allclose(
        np.sort(first.centres[first.used], axis=0), np.sort(second.centres[second.used], axis=0)
    )
