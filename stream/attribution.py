"""Why a user changed segment: did the user move, did the model, or did a new encoder?

Per user one anchor is kept: the embedding of the last scoring in which the user was clearly inside its own
segment (a lead of CLEAR or more over the runner-up), or else the first one in that segment or under that
encoder. Scorings on the border, or beyond it, do not replace the anchor, so it shows what the user was like
before it began to leave, however slowly it went and however many confirmations the move took.

All comparisons are leads: how much nearer the old segment is than the new one, in units of the distance
between their two centres,

    lead(z, C) = (|z - c_new| - |z - c_old|) / |c_new - c_old|      in -1..1, negative: z belongs to the new

The swing from the lead at the anchor to the lead now is parted in two by a lead between them:

    same encoder      of the anchor under today's centres: what was lost until there is model_shift, the rest
                      user_shift
    another encoder   of today's row under the encoder before, with the last centres it had: what was lost
                      until there is user_shift, the rest model_shift

A change is called after the larger part: user_behavior; else segment_moved, or encoder_published where the
encoder is another. The lead at the anchor was measured against its runner-up: exact when the user moves
there, else a lower bound, and so is the part that begins with it. Only the encoder version before the
serving one can be asked: for an older anchor the change is parted as if that version had made it, and
without that encoder, or a place for both centres under it, everything counts as the user's.

A user who stays while the segment's id is given up is `lineage`: neither moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .events import F32, F64, I32, I64, Scored
from .membership import Moves
from .ports import Intervention, Publisher, Segmenter, State

USER_BEHAVIOR, SEGMENT_MOVED, ENCODER_PUBLISHED, EXPIRY, LINEAGE = (
    "user_behavior",
    "segment_moved",
    "encoder_published",
    "expiry",
    "lineage",
)
CLEAR = 0.2
"""Lead over the runner-up from which a user is clearly inside: on the line between the two, 60 : 40."""

KINDS = (USER_BEHAVIOR, SEGMENT_MOVED, ENCODER_PUBLISHED, EXPIRY, LINEAGE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why each of n changes happened. Shifts are 0 for first assignments and farewells."""

    kind: tuple[str, ...]  # (n,) one of KINDS
    user_shift: F64  # (n,) what the user's own change took from the old segment's lead
    model_shift: F64  # (n,) what centres, or a new encoder, took from it

    @staticmethod
    def expiry(n: int) -> Verdict:
        return Verdict((EXPIRY,) * n, np.zeros(n), np.zeros(n))


class Attribution:
    """One anchor per user slot, allocated once: 4 e + 12 bytes times `features.users_max`."""

    def __init__(self, users_max: int, e: int) -> None:
        self._z: F32 = np.zeros((users_max, e), np.float32)
        self._version: I32 = np.full(users_max, -1, np.int32)  # encoder that made the anchor; -1: no anchor
        self._label: I32 = np.full(users_max, -1, np.int32)  # centre of the user's segment
        self._lead: F32 = np.zeros(users_max, np.float32)  # at the anchor, over its runner-up
        self._centres: F64 | None = None  # (k, e) as last scored with
        self._centres_version = -1
        self._previous: F64 | None = None  # (k, e) as last scored with under the previous encoder version

    def judge(self, moves: Moves, scored: Scored, publisher: Publisher, segmenter: Segmenter) -> Verdict:
        """Why each of these moves happened. Called once a step after `decide`, before anything is learned."""
        self._see(publisher.version, segmenter.centres)
        n = len(moves)
        remapped = moves.remapped()
        kind = tuple(LINEAGE if stays else USER_BEHAVIOR for stays in remapped.tolist())
        verdict = Verdict(kind, np.zeros(n), np.zeros(n))
        moved = np.flatnonzero((moves.before != 0) & (moves.after != 0) & ~remapped)
        if len(moved):
            verdict = self._compare(verdict, moves, moved, scored, publisher)
        self._label[moves.slot] = moves.centre_after
        self._version[moves.slot] = -1  # the next scoring in the new segment is an anchor, clear or not
        return verdict

    def _see(self, version: int, centres: F64) -> None:
        """Keep today's centres; at the first sight of a new version, the last ones of the version before."""
        if version != self._centres_version:
            self._previous, self._centres_version = self._centres, version
        self._centres = np.array(centres, np.float64)

    def _compare(
        self, verdict: Verdict, moves: Moves, moved: I64, scored: Scored, publisher: Publisher
    ) -> Verdict:
        """The same verdict, with its `moved` rows parted."""
        assert self._centres is not None
        slot, old, new = moves.slot[moved], moves.centre_before[moved], moves.centre_after[moved]
        row = moves.row[moved]
        same = self._version[slot] == publisher.version
        start = self._lead[slot].astype(np.float64)
        now = lead(scored.z[row], self._centres, old, new)
        middle = np.where(same, lead(self._z[slot], self._centres, old, new), now)
        other = np.flatnonzero(~same)
        if len(other) and self._previous is not None:
            z = publisher.encode_previous(scored.x[row[other]])
            if z is not None:
                there = ~np.isnan(self._previous[[old[other], new[other]]]).any(axis=(0, 2))
                asked = lead(z, self._previous, old[other], new[other])
                middle[other] = np.where(there, asked, now[other])
        first, second = start - middle, middle - now
        user_shift, model_shift = np.zeros(len(moves)), np.zeros(len(moves))
        user_shift[moved] = np.where(same, second, first)
        model_shift[moved] = np.where(same, first, second)
        kind = np.array(verdict.kind, object)
        of_model = np.where(same, SEGMENT_MOVED, ENCODER_PUBLISHED)
        kind[moved] = np.where(user_shift[moved] >= model_shift[moved], USER_BEHAVIOR, of_model)
        return Verdict(tuple(kind.tolist()), user_shift, model_shift)

    def remember(self, scored: Scored, version: int) -> None:
        """Anchor the users that are in their own segment. Called after `judge`, before learning."""
        rows = np.flatnonzero(scored.nearest == self._label[scored.slots])
        if not len(rows):
            return
        assert self._centres is not None, "remember() before judge(): no centres were seen"
        own = scored.nearest[rows]
        runner_up = _runner_up(scored.distances[rows], own)
        leads = lead(scored.z[rows], self._centres, own, runner_up)
        anchor = (leads >= CLEAR) | (self._version[scored.slots[rows]] != version)
        slots = scored.slots[rows[anchor]]
        self._z[slots] = scored.z[rows[anchor]]
        self._version[slots] = version
        self._lead[slots] = leads[anchor]

    def intervene(self, interventions: Sequence[Intervention]) -> None:
        """Centres stand for something else now: users of a centre given up get an anchor with its heir."""
        for one in interventions:
            if one.ends:
                members = np.flatnonzero(self._label == one.centre)
                self._label[members] = one.into
                self._version[members] = -1
            if one.begins:
                for known in (
                    self._previous,
                    self._centres,
                ):  # the latter is the previous one after a publication
                    if known is not None:
                        known[one.centre] = np.nan  # there was none

    def clear(self, slots: I32) -> None:
        """As if nobody had ever been there: what is left would be the next user's, and in no snapshot."""
        self._z[slots] = 0.0
        self._lead[slots] = 0.0
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
            "centres": None if self._centres is None else self._centres.copy(),
            "centres_version": self._centres_version,
            "previous": None if self._previous is None else self._previous.copy(),
        }

    def restore(self, state: State) -> None:
        used = len(state["label"])
        self._version[:] = -1
        self._label[:] = -1
        self._z = np.zeros(self._z.shape, np.float32)  # zeros_like would touch every page
        self._lead = np.zeros(self._lead.shape, np.float32)
        self._z[:used], self._version[:used] = state["z"], state["version"]
        self._label[:used], self._lead[:used] = state["label"], state["lead"]
        self._centres = None if state["centres"] is None else state["centres"].copy()
        self._previous = None if state["previous"] is None else state["previous"].copy()
        self._centres_version = int(state["centres_version"])


def lead(z: F32, centres: F64, old: I32, new: I32) -> F64:
    """How much nearer z (n, e) is to its old centre than to the new one, per distance between the two.

    (n,) in -1..1; negative where the new centre is nearer; 0 where the two centres coincide.
    """
    c_old, c_new = centres[old], centres[new]  # (n, e)
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
