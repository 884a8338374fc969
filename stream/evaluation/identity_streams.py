"""People with known groups, as events for the real pipeline: a world in which groups split, merge, begin and end.

A world has users, each in one group at a time, and groups, each with a place. A user's row is its group's place,
its own constant deviation and the noise of the day: `World` takes the part of `Features`, everything else is the
pipeline as it runs. At step `at` something happens; nothing else ever does.

Places are drawn so far apart that a nearest place names the group almost always. Units: deviations of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from ..events import F32, F64, I32, I64, Bool, Events, Range, Step
from ..ports import State
from ..sources import MemorySource
from ..users import Users

D = 8
GROUPS = 8
USERS = 1600
APART = 7.0
STEP_MS = 600_000
START_MS = 1_767_571_200_000
ROWS = 256
"""Users of a step, each with one event."""
AWAY = 10_000  # group of a user that comes no more


@dataclass(frozen=True, slots=True)
class Happening:
    """What is planted: its kind, and the groups that were (before) and are (after) concerned."""

    kind: str  # split, merge, birth, death
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A world's story."""

    name: str
    happenings: tuple[Happening, ...]
    free: bool  # whether the number of segments is found, between 2 and 16
    fixed: int = GROUPS  # segments, where it is not


def split(a: int, *parts: int) -> Happening:
    return Happening("split", (a,), (a, *parts))


def merge(a: int, b: int) -> Happening:
    return Happening("merge", (a, b), (a,))


BIRTH = Happening("birth", (), (GROUPS,))
BIRTH_OF_MANY = Happening("birth", tuple(range(GROUPS)), (GROUPS,))

CASES = (
    Case("quiet, free number", (), True),
    Case("quiet, fixed number", (), False),
    Case("split", (split(0, GROUPS),), True),
    Case("split in three", (split(0, GROUPS, GROUPS + 1),), True),
    Case("merge", (merge(0, 1),), True),
    Case("birth of new people", (BIRTH,), True),
    Case("birth out of many", (BIRTH_OF_MANY,), True),
    Case("death", (Happening("death", (0,), ()),), True),
    Case("death and birth, fixed", (Happening("death", (0,), ()), BIRTH), False),
    Case("merge and split, fixed", (merge(0, 1), split(2, GROUPS)), False),
)


class World:
    """Users, groups and places, from one seed. In the pipeline it stands where `Features` does."""

    def __init__(self, case: Case, seed: int, users_max: int) -> None:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, len(case.name)])))
        self._rng, self.case = rng, case
        self.d = D
        self.names = tuple(f"interest_{j}" for j in range(D))
        self.interest = slice(0, D)
        self.version = "planted"
        self.places = _apart(GROUPS + 4, rng)
        self.group: I64 = np.sort(rng.integers(0, GROUPS, USERS))  # (u,) by number of the user
        self.group[rng.random(USERS) < 0.02] = 0  # so that sizes are not all alike
        self._own = 0.5 * rng.standard_normal((2 * USERS, D))
        self._held: F32 = np.zeros((users_max, D), np.float32)  # (slot,) row of the newest event

    # --- what happens ------------------------------------------------------------------------------------

    def happen(self) -> None:
        """All happenings of the case, at once."""
        for one in self.case.happenings:
            getattr(self, f"_{one.kind}")(one)

    def _split(self, one: Happening) -> None:
        members = np.flatnonzero(self.group == one.before[0])
        self.group[members] = np.array(one.after)[self._rng.integers(0, len(one.after), len(members))]

    def _merge(self, one: Happening) -> None:
        self.group[np.isin(self.group, one.before)] = one.after[0]

    def _birth(self, one: Happening) -> None:
        n = USERS // GROUPS
        if one.before:
            self.group[self._rng.choice(len(self.group), n, replace=False)] = one.after[0]
        else:
            self.group = np.concatenate([self.group, np.full(n, one.after[0])])

    def _death(self, one: Happening) -> None:
        self.group[np.isin(self.group, one.before)] = AWAY

    # --- events ------------------------------------------------------------------------------------------

    def step(self, number: int, closing: bool = False) -> Step:
        """One event each of `ROWS` users drawn from those who come at all."""
        who = self._rng.permutation(np.flatnonzero(self.group != AWAY))[:ROWS]
        now_ms = START_MS + number * STEP_MS
        values = [_event(number, int(u), now_ms) for u in np.sort(who)]
        source = MemorySource([values])
        polled = source.poll(len(values), 0.0)
        assert polled is not None, "a step without events"
        start = (number - 1) * ROWS
        return Step(number, (Range(0, start, start + len(values)),), polled[0], None, closing)

    # --- as features -------------------------------------------------------------------------------------

    def update(self, slots: I32, events: Events, learning: bool = True) -> None:
        users = np.array([int(name) for name in events.users], np.int64)
        mean = self.places[self.group[users]] + self._own[users]
        self._held[slots] = mean + self._rng.standard_normal(mean.shape)

    def rows(self, slots: I32, users: Users, now_ms: int, peek: bool = False) -> F32:
        return self._held[slots]

    def due(self, slots: I32, now_ms: int) -> Bool:
        return np.zeros(len(slots), np.bool_)

    def scale(self, raw: F32, as_then: F64 | None = None) -> F32:
        return raw

    def scale_now(self) -> F64:
        return np.zeros((3, D))

    def learn(self, raw: F32) -> None:
        pass

    def clear(self, slots: I32) -> None:
        self._held[slots] = 0.0

    def fingerprint(self) -> bytes:
        return b""

    def snapshot(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        pass


def _event(number: int, user: int, time_ms: int) -> bytes:
    event = {"event_id": f"{number}-{user}", "type": "view", "user_id": str(user), "event_time": time_ms}
    return orjson.dumps(event)


def _apart(n: int, rng: np.random.Generator) -> F64:
    """(n, D) places, each at least APART from every other."""
    places: list[F64] = []
    while len(places) < n:
        place = 4.0 * rng.standard_normal(D)
        if all(np.linalg.norm(place - other) >= APART for other in places):
            places.append(place)
    return np.array(places)


def happenings(cases: Sequence[Case]) -> int:
    return sum(len(case.happenings) for case in cases)
