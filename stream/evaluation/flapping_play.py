"""One policy over a recorded scene: every change it would have published, and how good that was.

A scene is what a membership policy sees, look by look (a look is what a step scored), and the truth behind it.
Policies neither learn nor teach, so every one of them can be played over the same scene.

    needless      a change of a user whose truth did not change, or did and had been seen: everything but the first
                  arrival in the right group after a true change. Going back and forth is two needless changes
    delay         events of the user after the first one that shows the change, until it is in the right group
    right         movers that are in the right group at the end
    settled       users of one group, clear of any border, that are in it at the end: never to move is no policy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..events import F64, I32, I64, Bool, Scored

NEVER = 1_000_000


class Rule(Protocol):
    """A membership policy: `stream.policy.Policy`, or one it is compared with."""

    def decide(self, scored: Scored, current: I32, since_ms: I64, now_ms: int) -> I32: ...
    def doubt(self, centre: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What one step scored. Centres `given_up` before it (centre, heir) stand for something else now."""

    scored: Scored
    seen: I64  # (m,) events of each user so far
    now_ms: int
    given_up: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Truth:
    """Who n users really are. Groups are numbered; -1 is no single one."""

    home: I64  # (n,) the group, at first
    away: I64  # (n,) the group from `changed_ms` on; -1: it never changes
    changed_ms: I64  # (n,)
    seen: I64  # (n,) events before the change
    group_of: I64  # (k,) which group each centre stands for

    @property
    def movers(self) -> Bool:
        return self.away >= 0


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    k: int
    looks: Sequence[Look]
    truth: Truth

    @property
    def events(self) -> int:
        """Of all users, however many a look took together."""
        last = np.zeros(len(self.truth.home), np.int64)
        for look in self.looks:
            last[look.scored.slots] = look.seen
        return int(last.sum())


@dataclass(frozen=True, slots=True)
class Played:
    """The c changes of a policy, in order, and where everybody was at the end."""

    user: I64  # (c,)
    to: I64  # (c,) centre
    now_ms: I64  # (c,)
    seen: I64  # (c,) events of the user so far
    first: Bool  # (c,) it was in no segment before
    last: I64  # (n,) centre


def play(rule: Rule, scene: Scene) -> Played:
    """The policy over the scene, from nobody in any segment."""
    n = len(scene.truth.home)
    centre, since_ms = np.full(n, -1, np.int32), np.zeros(n, np.int64)
    parts: list[tuple[I64, I64, I64, I64, Bool]] = []
    for look in scene.looks:
        for gone, heir in look.given_up:
            centre[centre == gone] = heir
            rule.doubt(gone)
        slots = look.scored.slots
        before = centre[slots]
        after = rule.decide(look.scored, before, since_ms[slots], look.now_ms)
        rows = np.flatnonzero(after != before)
        moved = slots[rows]
        centre[moved] = after[rows]
        since_ms[moved] = look.now_ms
        when = np.full(len(rows), look.now_ms, np.int64)
        parts.append(
            (moved.astype(np.int64), after[rows].astype(np.int64), when, look.seen[rows], before[rows] < 0)
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    user, to, now_ms, seen, first = columns
    return Played(user, to, now_ms, seen, first.astype(np.bool_), centre.astype(np.int64))


def measured(scene: Scene, played: Played, nearest: Played) -> dict[str, float]:
    """The figures of a policy on a scene; `nearest` is how the plain nearest centre played it."""
    truth = scene.truth
    delays, needed = arrivals(truth, played)
    plain, _ = arrivals(truth, nearest)
    later = delays - plain
    changes = int((~played.first).sum())
    right = truth.group_of[played.last] == truth.away
    judged = truth.group_of[nearest.last] == truth.away
    clear = (truth.home >= 0) & ~truth.movers
    per_1000 = 1000.0 / max(scene.events, 1)
    return {
        "changes": changes * per_1000,
        "needless": (changes - needed) * per_1000,
        "delay": _quantile(delays[truth.movers], 0.5),
        "delay_p90": _quantile(delays[truth.movers], 0.9),
        "later": _quantile(later[truth.movers & judged], 0.5),
        "later_p90": _quantile(later[truth.movers & judged], 0.9),
        "right": _share(right[truth.movers]),
        "right_as_nearest": _share(right[truth.movers & judged]),
        "settled": _share((truth.group_of[played.last] == truth.home)[clear]),
        "movers": float(truth.movers.sum()),
        "movers_judged": float((truth.movers & judged).sum()),
        "events": float(scene.events),
    }


def arrivals(truth: Truth, played: Played) -> tuple[F64, int]:
    """(n,) each mover's delay in events, NEVER where it never arrives; and how many changes that took."""
    delay = np.full(len(truth.home), float(NEVER))
    was = np.full(len(truth.home), -1, np.int64)  # centre when its truth changed
    needed = 0
    group = truth.group_of[played.to]
    for i, user in enumerate(played.user.tolist()):
        if truth.away[user] < 0:
            continue
        if played.now_ms[i] < truth.changed_ms[user]:
            was[user] = played.to[i]
        elif delay[user] == NEVER and not _there(truth, user, was[user]) and group[i] == truth.away[user]:
            delay[user] = max(0.0, float(played.seen[i] - truth.seen[user] - 1))
            needed += int(not played.first[i])
    for user in np.flatnonzero(truth.movers).tolist():
        if _there(truth, user, was[user]):
            delay[user] = 0.0
    return delay, needed


def _there(truth: Truth, user: int, centre: int) -> bool:
    """Whether it was in the right group before its truth changed: then nothing has to be seen."""
    return bool(centre >= 0 and truth.group_of[centre] == truth.away[user])


def _quantile(values: F64, q: float) -> float:
    return float(np.quantile(values, q, method="higher")) if len(values) else 0.0


def _share(values: Bool) -> float:
    return float(values.mean()) if len(values) else 1.0
