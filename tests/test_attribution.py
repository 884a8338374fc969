"""Why a user changed: planted causes are found, and the shifts account for the whole swing."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
from decisions import FakeFeatures, FakePublisher, Stage, scored
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.attribution import Attribution, Verdict, _runner_up, lead
from shoal.stream.config import Membership as Config
from shoal.stream.membership import Membership
from shoal.stream.ports import Intervention

OLD, NEW = [0.0, 0.0], [10.0, 0.0]


class Scene:
    """Membership and attribution, driven as the pipeline drives them."""

    def __init__(self, centres=(OLD, NEW), users_max=8, confirmations=1):
        self.centres = np.array(centres, np.float64)
        self.members = Membership(Config(margin=0.0, confirmations=confirmations), users_max, len(centres))
        self.members.begin(0)
        self.attribution = Attribution(users_max, self.centres.shape[1])
        self.publisher = FakePublisher()
        self.number = 0

    def step(self, slots, points):
        self.number += 1
        rows = scored(slots, points, self.centres)
        moves = self.members.decide(rows, np.full(len(slots), 5), self.number, self.number)
        verdict = self.attribution.judge(moves, rows, self.publisher, self, FakeFeatures())
        self.attribution.remember(rows, self.publisher.version)
        return moves, verdict


def test_a_user_who_moves_under_fixed_centres_moved_itself():
    """The user crosses the border; nothing else happened, so the model's share is nothing."""
    scene = Scene()
    assert nothing_shifted(scene.step([0], [[1.0, 0.0]])[1], "user_behavior")
    moves, verdict = scene.step([0], [[9.0, 0.0]])
    assert moves.transitions() == ["moved"]
    assert verdict.kind == ("user_behavior",)
    assert verdict.model_shift[0] == pytest.approx(0.0, abs=1e-6)
    assert verdict.user_shift[0] == pytest.approx(0.8 + 0.8)  # lead from +0.8 to -0.8


def test_centres_that_move_under_a_user_who_did_nothing_are_told_apart():
    """The same row lands in another segment because the centres passed by it."""
    scene = Scene()
    scene.step([0], [[4.0, 0.0]])
    scene.centres = np.array([[-4.0, 0.0], [6.0, 0.0]])
    moves, verdict = scene.step([0], [[4.0, 0.0]])
    assert moves.transitions() == ["moved"]
    assert verdict.kind == ("segment_moved",)
    assert verdict.user_shift[0] == pytest.approx(0.0, abs=1e-6)
    assert verdict.model_shift[0] == pytest.approx(0.2 + 0.6)


def test_the_anchor_is_from_before_the_user_began_to_leave():
    """With three confirmations, the rows that confirm are not taken for what the user was like before."""
    scene = Scene(confirmations=3)
    scene.step([0], [[1.0, 0.0]])
    for _ in range(2):
        assert not len(scene.step([0], [[9.0, 0.0]])[0])
    _, verdict = scene.step([0], [[9.0, 0.0]])
    assert verdict.kind == ("user_behavior",)
    assert verdict.user_shift[0] == pytest.approx(1.6)


def test_a_slow_walk_across_the_border_is_the_users_own():
    """Centres that tremble decide nothing: the anchor is where the user was last clearly inside."""
    scene = Scene(confirmations=2)
    base, kinds = scene.centres, []
    for i in range(60):
        scene.centres = base + (0.4 if i % 2 else -0.4)
        moves, verdict = scene.step([0], [[1.0 + 0.1 * i, 0.0]])
        kinds += list(zip(moves.transitions(), verdict.kind, verdict.user_shift.tolist(), strict=True))
    assert [k[:2] for k in kinds] == [("assigned", "user_behavior"), ("moved", "user_behavior")]
    assert kinds[1][2] > 0.2


def test_a_user_that_was_never_clearly_inside_is_measured_from_its_arrival():
    """The first scoring in a segment is an anchor, near the border or not; later ones there are none."""
    scene = Scene()
    for x in (4.9, 4.8, 4.95):
        scene.step([0], [[x, 0.0]])
    _, verdict = scene.step([0], [[9.0, 0.0]])
    assert verdict.user_shift[0] == pytest.approx(0.02 + 0.8, abs=1e-6)


def test_a_publication_that_carries_a_user_over_is_named():
    """New weights put the same behaviour elsewhere; the weights before would have kept it."""
    scene = Scene()
    scene.step([0], [[1.0, 0.0]])
    scene.publisher = FakePublisher(previous=lambda x: x - np.array([8.0, 0.0], np.float32))
    scene.publisher.version = 2
    scene.centres = np.array([[0.5, 0.0], [10.5, 0.0]])
    moves, verdict = scene.step([0], [[9.0, 0.0]])
    assert moves.transitions() == ["moved"]
    assert verdict.kind == ("encoder_published",)
    assert verdict.user_shift[0] == pytest.approx(0.0, abs=1e-6)
    assert verdict.model_shift[0] == pytest.approx(0.8 + 0.7)


def test_a_user_who_moves_across_a_publication_still_moved_itself():
    """Under the weights before, with the centres before, the user would have changed as well."""
    scene = Scene()
    scene.step([0], [[1.0, 0.0]])
    scene.publisher = FakePublisher(previous=lambda x: x)
    scene.publisher.version = 2
    scene.centres = np.array([[100.0, 0.0], [9.5, 0.0]])
    _, verdict = scene.step([0], [[9.0, 0.0]])
    assert verdict.kind == ("user_behavior",)
    assert verdict.user_shift[0] == pytest.approx(1.6)


def test_without_the_previous_encoder_the_user_is_taken_at_its_word():
    """Nothing speaks for the publication when the weights before are not kept."""
    scene = Scene()
    scene.step([0], [[1.0, 0.0]])
    scene.publisher.version = 2
    _, verdict = scene.step([0], [[9.0, 0.0]])
    assert verdict.kind == ("user_behavior",)
    assert verdict.model_shift[0] == 0.0


def test_a_user_who_returns_to_a_slot_has_no_past():
    """After clear, the slot's next user is assigned, and later judged by its own anchor."""
    scene = Scene()
    scene.step([0], [[9.0, 0.0]])
    scene.members.leave(np.array([0], np.int32), scene.number + 1)
    scene.attribution.clear(np.array([0], np.int32))
    assert nothing_shifted(scene.step([0], [[1.0, 0.0]])[1], "user_behavior")
    assert scene.step([0], [[9.0, 0.0]])[1].user_shift[0] == pytest.approx(1.6)


def test_one_batch_may_hold_all_kinds():
    """Verdicts belong to their own rows."""
    scene = Scene(centres=(OLD, NEW, [0.0, 50.0]))
    scene.step([0, 1], [[1.0, 0.0], [4.0, 0.0]])
    scene.centres = np.array([[-4.0, 0.0], [6.0, 0.0], [0.0, 50.0]])
    moves, verdict = scene.step([0, 1, 2], [[0.0, 45.0], [4.0, 0.0], [6.0, 0.0]])
    assert moves.transitions() == ["moved", "moved", "assigned"]
    assert verdict.kind == ("user_behavior", "segment_moved", "user_behavior")
    assert verdict.user_shift[2] == 0.0


steps = st.lists(st.tuples(*[st.floats(-20, 20, width=32)] * 6), min_size=1, max_size=8)


@given(steps, st.booleans(), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_many_moves_are_judged_as_each_would_be_alone(walk, published, placed):
    """Anchors under many models, encoders and placements: each move has its own, whoever is judged beside it."""
    scene = Scene(centres=(OLD, NEW, [5.0, 9.0]), users_max=3)
    for number, step in enumerate(walk):
        scene.step([number % 3, 2][: 1 + number % 2], [step[:2], step[2:4]][: 1 + number % 2])
        scene.centres = scene.centres + np.array([step[:2], step[2:4], step[4:]]) / 16
    scene.attribution.intervene([Intervention("birth", placed, -1, -1, "misplaced", 0.1)])
    if published:
        scene.publisher = FakePublisher(previous=lambda x: x * np.float32(0.5))
        scene.publisher.version = 2
    points = np.array([scene.centres[1], scene.centres[2], scene.centres[0]], np.float32)
    alone = [deepcopy(scene).step([slot], points[slot : slot + 1]) for slot in range(3)]
    together = scene.step([0, 1, 2], points)
    for column in ("kind", "user_shift", "model_shift"):
        own = [value for _, verdict in alone for value in list(getattr(verdict, column))]
        assert list(getattr(together[1], column)) == own


def test_expiry_has_no_shifts():
    assert nothing_shifted(Verdict.expiry(1), "expiry")


points = st.tuples(st.floats(-20, 20, width=32), st.floats(-20, 20, width=32))


@given(st.lists(st.tuples(points, points), min_size=1, max_size=6), points)
@settings(max_examples=100, deadline=None)
def test_the_shifts_account_for_the_whole_swing(users, drift):
    """With two segments, both shifts add up to lead at the anchor - lead now; the larger names the change."""
    scene = Scene()
    before = scene.centres
    slots = list(range(len(users)))
    scene.step(slots, [a for a, _ in users])
    scene.centres = before + np.array([drift, drift[::-1]]) / 8
    moves, verdict = scene.step(slots, [b for _, b in users])
    old, new = moves.centre_before, moves.centre_after
    start = lead(np.float32([users[s][0] for s in moves.slot]).reshape(-1, 2), before, old, new)
    now = lead(np.float32([users[s][1] for s in moves.slot]).reshape(-1, 2), scene.centres, old, new)
    np.testing.assert_allclose(verdict.user_shift + verdict.model_shift, start - now, atol=1e-5)
    for kind, user, model in zip(verdict.kind, verdict.user_shift, verdict.model_shift, strict=True):
        assert kind == ("segment_moved" if model > user else "user_behavior")


@given(st.lists(st.lists(points, min_size=4, max_size=4), min_size=2, max_size=6), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_restore_continues_as_if_nothing_had_happened(path, cut):
    """The same verdicts after restore(snapshot()), with centres that move at every step."""
    one, other = Scene(), Scene()
    for i, rows in enumerate(path):
        if i == cut % len(path):
            other.attribution.restore(one.attribution.snapshot())
            other.members.restore(one.members.snapshot())
            other.centres, other.number = one.centres.copy(), one.number
        a = one.step([0, 1, 2, 3], rows)[1]
        if i >= cut % len(path):
            assert same(a, other.step([0, 1, 2, 3], rows)[1])
            other.centres = other.centres + 0.5
        one.centres = one.centres + 0.5


def test_nothing_is_left_of_a_user_who_went():
    """Neither in a later snapshot, nor after a restore: two ways to one state give the same bytes."""
    stayed, came_back = Scene(), Scene()
    for scene in (stayed, came_back):
        scene.step([0, 1, 2], [[1.0, 0.0], [9.0, 0.0], [2.0, 0.0]])
    before = stayed.attribution.snapshot()
    stayed.attribution.clear(np.array([1, 2], np.int32))
    came_back.attribution.clear(np.array([1, 2], np.int32))
    came_back.attribution.restore(before)
    came_back.attribution.clear(np.array([1], np.int32))
    came_back.attribution.clear(np.array([2], np.int32))
    stayed.attribution.restore(stayed.attribution.snapshot())
    for scene in (stayed, came_back):
        scene.step([3], [[1.0, 0.0]])
    ours, theirs = stayed.attribution.snapshot(), came_back.attribution.snapshot()
    assert ours["z"].shape == (4, 2)
    assert not ours["z"][1:3].any()
    for name in ("z", "lead", "version", "label"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_snapshots_do_not_change_afterwards():
    scene = Scene()
    scene.step([0], [[1.0, 0.0]])
    state = scene.attribution.snapshot()
    kept = {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
    scene.step([0], [[3.0, 0.0]])
    for name, value in kept.items():
        np.testing.assert_array_equal(state[name], value)


def test_the_pipeline_order_works_on_a_stage():
    """The narrator judges with the real membership: one planted user move, one planted model move."""
    stage = Stage([OLD, NEW])
    stage.step([0, 1], [[1.0, 0.0], [4.0, 0.0]])
    stage.segmenter.centres = np.array([[-4.0, 0.0], [6.0, 0.0]])
    stage.step([0, 1], [[9.0, 0.0], [4.0, 0.0]])
    assert stage.narrator.changes_by_reason() == {
        "user_behavior": 1,
        "segment_moved": 1,
        "encoder_published": 0,
        "expiry": 0,
        "lineage": 0,
        "operator": 0,
        "erasure": 0,
    }


def nothing_shifted(verdict, kind):
    return verdict.kind == (kind,) and verdict.user_shift[0] == 0.0 and verdict.model_shift[0] == 0.0


def same(a, b):
    shifts = (a.user_shift, b.user_shift), (a.model_shift, b.model_shift)
    return a.kind == b.kind and all(np.array_equal(one, other) for one, other in shifts)


def test_an_intervention_right_after_a_publication_does_not_blame_the_encoder():
    """The centre placed now had another place under the encoder before: that place is no lead for anybody."""
    members = Membership(Config(confirmations=1, margin=0.0), 4, 3)
    members.begin(0)
    attribution, publisher = Attribution(4, 1), FakePublisher()
    publisher.previous = lambda x: x.copy()  # the new encoder is the old one
    centres = np.array([[0.0], [10.0], [100.0]])

    def step(number, slots, points):
        rows = scored(slots, np.reshape(points, (-1, 1)), centres)
        moves = members.decide(rows, np.full(len(slots), 9, np.int64), number, number)
        verdict = attribution.judge(moves, rows, publisher, SimpleNamespace(centres=centres), FakeFeatures())
        attribution.remember(rows, publisher.version)
        return verdict

    step(1, [0, 1], [1.0, 100.0])
    publisher.version += 1
    swap = [Intervention("swap", 2, 1, 0, "misplaced", 0.1)]
    members.intervene(swap, 2)
    attribution.intervene(swap)
    centres[2] = 4.0
    assert step(2, [0], [3.9]).kind == ("user_behavior",)


def test_a_centre_alone_is_its_own_runner_up():
    """The place that a centre not in use once had says nothing about anybody."""
    distances = np.array([[np.inf, 4.0], [np.inf, 9.0]])
    assert _runner_up(distances, np.array([1, 1], np.int32)).tolist() == [1, 1]
