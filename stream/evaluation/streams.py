"""Labelled streams with known truth, made from a shape and a kind of change; the same seed gives the same rows.

A stream has k places. In each place lives one group at a time; a row first draws a place (by weight), then
belongs to the group that lives there now. When a group ends, another one with a number of its own begins
somewhere else: numbers are never used twice, so "the same group" means the same thing from start to end.

    shape         anisotropic, gaussian, heavy (d = k = 16), wide (Gaussian, d = k = 32)
    change        static; slow: every centre wanders on a circle of its own; abrupt: half of all groups end at once
                  and others begin, twice; births: one group ends and another begins, eight times;
                  imbalanced: static, the largest group ten times the smallest

Units are standard deviations within a group: every shape has variance 1 per dimension. Centres are drawn so
far apart that a row's nearest true centre names its group about nineteen times in twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..events import F32, F64, I64, Bool

WARM_ROWS = 2048
"""Rows before the first scored one; they have negative times."""
ROWS_PER_CENTRE = 128
"""Rows of a window per centre."""
IMBALANCE = 10.0  # largest group over smallest
SLOW_RADIUS = 1.5
SLOW_TURNS = 0.5  # of the circle, over the scored rows
ABRUPT = (1 / 3, 2 / 3)  # where in the stream
BIRTHS = 8
PLACES_TRIED = 64


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    d: int
    k: int
    spread: float  # standard deviation of the centres; the wider, the less they overlap
    noise: str  # round, stretched, heavy


@dataclass(frozen=True, slots=True)
class Truth:
    """Where each of g groups is at any time, and when it lives: [born, died) in scored rows."""

    anchors: F64  # (g, d)
    planes: F64  # (2, g, d) orthonormal pairs: the plane of each group's circle
    phases: F64  # (g,)
    born: I64  # (g,)
    died: I64  # (g,)
    radius: float
    turns_per_row: float

    def centres(self, at: I64) -> F64:
        """(n, g, d): every group's centre at times `at` (n,), whether it lives then or not."""
        if not self.radius:
            return np.broadcast_to(self.anchors, (len(at), *self.anchors.shape))
        angle = self.phases + 2 * np.pi * self.turns_per_row * at[:, None]  # (n, g)
        first = np.cos(angle)[:, :, None] * self.planes[0]
        return self.anchors + self.radius * (first + np.sin(angle)[:, :, None] * self.planes[1])

    def alive(self, at: I64) -> Bool:
        """(n, g): whether the group lives at times `at` (n,)."""
        return (self.born <= at[:, None]) & (at[:, None] < self.died)

    def centre_of(self, groups: I64, at: I64) -> F64:
        """(n, d): where group `groups[i]` is at time `at[i]`."""
        if not self.radius:
            return self.anchors[groups]
        angle = self.phases[groups] + 2 * np.pi * self.turns_per_row * at  # (n,)
        first = np.cos(angle)[:, None] * self.planes[0, groups]
        circle: F64 = first + np.sin(angle)[:, None] * self.planes[1, groups]
        return self.anchors[groups] + self.radius * circle


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows to warm up with, rows to be scored, and what is known about them."""

    name: str
    change: str  # what kind of change it has: decides the goals
    k: int  # centres every contestant gets
    warm: F32  # (w, d)
    rows: F32  # (n, d)
    labels: I64  # (n,) the group of each scored row
    changes: tuple[int, ...]  # scored rows before which groups ended and others began
    truth: Truth | None  # None: real data, nobody knows
    window_rows: int

    def scaled(self, factor: float) -> Stream:
        """The same rows in another unit. Without truth: places are not in that unit."""
        warm, rows = (self.warm * np.float32(factor), self.rows * np.float32(factor))
        name = f"{self.name} x {factor:g}"
        return replace(self, name=name, change="scale", warm=warm, rows=rows, truth=None)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gaussian", 16, 16, 1.1, "round"),
        Shape("anisotropic", 16, 16, 1.1, "stretched"),
        Shape("heavy", 16, 16, 1.2, "heavy"),
        Shape("wide", 32, 32, 0.8, "round"),
    )
}
CHANGES = ("static", "slow", "abrupt", "births", "imbalanced")


def made(shape: str, change: str, seed: int, rows: int) -> Stream:
    """The stream of this shape and change; `rows` scored rows, cut to whole windows (at least one)."""
    form = SHAPES[shape]
    window = ROWS_PER_CENTRE * form.k
    n = max(rows // window, 1) * window
    key = [seed, list(SHAPES).index(shape), CHANGES.index(change)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    moments = _moments(change, n)
    lives = _lives(form.k, change, moments, n, rng)  # (k, epochs) the group in each place
    truth = _truth(form, change, lives, moments, n, rng)
    at = np.arange(-WARM_ROWS, n)
    places = rng.choice(form.k, len(at), p=_weights(form.k, change))
    groups = lives[places, np.searchsorted(moments, at, "right")]
    spread_out = _noise(form, groups, len(truth.anchors), rng)
    z = (truth.centre_of(groups, at) + spread_out).astype(np.float32)
    return Stream(
        name=f"{shape}/{change}",
        change=change,
        k=form.k,
        warm=z[:WARM_ROWS],
        rows=z[WARM_ROWS:],
        labels=groups[WARM_ROWS:],
        changes=tuple(moments.tolist()),
        truth=truth,
        window_rows=window,
    )


def _moments(change: str, n: int) -> I64:
    """Scored rows at which groups end and others begin; never where a window ends."""
    if change == "abrupt":
        return np.array([int(n * share) for share in ABRUPT], np.int64)
    if change == "births":
        return np.array([int(n * (i + 0.5) / BIRTHS) for i in range(BIRTHS)], np.int64)
    return np.empty(0, np.int64)


def _lives(k: int, change: str, moments: I64, n: int, rng: np.random.Generator) -> I64:
    """(k, epochs): which group lives in each place, before, between and after the moments."""
    lives = np.repeat(np.arange(k)[:, None], len(moments) + 1, axis=1)
    replaced_each = {"abrupt": k // 2, "births": 1}.get(change, 0)
    order = rng.permutation(k)  # births take the places in turn, so that no newborn ends soon
    groups = k
    for epoch in range(1, len(moments) + 1):
        places = np.roll(order, -replaced_each * (epoch - 1))[:replaced_each]
        lives[places, epoch:] = (groups + np.arange(len(places)))[:, None]
        groups += len(places)
    return lives


def _truth(form: Shape, change: str, lives: I64, moments: I64, n: int, rng: np.random.Generator) -> Truth:
    g = int(lives.max()) + 1
    bounds = np.array([-WARM_ROWS, *moments.tolist(), n])
    born, died = np.empty(g, np.int64), np.empty(g, np.int64)
    anchors = np.empty((g, form.d))
    for group in range(g):
        epochs = np.flatnonzero((lives == group).any(axis=0))
        born[group], died[group] = bounds[epochs[0]], bounds[epochs[-1] + 1]
        there = (born[:group] < died[group]) & (died[:group] >= born[group])  # also those that end just now
        anchors[group] = _apart(form, anchors[:group][there], rng)
    planes = np.linalg.qr(rng.standard_normal((g, form.d, 2)))[0].transpose(2, 0, 1)
    phases = rng.uniform(0, 2 * np.pi, g)
    radius = SLOW_RADIUS if change == "slow" else 0.0
    return Truth(anchors, planes, phases, born, died, radius, SLOW_TURNS / n)


def _apart(form: Shape, others: F64, rng: np.random.Generator) -> F64:
    """A place that is not on top of another: the first of some draws that keeps its distance, or the best."""
    enough = 0.7 * form.spread * np.sqrt(2 * form.d)  # of the usual distance
    best, best_gap = np.zeros(form.d), -1.0
    for _ in range(PLACES_TRIED):
        place = form.spread * rng.standard_normal(form.d)
        gap = float(np.linalg.norm(others - place, axis=1).min(initial=np.inf))
        if gap > best_gap:
            best, best_gap = place, gap
        if gap >= enough:
            break
    return best


def _weights(k: int, change: str) -> F64:
    weights = np.ones(k) if change != "imbalanced" else IMBALANCE ** (-np.arange(k) / (k - 1))
    return np.asarray(weights / weights.sum())


def _noise(form: Shape, groups: I64, g: int, rng: np.random.Generator) -> F64:
    """(n, d) what a row differs from its centre by; variance 1 per dimension on average."""
    eps = rng.standard_normal((len(groups), form.d))
    if form.noise == "heavy":  # Student's t, 4 degrees of freedom: rows ten deviations away do occur
        chi = rng.chisquare(HEAVY_FREEDOM, (len(groups), 1)) / HEAVY_FREEDOM
        return np.asarray(eps / np.sqrt(chi) / np.sqrt(HEAVY_FREEDOM / (HEAVY_FREEDOM - 2)))
    if form.noise == "stretched":
        axes = np.linalg.qr(rng.standard_normal((g, form.d, form.d)))[0]
        variances = STRETCH ** rng.uniform(-1, 1, (g, form.d))
        variances /= variances.mean(axis=1, keepdims=True)
        turned = axes * np.sqrt(variances)[:, None, :]  # (g, d, d)
        out = np.empty_like(eps)
        for group in range(g):
            mine = groups == group
            out[mine] = eps[mine] @ turned[group].T
        return out
    return eps


HEAVY_FREEDOM = 4.0
STRETCH = 4.0
"""Variances along a stretched group's axes lie between a fourth of and four times the usual one."""
