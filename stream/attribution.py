"""Why a user changed segment: did the user move, did the model, or did a new encoder?

Per user one anchor is kept: the embedding of the last scoring in which the user was clearly inside its own
segment (a lead of CLEAR or more over the runner-up), or else the first one in that segment or under that
encoder. Scorings on the border, or beyond it, do not replace the anchor, so it shows what the user was like
before it began to leave, however slowly it went and however many confirmations the move took.

All comparisons are leads: how much nearer the old segment is than the new one, in units of the distance
between their two centres,

    lead(z, C) = (|z - c_new| - |z - c_old|) / |c_new - c_old|      in -1..1, negative: z belongs to the new

The swing from the lead at the anchor to the lead now has two causes, and two rows that had only one of them:

    the new row under the old model    today's row, scaled, encoded and held against centres as at the anchor
    the old row under the new model    the anchor, shifted as today's row is shifted from the old model to the new

Where the first has left, the user alone was enough: user_shift is what it lost, model_shift the rest. Else, where
the second has left, the model alone was enough: model_shift is what that lost. Where it took both, user_shift is
the mean of what the user takes before and after the model (Shapley 1953). A row that did not change leaves nothing
to the user, a model that did not change nothing to the model. (Tried and given up: the old embedding under today's
centres alone. It knows nothing of what the scaling learned meanwhile, and one in five changes that the model alone
had made was called the user's.)

A change is called after the larger part: user_behavior; else segment_moved, or encoder_published where the
encoder is another. Only the encoder version before the serving one can be asked: for an older anchor the
change is parted as if that version had made it, and without that encoder everything counts as the user's.
Where the new segment was placed since, today's row is held against its nearest rival of then: had the user
left in any case? What the user's likes mean (the interest family) is learned too, but counts as the user's.

Where the user has had no anchor in its present segment yet (it came a moment ago, or its segment was given up), the
one before serves: the lead is then what it had over its runner-up there.

A user who stays while the segment's id is given up is `lineage`: neither moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .earlier import Earlier, Model, Scales
from .events import F32, F64, I32, I64, Bool, Scored
from .membership import Moves
from .ports import Intervention, Publisher, Segmenter, State

USER_BEHAVIOR, SEGMENT_MOVED, ENCODER_PUBLISHED, EXPIRY, LINEAGE, OPERATOR, ERASURE = (
    "user_behavior",
    "segment_moved",
    "encoder_published",
    "expiry",
    "lineage",
    "operator",
    "erasure",
)
CLEAR = 0.2
"""Lead over the runner-up from which a user is clearly inside: on the line between the two, 60 : 40."""

KINDS = (USER_BEHAVIOR, SEGMENT_MOVED, ENCODER_PUBLISHED, EXPIRY, LINEAGE, OPERATOR, ERASURE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why each of n changes happened. Shifts are 0 for first assignments and farewells."""

    kind: tuple[str, ...]  # (n,) one of KINDS
    user_shift: F64  # (n,) what the user's own change took from the old segment's lead
    model_shift: F64  # (n,) what centres, or a new encoder, took from it

    @staticmethod
    def of_all(kind: str, n: int) -> Verdict:
        """The same reason for n changes that nothing was compared for."""
        return Verdict((kind,) * n, np.zeros(n), np.zeros(n))

    def by_operator(self, held: Bool) -> Verdict:
        """The same, where some of the users (n,) went because they are held in a segment."""
        if not held.any():
            return self
        kind = tuple(OPERATOR if one else kind for one, kind in zip(held.tolist(), self.kind, strict=True))
        return Verdict(kind, np.where(held, 0.0, self.user_shift), np.where(held, 0.0, self.model_shift))

    @staticmethod
    def expiry(n: int) -> Verdict:
        return Verdict.of_all(EXPIRY, n)


class Attribution:
    """One anchor per user slot, allocated once: 4 e + 17 bytes times `features.users_max`."""

    def __init__(self, users_max: int, e: int) -> None:
        self._z: F32 = np.zeros((users_max, e), np.float32)
        self._version: I32 = np.full(users_max, -1, np.int32)  # encoder that made the anchor; -1: no anchor
        self._number: I32 = np.zeros(users_max, np.int32)  # when it was made, in steps that scored anybody
        self._stale: Bool = np.zeros(
            users_max, np.bool_
        )  # the anchor is from another segment than the present
        self._label: I32 = np.full(users_max, -1, np.int32)  # centre of the user's segment
        self._lead: F32 = np.zeros(users_max, np.float32)  # at the anchor, over its runner-up
        self._now = 0  # steps that scored anybody so far
        self._earlier = Earlier()

    def judge(
        self, moves: Moves, scored: Scored, publisher: Publisher, segmenter: Segmenter, scales: Scales
    ) -> Verdict:
        """Why each of these moves happened. Called once a step after `decide`, before anything is learned.

        Cost: every move is scaled and encoded once more.
        """
        self._now += 1
        centres = np.array(segmenter.centres, np.float64)
        self._earlier.keep(Model(self._now, publisher.version, scales.scale_now(), centres))
        n = len(moves)
        remapped = moves.remapped()
        kind = tuple(LINEAGE if stays else USER_BEHAVIOR for stays in remapped.tolist())
        verdict = Verdict(kind, np.zeros(n), np.zeros(n))
        moved = np.flatnonzero((moves.before != 0) & (moves.after != 0) & ~remapped)
        if len(moved):
            verdict = self._compare(verdict, moves.take(moved), moved, scored, publisher, scales)
        self._label[moves.slot] = moves.centre_after
        self._stale[moves.slot] = True  # the next scoring in the new segment is an anchor, clear or not
        return verdict

    def _compare(
        self, verdict: Verdict, moves: Moves, moved: I64, scored: Scored, publisher: Publisher, scales: Scales
    ) -> Verdict:
        """The same verdict, with its `moved` rows, these moves, parted."""
        slot, today = moves.slot, scored.z[moves.row]
        index = self._earlier.index(self._number[slot], publisher.version)
        then = self._earlier.embed(scored.raw[moves.row], index, scales, publisher)  # (n, e)
        start, now, user_shift, placed = self._part(index, moves, then, today)
        model_shift = start - now - user_shift
        kind = np.array(verdict.kind, object)
        same = self._version[slot] == publisher.version
        of_model = np.where(same | placed, SEGMENT_MOVED, ENCODER_PUBLISHED)
        kind[moved] = np.where(user_shift >= model_shift, USER_BEHAVIOR, of_model)
        shifts = np.zeros((2, len(kind)))
        shifts[:, moved] = user_shift, model_shift
        return Verdict(tuple(kind.tolist()), *shifts)

    def _part(self, index: I64, moves: Moves, then: F32 | None, today: F32) -> tuple[F64, F64, F64, Bool]:
        """The lead at the anchor, the lead now, what the user took, where the new segment was placed since; (n,) each.

        Of moves whose old models are `index` (n,); today's rows embedded by those, `then`, and by today's, (n, e) each.
        """
        slot, old, new = moves.slot, moves.centre_before, moves.centre_after
        centres = self._earlier.centres()  # (m, k, e)
        latest, was = centres[-1], centres[index, old]  # (k, e), (n, e)
        anchor, stale = self._z[slot], self._stale[slot]
        placed = np.isnan(centres[index, new, 0])
        known = ~placed & ~stale & (self._version[slot] == self._earlier.versions()[index])
        at_anchor = _lead(anchor, was, centres[index, new])
        start = np.where(known, at_anchor, self._lead[slot].astype(np.float64))
        now = lead(today, latest, old, new)
        if then is None:
            return start, now, start - now, placed
        rival = new.copy()
        rival[placed] = _rival(then[placed], centres[index[placed]], old[placed])
        facing = centres[index, rival]
        new_row = _lead(then, was, facing)
        old_row = lead(anchor + (today - then), latest, old, new)
        first, second = np.where(stale, _lead(anchor, was, facing), start) - new_row, old_row - now
        user = np.where(new_row < 0, first, np.where(old_row < 0, second, (first + second) / 2))
        return start, now, np.where(np.isnan(user), start - now, user), placed

    def remember(self, scored: Scored, version: int) -> None:
        """Anchor the users that are in their own segment. Called after `judge`, before learning."""
        rows = np.flatnonzero(scored.nearest == self._label[scored.slots])
        if not len(rows):
            return
        own = scored.nearest[rows]
        runner_up = _runner_up(scored.distances[rows], own)
        leads = lead(scored.z[rows], self._earlier.latest.centres, own, runner_up)
        known = (self._version[scored.slots[rows]] == version) & ~self._stale[scored.slots[rows]]
        anchor = (leads >= CLEAR) | ~known
        slots = scored.slots[rows[anchor]]
        self._z[slots] = scored.z[rows[anchor]]
        self._version[slots] = version
        self._stale[slots] = False
        self._number[slots] = self._now
        self._lead[slots] = leads[anchor]

    def renew(self, slots: I32) -> None:
        """The next scoring of these users in their own segment is an anchor, clear or not."""
        self._version[slots] = -1

    def intervene(self, interventions: Sequence[Intervention]) -> None:
        """Centres stand for something else now: users of a centre given up get an anchor with its heir."""
        for one in interventions:
            if one.ends:
                members = np.flatnonzero(self._label == one.centre)
                self._label[members] = one.into
                self._stale[members] = True
            if one.begins:
                self._earlier.forget(one.centre)

    def clear(self, slots: I32) -> None:
        """As if nobody had ever been there: what is left would be the next user's, and in no snapshot."""
        self._z[slots] = 0.0
        self._lead[slots] = 0.0
        self._number[slots] = 0
        self._stale[slots] = False
        self._version[slots] = -1
        self._label[slots] = -1

    def snapshot(self) -> State:
        placed = np.flatnonzero(self._label >= 0)
        used = int(placed[-1]) + 1 if len(placed) else 0  # slots above are empty
        return {
            "z": self._z[:used].copy(),
            "version": self._version[:used].copy(),
            "label": self._label[:used].copy(),
            "lead": self._lead[:used].copy(),
            "number": self._number[:used].copy(),
            "stale": self._stale[:used].copy(),
            "now": self._now,
            "earlier": self._earlier.snapshot(),
        }

    def restore(self, state: State) -> None:
        used = len(state["label"])
        self._version[:] = -1
        self._label[:] = -1
        self._z = np.zeros(self._z.shape, np.float32)  # zeros_like would touch every page
        self._lead = np.zeros(self._lead.shape, np.float32)
        self._z[:used], self._version[:used] = state["z"], state["version"]
        self._label[:used], self._lead[:used] = state["label"], state["lead"]
        self._number = np.zeros(self._number.shape, np.int32)
        self._number[:used] = state["number"]
        self._stale[:] = False
        self._stale[:used] = state["stale"]
        self._now = int(state["now"])
        self._earlier.restore(state["earlier"])


def lead(z: F32, centres: F64, old: I32, new: I32) -> F64:
    """How much nearer z (n, e) is to its old centre than to the new one, per distance between the two.

    (n,) in -1..1; negative where the new centre is nearer; 0 where the two centres coincide.
    """
    return _lead(z, centres[old], centres[new])


def _lead(z: F32, c_old: F64, c_new: F64) -> F64:
    """The same, of centres (n, e) that are each row's own."""
    gap = np.sqrt(np.square(c_new - c_old).sum(axis=1))
    to_old = np.sqrt(np.square(z - c_old).sum(axis=1))
    to_new = np.sqrt(np.square(z - c_new).sum(axis=1))
    return np.where(gap > 0, (to_new - to_old) / np.where(gap > 0, gap, 1.0), 0.0)


def _runner_up(distances: F64, own: I32) -> I32:
    """(n,) nearest centre other than the own one; the own one where there is no other."""
    others = distances.copy()
    others[np.arange(len(own)), own] = np.inf
    alone = ~np.isfinite(others.min(axis=1))
    return np.where(alone, own, others.argmin(axis=1)).astype(np.int32)


def _rival(z: F32, centres: F64, old: I32) -> I32:
    """(n,) the centre (n, k, e) nearest to z (n, e) other than the old one, of those there; the old one if none is."""
    squares = np.square(z[:, None, :] - centres).sum(axis=2)
    return _runner_up(np.where(np.isnan(squares), np.inf, squares), old)
