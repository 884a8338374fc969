"""Segment profiles: means against a plain recount, tastes that do not shout, names that are unique and stable."""

import numpy as np
import pytest
from decisions import NAMES, events, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.catalog import Catalog
from shoal.stream.config import Membership as Config
from shoal.stream.labels import LABEL_CHARS_MAX, Labels, readable
from shoal.stream.naming import NOTHING_SPECIAL, PHRASES, compose, family, is_share, notable, phrase, quantity
from shoal.stream.ports import Intervention
from shoal.stream.traits import standing

D = len(NAMES)
HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000


def rows_of(*groups):
    """Rows (n, d) and their centres (n,) from (mean row, how many) per centre, with a little noise."""
    rng = np.random.default_rng(1)
    rows = [rng.normal(mean, 0.2, (n, D)).astype(np.float32) for mean, n in groups]
    return np.concatenate(rows), np.repeat(np.arange(len(groups), dtype=np.int32), [n for _, n in groups])


def learned(*groups, labels=None, **config):
    """A catalog that has learned one step of these groups; `labels` are the users' own, one event each."""
    rows, centres = rows_of(*groups)
    catalog = Catalog(Config(**config), len(groups), NAMES)
    learn(catalog, rows, centres, labels)
    return catalog


def learn(catalog, rows, centres, labels=None, touched=None, hour=0):
    """One step in which every user is scored and has one event, at this hour of stream time."""
    n = len(rows)
    slots = np.arange(n, dtype=np.int32)
    told = events([f"u{i}" for i in range(n)], times=np.full(n, 1 + hour * HOUR_MS), labels=labels)
    batch = scored(slots, rows, np.zeros((2, D)), touched)
    catalog.learn(centres, slots, told, batch)


def refresh(catalog):
    k = len(catalog.segment_names)
    return catalog.refresh(np.arange(1, k + 1), np.full(k, 10), NOW_MS, np.full(1000, -1, np.int32))


BUYERS, BROWSERS, PLAIN = [5, 5, 0, 0, 0, 0], [0, 0, 5, 0, 0, 0], [0, 0, 0, 0, 0, 0]


# --- what is learned ---------------------------------------------------------------------------------------


def test_everybody_weighs_the_same_however_often_it_is_seen():
    """A bot in every step of a day, among users who are seen twice: the average is theirs."""
    catalog = Catalog(Config(), 2, NAMES)
    users, bot = np.zeros((20, D), np.float32), np.full((1, D), 1000, np.float32)
    everybody, centres = np.concatenate([bot, users]), np.array([1] + [0] * 20, np.int32)
    learn(catalog, everybody, centres)
    for hour in range(1, 24):
        learn(catalog, bot, centres[:1], hour=hour)
    learn(catalog, everybody, centres, hour=24)
    assert catalog.raw.population_mean[0] == pytest.approx(1000 / 21, rel=0.1)
    assert catalog.raw.known()[:, 0].tolist() == pytest.approx([0, 1000])


def test_silent_users_are_part_of_what_a_segment_is():
    """Their rows are learned like any other; only rows of touched users bring the next refresh nearer."""
    rows, centres = rows_of((BUYERS, 4), (PLAIN, 4))
    catalog = Catalog(Config(catalog_every_rows=3), 2, NAMES)
    learn(catalog, rows, centres, touched=2)
    assert [p.rows for p in refresh(catalog)] == [4, 4]
    assert not catalog.due
    learn(catalog, rows, centres, touched=3)
    assert catalog.due


def test_users_in_no_segment_teach_nothing():
    catalog = Catalog(Config(), 2, NAMES)
    learn(catalog, np.ones((3, D), np.float32), np.full(3, -1, np.int32), labels=["toys"] * 3)
    assert catalog.raw.population_weight == 0
    assert not catalog.due


def test_it_is_due_after_so_many_learned_rows():
    """Rows count, not steps; a refresh starts the count over."""
    rows, centres = rows_of((BUYERS, 3), (PLAIN, 3))
    catalog = Catalog(Config(catalog_every_rows=12), 2, NAMES)
    learn(catalog, rows, centres)
    assert not catalog.due
    learn(catalog, rows, centres)
    assert catalog.due
    refresh(catalog)
    assert not catalog.due


def test_it_is_due_after_a_day_however_little_was_learned():
    catalog = learned((BUYERS, 3), (PLAIN, 3))
    refresh(catalog)
    sizes = np.full(2, 10)
    catalog.watch(np.array([1, 2]), sizes, NOW_MS + 24 * HOUR_MS - 1)
    assert not catalog.due
    catalog.watch(np.array([1, 2]), sizes, NOW_MS + 24 * HOUR_MS)
    assert catalog.due
    other = Catalog(Config(), 2, NAMES)
    other.restore(catalog.snapshot())
    assert other.due
    catalog.refresh(np.array([1, 2]), sizes, NOW_MS + 24 * HOUR_MS, np.full(10, -1, np.int32))
    assert not catalog.due


# --- profiles and names ------------------------------------------------------------------------------------


def test_a_profile_says_what_sets_a_segment_apart():
    """The strongest horizon of each quantity, in the feature's own unit; interest columns stay out."""
    catalog = learned((BUYERS, 50), ([0, 0, 5, 0, 9, 9], 50))
    buyers, browsers = refresh(catalog)
    assert {t.feature.rpartition("_")[0] for t in buyers.traits} == {"purchase_count", "view_count"}
    top = {t.feature.split("_")[0]: t for t in buyers.traits}
    assert top["purchase"].z == pytest.approx(1.0, abs=0.05)
    assert top["purchase"].segment_mean == pytest.approx(5.0, abs=0.1)
    assert top["purchase"].population_mean == pytest.approx(2.5, abs=0.1)
    assert top["view"].z < -0.9
    assert browsers.name == "keen browsers, rare buyers"
    assert (buyers.size, buyers.share, buyers.rows, buyers.segment_id) == (10, 0.5, 50, 1)


def test_near_constant_features_say_nothing():
    """A feature that is the same for everybody up to rounding never explains a segment."""
    rows, centres = rows_of((BUYERS, 20), (PLAIN, 20))
    rows[:, 3] = 0.3
    rows[0, 3] = 0.3000001
    catalog = Catalog(Config(), 2, NAMES)
    learn(catalog, rows, centres)
    for profile in refresh(catalog):
        assert "evening_share" not in {t.feature for t in profile.traits}


def test_a_label_that_a_segment_takes_to_becomes_part_of_its_name():
    labels = ["toys"] * 50 + ["books"] * 50 + ["food"] * 50
    catalog = learned((BUYERS, 50), (BROWSERS, 50), (PLAIN, 50), labels=labels)
    names = [p.name for p in refresh(catalog)]
    assert names[0] == "frequent buyers of toys"
    assert names[1] == "keen browsers of books"


def test_a_segment_like_everybody_is_called_average():
    catalog = learned((PLAIN, 50))
    (profile,) = refresh(catalog)
    assert profile.name == NOTHING_SPECIAL
    assert profile.traits == ()
    assert profile.share == 1.0


def test_names_stay_while_what_they_say_holds():
    """A drift that leaves the reason in place renames nothing; one that takes it away does."""
    catalog = learned((BUYERS, 50), (BROWSERS, 50))
    first = [p.name for p in refresh(catalog)]
    rows, centres = rows_of(([3, 3, 0, 2, 0, 0], 50), (BROWSERS, 50))
    learn(catalog, rows, centres, hour=1)
    assert [p.name for p in refresh(catalog)] == first
    for hour in range(2, 240, 24):
        learn(catalog, *rows_of(([0, 0, 0, 5, 0, 0], 50), (BROWSERS, 50)), hour=hour)
    assert refresh(catalog)[0].name != first[0]


def test_a_name_needs_a_difference_that_the_plain_numbers_show():
    """8 % of the nights against 6 % is no habit, however far apart the deviations are."""
    catalog = learned(([3, 3, 0, 0.14, 0, 0], 50), ([3, 3, 0, 0.06, 0, 0], 50))
    catalog.scaled.population_variance[3] = 0.0004
    assert next(p.name for p in refresh(catalog)) == NOTHING_SPECIAL
    assert all(t.feature != "evening_share" for p in refresh(catalog) for t in p.traits)
    far = learned(([3, 3, 0, 0.5, 0, 0], 50), ([3, 3, 0, 0.1, 0, 0], 50))
    assert "evenings" in refresh(far)[0].name


def test_a_taste_that_shows_only_later_still_gets_into_the_name():
    """At the start no labels are counted yet; a name is given anew once for a strong one, and then stays."""
    catalog = learned(*[(BUYERS, 50)], *[(PLAIN, 50)] * 5)
    assert "toys" not in refresh(catalog)[0].name
    rows, centres = rows_of((BUYERS, 50), *[(PLAIN, 50)] * 5)
    words = ["toys"] * 50 + ["books"] * 250
    for hour in range(1, 3):
        learn(catalog, rows, centres, words, hour=hour)
    assert refresh(catalog)[0].name == "frequent buyers of toys"
    learn(catalog, rows, centres, words, hour=4)
    assert refresh(catalog)[0].name == "frequent buyers of toys"


def test_what_is_notable_is_a_third_more_or_ten_points():
    names = ["views_7d", "views_7d", "night_share", "night_share"]
    shares = np.array([is_share(name) for name in names])
    found = notable(shares, np.array([4, 3.5, 0.22, 0.08]), np.array([3, 3, 0.11, 0.06]))
    assert found.tolist() == [True, False, True, False]
    assert notable(shares[2:3], np.array([0.17]), np.array([0.11]), strictness=0.5).all()
    assert notable(shares[:2], np.array([0.0, 0.0]), np.array([10.0, 0.0])).tolist() == [True, False]


def test_a_name_says_first_what_other_segments_have_not_got():
    """Two segments that both buy much: the one that also browses is called after its browsing."""
    both = [6, 6, 5, 0, 0, 0]
    catalog = learned((both, 50), ([6.2, 6.2, 0, 0, 0, 0], 50), (PLAIN, 50), (PLAIN, 50))
    names = [p.name for p in refresh(catalog)]
    assert names[0].startswith("keen browsers")
    assert names[1].startswith("frequent buyers")


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=2), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_standing_equals_the_plain_calculation(z):
    """|z|, times its share of the sum with the strongest rival on the same side."""
    got = standing(np.array(z))
    for c, row in enumerate(z):
        for j, own in enumerate(row):
            rivals = [other[j] for i, other in enumerate(z) if i != c and other[j] * own > 0]
            rival = max(map(abs, rivals), default=0.0)
            wanted = abs(own) * abs(own) / (abs(own) + rival) if own else 0.0
            assert got[c, j] == pytest.approx(wanted, abs=1e-300)


def test_it_takes_less_to_keep_a_name_than_to_get_it():
    """A difference that shrinks below what earns a word renames nothing until it is half of that."""
    catalog = learned((BUYERS, 50), (BROWSERS, 50))
    first = [p.name for p in refresh(catalog)]
    spread = catalog.scaled.population_variance.copy()
    catalog.scaled.population_variance = spread * 25  # z = 0.2, where 0.3 earns a word
    assert [p.name for p in refresh(catalog)] == first
    assert refresh(catalog)[0].traits == ()
    catalog.scaled.population_variance = spread * 100  # z = 0.1
    assert refresh(catalog)[0].name == NOTHING_SPECIAL


@given(
    st.lists(st.lists(st.sampled_from([-3.0, 0.0, 3.0]), min_size=D, max_size=D), min_size=1, max_size=9),
    st.lists(st.sampled_from(["", "toys", "books", "x\x00y"]), min_size=9, max_size=9),
)
@settings(max_examples=60, deadline=None)
def test_names_are_unique_printable_and_never_empty(means, labels):
    """Segments that look alike, even exactly, still get names of their own."""
    catalog = learned(
        *((mean, 4) for mean in means), labels=[label for label in labels[: len(means)] for _ in range(4)]
    )
    for _ in range(2):
        names = [p.name for p in refresh(catalog)]
        assert len(set(names)) == len(names)
        assert all(name and name.isprintable() for name in names)


def test_every_phrase_belongs_to_one_family():
    """What a feature is called follows from its first word that is known."""
    for key, (more, less) in PHRASES.items():
        assert family(f"{key}_count_7d") == key
        assert (phrase(f"{key}_7d", 1.0), phrase(f"{key}_7d", -1.0)) == (more, less)
    assert phrase("shoe_size", 2.0) == "high shoe"
    assert quantity("cart_add_count_30d") == "cart_add_count"


def test_a_taken_name_grows_by_the_next_trait_and_then_by_the_id():
    phrases = ["frequent buyers", "evenings", "old hands"]
    assert compose(phrases, "", 7, set())[0] == "frequent buyers, evenings"
    taken = {"frequent buyers, evenings"}
    assert compose(phrases, "", 7, taken)[0] == "frequent buyers, evenings, old hands"
    taken.add("frequent buyers, evenings, old hands")
    assert compose(phrases, "", 7, taken)[0] == "frequent buyers, evenings (7)"


# --- tastes ------------------------------------------------------------------------------------------------


def count(labels, words, slots=None, centres=None, rows=0):
    n = len(words)
    slots = np.arange(n, dtype=np.int32) if slots is None else np.array(slots, np.int32)
    centres = np.zeros(n, np.int32) if centres is None else np.array(centres, np.int32)
    labels.learn(words, slots, centres, rows)


def test_lift_compares_with_everybody_and_shrinks_thin_counts():
    """(own + 10) / (expected + 10): a few users cannot make a label look like a passion."""
    labels = Labels(2, 1000)
    words = ["toys"] * 90 + ["books"] * 10 + ["books"] * 100 + ["rare"] * 3
    count(labels, words, centres=[0] * 100 + [1] * 100 + [0] * 3)
    taste, rare = labels.tastes(0, 5)
    expected = 90 * 103 / 203
    assert taste.label == "toys"
    assert taste.lift == pytest.approx((90 + 10) / (expected + 10))
    assert taste.share == pytest.approx(90 / 103)
    assert rare.lift < 1.2 < 203 / 103  # unshrunk it would be as strong as the toys
    assert [t.label for t in labels.tastes(1, 5)] == ["books"]


def test_a_bot_with_a_thousand_events_counts_once():
    labels = Labels(2, 1000)
    count(labels, ["spam"] * 1000 + ["toys"] * 20, slots=[0] * 1000 + list(range(1, 21)))
    assert labels.snapshot()["counts"][:, 0].tolist() == [1.0, 20.0]


def test_impressions_refunds_and_logins_are_no_taste():
    """What was merely shown, taken back or unlabelled says nothing about what a user turns to."""
    told = events(
        ["a", "b", "c", "d"], labels=["x", "y", "z", ""], kinds=["impression", "login", "purchase", "view"]
    )
    told.sign[2] = -1
    catalog = Catalog(Config(), 2, NAMES)
    slots = np.arange(4, dtype=np.int32)
    catalog.learn(np.zeros(4, np.int32), slots, told, scored(slots, np.zeros((4, D)), np.zeros((2, D))))
    assert catalog.labels.snapshot()["labels"] == []


def test_counts_halve_over_the_half_life():
    labels = Labels(1, 100)
    count(labels, ["toys"] * 8)
    count(labels, [], rows=100)
    assert labels.snapshot()["counts"].tolist() == [[4.0]]


def test_at_the_limit_the_weakest_label_makes_room():
    """Only for a newcomer that came to more users than the weakest still counts for; in first-seen order."""
    labels = Labels(1, 1000, labels_max=2)
    count(labels, ["a", "a", "a", "b"])
    count(labels, ["c"], slots=[9])
    assert labels.snapshot()["labels"] == ["a", "b"]
    count(labels, ["c", "c", "d", "d"])
    state = labels.snapshot()
    assert state["labels"] == ["a", "c"]
    assert state["counts"].tolist() == [[3.0], [2.0]]


def test_labels_from_outside_are_cut_and_made_readable():
    labels = Labels(1, 1000)
    count(labels, ["x" * 1000])
    assert labels.snapshot()["labels"] == ["x" * LABEL_CHARS_MAX]
    assert readable("to\x00y\u202es ") == "toys"
    assert readable("\x07") == "?"


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_label_table_never_outgrows_its_limit(steps):
    """And index, labels and counts keep speaking of the same rows."""
    labels = Labels(2, 50, labels_max=3)
    for words in steps:
        count(labels, words, centres=[i % 2 for i in range(len(words))], rows=10)
        state = labels.snapshot()
        assert len(state["labels"]) == len(set(state["labels"])) <= 3
        other = Labels(2, 50, labels_max=3)
        other.restore(state)
        assert other.tastes(0, 5) == labels.tastes(0, 5)


def test_what_is_known_of_a_segment_that_was_given_up_belongs_to_its_heir():
    """Means, tastes and past sizes; its name is remembered, its exemplars are not the heir's."""
    catalog = learned((BUYERS, 50), (PLAIN, 50), labels=["toys"] * 50 + ["books"] * 50)
    where = np.full(1000, 0, np.int32)
    before = catalog.refresh(np.array([1, 2]), np.array([100, 60]), NOW_MS, where)
    assert before[0].exemplars
    merged = Intervention("merge", 0, 1, -1, "test", 0.1)
    catalog.intervene([merged], np.array([0, 2]))
    (heir,) = catalog.refresh(np.array([0, 2]), np.array([0, 160]), NOW_MS + 24 * HOUR_MS, where)
    assert (heir.vital.ratio, heir.vital.trend) == (1.0, "stable")
    assert catalog.raw.of(1)[0] == pytest.approx(2.5, abs=0.2)
    assert catalog.names()[1] == before[0].name
    assert catalog.profile(0, where).exemplars == ()


# --- state -------------------------------------------------------------------------------------------------


def test_restore_continues_as_if_nothing_had_happened():
    """The same profiles and names after restore(snapshot()); the snapshot does not change meanwhile."""
    one = learned((BUYERS, 30), (BROWSERS, 30), labels=["toys"] * 30 + ["books"] * 30, catalog_every_rows=100)
    refresh(one)
    learn(one, *rows_of((BUYERS, 25), (BROWSERS, 25)), hour=3)
    state = one.snapshot()
    rows, centres = rows_of(([1, 2, 3, 0, 0, 0], 30), (PLAIN, 30))
    other = learned((PLAIN, 3), (PLAIN, 3), labels=["other"] * 6, catalog_every_rows=100)
    learn(one, rows, centres, labels=["food"] * 60, hour=9)
    other.restore(state)
    learn(other, rows, centres, labels=["food"] * 60, hour=9)
    assert (one.due, other.due) == (True, True)
    assert refresh(one) == refresh(other)
    assert [p.name for p in refresh(one)] == one.segment_names
