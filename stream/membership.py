"""Who is in which segment, since when, and under which sequence number.

A model slot (centre 0..k-1) is not a segment: segments have public ids that only grow and are never used
twice. `ids` says which segment a centre stands for today (see `lineage.py`). When a user goes to another
centre is the policy's to say (see `policy.py`).

When a centre is given up (`intervene`), its users belong to the one that takes over at once, but are told so
only when they are next scored: a step can publish so much and no more. `unsettled` names those who wait.

Always true: a user changes at most once per step; `segment` is `ids[centre]` except for the unsettled;
`sizes()` equals a recount; a user's `sequence` starts at the number of the step that assigned it and grows by
one with every change, so it never passes the step number and never repeats, even when a forgotten user comes
back in a later step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .confidence import PROVISIONAL_EVENTS, confidence
from .config import Membership as MembershipConfig
from .events import F64, I32, I64, Bool, Scored
from .lineage import Identities, Lineage
from .policy import Policy
from .ports import Intervention, State

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
    score: F64  # (m',) see `confidence`; 0 where it left
    events_seen: I64  # (m',) events this placement rests on; 0 where it left
    provisional: Bool  # (m',) fewer than PROVISIONAL_EVENTS events

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
    """One row per user slot, allocated once: 36 bytes times `features.users_max`."""

    def __init__(self, config: MembershipConfig, users_max: int, k: int) -> None:
        self.policy = Policy(config, users_max)
        self.k = k
        self.identities = Identities(k)
        self._waiting = False  # some user may be unsettled
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
        return self.identities.rearranged(interventions, now_ms)

    def home(self, slots: I32 | I64, since_ms: int) -> I32:
        """(n,) the centre of the segment each user was in at that time; -1: it is gone, or there was none.

        Of the past only one move is remembered: who moved twice since then counts as coming from the segment between.
        """
        stayed = self.since_ms[slots] <= since_ms
        order = np.argsort(self.ids, kind="stable")
        at = np.minimum(np.searchsorted(self.ids[order], self.came_from[slots]), self.k - 1)
        before = np.where(self.ids[order][at] == self.came_from[slots], order[at], -1)
        before = np.where(self.came_from[slots] > 0, before, -1)
        home: I32 = np.where(stayed, self.centre[slots], before).astype(np.int32)
        return home

    def _hand_over(self, members: I64, centre: int, heir: int) -> None:
        self.centre[members] = heir
        self._counts[heir] += len(members)
        self._counts[centre] -= len(members)
        self._waiting |= len(members) > 0

    def unsettled(self, most: int) -> I32:
        """(n,) users who have not been told yet that their segment was given up: the first `most` slots."""
        if not self._waiting:
            return np.empty(0, np.int32)
        waiting = np.flatnonzero((self.centre >= 0) & (self.segment != self.ids[self.centre]))
        self._waiting = len(waiting) > 0
        return waiting[:most].astype(np.int32)

    def decide(self, scored: Scored, events_seen: I64, now_ms: int, step_number: int) -> Moves:
        """Place the m scored users; `events_seen` (m,). The changes, in the order of `scored`."""
        slots = scored.slots
        target = self.policy.decide(scored, self.centre[slots], self.since_ms[slots], now_ms)  # (m,)
        rows = np.flatnonzero(self.ids[target] != self.segment[slots])
        moves = self._moves(rows, target[rows], scored, events_seen, now_ms, step_number)
        self._apply(moves)
        return moves

    def _moves(
        self, rows: I64, target: I32, scored: Scored, events_seen: I64, now_ms: int, step_number: int
    ) -> Moves:
        """The changes of these rows (m',) of `scored` to these centres (m',)."""
        slots = scored.slots[rows]
        before = self.segment[slots]
        centre_after = target.astype(np.int32)
        margin, score = confidence(scored.distances[rows], centre_after)
        seen = events_seen[rows].astype(np.int64)
        return Moves(
            row=rows,
            slot=slots,
            before=before,
            after=self.ids[centre_after],
            centre_before=self.centre[slots],
            centre_after=centre_after,
            before_since_ms=self.since_ms[slots],
            since_ms=np.full(len(rows), now_ms, np.int64),
            sequence=np.where(before == 0, step_number, self.sequence[slots] + 1),
            margin=margin,
            score=score,
            events_seen=seen,
            provisional=seen < PROVISIONAL_EVENTS,
        )

    def _apply(self, moves: Moves) -> None:
        if not len(moves):
            return
        assert moves.after.all(), f"users placed before begin(): centres stand for segments {self.ids}"
        self.came_from[moves.slot] = np.where(moves.remapped(), moves.after, moves.before)
        self.centre[moves.slot] = moves.centre_after
        self.segment[moves.slot] = moves.after
        self.since_ms[moves.slot] = moves.since_ms
        self.sequence[moves.slot] = moves.sequence
        left = moves.centre_before[moves.centre_before >= 0]
        self._counts -= np.bincount(left, minlength=self.k)
        self._counts += np.bincount(moves.centre_after, minlength=self.k)

    def leave(self, slots: I32, step_number: int) -> Moves:
        """Farewell to users who are forgotten: only those that are in a segment. `clear` follows."""
        slots = slots[self.segment[slots] != 0]
        n = len(slots)
        sequence = self.sequence[slots] + 1
        assert (sequence <= step_number).all(), f"a user changed twice in step {step_number}"
        moves = Moves(
            row=np.full(n, -1, np.int64),
            slot=slots,
            before=self.segment[slots],
            after=np.zeros(n, np.int64),
            centre_before=self.centre[slots],
            centre_after=np.full(n, -1, np.int32),
            before_since_ms=self.since_ms[slots],
            since_ms=np.zeros(n, np.int64),
            sequence=sequence,
            margin=np.zeros(n),
            score=np.zeros(n),
            events_seen=np.zeros(n, np.int64),
            provisional=np.zeros(n, np.bool_),
        )
        self.clear(slots)
        return moves

    def clear(self, slots: I32) -> None:
        """Forget these users; harmless for those already forgotten."""
        centres = self.centre[slots]
        self._counts -= np.bincount(centres[centres >= 0], minlength=self.k)
        for name, empty in _SLABS.items():
            getattr(self, name)[slots] = empty
        self.policy.clear(slots)

    def sizes(self) -> dict[int, int]:
        """Users per public segment id, in order of ids; empty before `begin`.

        An id that was given up is named as long as somebody is still to be told.
        """
        counts = dict(zip(self.ids.tolist(), self._counts.tolist(), strict=True))
        if len(self.unsettled(1)):
            segments, sizes = np.unique(self.segment[self.segment != 0], return_counts=True)
            counts = dict.fromkeys(counts, 0) | dict(zip(segments.tolist(), sizes.tolist(), strict=True))
        return {segment: counts[segment] for segment in sorted(counts) if segment}

    def counts(self) -> I64:
        """(k,) users per centre."""
        return self._counts.copy()

    def snapshot(self) -> State:
        placed = np.flatnonzero(self.centre >= 0)
        used = int(placed[-1]) + 1 if len(placed) else 0  # slots above are empty
        state: dict[str, Any] = {name: getattr(self, name)[:used].copy() for name in _SLABS}
        return state | {
            "counts": self._counts.copy(),
            "identities": self.identities.snapshot(),
            "policy": self.policy.snapshot(used),
        }

    def restore(self, state: State) -> None:
        for name, empty in _SLABS.items():
            slab = getattr(self, name)
            slab[:] = empty
            slab[: len(state[name])] = state[name]
        self._counts = state["counts"].copy()
        self._waiting = True  # `unsettled` looks again
        self.identities.restore(state["identities"])
        self.policy.restore(state["policy"])


_SLABS: Mapping[str, int] = {
    "centre": -1,
    "segment": 0,
    "since_ms": 0,
    "sequence": 0,
    "came_from": 0,
}
"""Slabs by user slot, and what an empty slot holds."""
