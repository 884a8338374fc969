"""Who is in which segment, since when, and under which sequence number.

A model slot (centre 0..k-1) is not a segment: segments have public ids that only grow and are never used
twice. `ids` says which segment a centre stands for today (see `lineage.py`). When a user goes to another
centre is the policy's to say (see `policy.py`).

When a centre is given up (`intervene`), its users belong to the one that takes over at once, but are told so
only when they are next scored: a step can publish so much and no more. `unsettled` names those who wait.

What people are told is `public[centre]`: the segment's own id, or, with a floor, that of the one it is folded
into (`privacy/floor.py`).

Always true: a user changes at most once per step; `segment` is `public[centre]` except for the unsettled;
`sizes()` equals a recount; a user's `sequence` starts at the number of the step that assigned it and grows by
one with every change, so it never passes the step number and never repeats, even when a forgotten user comes
back in a later step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .confidence import PROVISIONAL_EVENTS, Calibration, margins
from .config import Membership as MembershipConfig
from .config import Privacy
from .control.pins import Pins
from .events import F64, I32, I64, Bool, Scored
from .lineage import Identities, Lineage, centres_of
from .policy import Policy
from .ports import Intervention, State
from .privacy.floor import Floor, Fold

ASSIGNED, MOVED, REMAPPED, LEFT = "assigned", "moved", "remapped", "left"


@dataclass(frozen=True, slots=True)
class Moves:
    """The m' changes a step decided, as columns. Segment ids are public; 0 and centre -1 mean none."""

    row: I64  # (m',) index into scored; -1 where the user left
    slot: I32  # (m',)
    before: I64  # (m',) segment id
    after: I64  # (m',) segment id
    centre_before: I32  # (m',)
    centre_after: I32  # (m',)
    before_since_ms: I64  # (m',) since when it was in `before`
    since_ms: I64  # (m',) since when it is in `after`; 0 where it left
    sequence: I64  # (m',)
    margin: F64  # (m',) relative gap between the best and the second-best distance, 0..1
    score: F64  # (m',) probability that it stays, see `Calibration`; 0 where it left
    events_seen: I64  # (m',) events this placement rests on; 0 where it left
    provisional: Bool  # (m',) fewer than PROVISIONAL_EVENTS events

    @classmethod
    def to_nowhere(cls, slot: I32, before: I64, centre: I32, before_since_ms: I64, sequence: I64) -> Moves:
        """Users (m',) leave, each from its segment `before` at `centre`."""
        n = len(slot)
        none, flag = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        where = np.full(n, -1, np.int32)
        zero = np.zeros(n)
        since = before_since_ms, none
        return cls(none - 1, slot, before, none, centre, where, *since, sequence, zero, zero, none, flag)

    def __len__(self) -> int:
        return len(self.slot)

    def remapped(self) -> Bool:
        """(m',) users who stay where they are, while their segment's id was given up."""
        return (self.centre_before == self.centre_after) & (self.before != 0)

    def transitions(self) -> list[str]:
        """(m',) assigned, moved, remapped or left."""
        columns = zip(self.before.tolist(), self.after.tolist(), self.remapped().tolist(), strict=True)
        return [
            ASSIGNED if before == 0 else LEFT if after == 0 else REMAPPED if remapped else MOVED
            for before, after, remapped in columns
        ]

    def take(self, keep: Bool | I64) -> Moves:
        return Moves(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


class Membership:
    """One row per user slot, allocated once: 49 bytes times `features.users_max`."""

    def __init__(
        self,
        config: MembershipConfig,
        users_max: int,
        k: int,
        privacy: Privacy | None = None,
        pins_max: int = 0,
    ) -> None:
        self.floor = Floor(privacy, k) if privacy is not None and privacy.floor_members else None
        self.policy = Policy(config, users_max)
        self.pins = Pins(pins_max)
        self.calibration = Calibration(users_max)
        self.k = k
        self.identities = Identities(k)
        self._waiting = False  # some user may be unsettled
        self._told: dict[int, int] = {}  # with a floor: segment id -> users who have been told it
        self._counts: I64 = np.zeros(k, np.int64)  # (k,) users per centre
        self.centre: I32 = np.full(users_max, -1, np.int32)
        self.segment: I64 = np.zeros(users_max, np.int64)
        self.since_ms: I64 = np.zeros(users_max, np.int64)
        self.sequence: I64 = np.zeros(users_max, np.int64)
        self.came_from: I64 = np.zeros(users_max, np.int64)  # segment before this one; 0: none

    @property
    def ids(self) -> I64:
        """(k,) public id of each centre; 0 before `begin`, and for a centre not in use."""
        return self.identities.ids

    @property
    def public(self) -> I64:
        """(k,) the id under which each centre's users are published; 0: under none."""
        return self.identities.ids if self.floor is None else self.floor.public

    def begin(self, now_ms: int, used: Bool | None = None) -> tuple[Lineage, ...]:
        """Give every centre in use (k,), all by default, its first segment id; the births. Called once."""
        return self.identities.begin(np.ones(self.k, np.bool_) if used is None else used, now_ms)

    def intervene(
        self, interventions: Sequence[Intervention], now_ms: int, since_ms: int = 0
    ) -> tuple[Lineage, ...]:
        """Centres stand for something else now: new ids, and users of a centre given up go to its heir.

        Where the centre itself stays, only those who were there at `since_ms` go.
        """
        for one in interventions:
            if one.ends:
                members = np.flatnonzero(self.centre == one.centre)
                if one.in_place:
                    members = members[self.home(members, since_ms) == one.centre]
                    self._waiting = True  # the others stay, and are told another id
                self._hand_over(members, one.centre, one.into)
            self.policy.doubt(one.centre)
        facts = self.identities.rearranged(interventions, now_ms)
        self.pins.follow(pair for fact in facts for pair in fact.remap)
        return facts

    def home(self, slots: I32 | I64, since_ms: int) -> I32:
        """(n,) the centre of the segment each user was in at that time; -1: it is gone, or there was none.

        Of the past only one move is remembered: who moved twice since then counts as coming from the segment between.
        """
        stayed = self.since_ms[slots] <= since_ms
        before = centres_of(self.ids, self.came_from[slots])
        home: I32 = np.where(stayed, self.centre[slots], before)
        return home

    def _hand_over(self, members: I64, centre: int, heir: int) -> None:
        self.centre[members] = heir
        self._counts[heir] += len(members)
        self._counts[centre] -= len(members)
        self._waiting |= len(members) > 0

    def unsettled(self, most: int) -> I32:
        """(n,) users who have not been told yet that their segment was given up, or that they are held in
        another one: the first `most` slots."""
        pinned = self.pins.waiting(self.segment, self.ids, self.public)
        if not self._waiting:
            return pinned[:most]
        waiting = np.flatnonzero((self.centre >= 0) & (self.segment != self.public[self.centre]))
        self._waiting = len(waiting) > 0
        return np.union1d(waiting, pinned)[:most].astype(np.int32)

    def place(self, scored: Scored, now_ms: int) -> I32:
        """(m,) the centre that each scored user is at from now on; `tell` follows."""
        slots = scored.slots
        target = self.policy.decide(scored, self.centre[slots], self.since_ms[slots], now_ms)
        return self.pins.hold(slots, target, self.ids)

    def refold(self, slots: I32, target: I32, now_ms: int, fold: Fold) -> tuple[tuple[Lineage, ...], I32]:
        """Hold to the floor, if users `slots` (m,) go to `target` (m,): the facts, and who else must be told now."""
        if self.floor is None or not self.ids.any():
            return (), np.empty(0, np.int32)
        before = self.floor.public
        counts = self._counts + np.bincount(target, minlength=self.k)
        counts -= np.bincount(self.centre[slots][self.centre[slots] >= 0], minlength=self.k)
        refolded = self.floor.settle(self.ids, counts, fold)
        self._waiting |= (before != self.floor.public).any()
        facts = [self.identities.folded(old, into, now_ms) for old, into in refolded.folded]
        facts += [self.identities.unfolded(new, out_of, now_ms) for new, out_of in refolded.unfolded]
        return tuple(facts), self._summoned(self.floor, slots, target)

    def _summoned(self, floor: Floor, slots: I32, target: I32) -> I32:
        """(a,) users beside the scored ones who must be told in this step, so that nobody counts a thin segment."""
        told = dict(self._told)
        here, there = self.segment[slots], floor.public[target]
        for side, sign in ((here, -1), (there, 1)):
            for segment, n in _counted(side[here != there]):
                told[segment] = told.get(segment, 0) + sign * n
        waiting = self.unsettled(len(self.centre))
        waiting = waiting[~np.isin(waiting, slots)]
        there = floor.public[self.centre[waiting]]
        return floor.summoned(told, waiting, self.segment[waiting], there)

    def decide(self, scored: Scored, events_seen: I64, now_ms: int, step_number: int) -> Moves:
        """Place the m scored users; `events_seen` (m,). The changes, in the order of `scored`."""
        return self.tell(scored, self.place(scored, now_ms), events_seen, now_ms, step_number)

    def tell(self, scored: Scored, target: I32, events_seen: I64, now_ms: int, step_number: int) -> Moves:
        """The m scored users go to `target` (m,): the changes that this is to people, in the order of `scored`."""
        slots = scored.slots
        rows = np.flatnonzero(self.public[target] != self.segment[slots])
        self.calibration.observe(slots, events_seen, (target != self.centre[slots]))
        moves = self._moves(rows, target[rows], scored, events_seen, now_ms, step_number)
        self._apply(moves, slots, target)
        return moves

    def _moves(
        self, rows: I64, target: I32, scored: Scored, events_seen: I64, now_ms: int, step_number: int
    ) -> Moves:
        """The changes of these rows (m',) of `scored` to these centres (m',)."""
        slots = scored.slots[rows]
        before, after = self.segment[slots], self.public[target]
        centre_before, centre_after = self._shown(self.centre[slots], target.astype(np.int32), before, after)
        margin = margins(scored.distances[rows], target.astype(np.int32))
        seen = events_seen[rows].astype(np.int64)
        score = self.calibration.place(slots, seen, margin, before == 0, int((self.ids > 0).sum()))
        return Moves(
            row=rows,
            slot=slots,
            before=before,
            after=after,
            centre_before=centre_before,
            centre_after=centre_after,
            before_since_ms=self.since_ms[slots],
            since_ms=np.where(after != 0, now_ms, 0),
            sequence=np.where(before == 0, step_number, self.sequence[slots] + 1),
            margin=margin,
            score=score,
            events_seen=seen,
            provisional=seen < PROVISIONAL_EVENTS,
        )

    def _shown(self, before: I32, after: I32, told: I64, tell: I64) -> tuple[I32, I32]:
        """The centres that a change speaks of, of users who were `told` a segment and whom we `tell` another."""
        if self.floor is None:
            return before, after
        shown_before = np.where(told != 0, self.floor.shown(before), -1).astype(np.int32)
        shown_after = np.where(tell != 0, self.floor.shown(after), shown_before).astype(np.int32)
        return shown_before, shown_after

    def _apply(self, moves: Moves, slots: I32, target: I32) -> None:
        """Users `slots` (m,) are at `target` (m,) now, and those of `moves` know it."""
        assert self.floor or moves.after.all(), (
            f"users placed before begin(): centres are segments {self.ids}"
        )
        gone = np.flatnonzero(self.centre[slots] != target)
        left = self.centre[slots[gone]]
        self._counts -= np.bincount(left[left >= 0], minlength=self.k)
        self._counts += np.bincount(target[gone], minlength=self.k)
        self.centre[slots[gone]] = target[gone]
        self._count_told(moves.before, moves.after)
        self.came_from[moves.slot] = np.where(moves.remapped(), moves.after, moves.before)
        self.segment[moves.slot] = moves.after
        self.since_ms[moves.slot] = moves.since_ms
        self.sequence[moves.slot] = moves.sequence

    def _count_told(self, before: I64, after: I64) -> None:
        """Users were told `after` (n,) instead of `before` (n,); 0: nothing."""
        if self.floor is None:
            return
        for side, sign in ((before, -1), (after, 1)):
            for segment, n in _counted(side):
                self._told[segment] = self._told.get(segment, 0) + sign * n
        self._told = {segment: n for segment, n in self._told.items() if n and segment}

    def leave(self, slots: I32, step_number: int) -> Moves:
        """Farewell to users who are forgotten: only those that are in a segment. `clear` follows."""
        slots = slots[self.segment[slots] != 0]
        sequence = self.sequence[slots] + 1
        assert (sequence <= step_number).all(), f"a user changed twice in step {step_number}"
        moves = Moves.to_nowhere(
            slots, self.segment[slots], self.centre[slots], self.since_ms[slots], sequence
        )
        self.clear(slots)
        return moves

    def clear(self, slots: I32) -> None:
        """Forget these users; harmless for those already forgotten."""
        self._count_told(self.segment[slots], np.zeros(len(slots), np.int64))
        centres = self.centre[slots]
        self._counts -= np.bincount(centres[centres >= 0], minlength=self.k)
        for name, empty in _SLABS.items():
            getattr(self, name)[slots] = empty
        self.policy.clear(slots)
        self.calibration.clear(slots)
        self.pins.clear(slots)

    def sizes(self) -> dict[int, int]:
        """Users per public segment id, in order of ids; empty before `begin`.

        An id that was given up is named as long as somebody is still to be told.
        """
        own = self.ids if self.floor is None else np.where(self.floor.own(), self.ids, 0)
        counts = dict(zip(own.tolist(), self.published().tolist(), strict=True))
        if len(self.unsettled(1)):
            segments, sizes = np.unique(self.segment[self.segment != 0], return_counts=True)
            counts = dict.fromkeys(counts, 0) | dict(zip(segments.tolist(), sizes.tolist(), strict=True))
        return {segment: counts[segment] for segment in sorted(counts) if segment}

    def published(self) -> I64:
        """(k,) users of the segment that each centre is published as itself; 0 where it is folded."""
        return self.counts() if self.floor is None else self.floor.grouped(self._counts)

    def counts(self) -> I64:
        """(k,) users per centre."""
        return self._counts.copy()

    def fingerprint(self) -> tuple[bytes, ...]:
        """Of what the changes do not show: which segment stands for which."""
        return () if self.floor is None else (self.floor.fingerprint(),)

    def snapshot(self) -> State:
        placed = np.flatnonzero(self.centre >= 0)
        used = int(placed[-1]) + 1 if len(placed) else 0  # slots above are empty
        state: dict[str, Any] = {name: getattr(self, name)[:used].copy() for name in _SLABS}
        if self.floor is not None:
            state["floor"] = self.floor.snapshot()
        return state | {
            "counts": self._counts.copy(),
            "identities": self.identities.snapshot(),
            "policy": self.policy.snapshot(used),
            "calibration": self.calibration.snapshot(used),
            "pins": self.pins.snapshot(),
        }

    def restore(self, state: State) -> None:
        for name, empty in _SLABS.items():
            slab = getattr(self, name)
            slab[:] = empty
            slab[: len(state[name])] = state[name]
        self._counts = state["counts"].copy()
        self._waiting = True  # `unsettled` looks again
        if self.floor is not None:
            self.floor.restore(state["floor"])
            self._told = {}
            self._count_told(np.zeros(0, np.int64), self.segment[self.segment != 0])
        self.identities.restore(state["identities"])
        self.policy.restore(state["policy"])
        self.calibration.restore(state["calibration"])
        self.pins.restore(state["pins"])


def _counted(segments: I64) -> Iterator[tuple[int, int]]:
    """Each segment that occurs, and how often."""
    found, numbers = np.unique(segments, return_counts=True)
    return zip(found.tolist(), numbers.tolist(), strict=True)


_SLABS: Mapping[str, int] = {
    "centre": -1,
    "segment": 0,
    "since_ms": 0,
    "sequence": 0,
    "came_from": 0,
}
"""Slabs by user slot, and what an empty slot holds."""
