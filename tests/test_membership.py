"""The membership policy: no flapping, ids that are never reused, sequences without gaps."""

import numpy as np
import pytest
from decisions import score, scored
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_policy import PlainUser

from shoal.stream.confidence import confidence
from shoal.stream.config import Membership as Config
from shoal.stream.membership import Membership

CENTRES = np.array([[0.0], [10.0], [20.0]])
DAY = 86_400_000


def policy(users_max=16, k=3, **config):
    members = Membership(Config(**config), users_max, k)
    members.begin(0)
    return members


def decide(members, slots, points, now_ms=0, step=1, touched=None, seen=5):
    rows = scored(slots, np.reshape(points, (-1, 1)), CENTRES[: members.k], touched)
    return members.decide(rows, np.full(len(slots), seen, np.int64), now_ms, step)


def test_the_first_assignment_is_immediate():
    """A user in no segment waits for no confirmation, however near the border it stands."""
    members = policy(confirmations=5, margin=0.5, dwell_ms=DAY)
    moves = decide(members, [3, 1], [4.9, 20.0], now_ms=7, step=4)
    assert moves.transitions() == ["assigned", "assigned"]
    assert moves.after.tolist() == [1, 3]
    assert moves.slot.tolist() == [3, 1]
    assert moves.since_ms.tolist() == [7, 7]
    assert moves.sequence.tolist() == [4, 4]


def test_only_users_in_a_segment_say_farewell():
    """A slot that was never placed, or was already forgotten, has nothing to leave."""
    members = policy()
    decide(members, [1, 2], [0.0, 10.0], now_ms=5, step=3)
    moves = members.leave(np.array([0, 1, 9], np.int32), 4)
    assert moves.slot.tolist() == [1]
    assert moves.transitions() == ["left"]
    assert moves.before.tolist() == [1]
    assert moves.row.tolist() == [-1]
    assert moves.sequence.tolist() == [4]
    members.clear(np.array([0, 1, 9], np.int32))
    assert members.sizes() == {1: 0, 2: 1, 3: 0}
    assert not len(members.leave(np.array([1], np.int32), 5))


def test_births_name_every_centre_once():
    """begin() gives ids 1..k, as lineage facts; a second begin() is a broken invariant."""
    members = Membership(Config(), 4, 3)
    assert members.sizes() == {}
    births = members.begin(77)
    assert [(b.kind, b.segment_id, b.lineage_id, b.decided_ms) for b in births] == [
        ("birth", 1, 1, 77),
        ("birth", 2, 2, 77),
        ("birth", 3, 3, 77),
    ]
    assert members.identities.renamed(2, 80).lineage_id == 4
    assert members.identities.next_id == 4
    with pytest.raises(AssertionError, match="begin"):
        members.begin(78)


def test_an_empty_step_changes_nothing():
    members = policy()
    before = members.snapshot()
    assert not len(decide(members, [], []))
    assert not len(members.leave(np.empty(0, np.int32), 2))
    assert_same(before, members.snapshot())


def test_confidence_orders_clear_and_unclear_placements():
    """Margin and score are 1 on top of a centre, smallest between two, and stay within 0..1."""
    _, distances = score([[0.0], [2.0], [5.0]], CENTRES)
    margin, degree = confidence(distances, distances.argmin(axis=1))
    assert margin[0] == pytest.approx(1.0)
    assert degree[0] == pytest.approx(1.0)
    assert margin[1] == pytest.approx(1 - 2 / 8)
    assert degree[1] == pytest.approx((1 / 4) / (1 / 4 + 1 / 64 + 1 / 324))
    assert margin[2] == 0.0
    assert degree[2] == pytest.approx((1 / 25) / (2 / 25 + 1 / 225))


def test_confidence_survives_one_centre_and_coinciding_centres():
    assert confidence(np.array([[3.0]]), np.zeros(1, np.int32)) == (np.ones(1), np.ones(1))
    margin, degree = confidence(np.zeros((1, 2)), np.zeros(1, np.int32))
    assert margin.tolist() == [0.0]
    assert degree.tolist() == [0.5]


def test_thin_evidence_is_called_provisional():
    moves = decide(policy(), [0], [0.0], seen=2)
    assert moves.provisional.tolist() == [True]
    assert decide(policy(), [0], [0.0], seen=3).provisional.tolist() == [False]


# --- laws ------------------------------------------------------------------------------------------------


class Oracle:
    """Who is where, one user at a time; when somebody moves is `plain_policy`'s to say."""

    def __init__(self, config, k):
        self.config, self.k, self.users = config, k, {}

    def decide(self, slot, distances, now_ms, step):
        user = self.users.get(slot)
        if user is None:
            nearest = int(np.argmin(distances))
            self.users[slot] = [PlainUser(self.config, nearest, now_ms), step]
            return (slot, 0, nearest + 1, step)
        before = user[0].at + 1
        if not user[0].decide(distances, None, now_ms):
            return None
        user[1] += 1
        return (slot, before, user[0].at + 1, user[1])


@st.composite
def lives(draw):
    """Steps of (points by slot, slots that leave first), and a policy."""
    config = Config(
        margin=draw(st.sampled_from([0.0, 0.1, 0.3])),
        clear_lead=draw(st.sampled_from([0.01, 0.25])),
        confirmations=draw(st.integers(1, 3)),
        dwell_ms=draw(st.sampled_from([0, 3])),
    )
    points = st.dictionaries(st.integers(0, 5), st.sampled_from([0.0, 4.0, 6.0, 9.0, 14.0, 20.0]), max_size=6)
    steps = draw(st.lists(st.tuples(points, st.sets(st.integers(0, 5), max_size=2)), min_size=1, max_size=12))
    return config, [(dict(sorted(p.items())), sorted(gone - set(p))) for p, gone in steps]


def play(members, steps, first=1):
    """Moves per step, leaving before deciding as the pipeline does."""
    for number, (points, gone) in enumerate(steps, start=first):
        slots = np.array(gone, np.int32)
        left = members.leave(slots, number)
        members.clear(slots)
        yield number, left, decide(members, list(points), list(points.values()), now_ms=number, step=number)


@given(lives())
@settings(max_examples=150, deadline=None)
def test_the_policy_equals_a_plain_one(life):
    """The columns decide what a loop over users decides."""
    config, steps = life
    members, oracle = Membership(config, 6, 3), Oracle(config, 3)
    members.begin(0)
    for number, left, moves in play(members, steps):
        for slot in left.slot.tolist():
            del oracle.users[slot]
        points, _ = steps[number - 1]
        wanted = [oracle.decide(s, score([[p]], CENTRES)[1][0], number, number) for s, p in points.items()]
        columns = (moves.slot, moves.before, moves.after, moves.sequence)
        got = list(zip(*(c.tolist() for c in columns), strict=True))
        assert got == [move for move in wanted if move is not None]


@given(lives())
@settings(max_examples=150, deadline=None)
def test_sequences_are_contiguous_within_a_stay_and_never_repeat(life):
    """assigned .. left counts up by one; over all stays of one user no number comes twice."""
    config, steps = life
    members = Membership(config, 6, 3)
    members.begin(0)
    seen: dict[int, list[int]] = {}
    for number, left, moves in play(members, steps):
        for batch in (left, moves):
            columns = (batch.slot, batch.transitions(), batch.sequence)
            for slot, transition, sequence in zip(*map(list, columns), strict=True):
                record = seen.setdefault(int(slot), [])
                assert sequence <= number
                if transition == "assigned":
                    assert sequence == number
                    assert not record or sequence > record[-1]
                else:
                    assert sequence == record[-1] + 1
                record.append(int(sequence))


@given(lives())
@settings(max_examples=100, deadline=None)
def test_sizes_equal_a_recount(life):
    """The incremental counts are those of the table."""
    config, steps = life
    members = Membership(config, 6, 3)
    members.begin(0)
    for _ in play(members, steps):
        recount = {i: int((members.segment == i).sum()) for i in (1, 2, 3)}
        assert members.sizes() == recount
        assert members.counts().tolist() == [recount[i] for i in (1, 2, 3)]


@given(lives(), st.integers(0, 11))
@settings(max_examples=100, deadline=None)
def test_restore_continues_as_if_nothing_had_happened(life, cut):
    """The rest of a life is the same after restore(snapshot()), and the snapshot does not change meanwhile."""
    config, steps = life
    one, other = Membership(config, 6, 3), Membership(config, 6, 3)
    one.begin(0)
    list(play(one, steps[:cut]))
    state = one.snapshot()
    kept = one.snapshot()
    rest = [m for _, _, m in play(one, steps[cut:], first=cut + 1)]
    assert_same(state, kept)
    other.begin(9)
    decide(other, [5], [0.0])  # restore forgets what was there
    other.restore(state)
    again = [m for _, _, m in play(other, steps[cut:], first=cut + 1)]
    for a, b in zip(rest, again, strict=True):
        assert a.slot.tolist() == b.slot.tolist()
        assert a.after.tolist() == b.after.tolist()
        assert a.sequence.tolist() == b.sequence.tolist()
    assert_same(one.snapshot(), other.snapshot())


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], dict):
            assert_same(a[name], b[name])
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
