"""The adaptive segmenter: River's rule between recorded interventions, which are rare, quick and explained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream import config
from shoal.stream.clustering.adaptive import AdaptiveKMeans
from shoal.stream.clustering.attention import SCOPE_MIN, Attention
from shoal.stream.clustering.decision import _gain, _stands_out, _View
from shoal.stream.clustering.interventions import Proposal, is_sure, savings
from shoal.stream.clustering.river_backend import river_model
from shoal.stream.clustering.sample import STEP_ROWS_MAX, TURNS, RecentRows, Sample, sample_rows
from shoal.stream.packing import pack, unpack
from shoal.stream.segmenter import make_segmenter

D = 6
REASONS = {"misplaced", "dead", "one_lump", "two_lumps"}


def homes(seed, k, spread=4.0):
    return spread * np.random.default_rng(seed).standard_normal((k, D))


def rows_of(seed, n, places, tail=False, weights=None):
    """n rows round the places (k, D), of unit variance."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, D))
    if tail:
        noise /= np.sqrt(rng.chisquare(3, (n, 1)))
    return places[rng.choice(len(places), n, p=weights)] + noise


def fed(segmenter, rows, step=128, people=0):
    """Everything that was done while the rows were learned, `step` of them at a time."""
    done = []
    for at in range(0, len(rows), step):
        done += segmenter.tend()
        segmenter.learn(rows[at : at + step], people)
    return done


def made(rows, k=8, fewest=None, seed=1):
    segmenter = AdaptiveKMeans(k, D, seed, fewest)
    segmenter.seed(rows)
    return segmenter


def serves(segmenter, places):
    """Whether every place has a used centre within two deviations, one each."""
    slots = np.flatnonzero(segmenter.used)
    gaps = np.linalg.norm(places[:, None] - segmenter.centres[slots], axis=2)
    return gaps.min(axis=1).max() < 2.0 and len(set(gaps.argmin(axis=1).tolist())) == len(places)


# --- River's rule ----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_between_interventions_a_river_model_with_the_same_steps_follows_bit_for_bit(seed, k):
    """Its `halflife` is set before each row; after an intervention it is given the new centres."""
    places = homes(seed, 5)
    ours = made(rows_of(seed, 120, places), k)
    for part in range(4):
        ours.tend()
        river = river_model(ours.centres, 0.5, seed=1)
        rows = rows_of(seed + part, 60, places)
        winners, steps = ours.learn_with_steps(rows)
        for row, winner, step in zip(rows.tolist(), winners.tolist(), steps.tolist(), strict=True):
            river.halflife = step
            assert river.learn_predict_one(dict(enumerate(row))) == winner
        assert ours.centres.tolist() == [[river.centers[c][j] for j in range(D)] for c in range(k)]


def test_a_row_that_is_not_finite_is_counted_and_changes_nothing():
    rows = rows_of(1, 300, homes(1, 3))
    with_bad = np.insert(rows, [50, 200], np.nan, axis=0)
    clean, dirty = made(rows, 3), made(rows, 3)
    clean.learn(rows)
    labels = dirty.learn(with_bad)
    assert np.flatnonzero(labels < 0).tolist() == [50, 201]
    assert dirty.skipped == 2
    assert dirty.centres.tobytes() == clean.centres.tobytes()
    assert np.isinf(dirty.score(with_bad[50:51])[1]).all()


@settings(max_examples=6, deadline=None)
@given(st.integers(-20, 20), st.integers(0, 100))
def test_the_unit_of_the_rows_does_not_matter(power, seed):
    """From a millionth to a million: the same labels, steps and interventions, and every centre is alive."""
    places = homes(seed, 4)
    rows = np.concatenate([rows_of(seed, 4000, places), rows_of(seed, 3000, homes(seed + 1, 4))])
    ours, scaled = made(rows[:400], 4), made(rows[:400] * 2.0**power, 4)
    done, again = fed(ours, rows), fed(scaled, rows * 2.0**power)
    assert [(i.kind, i.centre, i.into, i.out_of) for i in done] == [
        (i.kind, i.centre, i.into, i.out_of) for i in again
    ]
    assert (scaled.centres == ours.centres * 2.0**power).all()
    assert scaled.steps.tolist() == ours.steps.tolist()
    assert len(set(scaled.learn(rows[-1000:] * 2.0**power).tolist())) == 4


# --- interventions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("fewest", [None, 2])
def test_nothing_is_done_where_nothing_happens(tail, fewest):
    """Groups of very unequal size, heavy tails, slow drift: the centres follow, no id changes its meaning."""
    places, weights = homes(3, 6, 6.0), np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    ours = made(rows_of(3, 2048, places, tail, weights), 6, fewest)
    rows = rows_of(4, 20_000, places, tail, weights) + np.linspace(0, 2, 20_000)[:, None]
    assert fed(ours, rows, 256) == []
    assert serves(ours, places + 2.0)


def test_a_cloud_without_structure_is_left_alone():
    """There is no best way to cut it, and no reason to try another."""
    rng = np.random.default_rng(5)
    ours = made(rng.standard_normal((2048, D)), 8)
    assert len(fed(ours, rng.standard_normal((16_000, D)), 256)) <= 1


def test_where_one_group_ends_and_another_begins_the_free_centre_moves_there():
    """Within a sample of rows, as one recorded swap with its reason; and the centre that covered for it goes home."""
    places = homes(7, 8, 3.0)
    ours = made(rows_of(7, 2048, places), 8)
    fed(ours, rows_of(8, 4000, places), 256)
    version = ours.version
    places[3] = homes(9, 1, 3.0)
    done = fed(ours, rows_of(9, 2048, places), 256)
    assert [i.kind for i in done] == ["swap"]
    assert done[0].reason in {"dead", "misplaced"}
    assert 0 < done[0].gain < 1
    assert ours.version == version + 1
    assert serves(ours, places)


def test_after_everything_changed_at_once_every_group_is_found_again():
    """Only rows from after the change speak, so it takes about a sample."""
    places, others = homes(11, 8, 3.0), homes(12, 8, 3.0)
    ours = made(rows_of(11, 2048, places), 8)
    fed(ours, rows_of(12, 4000, places), 256)
    done = fed(ours, rows_of(13, 4000, others), 256)
    assert serves(ours, others)
    assert {i.reason for i in done} <= REASONS
    assert fed(ours, rows_of(14, 8000, others), 256) == []


def test_two_centres_in_one_group_and_one_for_two_is_put_right():
    """A bad start: the swap says that a lump was shared."""
    places = homes(15, 4, 5.0)
    ours = made(rows_of(15, 2048, places), 4)
    bad = np.stack([places[0] - 0.3, places[0] + 0.3, places[1], (places[2] + places[3]) / 2])
    ours.carry(bad)
    done = fed(ours, rows_of(16, 4096, places), 256)
    assert {i.kind for i in done} == {"swap"}
    assert serves(ours, places)


def test_large_groups_are_not_cut_at_the_cost_of_small_ones():
    """Squared distance alone would give the elongated giant two centres and let two dwarfs share one."""
    places = homes(21, 4, 1.0)
    places[:, 0] = [0.0, 0.0, 0.0, 0.0]
    places[:, 1] = [-40.0, 8.0, 16.0, 24.0]
    weights = np.array([0.85, 0.05, 0.05, 0.05])
    long = np.ones(D)
    long[0] = 8.0

    def rows(seed, n):
        rng = np.random.default_rng(seed)
        group = rng.choice(4, n, p=weights)
        return places[group] + rng.standard_normal((n, D)) * np.where(group[:, None] == 0, long, 1.0)

    ours = made(rows(1, 2048), 4)
    ours.carry(places)
    assert fed(ours, rows(2, 10_000), 256) == []
    assert serves(ours, places[1:])


# --- a number of centres between bounds ------------------------------------------------------------------


@pytest.mark.parametrize("tail", [False, True])
def test_the_number_of_centres_is_found_between_its_bounds(tail):
    """Sixteen at most, five groups: five are in use, the others never win and are infinitely far."""
    places = homes(5, 5, 5.0)
    ours = made(rows_of(5, 2048, places, tail), 16, 2)
    fed(ours, rows_of(6, 12_000, places, tail), 256)
    assert ours.used.sum() == 5
    assert serves(ours, places)
    nearest, distances = ours.score(rows_of(7, 100, places, tail))
    assert ours.used[nearest].all()
    assert (np.isinf(distances) == ~ours.used).all()


def test_a_group_that_comes_is_split_off_and_one_that_goes_is_merged():
    """Each told with its reason; never below the lower bound."""
    places = homes(17, 6, 5.0)
    ours = made(rows_of(17, 2048, places[:4]), 8, 3)
    assert ours.used.sum() == 4
    came = fed(ours, rows_of(18, 6000, places), 256)
    assert [(i.kind, i.reason, i.into) for i in came] == [("split", "two_lumps", -1)] * 2
    assert serves(ours, places)
    went = fed(ours, rows_of(19, 20_000, places[:1]), 256)
    assert {(i.kind, i.out_of) for i in went} == {("merge", -1)}
    assert ours.used.sum() == 3


# --- state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [0, 3000])
@pytest.mark.parametrize("fewest", [None, 2])
def test_restore_continues_as_if_nothing_had_happened(fewest, people):
    """In the middle of an alarm, through the bytes of a snapshot: the same interventions, the same fingerprint."""
    places, others = homes(11, 6, 3.0), homes(12, 6, 3.0)
    first = made(rows_of(1, 1000, places), 6, fewest)
    fed(first, np.concatenate([rows_of(2, 3000, places), rows_of(3, 300, others)]), people=people)
    state = unpack(b"".join(pack(first.snapshot())))
    second = AdaptiveKMeans(6, D, 1, fewest)
    second.restore(state)
    assert second.fingerprint() == first.fingerprint()
    rest = rows_of(4, 3000, others)
    done = fed(first, rest, people=people)
    assert done
    assert fed(second, rest, people=people) == done
    assert second.fingerprint() == first.fingerprint()
    assert pack(second.snapshot())[0] == pack(first.snapshot())[0]
    assert b"".join(pack(second.snapshot())) == b"".join(pack(first.snapshot()))


def test_a_snapshot_does_not_change_with_the_live_state():
    ours = made(rows_of(1, 500, homes(1, 3)), 3)
    state = ours.snapshot()
    before = b"".join(pack(state))
    fed(ours, rows_of(2, 3000, homes(2, 3)))
    assert b"".join(pack(state)) == before


def test_the_fingerprint_sees_rows_that_only_the_sample_has_seen():
    """Two segmenters with equal centres and steps, that will decide differently later."""
    rows = rows_of(1, 200, homes(1, 2))
    one, other = made(rows, 2), made(rows, 2)
    assert one.fingerprint() == other.fingerprint()
    other._take(Sample(rows[:1], *(np.zeros(1, t) for t in (np.int32, np.int32, float, float))))
    assert one.fingerprint() != other.fingerprint()


def test_carried_centres_take_the_sample_along():
    """A publication that shifts everything is no change of anything: nothing is done afterwards."""
    places = homes(2, 6, 4.0)
    ours = made(rows_of(2, 2048, places), 6)
    fed(ours, rows_of(3, 3000, places))
    ours.carry(ours.centres + 7.0)
    assert fed(ours, rows_of(4, 6000, places + 7.0)) == []
    assert serves(ours, places + 7.0)


def test_the_configuration_chooses_mode_and_bounds():
    made = make_segmenter(config.Segmenter(segments=9, segments_min=3), D)
    assert isinstance(made, AdaptiveKMeans)
    assert (made.k, made.fewest, made.used.all()) == (9, 3, True)
    always = make_segmenter(config.Segmenter(), D)
    assert isinstance(always, AdaptiveKMeans)
    assert always.fewest == always.k == config.Segmenter().segments


@pytest.mark.parametrize("k", [1, 2, 7])
def test_few_equal_or_unusable_rows_to_start_from_are_enough(k):
    """One row, the same row many times, only rows that are not finite: centres are finite and learning goes on."""
    for rows in (np.ones((1, D)), np.ones((50, D)), np.full((3, D), np.nan)):
        ours = made(rows, k)
        ours.learn(rows_of(1, 400, homes(1, 2)))
        ours.tend()
        assert np.isfinite(ours.centres).all()
        assert np.isfinite(ours.steps).all()


# --- the sample and when it is looked at ---------------------------------------------------------------------


def sample_of(first, n):
    """n rows that say which ones they are."""
    numbers = np.arange(first, first + n, dtype=np.float64)
    zeros = np.zeros(n, np.int32)
    return Sample(numbers[:, None], zeros, zeros, numbers, numbers)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12), st.integers(1, 400))
def test_the_sample_holds_the_newest_rows_in_order(sizes, rows_max):
    recent, expected = RecentRows(rows_max, 1), []
    for size in sizes:
        size = min(size, rows_max)
        recent.add(sample_of(sum(sizes) * 7 + len(expected), size))
        expected += [sum(sizes) * 7 + len(expected) + i for i in range(size)]
    newest = recent.newest(rows_max)
    assert newest.rows[:, 0].tolist() == expected[-rows_max:]
    assert recent.near(5).tolist() == expected[-5:][-rows_max:]


def test_of_a_long_step_rows_from_all_of_it_are_taken():
    """At most so many, evenly spread, and other ones next time."""
    recent = RecentRows(4096, 1)
    taken = [recent.add(sample_of(0, 8192)) for _ in range(2)]
    for rows in taken:
        assert len(rows) == STEP_ROWS_MAX
        assert np.histogram(rows, 8, (0, 8192))[0].tolist() == [STEP_ROWS_MAX // 8] * 8
    assert (taken[0] != taken[1]).mean() > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1000), st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_the_sample_reaches_back_over_so_many_rows_of_everybody_however_steps_are_cut(people, sizes):
    """Never less, once it is full; and nothing is left out while it holds that many anyway."""
    rows_max = 512
    recent, learned = RecentRows(rows_max, 1), 0
    for size in sizes:
        taken = recent.add(sample_of(learned, size), people=people)
        assert len(set(taken.tolist())) == len(taken)
        learned += size
    reach = max(TURNS * people, rows_max)
    assert recent.learned == learned
    assert recent.seen == learned * rows_max // reach
    full = len(recent) == rows_max
    assert recent.span(rows_max) >= (reach - max(sizes) if full else 0)
    assert recent.span(rows_max) <= min(learned, reach + max(sizes) + reach // rows_max)
    assert [recent.learned - recent.span(i) for i in range(len(recent), 0, -1)] == recent.newest(
        rows_max
    ).rows[:, 0].tolist()


def test_a_snapshot_from_before_rows_were_counted_is_read():
    """Nearly all were taken then: the newest reach back over as many as they are."""
    recent = RecentRows(16, 1)
    recent.add(sample_of(0, 16))
    recent.add(sample_of(16, 7))
    state = {name: value for name, value in recent.snapshot().items() if not name.startswith("learned")}
    again = RecentRows(16, 1)
    again.restore(state)
    assert [again.span(m) for m in range(17)] == [recent.span(m) for m in range(17)] == list(range(17))


def test_a_change_is_looked_at_soon_and_only_with_rows_from_after_it():
    """Calm: four looks a sample, the last at all of it. Alarmed: at the new part, again and again."""
    rows_max = sample_rows(4)
    recent, attention = RecentRows(rows_max, 1), Attention(4, rows_max)
    looks = []
    for at in range(0, 24_576, 128):
        near = np.linspace(0.5, 1.5, 128) * (1.0 if at < 18_432 else 1.3)
        nothing = np.zeros(128, np.int32)
        recent.add(Sample(np.zeros((128, 1)), nothing, nothing, near, near))
        if scope := attention.due(recent, np.inf):
            looks.append((at + 128, scope))
    calm = [scope for at, scope in looks if at <= 18_432]
    assert set(calm) == {rows_max // 4, rows_max}
    assert calm.count(rows_max) == 18_432 // rows_max
    alarmed = [(at, scope) for at, scope in looks if 18_432 < at <= 18_432 + rows_max // 2]
    assert alarmed[0][0] <= 18_432 + 384
    assert len(alarmed) > 6
    assert all(scope <= at - 18_432 + 256 for at, scope in alarmed)


def test_a_second_change_during_an_alarm_is_seen_by_the_rows_since_the_first():
    """Those from before it lie far out, too, and would hide it."""
    rows_max = sample_rows(4)
    recent, attention = RecentRows(rows_max, 1), Attention(4, rows_max)
    found = []
    for at in range(0, 8192, 128):
        factor = 1.0 if at < 4096 else 1.3 if at < 6144 else 1.7
        near = factor * np.linspace(0.5, 1.5, 128)
        nothing = np.zeros(128, np.int32)
        recent.add(Sample(np.zeros((128, 1)), nothing, nothing, near, near))
        attention.due(recent, np.inf)
        found.append(attention.snapshot()["changed"])
    assert {4096 - 128, 4096, 4096 + 128} & set(found)
    assert abs(found[-1] - 6144) <= 512


# --- a mood of the hour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_groups_that_take_turns_keep_their_centres(seed):
    """Eight groups, six centres; some sleep while others are awake. Following the hour would be a swap an hour."""
    places = homes(seed, 8, 3.0)
    day, night = places[:6], places[4:]

    def hours(first, n):
        return np.concatenate(
            [rows_of(seed + i, 600, night if i % 2 else day) for i in range(first, first + n)]
        )

    ours = made(hours(0, 4), 6)
    assert len(fed(ours, hours(4, 40), 256)) <= 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hours_longer_than_the_sample_rearrange_nothing_where_many_people_take_turns(seed):
    """Rows of as many people as come in two hours. If each row were of another one, every hour would be a new world."""
    places = homes(seed, 8, 3.0)
    day, night = places[:6], places[4:]
    hours = [rows_of(seed + i, 5000, night if i % 2 else day) for i in range(24)]
    start = np.concatenate([hour[:600] for hour in hours[:4]])
    ours, hasty = made(start, 6), made(start, 6)
    assert len(fed(ours, np.concatenate(hours), 256, people=10_000)) <= 4
    assert len(fed(hasty, np.concatenate(hours), 256)) > 24


def test_one_group_of_many_people_that_ends_is_noticed_before_everybody_had_a_turn():
    """An alarm is as quick as its rows come; the swap says over how many learned rows it looked back."""
    people, places = 8000, homes(7, 8, 3.0)
    ours = made(rows_of(7, 2048, places), 8)
    assert fed(ours, rows_of(8, 4 * people, places), 256, people) == []
    places[3] = homes(9, 1, 3.0)
    done = fed(ours, rows_of(9, people, places), 256, people)
    assert [i.kind for i in done] == ["swap"]
    assert serves(ours, places)
    thinned = TURNS * people / sample_rows(8)
    assert SCOPE_MIN * thinned <= done[0].rows + 256 <= people


def test_what_stands_out_depends_on_how_much_is_known():
    """The same distance from the mean says nothing with no or one number before, little with two."""
    assert not _stands_out(9.0, np.array([]))
    assert not _stands_out(9.0, np.array([0.0]))
    assert not _stands_out(4.0, np.array([-1.0, 1.0]))
    assert not _stands_out(3.0, np.array([-1.0, 0.0, 1.0]))
    assert _stands_out(3.6, np.array([-1.0, 0.0, 1.0]))
    assert _stands_out(4.0, np.array([-1.0, 1.0] * 3))
    assert not _stands_out(2.0, np.array([-1.0, 1.0] * 3))


# --- what a swap saves -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_a_swap_never_saves_less_than_is_said(seed, k):
    """Against every row's distance to all centres, before and after."""
    rng = np.random.default_rng(seed)
    centres, new = rng.standard_normal((k, D)), rng.standard_normal((2, D))
    rows = rng.standard_normal((40, D))
    gaps = ((rows[:, None] - centres) ** 2).sum(axis=2)
    order = np.argsort(gaps, axis=1).astype(np.int32)
    sorted_gaps = np.sort(gaps, axis=1)
    sample = Sample(rows, order[:, 0], order[:, 1], sorted_gaps[:, 0], sorted_gaps[:, 1])
    said = savings(sample, Proposal(0, 1, new[0], new[1], (1, 1)), np.inf)
    after = ((rows[:, None] - np.concatenate([centres[2:], new])) ** 2).sum(axis=2).min(axis=1)
    true = sorted_gaps[:, 0] - after
    assert (said <= true + 1e-9).all()
    assert k > 2 or said.sum() == pytest.approx(true.sum())


def test_chance_is_not_sure_and_three_deviations_are():
    """Of savings that are noise about one in a thousand passes."""
    rng = np.random.default_rng(1)
    passed = [is_sure(rng.standard_normal(200)) for _ in range(2000)]
    assert np.mean(passed) < 0.004
    assert is_sure(np.ones(10))
    assert not is_sure(np.ones(9))


@pytest.mark.parametrize(("saved", "is_due"), [(0.09, False), (0.11, True)])
def test_a_sure_gain_of_less_than_a_tenth_of_a_mean_centres_inertia_is_not_worth_an_id(saved, is_due):
    """A tenth of all rows' inertia, divided by the number of centres."""
    k, near = 5, np.ones(400)
    label = np.zeros(400, np.int32)
    sample = Sample(np.zeros((400, 1)), label, label, near, near)
    used, stood = np.ones(k, np.bool_), np.zeros(k, np.int64)
    view = _View(sample, sample, sample, np.zeros((k, 1)), used, np.inf, sample, stood, 100)
    assert (_gain(near * saved / k, near, view) is not None) == is_due
