"""How a segment is doing: how well it holds together, how old it is, whether it grows.

cohesion   the mean simplified silhouette of its members' rows of the last day or so,
               (b - a) / max(a, b),    a, b: distances to the own centre and to the nearest other one
           1: far from everything else; 0: on the border; negative: its members lie nearer to others. It has
           no unit, and needs only the distances that scoring has computed. Source: Hruschka, de Castro and
           Campello (2004).
age        stream time since the segment came to be.
trend      its size now over the mean of its past sizes, fading so that they are a week old on average; over
           a shorter past while it is younger. An empty segment counts as one user. GROWING, SHRINKING or
           STABLE: by a tenth or more, and by more than chance would (twice the root of the past size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .compiling import kernel
from .events import F64, I32, I64
from .ports import State

GROWING, STABLE, SHRINKING = "growing", "stable", "shrinking"
PAST_MS = 7 * 86_400_000
"""How old the sizes that a trend compares with are, on average."""

TREND_MIN = 1.1
_CHANCE = 2.0
_HALF_LIFE_MS = PAST_MS * 0.693147  # a mean that halves in h is h / ln 2 old
_FADED = 1e-12


@dataclass(frozen=True, slots=True)
class Vital:
    """One segment's, as of the last step."""

    since_ms: int  # stream time when it came to be
    age_ms: int
    cohesion: float | None  # -1..1; None: no rows yet, or no other segment
    ratio: float  # of its size to its past size
    trend: str


class Vitals:
    """By centre: 56 bytes each."""

    def __init__(self, k: int) -> None:
        self.silhouette: F64 = np.zeros(k)
        self.weight: F64 = np.zeros(k)  # behind the silhouette
        self.ids: I64 = np.zeros(k, np.int64)
        self.sizes: I64 = np.zeros(k, np.int64)  # at the last call of `watch`
        self.since_ms: I64 = np.zeros(k, np.int64)
        self.past: F64 = np.zeros(k)  # mean of past sizes
        self.past_weight: F64 = np.zeros(k)  # behind it, 0..1
        self.now_ms = 0  # of the last call of `watch`

    def fade(self, kept: float) -> None:
        """Let the silhouettes learned so far weigh only this share, 0..1, from now on."""
        self.weight = np.where(self.weight > 0, np.maximum(self.weight * kept, _FADED), 0.0)

    def learn(self, distances: F64, centres: I32, weights: F64) -> None:
        """Squared distances (n, k) of rows of segments `centres` (n,), which weigh `weights` (n,)."""
        _learn(distances, centres, weights, self.silhouette, self.weight)

    def hand_over(self, centre: int, heir: int) -> None:
        """Who was in a segment is in another one from now on: that does not make it grow."""
        for name in ("sizes", "past"):
            values = getattr(self, name)
            values[heir] += values[centre]
        self._forget(np.array([centre]))

    def _forget(self, centres: I64) -> None:
        for name in _BY_CENTRE:
            getattr(self, name)[centres] = 0

    def watch(self, ids: I64, sizes: I64, now_ms: int) -> None:
        """Segments `ids` (k,) have these sizes (k,) now; those of the last call were theirs until now. Every step."""
        self._follow(ids)
        added = 1.0 - 0.5 ** (max(0, now_ms - self.now_ms) / _HALF_LIFE_MS)
        aged = (self.ids > 0) & (now_ms > self.now_ms)
        self.past_weight = np.where(aged, self.past_weight * (1.0 - added) + added, self.past_weight)
        step = np.where(aged, added / np.where(aged, self.past_weight, 1.0), 0.0)
        self.past = self.past + step * (self.sizes - self.past)
        new = (ids > 0) & (self.ids == 0)
        self.since_ms[new], self.past[new] = now_ms, sizes[new]
        self.ids, self.sizes, self.now_ms = ids.copy(), sizes.copy(), max(now_ms, self.now_ms)

    def _follow(self, ids: I64) -> None:
        """What is known of a segment goes where its id is now; what ended, or has another id, is forgotten."""
        if (self.ids == ids).all():
            return
        at = {segment: centre for centre, segment in enumerate(self.ids.tolist()) if segment}
        source = np.array([at.get(segment, -1) for segment in ids.tolist()], np.int64)  # (k,)
        first = (ids > 0) & (source < 0) & (self.ids == 0)  # its first rows were learned already
        for name in _BY_CENTRE:
            column = getattr(self, name)
            here = column if name in _LEARNED else np.zeros_like(column)
            setattr(self, name, np.where(source >= 0, column[source], np.where(first, here, 0)))

    def of(self, centre: int) -> Vital:
        size, past = max(float(self.sizes[centre]), 1.0), max(float(self.past[centre]), 1.0)
        alone = int((self.ids > 0).sum()) < 2
        return Vital(
            since_ms=int(self.since_ms[centre]),
            age_ms=self.now_ms - int(self.since_ms[centre]),
            cohesion=None if alone or not self.weight[centre] else float(self.silhouette[centre]),
            ratio=size / past,
            trend=trend(size, past),
        )

    def snapshot(self) -> State:
        return {name: getattr(self, name).copy() for name in _BY_CENTRE} | {"now_ms": self.now_ms}

    def restore(self, state: State) -> None:
        for name in _BY_CENTRE:
            setattr(self, name, state[name].copy())
        self.now_ms = int(state["now_ms"])


_LEARNED = ("silhouette", "weight")
_BY_CENTRE = ("ids", "sizes", "since_ms", "past", "past_weight", *_LEARNED)


def trend(size: float, past: float) -> str:
    """
    >>> trend(60, 50), trend(80, 50), trend(900, 1000), trend(4, 3)
    ('stable', 'growing', 'shrinking', 'stable')
    """
    if abs(size - past) <= _CHANCE * past**0.5:
        return STABLE
    return GROWING if size >= TREND_MIN * past else SHRINKING if past >= TREND_MIN * size else STABLE


@kernel
def _learn(distances, centres, weights, silhouette, weight):  # type: ignore[no-untyped-def]
    """Move the mean silhouette of each row's segment; a row that is not finite says nothing."""
    for i in range(len(centres)):
        c = centres[i]
        own, other = distances[i, c], np.inf
        for j in range(distances.shape[1]):
            if j != c and distances[i, j] < other:
                other = distances[i, j]
        if np.isfinite(own) and np.isfinite(other):
            larger = max(own, other)
            gap = 0.0 if larger <= 0 else (np.sqrt(other) - np.sqrt(own)) / np.sqrt(larger)
            weight[c] += weights[i]
            silhouette[c] += weights[i] / weight[c] * (gap - silhouette[c])
