"""Interventions and what they mean for people: new ids, remapped members, and nothing lost on the way."""

import numpy as np
import orjson
import pytest
from decisions import scored
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import engine, small
from test_output_schemas import body, check

from shoal.sinks.memory import MemorySink
from shoal.stream.config import Membership as Config
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS
from shoal.stream.lineage import Identities
from shoal.stream.membership import Membership
from shoal.stream.ports import Intervention
from shoal.stream.segmenter import KMeans


def swap(centre, into, out_of):
    return Intervention("swap", centre, into, out_of, "test", 0.1)


def merge(centre, into):
    return Intervention("merge", centre, into, -1, "test", 0.1)


def split(centre, out_of):
    return Intervention("split", centre, -1, out_of, "test", 0.1)


# --- ids -------------------------------------------------------------------------------------------------


def test_a_swap_is_a_merge_and_then_a_split():
    """The survivor is named with the remap, before the new id with its parent."""
    book = Identities(3)
    book.begin(np.ones(3, bool), 5)
    merged, begun = book.rearranged([swap(0, 1, 2)], 9)
    assert (merged.kind, merged.segment_id, merged.parents, merged.remap) == ("merge", 2, (2, 1), ((1, 2),))
    assert (begun.kind, begun.segment_id, begun.parents, begun.remap) == ("split", 4, (3,), ())
    assert book.ids.tolist() == [4, 2, 3]
    assert [merged.lineage_id, begun.lineage_id] == [4, 5]


def test_a_centre_that_stands_for_nothing_cannot_be_given_up_or_take_over():
    book = Identities(3)
    book.begin(np.array([True, True, False]), 0)
    for impossible in (merge(2, 0), merge(0, 2)):
        with pytest.raises(AssertionError, match="stands for no segment"):
            book.rearranged([impossible], 1)
    with pytest.raises(AssertionError, match="still stands for segment"):
        book.rearranged([split(0, 1)], 1)


def test_only_centres_in_use_are_born():
    members = Membership(Config(), 4, 3)
    assert [fact.segment_id for fact in members.begin(0, np.array([True, False, True]))] == [1, 2]
    assert members.ids.tolist() == [1, 0, 2]
    assert members.sizes() == {1: 0, 2: 0}


# --- members ---------------------------------------------------------------------------------------------


@st.composite
def histories(draw):
    """Steps of (interventions, placed users): what is in use decides what an intervention may be."""
    k, used, steps = 4, [True, True, True, False], []
    for _ in range(draw(st.integers(1, 12))):
        done = []
        for _ in range(draw(st.integers(0, 2))):
            live = [c for c in range(k) if used[c]]
            if len(live) > 1 and draw(st.booleans()):
                centre, into, *rest = draw(st.permutations(live))
                out_of = rest[0] if rest and draw(st.booleans()) else -1
                done.append(Intervention("swap" if rest else "merge", centre, into, out_of, "test", 0.1))
                used[centre] = out_of >= 0
            elif len(live) < k:
                centre = used.index(False)
                done.append(split(centre, draw(st.sampled_from(live))))
                used[centre] = True
        live = [c for c in range(k) if used[c]]
        users = draw(st.lists(st.integers(0, 7), unique=True, max_size=5))
        steps.append(
            (done, [(user, draw(st.sampled_from(live))) for user in sorted(users)], draw(st.booleans()))
        )
    return steps


def place(members, placed, step):
    """Score users exactly on centres: (slot, centre) pairs; what is not in use is infinitely far."""
    slots = [slot for slot, _ in placed]
    points = np.array([[10.0 * centre] for _, centre in placed]).reshape(-1, 1)
    rows = scored(slots, points, np.array([[0.0], [10.0], [20.0], [30.0]]))
    rows.distances[:, members.ids == 0] = np.inf
    return members.decide(rows, np.full(len(slots), 9, np.int64), step, step)


@given(histories())
@settings(max_examples=200, deadline=None)
def test_folding_the_changes_and_the_lineage_always_gives_the_table(steps):
    """Each change starts where the last one ended; nobody is told twice in a step; ids are never reused; whoever
    has not been told yet is where the remaps since then say."""
    members = Membership(Config(confirmations=1, margin=0.0), 8, 4)
    seen, heirs, told = set(), {}, {}
    facts = list(members.begin(0, np.array([True, True, True, False])))
    for step, (interventions, placed, everybody) in enumerate(steps, start=1):
        facts += members.intervene(interventions, step)
        for fact in facts:
            heirs.update(fact.remap)
            if fact.kind in ("birth", "split"):
                assert fact.segment_id not in seen
                seen.add(fact.segment_id)
        facts = []
        late = set(members.unsettled(8).tolist()) if everybody else set()
        here = dict(placed)
        extra = [(slot, int(members.centre[slot])) for slot in sorted(late - set(here))]
        moves = place(members, [*placed, *extra], step)
        assert len(set(moves.slot.tolist())) == len(moves)
        kinds = moves.transitions()
        columns = moves.slot.tolist(), moves.before.tolist(), moves.after.tolist()
        for slot, before, after, kind in zip(*columns, kinds, strict=True):
            assert told.get(slot, 0) == before
            assert after in seen
            assert (kind == "remapped") is (before != 0 and _heir(heirs, before) == after)
            told[slot] = after
        if everybody:
            assert not len(members.unsettled(8))
        for slot, segment in told.items():
            assert members.segment[slot] == segment
            assert members.ids[members.centre[slot]] == _heir(heirs, segment)
        recount = {segment: list(told.values()).count(segment) for segment in members.sizes()}
        assert members.sizes() == recount
        assert sum(recount.values()) == len(told)


def _heir(heirs, segment):
    while segment in heirs:
        segment = heirs[segment]
    return segment


def test_a_step_tells_only_so_many():
    """`unsettled` names the first slots; the others wait, and are counted under the old id."""
    members = Membership(Config(), 8, 4)
    members.begin(0, np.array([True, True, True, False]))
    place(members, [(slot, 0) for slot in range(6)], 1)
    members.intervene([merge(0, 1)], 2)
    assert members.unsettled(2).tolist() == [0, 1]
    assert members.sizes() == {1: 6, 2: 0, 3: 0}
    moves = place(members, [(0, 1), (1, 1)], 2)
    assert moves.transitions() == ["remapped", "remapped"]
    assert members.sizes() == {1: 4, 2: 2, 3: 0}
    again = Membership(Config(), 8, 4)
    again.restore(members.snapshot())
    assert again.unsettled(8).tolist() == [2, 3, 4, 5]


# --- whole runs ------------------------------------------------------------------------------------------


class Rearranged(KMeans):
    """River's rule with interventions by the calendar: (call of tend, intervention)."""

    def __init__(self, d, plan):
        super().__init__(5, d, 0.02, 1)
        self.plan, self.calls = plan, 0

    def seed(self, z):
        self.used[4] = False
        super().seed(z)

    def score(self, z):
        nearest, distances = super().score(z)
        distances[:, ~self.used] = np.inf
        return distances.argmin(axis=1).astype(np.int32) if len(z) else nearest, distances

    def permute(self, order):
        super().permute(order)
        self.used = self.used[order]

    def tend(self):
        self.calls += 1
        due = tuple(one for call, one in self.plan if call == self.calls)
        for one in due:
            self.used[one.centre] = one.out_of >= 0
            if one.out_of >= 0:
                self.centres[one.centre] = self.centres[one.out_of] + 0.5
            self.version += 1
        return due


PLAN = (
    (3, swap(0, 1, 2)), (5, split(4, 3)), (8, merge(1, 4)), (10, split(1, 2)), (10, swap(4, 3, 0)), (10, swap(1, 0, 2)),
)  # fmt: skip
"""The last one gives up what was begun in the same step."""


def run(plan=PLAN):
    sink = MemorySink()
    running = engine(small("segmenter.segments=5"), sink=sink)
    pipeline = running.pipeline
    pipeline.segmenter = Rearranged(pipeline.publisher.d_out, plan)
    running.run()
    return pipeline, sink.records


def test_a_run_with_interventions_keeps_every_promise():
    """All schemas hold; an id is begun before it is used; the folded changes are the members and the table."""
    pipeline, records = run()
    begun, members, changes = set(), {}, {}
    for record in records:
        value = body(record)
        check(record)
        if record.topic == LINEAGE and value["kind"] in ("birth", "split"):
            begun.add(value["segment_id"])
        elif record.topic == CHANGES:
            assert value["to"] is None or value["to"]["segment_id"] in begun
            assert changes.get(record.key) == (value["from"] or {}).get("segment_id")
            changes[record.key] = (value["to"] or {}).get("segment_id")
        elif record.topic == MEMBERS:
            members[record.key] = None if value is None else value["segment_id"]
    assert members == changes
    live = [segment for segment in changes.values() if segment]
    assert {s: live.count(s) for s in set(live)} == {
        s: n for s, n in pipeline.membership.sizes().items() if n
    }
    told = [orjson.loads(r.value)["transition"] for r in records if r.topic == CHANGES]
    assert told.count("remapped") > 5


def test_the_catalog_ends_with_the_live_segments_only():
    """A segment that was given up has a tombstone; one that was split off has a profile and a name at once."""
    pipeline, records = run()
    catalog = {}
    for record in records:
        if record.topic == CATALOG:
            catalog[int(record.key)] = record.value
    live = {segment for segment, value in catalog.items() if value is not None}
    assert live == set(pipeline.membership.ids[pipeline.membership.ids > 0].tolist())
    assert len(catalog) == 8  # what came and went in one step was never a segment
    names = [orjson.loads(value)["name"] for value in catalog.values() if value is not None]
    assert all(names)
    assert len(set(names)) == len(names)


def test_the_same_run_gives_the_same_bytes():
    assert run()[1] == run()[1]
