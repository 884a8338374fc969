"""Users in embedding space with planted truth: some stand on a border, some stand still, some really move.

Each user has a place; every event shows it with noise. Three in five are of one group, clear of any border (70 to 30
or clearer on the line to every other centre); one in five stands on the border of two groups, within a tenth of the
way; one in five is clear in one group and, from an event on, clear in another, at once or over `gradual` events.
Centres are given: what is tested is the policy, not the segmenter.

A look comes every `LOOK_MS`; about half of the users have an event in it. Of the others one in four is looked at again
with the row of its last event: silence that says nothing new.

Units are standard deviations within a group: a user's own place and its noise together have variance about 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..events import F64, I64, Bool, Scored
from .flapping_play import Look, Scene, Truth

USERS = 400
LOOKS = 160
LOOK_MS = 6 * 3_600_000
START_MS = 1_767_571_200_000
BORDER = 0.1  # of the way: how far from the border its users stand at most
CLEAR = 0.4  # lead over every other centre of users that are clear: 70 to 30
_ACTIVE, _AGAIN = 0.5, 0.25
_EARLY, _LATE = 0.2, 0.7  # of the looks: when users move
_TRIED = 200


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    d: int
    k: int
    spread: float  # standard deviation of the centres
    place: float  # of the users' places round their centre, per dimension
    noise: float  # of a row round its user's place, per dimension
    wander: float = 0.0  # correlation of the noise of successive events
    heavy: bool = False  # Student's t with 3 degrees of freedom
    stretched: bool = False  # noise three times as large along some axes as along others
    gradual: int = 1  # events that a move takes
    unit: float = 1.0  # everything times this


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gaussian", 16, 16, 1.1, 0.6, 0.7),
        Shape("low", 4, 8, 2.2, 0.4, 0.5),
        Shape("wander", 16, 16, 1.1, 0.5, 0.7, wander=0.8),
        Shape("gradual", 16, 16, 1.1, 0.6, 0.7, gradual=10),
        Shape("wide", 32, 32, 0.8, 0.6, 0.7),
        Shape("heavy", 16, 16, 1.2, 0.6, 0.7, heavy=True),
        Shape("loud", 16, 16, 1.1, 0.4, 1.0),
        Shape("quiet", 16, 16, 1.1, 0.6, 0.2, unit=1000.0),
        Shape("stretched", 16, 16, 1.2, 0.5, 0.6, stretched=True),
        Shape("many", 32, 64, 0.9, 0.5, 0.7),
        Shape("few", 8, 3, 1.6, 0.5, 0.7),
        Shape("wandering", 24, 24, 1.0, 0.5, 0.6, wander=0.9),
        Shape("creeping", 24, 24, 1.0, 0.5, 0.7, gradual=20),
    )
}
DEVELOPED_ON = ("gaussian", "low", "wander", "gradual")
"""Shapes that the defaults were chosen on, with `DEVELOPMENT_SEEDS`; the others were looked at afterwards."""
DEVELOPMENT_SEEDS = (101, 102)


def made(name: str, seed: int, users: int = USERS) -> Scene:
    """The scene of this shape; the same seed gives the same bytes."""
    shape = SHAPES[name]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, list(SHAPES).index(name)])))
    world = _World(shape, rng)
    active = rng.random((LOOKS, users)) < _ACTIVE  # who has an event in which look
    active[0] = True
    home, away, moves_at = world.people(users, active)
    places = world.places(home, away, moves_at, active)  # (LOOKS, users, d)
    rows = places + world.noise(places.shape, active)
    looks = [_look(shape, world.centres, rows, active, t, rng.random(users) < _AGAIN) for t in range(LOOKS)]
    when_ms = START_MS + moves_at * LOOK_MS
    before = np.array([active[: moves_at[u], u].sum() for u in range(users)])
    truth = Truth(home, away, np.where(away >= 0, when_ms, 0), before, np.arange(shape.k))
    return Scene(name, shape.k, looks, truth)


class _World:
    """Centres, and people round them."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        self.centres = self._apart()
        self._gaps = ((self.centres[:, None] - self.centres) ** 2).sum(axis=2)  # (k, k) squared

    def _apart(self) -> F64:
        """Centres drawn until no two are within three deviations; or the best of those tried."""
        best, widest = np.empty(0), -1.0
        for _ in range(_TRIED):
            centres = self.rng.normal(0.0, self.shape.spread, (self.shape.k, self.shape.d))
            gaps = np.linalg.norm(centres[:, None] - centres, axis=2)
            nearest = float(gaps[~np.eye(self.shape.k, dtype=bool)].min())
            if nearest > widest:
                best, widest = centres, nearest
            if nearest > 3.0:
                break
        return best

    def people(self, users: int, active: Bool) -> tuple[I64, I64, I64]:
        """(n,) home, away and when: a fifth on borders (home -1), a fifth that moves, the others stay."""
        fifth, k = users // 5, self.shape.k
        home = self.rng.integers(0, k, users)
        away = np.full(users, -1, np.int64)
        away[fifth : 2 * fifth] = (home + self.rng.integers(1, k, users))[fifth : 2 * fifth] % k
        early, late = int(_EARLY * LOOKS), int(_LATE * LOOKS)
        moves_at = self.rng.integers(early, late, users)
        for u in range(users):  # a move begins with an event
            moves_at[u] += int(np.argmax(active[moves_at[u] :, u]))
        home[:fifth] = -1
        return home, away, moves_at

    def places(self, home: I64, away: I64, moves_at: I64, active: Bool) -> F64:
        """(LOOKS, n, d). `moves_at` is set to the look of the event that is past the middle of the way."""
        places = np.empty((LOOKS, len(home), self.shape.d))
        for u in range(len(home)):
            start = self._border() if home[u] < 0 else self._clear(int(home[u]))
            places[:, u] = start
            if away[u] < 0:
                continue
            end = self._clear(int(away[u]))
            events = np.cumsum(active[moves_at[u] :, u])  # of the move, from its first one on
            way = np.minimum(events / self.shape.gradual, 1.0)
            places[moves_at[u] :, u] = start + way[:, None] * (end - start)
            path = ((places[:, u, None] - self.centres) ** 2).sum(axis=2)  # (LOOKS, k)
            moves_at[u] += int(np.argmax(path[moves_at[u] :].argmin(axis=1) == away[u]))
        return places

    def _clear(self, group: int) -> F64:
        """A place in the group that leads by CLEAR over every other."""
        while True:
            place = self.rng.normal(self.centres[group], self.shape.place)
            gaps = ((place - self.centres) ** 2).sum(axis=1)
            others = np.arange(self.shape.k) != group
            if ((gaps - gaps[group])[others] > CLEAR * self._gaps[group][others]).all():
                return np.asarray(place)

    def _border(self) -> F64:
        """A place between a group and one of its three nearest, where no third one is nearer."""
        while True:
            one = int(self.rng.integers(self.shape.k))
            near = np.argsort(self._gaps[one])[1:4]
            other = int(self.rng.choice(near))
            way = self.centres[other] - self.centres[one]
            place = self.centres[one] + way * (0.5 + self.rng.uniform(-BORDER, BORDER))
            gaps = ((place - self.centres) ** 2).sum(axis=1)
            if set(np.argsort(gaps)[:2].tolist()) == {one, other}:
                return place

    def noise(self, size: tuple[int, ...], active: Bool) -> F64:
        """(LOOKS, n, d) of each event; correlated from event to event where the shape wanders."""
        shape, rng = self.shape, self.rng
        noise = rng.standard_t(3, size) / np.sqrt(3.0) if shape.heavy else rng.normal(size=size)
        if shape.wander:
            for t in range(1, size[0]):
                fresh = np.sqrt(1.0 - shape.wander**2) * noise[t]
                noise[t] = np.where(active[t][:, None], shape.wander * noise[t - 1] + fresh, noise[t - 1])
        scale = np.full(size[2], shape.noise)
        if shape.stretched:
            scale[::4] *= 3.0
            scale *= shape.noise / np.sqrt((scale**2).mean())
        return np.asarray(noise * scale)


def _look(shape: Shape, centres: F64, rows: F64, active: Bool, t: int, again: Bool) -> Look:
    """Users with an event first, then silent ones with the row of their last event."""
    touched = np.flatnonzero(active[t])
    silent = np.flatnonzero(~active[t] & again)
    last = np.array([t - int(np.argmax(active[t::-1, u])) for u in silent.tolist()], np.int64)
    z = np.concatenate([rows[t, touched], rows[last, silent]]) * shape.unit
    scaled = centres * shape.unit
    distances = ((z[:, None] - scaled) ** 2).sum(axis=2)
    slots = np.concatenate([touched, silent]).astype(np.int32)
    none = np.empty((0, 0), np.float32)
    nearest = distances.argmin(axis=1).astype(np.int32)
    scored = Scored(slots, len(touched), none, none, none, nearest, distances, scaled)
    seen = active[: t + 1].sum(axis=0)[slots]
    return Look(scored, seen.astype(np.int64), START_MS + t * LOOK_MS)
