"""Who is who in a simulation, and when: the truth that segments are measured against.

A user has one persona at a time. Changes of persona happen at midnight (stream time); a visit under way ends
as it began. Boundary users have two personas and choose one of them at every visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..events import F64, I32, Bool
from .personas import BOT, PERSONAS, Persona

DAY_MS = 86_400_000
MONDAY_MS = 1_767_571_200_000  # 2026-01-05T00:00:00Z


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a simulation depends on. Shares are 0..1 of all records unless said otherwise."""

    users: int = 2000
    events: int | None = None  # exactly this many records; None: as many as come in `days`
    days: float | None = None  # None: 21, or as many as `events` take; both: activity is scaled to fit
    seed: int = 1
    start_ms: int = MONDAY_MS  # rounded down to midnight UTC
    personas: tuple[Persona, ...] = PERSONAS[:8]
    births: tuple[
        Persona, ...
    ] = ()  # personas that nobody has at first; each takes a share of all users later
    deaths: int = 0  # how many of `personas` die; their users turn to others
    drift: str = "none"  # slow: habits of every persona move; abrupt: some users change persona overnight
    drift_share: float = 0.2  # abrupt: share of users that change; slow: how far habits move, 1 = half is new
    drift_at: float = 0.6  # abrupt: when, as a share of the span
    boundary: float = 0.0  # share of users that are mixtures of two personas
    bots: int = 0  # how many of the users are bots
    anonymous: float = 0.0  # share of users that never give a user id
    stray: float = 0.1  # share of visits that look at anything
    duplicates: float = 0.0
    late: float = 0.0  # older than any window; none on the first day
    future: float = 0.0  # clocks that run years ahead
    absurd: float = 0.0  # values of 1e308
    corrupt: tuple[tuple[str, float], ...] = ()  # (reason code, share)
    disorder_ms: int = 0  # an event arrives up to this long after its time


@dataclass(frozen=True, slots=True)
class Span:
    """The truth about one user from one time to another."""

    user_id: str
    persona: str
    from_ms: int
    to_ms: int
    boundary: bool = False
    bot: bool = False
    anonymous: bool = False
    other: str = ""  # the second persona of a boundary user

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Change:
    """At this midnight these users take these personas."""

    day: int  # days since the start
    users: I32  # (c,)
    personas: I32  # (c,)


class Population:
    """n users, their personas now, and the changes to come. Personas are rows of `all_personas`."""

    def __init__(self, settings: Settings, days: float) -> None:
        rng = np.random.default_rng([settings.seed, 1])
        self.settings = settings
        self.days = days
        self.all_personas = (*settings.personas, *settings.births, BOT)
        n, first = settings.users, len(settings.personas)
        self.persona = rng.integers(0, first, n).astype(np.int32)  # (n,)
        self.other = self.persona.copy()  # (n,) the same, where the user has only one
        self.activity = np.exp(rng.normal(0.0, 0.35, n))  # (n,) how busy, against the persona's rate
        order = rng.permutation(n)
        self.bot = _first(order, settings.bots, n)
        self.boundary = _first(order[settings.bots :], round(settings.boundary * n), n)
        self.anonymous = rng.random(n) < settings.anonymous
        self.mobile = rng.random(n)  # (n,) on the app where below the persona's share
        self.country = rng.integers(0, len(COUNTRIES), n)
        self.names = [f"{'a' if anon else 'u'}{i:07d}" for i, anon in enumerate(self.anonymous.tolist())]
        shift = rng.integers(1, first, n) if first > 1 else np.zeros(n, np.int64)
        self.other[self.boundary] = ((self.persona + shift) % first)[self.boundary]
        self.persona[self.bot] = self.other[self.bot] = len(self.all_personas) - 1
        self.changes = _plan(self, rng)
        self._applied = 0

    def advance(self, day: int) -> None:
        """Apply the changes of this day and of those before it."""
        while self._applied < len(self.changes) and self.changes[self._applied].day <= day:
            change = self.changes[self._applied]
            self.persona[change.users] = self.other[change.users] = change.personas
            self.boundary[change.users] = False
            self._applied += 1

    def rates(self, per_persona: F64) -> F64:
        """(P,) -> (n,): the mean over a user's one or two personas, times how busy the user is."""
        return self.activity * 0.5 * (per_persona[self.persona] + per_persona[self.other])

    def truth(self, end_ms: int) -> list[Span]:
        """The spans of every user from the start to `end_ms`, by user and time. Every user has one."""
        world = Population(self.settings, self.days)
        start_ms = midnight(self.settings.start_ms)
        spans: list[list[Span]] = [[] for _ in world.names]
        begun = [start_ms] * len(world.names)
        for change in world.changes:
            at_ms = start_ms + change.day * DAY_MS
            if at_ms >= end_ms:
                break
            for user in change.users.tolist():
                if begun[user] < at_ms:  # two changes on one day: the second counts
                    spans[user].append(world._span(user, begun[user], at_ms))
                begun[user] = at_ms
            world.advance(change.day)
        for user, from_ms in enumerate(begun):
            spans[user].append(world._span(user, from_ms, end_ms))
        return [span for of_user in spans for span in of_user]

    def _span(self, user: int, from_ms: int, to_ms: int) -> Span:
        names = [persona.name for persona in self.all_personas]
        boundary = bool(self.boundary[user])
        return Span(
            self.names[user],
            names[self.persona[user]],
            from_ms,
            to_ms,
            boundary,
            bool(self.bot[user]),
            bool(self.anonymous[user]),
            names[self.other[user]] if boundary else "",
        )


COUNTRIES = ("GB", "DE", "FR", "IT", "ES", "NL", "PL", "SE")


def midnight(time_ms: int) -> int:
    return time_ms // DAY_MS * DAY_MS


def _first(order: np.ndarray, count: int, n: int) -> Bool:
    chosen = np.zeros(n, np.bool_)
    chosen[order[:count]] = True
    return chosen


def _plan(world: Population, rng: np.random.Generator) -> list[Change]:
    """Every change of persona there will be, in order of time."""
    settings = world.settings
    now = world.persona.copy()  # as the plan unfolds
    other = world.other.copy()
    alive = list(range(len(settings.personas)))
    plan: list[Change] = []
    for day, kind, persona in _schedule(settings, world.days):
        if kind == "birth":
            people = np.flatnonzero(~world.bot)
            share = 1.0 / (len(alive) + 1)
            users = np.sort(rng.choice(people, round(share * len(people)), replace=False))
            to = np.full(len(users), persona)
            alive.append(persona)
        elif kind == "death":
            alive.remove(persona)
            users = np.flatnonzero((now == persona) | (other == persona))
            to = np.array(alive)[rng.integers(0, len(alive), len(users))]
        else:
            people = np.flatnonzero(~world.bot)
            users = np.sort(rng.choice(people, round(settings.drift_share * len(people)), replace=False))
            to = _others(now[users], alive, rng)
        now[users] = other[users] = to
        plan.append(Change(day, users.astype(np.int32), to.astype(np.int32)))
    return plan


def _schedule(settings: Settings, days: float) -> list[tuple[int, str, int]]:
    """(day, what, persona): births at even distances, deaths between them, the abrupt change at its time."""
    first = len(settings.personas)
    events: list[tuple[float, str, int]] = []
    for i in range(len(settings.births)):
        events.append(((i + 1) / (len(settings.births) + 1), "birth", first + i))
    for i in range(settings.deaths):
        events.append(((i + 0.5) / (settings.deaths + 0.5), "death", i))
    if settings.drift == "abrupt":
        events.append((settings.drift_at, "abrupt", -1))
    return [(max(1, round(share * days)), kind, persona) for share, kind, persona in sorted(events)]


def _others(now: I32, alive: Sequence[int], rng: np.random.Generator) -> I32:
    """For each user a living persona that is not the present one."""
    choices = np.array(alive, np.int32)
    if len(choices) < 2:
        return now.copy()
    at = rng.integers(0, len(choices) - 1, len(now))
    position = np.searchsorted(choices, now)  # alive is ascending; a dead persona finds its neighbour
    present = choices[np.minimum(position, len(choices) - 1)] == now
    at += present & (at >= position)
    return choices[np.minimum(at, len(choices) - 1)]
