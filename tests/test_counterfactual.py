"""What would have been enough: all columns that depend on an event change with it, and the decision flips."""

import doctest

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import T0, Touch, columns
from made import config as made_config
from shop import engine, small

from shoal.sinks.memory import MemorySink
from shoal.stream import counterfactual
from shoal.stream.behaviour import Behaviour, Edits
from shoal.stream.config import Horizon
from shoal.stream.counterfactual import Edit, text
from shoal.stream.events import CHANGES, CHANNELS
from shoal.stream.features import Features
from shoal.stream.users import Users

NESTED = tuple(
    Horizon(name=n, window_ms=1000 * s, tiles=6) for n, s in (("12s", 12), ("1m", 60), ("1h", 3600))
)
KINDS = ("view", "click", "purchase", "search", "dwell")
AGES_S = (1, 30, 600)  # one in each band


def config():
    return made_config(horizons=NESTED)


def row_of(touches):
    """One user's raw row as of T0, by the real windows."""
    features, users = Features(config()), Users(config())
    told = columns(sorted(touches, key=lambda touch: touch.time_ms))
    slots = users.touch(told)
    features.update(slots, told)
    return features, features.rows(np.unique(slots), users, T0)


def touch(kind, age_s, amount=1.0):
    money = {"value": 10.0 * amount, "quantity": 2.0} if kind == "purchase" else {}
    dwell = {"dwell_ms": 3000} if kind in ("view", "dwell") else {}
    return Touch("u", T0 - 1000 * age_s, kind, **money, **dwell)


behaviour = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(AGES_S)), min_size=3, max_size=12)


@given(behaviour, st.data())
@settings(max_examples=80, deadline=None)
def test_an_edited_row_is_the_row_of_the_edited_events(done, data):
    """An oracle: take one event out of the stream; the windows say of every activity column what the edit said."""
    features, raw = row_of([touch("login", 0), *(touch(*one) for one in done)])
    edited = Behaviour(config(), features.names)
    kind, age_s = data.draw(st.sampled_from(done))
    band = AGES_S.index(age_s)
    room = edited.removable(raw)[0, CHANNELS.index(kind), band]
    assert room <= sum(one == (kind, age_s) for one in done)
    if not room:
        return
    rest = list(done)
    rest.remove((kind, age_s))
    _, wanted = row_of([touch("login", 0), *(touch(*one) for one in rest)])
    one = Edits(*(np.array([v]) for v in (0, CHANNELS.index(kind), band, -1, False)))
    got = edited.edited(raw, edited.amounts(raw, raw.astype(np.float64)), one)
    same = [
        j
        for j, name in enumerate(features.names)
        if not name.startswith(("distinct", "interest", "dwell_ms"))
    ]
    same = [j for j in same if not features.names[j].endswith("share") and features.names[j] != "tenure_ms"]
    np.testing.assert_allclose(got[0, same], wanted[0, same], rtol=1e-5)


@given(behaviour, st.sampled_from(["view", "search"]), st.integers(0, 2), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_more_events_are_in_every_horizon_that_reaches_so_far(done, kind, band, n):
    """Counts and all events grow from the band's horizon on, and nothing in the shorter ones."""
    features, raw = row_of([touch(*one) for one in done])
    edited = Behaviour(config(), features.names)
    one = Edits(*(np.array([v]) for v in (0, CHANNELS.index(kind), band, n, False)))
    got = edited.edited(raw, edited.amounts(raw, raw.astype(np.float64)), one)
    grown = (got - raw)[0]
    for g in range(3):
        wanted = n if g >= band else 0
        assert grown[edited.count[CHANNELS.index(kind), g]] == wanted
        assert grown[edited.all[g]] == wanted
        assert grown[features.names.index(f"money_{config().horizons[g].name}")] == 0


@pytest.fixture(scope="module")
def told():
    """Every change of a small shop, with its explanation."""
    sink = MemorySink()
    engine(small("membership.counterfactuals_max=1000"), sink=sink).run()
    return [orjson.loads(r.value) for r in sink.records if r.topic == CHANGES]


def test_some_changes_say_what_would_have_been_enough(told):
    """The sentence, the counts from and to, and where the user would be: not where it went."""
    found = [c for c in told if c["explanation"] and c["explanation"]["counterfactual"]]
    assert len(found) > 5
    for change in found:
        one = change["explanation"]["counterfactual"]
        wanted = change["from"]["segment_id"] if change["from"] else None
        assert wanted is None or one["outcome_segment_id"] == wanted
        assert one["outcome_segment_id"] != change["to"]["segment_id"]
        assert 1 <= len(one["edits"]) <= 2
        for edit in one["edits"]:
            assert edit["to"] != edit["from"]
            assert edit["what"] in one["text"]
            assert abs(edit["to"] - edit["from"]) <= max(counterfactual.LEVELS)


def test_a_step_gives_no_more_than_it_may():
    """With 0 nothing is asked, and nothing else changes: the other fields are the same bytes."""
    sinks = []
    for most in (0, 1000):
        sink = MemorySink()
        engine(small(f"membership.counterfactuals_max={most}"), sink=sink).run()
        sinks.append([orjson.loads(r.value) for r in sink.records if r.topic == CHANGES])
    without, with_all = sinks
    assert all(c["explanation"]["counterfactual"] is None for c in without if c["explanation"])
    for one, other in zip(without, with_all, strict=True):
        for change in (one, other):
            change["model"].pop("config")
            if change["explanation"]:
                change["explanation"].pop("counterfactual")
        assert one == other


def test_the_sentence_says_who_would_have_been_where():
    edits = [Edit(CHANNELS.index("purchase"), 1, -1, 3.0), Edit(CHANNELS.index("view"), 0, 2, 0.0, "Games")]
    assert text(edits, ["1d", "7d"], True, "gamers") == (
        "1 purchase fewer in the last 7 days, before the last day and 2 views of Games more in the last day: "
        "they would have stayed in gamers"
    )
    assert doctest.testmod(counterfactual).failed == 0
