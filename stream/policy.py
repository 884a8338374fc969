"""When a user goes to another centre: the nearest one, made free of flapping by evidence in stream time.

Per user one number is kept, the evidence that it belongs to another centre, its rival: the nearest one that is
not its own. What a scoring says is the rival's lead,

    lead = (d_own^2 - d_rival^2) / |c_own - c_rival|^2

how far along the way from one centre to the other the row stands: -1 at its own centre, 0 on the border, 1 at the
rival. It is linear in the row, so evidence from many rows is what their mean would give, whatever the number of
dimensions, the noise or the unit. (The relative difference of the distances shrinks with every dimension.)

    first     a user in no segment takes the nearest centre at once
    margin    a lead counts by what it has beyond `margin`, full from `clear_lead` beyond it; one that is less counts
              against the rival by as much
    evidence  the sum over scorings, never below 0; it loses one scoring's worth per `smoothing_ms`
    confirm   a user moves when it is more than `confirmations` - 1: a clear move takes that many scorings, one on
              the border longer, or for ever
    patience  every change makes the next harder: with r changes not forgotten yet, `confirmations` - 1 is taken
              (1 + `patience` r)^2 times; one is forgotten per `patience_ms`. Who swings to and fro is left in peace
    dwell     and the user must have been in its segment for `dwell_ms`

A scoring counts once for each event it saw, up to `confirmations`: one look after a visit is as good as a look after
each of its clicks, so large steps do not make users stay. A silent re-scoring (rows >= `scored.touched`) counts by
the stream time since the user was scored before, one scoring's worth per `silence_ms`: a user who falls silent sends
no event and would otherwise never drift out of "frequent buyers"; looking more often confirms nothing sooner.

All of it is sums, products and quotients: the same on every machine. One confirmation and no margin is the plain
nearest centre. Evidence is against the own centre: a rival that comes nearer than the one before takes it over.
This is Page's cumulative sum test (Page 1954, Continuous inspection schemes), which is the fastest there is at
a given rate of false alarms (Lorden 1971).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import Membership as Config
from .events import F32, F64, I32, I64, Bool, Scored
from .ports import State

RESTLESS_MAX = 8.0
"""Changes remembered at most: patience ends somewhere."""


class Policy:
    """What each user is about to do. One row per user slot, allocated once: 20 bytes times `features.users_max`."""

    def __init__(self, config: Config, users_max: int) -> None:
        self._config = config
        self._rival: I32 = np.full(users_max, -1, np.int32)  # -1: nobody is likely
        self._evidence: F32 = np.zeros(users_max, np.float32)
        self._restless: F32 = np.zeros(users_max, np.float32)  # changes that are not forgotten
        self._at_ms: I64 = np.zeros(users_max, np.int64)  # when it was last scored

    def decide(self, scored: Scored, current: I32, since_ms: I64, now_ms: int) -> I32:
        """(m,) the centre each scored user is at from now on; `current` (m,), -1: at none, since `since_ms` (m,)."""
        slots, config = scored.slots, self._config
        elapsed_ms = self._wait(slots, now_ms)  # (m,)
        rival = self._rivals(scored, current)  # (m,)
        rows = np.flatnonzero(rival >= 0)  # (r,) everybody else is where it belongs
        slot, theirs = slots[rows], rival[rows]
        over = (lead(scored, rows, current[rows], theirs) - config.margin) / config.clear_lead  # (r,)
        gained = np.clip(over, -1.0, 1.0) * self._weight(scored, rows, elapsed_ms)
        evidence = faded(self._evidence[slot], elapsed_ms[rows], config.smoothing_ms) + gained
        needed = self._needed(slot)
        sure = (evidence > needed) | (config.confirmations == 1)
        stayed = now_ms - since_ms[rows] >= config.dwell_ms
        goes = (theirs == scored.nearest[rows]) & (over > 0) & sure & stayed
        self._rival[slots], self._evidence[slots] = -1, 0.0
        self._keep(slot, theirs, np.minimum(evidence, needed + 1.0), goes)
        after = np.where(current < 0, scored.nearest, current)
        after[rows[goes]] = theirs[goes]
        return after

    def would_move(
        self, distances: F64, nearest: I32, current: I32, centres: F64, spare: float | F64 = 0.0
    ) -> Bool:
        """(m,) whether a look at squared distances (m, k) to `centres` (k, e) speaks against `current`.

        `spare`: or is nearer to doing so than that; of all, or (m,).
        """
        rows = np.arange(len(current))
        apart = np.square(centres[current] - centres[nearest]).sum(axis=1)
        found = _lead(distances[rows, current], distances[rows, nearest], apart)
        return (nearest != current) & (found > self._config.margin - spare)

    def waiting(self, slot: int) -> tuple[int, float]:
        """The centre that this user may be about to go to, -1 for none, and the share of what it takes, 0..1."""
        needed = float(self._needed(np.array([slot], np.int32))[0])
        share = float(self._evidence[slot]) / needed if needed else 1.0
        return int(self._rival[slot]), min(share, 1.0)

    def _wait(self, slots: I32, now_ms: int) -> F64:
        """(m,) stream time since these users were scored before; earlier changes are forgotten by it."""
        elapsed_ms = (now_ms - self._at_ms[slots]).astype(np.float64)
        self._at_ms[slots] = now_ms
        self._restless[slots] = faded(self._restless[slots], elapsed_ms, self._config.patience_ms)
        return elapsed_ms

    def _keep(self, slot: I32, rival: I32, evidence: F64, goes: Bool) -> None:
        """What is remembered of users (r,) that have a rival: evidence of those who stay, the change of the others."""
        kept = ~goes & (evidence > 0)
        self._rival[slot[kept]] = rival[kept]
        self._evidence[slot[kept]] = evidence[kept]
        moved = slot[goes]
        self._restless[moved] = np.minimum(self._restless[moved] + 1.0, RESTLESS_MAX)

    def _rivals(self, scored: Scored, current: I32) -> I32:
        """(m,) the nearest centre where it is not the own one, else the rival there was; -1: none."""
        rival = np.where(scored.nearest != current, scored.nearest, self._rival[scored.slots])
        return np.where((current < 0) | (rival == current), -1, rival).astype(np.int32)

    def _weight(self, scored: Scored, rows: I64, elapsed_ms: F64) -> F64:
        """(r,) what a scoring counts: as many looks as there were events, but no more than are needed to confirm;
        without one, the stream time since the look before."""
        silence_ms, most = self._config.silence_ms, self._config.confirmations
        weight = np.minimum(elapsed_ms[rows] / silence_ms, 1.0) if silence_ms else np.ones(len(rows))
        seen = rows < scored.touched
        weight[seen] = 1.0 if scored.events is None else np.minimum(scored.events[rows[seen]], most)
        return weight

    def _needed(self, slots: I32) -> F64:
        """(r,) evidence beyond which these users move."""
        tired = 1.0 + self._config.patience * self._restless[slots].astype(np.float64)
        return (self._config.confirmations - 1) * tired * tired

    def doubt(self, centre: int) -> None:
        """A centre is elsewhere now: whoever was about to go there thinks again."""
        doubtful = self._rival == centre
        self._rival[doubtful] = -1
        self._evidence[doubtful] = 0.0

    def clear(self, slots: I32) -> None:
        """Forget these users."""
        for name, empty in _SLABS.items():
            getattr(self, name)[slots] = empty

    def snapshot(self, used: int) -> State:
        """Of the first `used` slots; those above are empty."""
        return {name: getattr(self, name)[:used].copy() for name in _SLABS}

    def restore(self, state: State) -> None:
        for name, empty in _SLABS.items():
            slab = getattr(self, name)
            slab[:] = empty
            slab[: len(state[name])] = state[name]


def lead(scored: Scored, rows: I64, mine: I32, theirs: I32) -> F64:
    """(r,) how far towards `theirs` (r,) from `mine` (r,) these rows of `scored` stand: -1, 0 on the border, 1.

    Beyond either centre it is more than 1 either way. Where nobody says where the centres are they are taken to be as
    far apart as they can be, with the row between them: then it is the least it can be.
    """
    own, rival = scored.distances[rows, mine], scored.distances[rows, theirs]
    if scored.centres is None:
        apart = np.square(np.sqrt(own) + np.sqrt(rival))
    else:
        apart = np.square(scored.centres[mine] - scored.centres[theirs]).sum(axis=1)
    return _lead(own, rival, apart)


def _lead(own: F64, rival: F64, apart: F64) -> F64:
    with np.errstate(invalid="ignore"):
        return np.where(apart > 0, (own - rival) / np.where(apart > 0, apart, 1.0), 0.0)


def faded(held: NDArray[Any], elapsed_ms: F64, fade_ms: int) -> F64:
    """(n,) what is left of `held` (n,) when one is forgotten per `fade_ms` (0: nothing is), never below 0."""
    left = held.astype(np.float64)
    return np.maximum(left - elapsed_ms / fade_ms, 0.0) if fade_ms else left


_SLABS: Mapping[str, float] = {"_rival": -1, "_evidence": 0, "_restless": 0, "_at_ms": 0}
"""Slabs by user slot, and what an empty slot holds."""
