"""When a user goes to another centre: evidence in stream time, and nobody flaps."""

import numpy as np
import pytest
from decisions import score
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_policy import PlainUser

from shoal.stream.config import Membership as Config
from shoal.stream.config import load
from shoal.stream.events import Scored
from shoal.stream.policy import Policy, lead

HOUR, DAY = 3_600_000, 86_400_000
LINE = np.array([[0.0], [10.0], [20.0]])
PLAIN = {"margin": 0.0, "clear_lead": 0.01, "confirmations": 1, "smoothing_ms": 0, "patience": 0.0}


def shown(slots, points, centres, touched=None, events=None):
    """What a step scored, as far as the policy reads it."""
    points = np.asarray(points, np.float64).reshape(len(slots), centres.shape[1])
    nearest, distances = score(points, centres)
    none = np.empty((0, 0), np.float32)
    t = len(slots) if touched is None else touched
    return Scored(np.asarray(slots, np.int32), t, none, none, none, nearest, distances, centres, events)


class Table:
    """A policy with the columns it is asked about."""

    def __init__(self, config, users=8, centres=LINE):
        self.policy, self.centres = Policy(config, users), centres
        self.centre, self.since_ms = np.full(users, -1, np.int32), np.zeros(users, np.int64)

    def look(self, slots, points, now_ms=0, touched=None, events=None):
        """The slots that changed."""
        rows = shown(slots, points, self.centres, touched, events)
        before = self.centre[rows.slots]
        after = self.policy.decide(rows, before, self.since_ms[rows.slots], now_ms)
        changed = rows.slots[after != before]
        self.centre[rows.slots] = after
        self.since_ms[changed] = now_ms
        return changed.tolist()

    def moves(self, path, every_ms=0, touched=None, start_ms=0):
        """Of user 0 along these points: how many changes each look brought."""
        return [
            len(self.look([0], [p], start_ms + i * every_ms, touched)) for i, p in enumerate(path, start=1)
        ]


def at(point, **config):
    """A table whose user 0 was first seen at `point`, at time 0."""
    table = Table(Config(**{**PLAIN, **config}))
    table.look([0], [point])
    return table


# --- what it does ----------------------------------------------------------------------------------------


def test_the_first_placement_waits_for_nothing():
    """A user in no segment takes the nearest centre, however near the border it stands."""
    assert at(4.9, confirmations=9, margin=0.9, dwell_ms=DAY).centre[0] == 0


def test_one_confirmation_without_margin_is_the_plain_nearest_centre():
    """Whatever the path."""
    rng = np.random.default_rng(1)
    table = at(0.0, patience=1.0, smoothing_ms=5)
    for i, point in enumerate(rng.uniform(-5, 25, 300)):
        table.look([0], [point], i)
        assert table.centre[0] == abs(LINE[:, 0] - point).argmin()


def test_the_lead_is_how_far_along_the_way_a_row_stands():
    """-1 at the own centre, 0 on the border, 1 at the other; whatever stands at right angles to the way."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0]])
    points = [[0, 0], [5, 0], [10, 0], [5, 99], [10, 99], [15, 0], [-5, 7]]
    rows = shown(range(7), points, centres)
    mine, theirs = np.zeros(7, np.int32), np.ones(7, np.int32)
    found = lead(rows, np.arange(7), mine, theirs)
    np.testing.assert_allclose(found, [-1, 0, 1, 0, 1, 2, -2])


def test_without_centres_the_lead_is_the_least_it_can_be():
    """On the line between the two it is the same; elsewhere it is nearer to 0."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0]])
    rows = shown(range(3), [[2, 0], [7, 0], [7, 30]], centres)
    blind = Scored(*(getattr(rows, name) for name in Scored.__slots__[:7]))
    mine, theirs = np.zeros(3, np.int32), np.ones(3, np.int32)
    known, guessed = (lead(one, np.arange(3), mine, theirs) for one in (rows, blind))
    np.testing.assert_allclose(guessed[:2], known[:2])
    assert 0 < guessed[2] < known[2]


def test_two_centres_in_one_place_give_no_evidence():
    """No division by nothing, and nobody moves."""
    centres = np.array([[0.0], [0.0]])
    rows = shown([0], [[3.0]], centres)
    assert lead(rows, np.arange(1), np.zeros(1, np.int32), np.ones(1, np.int32)).tolist() == [0.0]


def test_a_lead_within_the_margin_is_no_evidence():
    """margin 0.2: the border is at 5, and 6 is 0.2 of the way beyond it."""
    assert sum(at(0.0, margin=0.2, confirmations=2).moves([5.9] * 50)) == 0
    assert at(0.0, margin=0.2, confirmations=2).moves([6.1] * 3) == [0, 1, 0]


def test_a_clear_move_takes_as_many_scorings_as_confirmations_and_a_marginal_one_more():
    """At the new centre three; a lead of 0.12, where 0.25 is clear, counts half: five."""
    config = {"confirmations": 3, "clear_lead": 0.25}
    assert at(0.0, **config).moves([10.0] * 4) == [0, 0, 1, 0]
    assert at(0.0, **config).moves([5.6] * 6) == [0, 0, 0, 0, 1, 0]


def test_what_speaks_against_a_move_takes_evidence_back():
    """Two for, one against: one is left, so two more are needed."""
    assert at(0.0, confirmations=3).moves([10, 10, 0, 10, 10]) == [0, 0, 0, 0, 1]


def test_evidence_is_against_the_own_centre_whoever_the_rival_is():
    """A user on its way past one centre to another is not held up."""
    table = at(0.0, confirmations=3)
    assert table.moves([10, 10, 20]) == [0, 0, 1]
    assert table.centre[0] == 2


def test_dwell_holds_a_move_back_in_stream_time():
    """The move comes with the first scoring after it; the evidence gathered before still counts."""
    assert at(0.0, confirmations=2, dwell_ms=1000).moves([10] * 4, every_ms=300) == [0, 0, 0, 1]


def test_a_long_dwell_hoards_no_evidence():
    """After a hundred scorings elsewhere, three at home are enough to stay."""
    table = at(0.0, confirmations=3, dwell_ms=DAY)
    table.moves([10.0] * 100)
    assert table.moves([0.0] * 3 + [10.0], every_ms=DAY) == [0, 0, 0, 0]


def test_evidence_is_forgotten_in_stream_time():
    """One scoring's worth a day: what is confirmed once in two days is never confirmed."""
    assert sum(at(0.0, confirmations=2, smoothing_ms=DAY).moves([10] * 50, every_ms=2 * DAY)) == 0
    assert at(0.0, confirmations=2, smoothing_ms=DAY).moves([10] * 2, every_ms=HOUR) == [0, 1]


def test_looking_more_often_at_a_silent_user_confirms_nothing_sooner():
    """A day of silence counts once, in one look or in 240."""
    config = {"confirmations": 3, "silence_ms": DAY}
    for looks in (1, 8, 240):
        table = at(0.0, **config)
        moved = table.moves([10.0] * (4 * looks), every_ms=DAY // looks, touched=0)
        assert moved.index(1) == pytest.approx(2 * looks, abs=1), looks


def test_a_user_who_falls_silent_still_drifts_out():
    """Without a single event, after days."""
    assert 1 in at(0.0, confirmations=3, silence_ms=DAY).moves([10.0] * 9, every_ms=DAY // 2, touched=0)


def test_every_change_makes_the_next_one_harder_until_it_is_forgotten():
    """Patience 1: 2 scorings, then 5, then 10 (1 + (r + 1)^2); after four days of peace 2 again."""
    table = at(0.0, confirmations=2, patience=1.0, patience_ms=DAY)
    assert [table.moves([10.0] * 30).index(1) + 1, table.moves([0.0] * 30).index(1) + 1] == [2, 5]
    assert table.moves([10.0] * 30).index(1) + 1 == 10
    table.look([0], [10.0], 4 * DAY)
    assert table.moves([0.0] * 3, start_ms=4 * DAY) == [0, 1, 0]


def test_patience_ends_somewhere():
    """However often a user changed, it can still move."""
    table = at(0.0, confirmations=2, patience=1.0, patience_ms=0)
    for turn in range(20):
        assert 1 in table.moves([10.0 if turn % 2 == 0 else 0.0] * 90), turn


def test_a_doubtful_centre_gets_no_votes():
    """A centre that was placed elsewhere: evidence for it is void."""
    table = at(0.0, confirmations=3)
    table.moves([10, 10])
    table.policy.doubt(2)
    assert table.moves([0.0001 + 10]) == [1]
    table = at(0.0, confirmations=3)
    table.moves([10, 10])
    table.policy.doubt(1)
    assert table.moves([10, 10, 10]) == [0, 0, 1]


def test_boundary_users_are_left_in_peace():
    """With the default policy users who jitter on a border change a fiftieth as often as by the nearest centre."""
    rng = np.random.default_rng(3)
    table, changes, flips, last = Table(load(None).membership, 200), 0, 0, None
    slots = np.arange(200, dtype=np.int32)
    for step in range(100):
        points = 5.0 + rng.normal(0, 1.5, 200)
        nearest, _ = score(points[:, None], LINE)
        flips += 0 if last is None else int((nearest != last).sum())
        changes += len(table.look(slots, points, step * HOUR))
        last = nearest
    assert flips > 5000
    assert changes - 200 < flips / 50


# --- laws ------------------------------------------------------------------------------------------------

CONFIGS = st.builds(
    Config,
    margin=st.sampled_from([0.0, 0.1, 0.3]),
    clear_lead=st.sampled_from([0.01, 0.25, 1.0]),
    confirmations=st.integers(1, 4),
    smoothing_ms=st.sampled_from([0, 3, 50]),
    silence_ms=st.sampled_from([0, 1, 7]),
    patience=st.sampled_from([0.0, 0.3, 1.0]),
    patience_ms=st.sampled_from([0, 20]),
    dwell_ms=st.sampled_from([0, 5]),
)
PLANE = np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 8.0], [5.0, 2.5]])
POINT = st.tuples(st.integers(-2, 12), st.integers(-2, 10))
LOOKS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 4), POINT, max_size=5),  # who has an event
        st.dictionaries(st.integers(0, 4), POINT, max_size=5),  # who is only looked at
        st.integers(0, 9),  # stream time since the last look
    ),
    min_size=1,
    max_size=14,
)


def columns(look):
    """(slots, points, touched): events first, nobody twice."""
    told, silent = look[0], {slot: p for slot, p in look[1].items() if slot not in look[0]}
    return [*told, *silent], [*told.values(), *silent.values()], len(told)


def played(table, looks, now_ms=0):
    """(now, changes) of each look."""
    for look in looks:
        now_ms += look[2]
        slots, points, touched = columns(look)
        changed = table.look(slots, points, now_ms, touched)
        yield now_ms, [(slot, int(table.centre[slot])) for slot in changed]


@given(CONFIGS, LOOKS)
@settings(max_examples=300, deadline=None)
def test_the_columns_decide_what_a_loop_over_users_decides(config, looks):
    """Against plain Python, one user at a time; a user changes at most once a look."""
    table, users = Table(config, 5, PLANE), {}
    for look, (now_ms, changes) in zip(looks, played(table, looks), strict=True):
        wanted = []
        slots, points, touched = columns(look)
        _, distances = score(np.reshape(points, (-1, 2)), PLANE)
        for i, slot in enumerate(slots):
            if slot not in users:
                users[slot] = PlainUser(config, int(distances[i].argmin()), now_ms)
                wanted.append((slot, users[slot].at))
            elif users[slot].decide(distances[i], PLANE, now_ms, i < touched):
                wanted.append((slot, users[slot].at))
        assert changes == wanted


@given(CONFIGS, st.lists(st.tuples(POINT, st.integers(1, 9)), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_look_counts_once_for_each_event_it_saw(config, looks):
    """Up to as many as it takes to confirm; against plain Python."""
    table = Table(config, 1, PLANE)
    user = None
    for now_ms, (point, events) in enumerate(looks, 1):
        changed = table.look([0], [point], now_ms, events=np.array([events]))
        _, distances = score(np.reshape([point], (-1, 2)), PLANE)
        if user is None:
            user = PlainUser(config, int(distances[0].argmin()), now_ms)
        else:
            assert bool(changed) == user.decide(distances[0], PLANE, now_ms, events=events)
        assert table.centre[0] == user.at


def test_a_visit_seen_as_a_whole_is_a_clear_move():
    """Three clicks in one step, the row clearly with others: it moves; after one click it waits."""
    for events, moved in ((1, 0), (2, 0), (3, 1), (30, 1)):
        assert (
            len(
                at(0.0, confirmations=3, margin=0.15, clear_lead=0.5).look(
                    [0], [10.0], DAY, events=np.array([events])
                )
            )
            == moved
        )


@given(CONFIGS, LOOKS)
@settings(max_examples=100, deadline=None)
def test_scorings_may_be_cut_into_steps_in_any_way(config, looks):
    """One step for many users, or one for each, at the same stream times: the same decisions."""
    whole, parts = Table(config, 5, PLANE), Table(config, 5, PLANE)
    for look, (now_ms, changes) in zip(looks, played(whole, looks), strict=True):
        slots, points, touched = columns(look)
        alone = [
            slot
            for i, (slot, point) in enumerate(zip(slots, points, strict=True))
            if parts.look([slot], [point], now_ms, int(i < touched))
        ]
        assert alone == [slot for slot, _ in changes]
        assert parts.centre.tolist() == whole.centre.tolist()


@given(CONFIGS, st.lists(st.tuples(POINT, st.booleans(), st.integers(0, 9)), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_row_that_stays_where_it_is_never_moves(config, steps):
    """After its first placement, however often and whenever it is looked at."""
    table = Table(config, 5, PLANE)
    now_ms, point = 0, steps[0][0]
    table.look([0], [point])
    for _, touched, passed_ms in steps:
        now_ms += passed_ms
        assert table.look([0], [point], now_ms, int(touched)) == []


@given(CONFIGS, LOOKS, st.permutations(range(4)))
@settings(max_examples=100, deadline=None)
def test_the_numbers_of_centres_mean_nothing(config, looks, order):
    """Centres in another order: the same users move, to the same places. Ties go by number, so there are none."""
    off = np.array([[0.013, 0.007], [0.011, -0.017], [-0.019, 0.005], [0.003, 0.023]])
    one, other = Table(config, 5, PLANE + off), Table(config, 5, (PLANE + off)[list(order)])
    for (_, a), (_, b) in zip(played(one, looks), played(other, looks), strict=True):
        assert [slot for slot, _ in a] == [slot for slot, _ in b]
        assert [centre for _, centre in a] == [order[centre] for _, centre in b]


@given(CONFIGS, LOOKS, st.integers(0, 14))
@settings(max_examples=100, deadline=None)
def test_restore_goes_on_as_if_nothing_had_happened(config, looks, cut):
    """The rest is decided the same, and the state at the end is the same, in type and bytes."""
    one, other = Table(config, 5, PLANE), Table(config, 5, PLANE)
    now_ms = 0
    for now_ms, _ in played(one, looks[:cut]):  # noqa: B007
        pass
    other.look([0, 1, 2, 3, 4], [(1, 2)] * 5, 3)  # is forgotten
    other.policy.restore(one.policy.snapshot(5))
    other.centre, other.since_ms = one.centre.copy(), one.since_ms.copy()
    rest = looks[cut:]
    assert list(played(one, rest, now_ms)) == list(played(other, rest, now_ms))
    for name, array in one.policy.snapshot(5).items():
        twin = other.policy.snapshot(5)[name]
        assert (array.dtype, array.tobytes()) == (twin.dtype, twin.tobytes()), name


def test_whoever_is_forgotten_starts_afresh():
    """A slot that is given to somebody else carries nothing over."""
    table = at(0.0, confirmations=3, patience=1.0)
    table.moves([10, 10, 10, 0])
    table.policy.clear(np.array([0], np.int32))
    empty = Policy(Config(), 8).snapshot(8)
    for name, array in table.policy.snapshot(8).items():
        np.testing.assert_array_equal(array, empty[name])
