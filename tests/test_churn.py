"""What every segment won and lost between two profiles."""

import numpy as np
import orjson
from decisions import Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.churn import Churn, Turnover
from shoal.stream.events import CATALOG
from shoal.stream.ports import Intervention

CENTRES = [[0.0], [10.0], [20.0]]
LIVES = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 5), st.sampled_from([0.0, 10.0, 20.0]), max_size=6),
        st.sets(st.integers(0, 5), max_size=2),  # who leaves first
        st.sampled_from([None, (0, 1, 2), (1, 2, 0), (2, 0, -1)]),  # what happens to centres before
        st.booleans(),  # whether profiles are told then
    ),
    max_size=12,
)


def intervention(centre, into, out_of):
    return Intervention("swap" if out_of >= 0 else "merge", centre, into, out_of, "dead", 0.1)


@given(LIVES)
@settings(max_examples=150, deadline=None)
def test_sizes_are_what_they_were_plus_entered_less_left(lives):
    """For every segment id that was there at both profiles, whatever happened between; nothing is negative."""
    stage = Stage(CENTRES, users_max=6)
    stage.step()
    sizes = dict.fromkeys(stage.membership.ids.tolist(), 0)
    stage.churn.take(0)
    for points, gone, one, told in lives:
        if one is not None and all(stage.membership.ids[[c for c in one if c >= 0]]):
            rearranged = [intervention(*one)]
            before = stage.membership.counts()
            stage.membership.intervene(rearranged, 1)
            stage.churn.intervene(rearranged, before, stage.membership.counts())
        gone = sorted(gone - set(points))
        present = {s: p for s, p in points.items() if stage.membership.ids[CENTRES.index([p])]}
        stage.step(sorted(present), [[present[s]] for s in sorted(present)], gone=gone)
        if told:
            turned = stage.churn.take(stage.number)
            counts = stage.membership.counts().tolist()
            for centre, segment in enumerate(stage.membership.ids.tolist()):
                was = sizes.get(segment, 0)
                assert min(turned[centre].entered, turned[centre].left) >= 0
                assert counts[centre] == was + turned[centre].entered - turned[centre].left
            sizes = dict(zip(stage.membership.ids.tolist(), counts, strict=True))


def test_the_catalog_tells_it():
    """Two users come to the first segment, one of them goes over to the second: each told once."""
    stage = Stage([[0.0], [10.0]], catalog_every_rows=1)
    first = stage.step([0, 1], [[0.0], [0.0]])
    second = stage.step([0], [[10.0]])
    told = [
        {value["segment_id"]: value["churn"] for value in (orjson.loads(r.value) for r in records)}
        for records in ([r for r in step if r.topic == CATALOG] for step in (first, second))
    ]
    now_ms = stage.clock.now_ms
    assert told[0] == {
        1: {"entered": 2, "left": 0, "since_time": 0},
        2: {"entered": 0, "left": 0, "since_time": 0},
    }
    assert told[1] == {
        1: {"entered": 0, "left": 1, "since_time": now_ms},
        2: {"entered": 1, "left": 0, "since_time": now_ms},
    }


def test_restore_goes_on_counting():
    """What was counted before the snapshot is told after it, and the snapshot does not change meanwhile."""
    one, other = Churn(3), Churn(3)
    one.intervene([intervention(0, 1, 2)], np.array([4, 5, 6]), np.array([0, 9, 6]))
    one.take(7)
    one.intervene([intervention(1, 2, -1)], np.array([4, 5, 6]), np.array([4, 0, 11]))
    state = one.snapshot()
    one.take(9)
    other.restore(state)
    assert other.take(11) == [Turnover(0, 0, 7), Turnover(0, 0, 7), Turnover(5, 0, 7)]
