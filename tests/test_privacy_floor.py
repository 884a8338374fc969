"""The privacy floor: nobody who reads along ever counts a small segment."""

from __future__ import annotations

import doctest
from collections import Counter

import numpy as np
import pytest
from histories import SETTINGS, History, Reader
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import engine, events, small
from test_output_schemas import check

from shoal.sinks.memory import MemorySink
from shoal.stream import epochs
from shoal.stream.config import Privacy
from shoal.stream.events import CHANGES, Output
from shoal.stream.privacy import nearest
from shoal.stream.privacy.floor import Floor
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.sources import MemorySource

SEEDS = st.integers(0, 2**32 - 1)


def history(seed: int, floor: int, *overrides: str, restarts: bool = False) -> History:
    config = small(*SETTINGS, f"privacy.floor_members={floor}", *overrides)
    return History(config, seed, restarts)


# --- whole histories ----------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(2, 50))
def test_no_reader_ever_counts_a_small_segment(seed, floor):
    """At every step boundary: among the members, in the catalog; and both agree with the engine's own table."""
    made, reader = history(seed, floor), Reader()
    for output in made.steps(22):
        reader.read(output)
        sizes = reader.sizes()
        assert not [n for n in sizes.values() if n < floor], (output.step, sizes)
        assert not [p["size"] for p in reader.profiles().values() if p["size"] < floor]
        members = made.pipeline.membership
        assert set(reader.profiles()) == set(members.public.tolist()) - {0}, "the catalog names no folded id"
        assert {s: n for s, n in members.sizes().items() if n} == sizes or members.unsettled(1).any()
        told = members.segment[members.segment != 0]
        assert sizes == dict(Counter(told.tolist())) == members._told


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.integers(2, 50))
def test_starting_again_changes_no_byte(seed, floor):
    """Which segment stands for which is state."""
    plain, again = (history(seed, floor, restarts=restarts) for restarts in (False, True))
    for one, other in zip(plain.steps(14), again.steps(14), strict=True):
        assert one.records == other.records
        assert one.manifest == other.manifest


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_without_a_floor_small_segments_are_seen(seed):
    """Or the test above would prove nothing."""
    made, reader = history(seed, 0), Reader()
    assert made.pipeline.membership.floor is None
    smallest = 10**6
    for output in made.steps(22):
        reader.read(output)
        smallest = min([smallest, *reader.sizes().values()])
    assert smallest < 5


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.integers(2, 30))
def test_lineage_says_who_stands_for_whom_before_the_changes_do(seed, floor):
    """Whoever is told another segment without having moved is told one that a fact of this step, or of one
    before, names; no fact gives a published segment to one that is not published; hidden names stay hidden."""
    made, reader = history(seed, floor), Reader()
    published: set[int] = set()
    for output in made.steps(22):
        known = len(reader.lineage)
        reader.read(output)
        public = set(made.pipeline.membership.public.tolist()) - {0}
        for fact in reader.lineage[known:]:
            for pair in fact["remap"]:
                assert pair["to"] in public
                assert pair["from"] in published
            if fact["segment_id"] not in public | published:
                assert fact["name"] == f"segment {fact['segment_id']}"
        unfolded = {fact["segment_id"] for fact in reader.lineage[known:] if fact["kind"] == "unfold"}
        born = {f["segment_id"] for f in reader.lineage[known:] if f["kind"] in ("birth", "split")}
        assert public - published <= unfolded | born
        published = public


def test_histories_fold_unfold_and_withdraw():
    """The random histories do try all of it: a test that meets nothing proves nothing."""
    met: Counter[str] = Counter()
    for seed in range(12):
        made, reader = history(seed, 12), Reader()
        for output in made.steps(22):
            reader.read(output)
            met.update(f"change {kind}" for kind, n in output.gauges["changes"].items() for _ in range(n))
            met["nobody"] += bool(made.pipeline.membership.ids.any()) and not reader.members
            met["left"] += sum(
                b'"left"' in r.value and b'"lineage"' in r.value for r in output.records if r.topic == CHANGES
            )
            met["summoned"] += made.pipeline.membership.unsettled(1).size
        met.update(fact["kind"] for fact in reader.lineage)
    assert all(met[kind] > 5 for kind in ("fold", "unfold", "merge", "split", "nobody", "left")), met


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.integers(2, 30))
def test_every_record_fits_its_schema(seed, floor):
    """Folds and withdrawals too."""
    for output in history(seed, floor).steps(16):
        for record in output.records:
            check(record)


class Watched(MemorySink):
    """A topic whose reader looks at every commit."""

    def __init__(self, floor: int) -> None:
        super().__init__()
        self.floor, self.reader, self.sizes = floor, Reader(), []

    def commit(self, output: Output) -> None:
        super().commit(output)
        self.reader.read(output)
        sizes = self.reader.sizes()
        assert not [n for n in sizes.values() if n < self.floor], (output.step, sizes)
        assert not [p["size"] for p in self.reader.profiles().values() if p["size"] < self.floor]
        self.sizes.append(len(sizes))


def test_an_engine_with_snapshots_restarts_and_a_new_epoch_shows_no_small_segment(tmp_path, monkeypatch):
    """The small shop, found again by a cold process, and ended in parts."""
    monkeypatch.setattr(epochs, "FAREWELLS_MAX", 10)
    config = small("privacy.floor_members=10", "segmenter.segments=8", "segmenter.segments_min=2")
    sink, store = Watched(10), DirectoryStore(tmp_path, 3)
    for count, fresh in ((1500, None), (2500, None), (2500, 2), (4000, 2)):
        running = engine(config, MemorySource([events()[:count]]), sink, store, fresh=fresh)
        if count < 4000:
            running._close = lambda: None  # type: ignore[method-assign]
        running.run()
    assert max(sink.sizes) >= 2
    assert sum(m.opening for m in sink.manifests()) > 2
    assert {f["kind"] for f in sink.reader.lineage} >= {"birth", "unfold"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=80), st.integers(0, 12), st.integers(1, 30))
def test_farewells_in_parts_leave_no_small_rest(segments, floor, most):
    """An epoch ends in several steps: between them, too, nobody counts a thin segment; nobody is left out."""
    sizes = Counter(segments)
    members = [{"segment_id": s, "key": i} for i, s in enumerate(segments) if sizes[s] >= floor]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(epochs, "FAREWELLS_MAX", most)
        left, told = Counter(member["segment_id"] for member in members), []
        for part in epochs._parts(members, floor):
            assert part
            told += [member["key"] for member in part]
            left.subtract(member["segment_id"] for member in part)
            assert not [n for n in left.values() if 0 < n < floor]
    assert sorted(told) == [member["key"] for member in members]
    assert floor or told == sorted(told)


# --- the rule itself ----------------------------------------------------------------------------------------


def test_the_examples_are_true():
    assert doctest.testmod(nearest, extraglobs={"np": np}).failed == 0


def line(k: int):
    """Centres on a line, one unit apart."""
    return np.arange(k, dtype=np.float64)[:, None]


def folding(ids):
    return lambda sizes, floor: nearest.fold(line(len(ids)), ids, sizes, floor)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(1, 30), st.integers(0, 3000))
def test_folded_groups_reach_the_floor_and_are_published_as_their_largest_member(seed, n, least):
    rng = np.random.default_rng(seed)
    ids = np.zeros(n + 4, np.int64)
    ids[rng.permutation(n + 4)[:n]] = 1 + rng.permutation(3 * n)[:n]
    sizes, centres = rng.integers(0, 1000, n + 4), rng.normal(0, 1, (n + 4, 3))
    folded = nearest.fold(centres, ids, sizes, least)
    live = np.flatnonzero(ids)
    assert (folded[ids == 0] == -1).all()
    if sizes[live].sum() < least:
        assert (folded == -1).all()
        return
    large = live[sizes[live] >= least]
    assert (folded[large] == large).all(), "who reaches the floor stands for itself"
    for head in np.unique(folded[live]).tolist():
        group = live[folded[live] == head]
        assert sizes[group].sum() >= least
        assert head in group
        assert sizes[head] == sizes[group].max()


def test_a_small_segment_folds_into_the_group_that_is_like_it_and_small_ones_into_each_other():
    ids, sizes = np.arange(1, 7), np.array([90, 6, 7, 8, 80, 3])
    centres = np.array([[0.0], [50], [51], [52], [100], [99]])
    assert nearest.fold(centres, ids, sizes, 20).tolist() == [0, 3, 3, 3, 4, 4]
    assert nearest.fold(centres, ids, sizes, 50).tolist() in ([0, 0, 0, 0, 4, 4], [0, 4, 4, 4, 4, 4])
    assert nearest.fold(centres, ids, sizes, 195).tolist() == [-1] * 6
    assert nearest.fold(centres, ids, sizes, 0).tolist() == [0, 1, 2, 3, 4, 5]


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(1, 20), st.integers(1, 60))
def test_every_group_is_large_enough_and_stands_as_long_as_it_is(seed, k, least):
    rng = np.random.default_rng(seed)
    floor, next_id = Floor(Privacy(floor_members=least), k), k + 1
    ids = np.where(rng.random(k) < 0.8, np.arange(1, k + 1), 0)
    counts = rng.integers(0, 2 * least, k) * (ids > 0)
    for _ in range(12):
        before, own = floor.public.copy(), floor.own() & (floor.public > 0)
        refolded = floor.settle(ids, counts, folding(ids))
        grouped = floor.grouped(counts)
        assert (floor.public == 0).all() or (floor.public[ids > 0] > 0).all()
        assert not floor.public[ids == 0].any()
        assert (grouped[floor.own() & (floor.public > 0)] >= least).all()
        if not floor.public.any():
            assert counts.sum() < floor.release
        for folded, into in refolded.folded:
            assert folded in before[own]
            assert into == 0 or into in floor.public
        for new, out_of in refolded.unfolded:
            if out_of and out_of in floor.public:
                assert grouped[ids == new] >= floor.release
        again = floor.settle(ids, counts, folding(ids))
        assert not again, "nothing changed, so nothing is refolded"
        state = floor.snapshot()
        other = Floor(Privacy(floor_members=least), k)
        other.restore(state)
        assert other.fingerprint() == floor.fingerprint()
        counts = np.maximum(0, counts + rng.integers(-least, least + 1, k)) * (ids > 0)
        for centre in np.flatnonzero(rng.random(k) < 0.15):
            ids[centre] = next_id if rng.random() < 0.6 else 0
            counts[centre] = 0 if ids[centre] == 0 else counts[centre]
            next_id += 1
        ids = ids.copy()


def test_a_segment_comes_back_only_well_above_the_floor():
    """So that one user more or less does not publish and withdraw it again and again."""
    ids = np.array([1, 2])
    floor = Floor(Privacy(floor_members=20, floor_release=0.25), 2)
    floor.settle(ids, np.array([100, 20]), folding(ids))
    assert floor.public.tolist() == [1, 2]
    assert floor.settle(ids, np.array([100, 19]), folding(ids)).folded == ((2, 1),)
    for size in (20, 24, 19, 24):
        assert not floor.settle(ids, np.array([100, size]), folding(ids))
    assert floor.settle(ids, np.array([100, 25]), folding(ids)).unfolded == ((2, 1),)
    assert not floor.settle(ids, np.array([100, 20]), folding(ids))


def test_who_has_grown_stands_for_those_who_are_still_small():
    """A group's first segment has withered, another one of it has grown: the large one gives its name."""
    ids = np.array([1, 2])
    floor = Floor(Privacy(floor_members=20), 2)
    floor.settle(ids, np.array([30, 5]), folding(ids))
    assert floor.public.tolist() == [1, 1]
    refolded = floor.settle(ids, np.array([5, 30]), folding(ids))
    assert (refolded.folded, refolded.unfolded) == (((1, 2),), ((2, 1),))
    assert floor.public.tolist() == [2, 2]


def test_a_group_with_room_for_two_becomes_two():
    """No segment of it is large, but those near each other are, together; the one that stood for all goes on."""
    ids = np.array([1, 2, 3, 4])
    floor = Floor(Privacy(floor_members=20), 4)
    floor.settle(ids, np.array([9, 8, 4, 4]), folding(ids))
    assert floor.public.tolist() == [1, 1, 1, 1]
    assert floor.settle(ids, np.array([14, 11, 12, 15]), folding(ids)).unfolded == ((4, 1),)
    assert floor.public.tolist() == [1, 1, 4, 4]
    assert not floor.settle(ids, np.array([13, 9, 10, 12]), folding(ids))


def test_a_group_of_small_segments_shows_its_size_and_nothing_else():
    """Its profile would be that of the few who gave it its id."""
    ids = np.array([1, 2])
    floor = Floor(Privacy(floor_members=20), 2)
    floor.settle(ids, np.array([15, 12]), folding(ids))
    assert floor.public.tolist() == [1, 1]
    assert floor.mute().tolist() == [True, False]
    floor.settle(ids, np.array([24, 12]), folding(ids))
    assert floor.mute().tolist() == [True, False], "not below the release"
    floor.settle(ids, np.array([25, 12]), folding(ids))
    assert not floor.mute().any()


def test_all_together_too_few_are_not_published_and_come_back_above_the_release():
    ids = np.array([1, 2])
    floor = Floor(Privacy(floor_members=20), 2)
    assert not floor.settle(ids, np.array([15, 9]), folding(ids)), "24 are fewer than 25"
    assert floor.public.tolist() == [0, 0]
    floor.settle(ids, np.array([15, 10]), folding(ids))
    assert floor.public.tolist() == [1, 1]
    floor.settle(ids, np.array([10, 10]), folding(ids))
    assert floor.public.tolist() == [1, 1]
    assert floor.settle(ids, np.array([10, 9]), folding(ids)).folded == ((1, 0),)
    assert floor.public.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("told", "here", "there", "wanted"),
    [
        ({1: 100, 2: 3}, [2] * 3, [1] * 3, 3),  # 2 is no longer published: all of its last three
        ({1: 100, 2: 30}, [2] * 30, [1] * 30, 0),  # still many: they wait
        ({1: 100, 3: 4}, [1] * 40, [3] * 40, 16),  # 3 begins: as many as it takes
        ({1: 21, 3: 4}, [1] * 21, [3] * 21, 21),  # but not so that the old one becomes thin
        ({1: 100}, [1] * 40, [3] * 40, 0),  # nobody knows of 3 yet
        ({2: 3}, [2] * 3, [0] * 3, 3),  # nobody is published
    ],
)
def test_who_must_be_told_at_once(told, here, there, wanted):
    floor = Floor(Privacy(floor_members=20), 4)
    ids, counts = np.array([1, 0, 3, 0]), np.array([100, 0, 40, 0])
    floor.settle(ids, counts, folding(ids))
    slots = np.arange(len(here), dtype=np.int32)
    if told == {1: 21, 3: 4}:
        floor.settle(np.array([0, 0, 3, 0]), np.array([0, 0, 40, 0]), folding(np.array([0, 0, 3, 0])))
    summoned = floor.summoned(told, slots, np.array(here), np.array(there))
    assert len(summoned) == wanted
