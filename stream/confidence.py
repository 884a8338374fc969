"""How sure a placement is: the probability that the user stays in this segment through its next STAY_EVENTS events.

Leaving is a matter of events, not of time: who sends none stays where it is, but for windows that move. A
placement runs a risk H of leaving within these events, spread over them as PROFILE says, and its score is

    P(stays) = exp(-H)        H = ratio(bucket) * prior(events seen, margin, first or later, number of centres)

The prior is a fit to simulated shops (`shoal eval confidence --fit` prints it) and makes the very first scores
calibrated, as far as other shops are like those. The ratio is learned here, from what became of earlier
placements: departures seen over departures expected under the prior, per bucket of events seen and
margin, drawn towards the ratio of all buckets, and that one towards 1, by as many departures as DRAWN says
(empirical Bayes: Gamma-Poisson). Every event of a user counts at once by its share of the risk, so
placements whose outcome is not known yet bias nothing (censoring). Once a bucket expects FULL departures, what it
has seen counts half: it follows a shop that changes.

Memory: 13 bytes per user slot. Cost: a few passes over a step's users.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .events import F32, F64, I8, I32, I64, Bool
from .ports import State

PROVISIONAL_EVENTS = 3
"""A placement on fewer events than this is called provisional."""

STAY_EVENTS = 20
"""The score is about a user's next so many events."""

PROFILE = np.array(
    [
        0.0, 0.0025, 0.0119, 0.0376, 0.0651, 0.0955, 0.1404, 0.1983, 0.2589, 0.3343, 0.4039, 0.4869, 0.5595,
        0.6216, 0.6795, 0.7379, 0.7906, 0.8373, 0.8905, 0.9357, 1.0,
    ]
)  # fmt: skip
"""Share of the risk that is over after 0, 1 ... STAY_EVENTS events."""
PRIOR = {
    "one": 1.6268, "seen": -0.6435, "margin": -3.1814, "margin squared": -1.3192, "first": -1.0682,
    "first seen": 0.3445, "first margin": 1.9736, "many": -0.0918, "many seen": -0.0353, "many margin": 1.2438,
}  # fmt: skip
"""ln H = the sum of these times what `_prior_terms` makes of a placement."""

SEEN_EDGES = (2, 5, 15, 50)  # events seen: lower edges of all buckets but the first
MARGIN_EDGES = (0.05, 0.12, 0.25, 0.45)
BUCKETS = (len(SEEN_EDGES) + 1) * (len(MARGIN_EDGES) + 1)
DRAWN, FULL = 10.0, 400.0
_SURE, _LEAST = 1e-4, 1e-3  # H and score are kept above these: nothing is certain


def confidence(distances: F64, chosen: I32) -> tuple[F64, F64]:
    """Margin and degree of the chosen centres (n,), from squared distances (n, k) -> (n,), (n,), both 0..1.

    margin = (d_2 - d_1) / d_2 with d_1 the distance to the chosen centre and d_2 the smallest of the others;
    1 where there is no other, 0 where another is nearer. degree is the fuzzy c-means degree of membership
    with fuzzifier 2 (Bezdek 1981): the share that 1 / d_1^2 has in the sum of 1 / d_i^2. It orders placements
    by how clear they are, but is no probability, and falls as segments grow in number: a peer in
    `shoal eval confidence`.
    """
    n, k = distances.shape
    if k == 1 or n == 0:
        return np.ones(n), np.ones(n)
    rows = np.arange(n)
    tiny = np.finfo(np.float64).tiny
    own = distances[rows, chosen]
    ratio = np.maximum(own, tiny)[:, None] / np.maximum(distances, tiny)  # (n, k)
    return margins(distances, chosen), 1.0 / ratio.sum(axis=1)


def margins(distances: F64, chosen: I32) -> F64:
    """The first half of `confidence` alone."""
    n, k = distances.shape
    if k == 1 or n == 0:
        return np.ones(n)
    rows = np.arange(n)
    own = distances[rows, chosen]
    others = distances.copy()
    others[rows, chosen] = np.inf
    second = others.min(axis=1)
    tiny = np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):  # far off its centre and on another one: no margin, however far
        margin = np.where(second > 0, 1.0 - np.sqrt(own / np.maximum(second, tiny)), 0.0)
    return np.maximum(margin, 0.0)


def prior_terms(events_seen: I64, margin: F64, first: Bool, centres: int) -> Mapping[str, F64]:
    """What the prior is a sum over, by name; (n,) each."""
    seen = np.log(np.maximum(events_seen, 1.0))
    here = np.where(first, 1.0, 0.0)
    many = np.full(len(seen), np.log(max(centres, 2) / 16.0))
    return {
        "one": np.ones(len(seen)),
        "seen": seen,
        "margin": margin,
        "margin squared": margin * margin,
        "first": here,
        "first seen": here * seen,
        "first margin": here * margin,
        "many": many,
        "many seen": many * seen,
        "many margin": many * margin,
    }


def prior(events_seen: I64, margin: F64, first: Bool, centres: int) -> F64:
    """(n,) the risk H of placements before anything was learned here."""
    terms = prior_terms(events_seen, margin, first, centres)
    logarithm = sum((weight * terms[name] for name, weight in PRIOR.items()), np.zeros(len(margin)))
    return np.asarray(np.clip(np.exp(np.minimum(logarithm, 10.0)), _SURE, -np.log(_LEAST)), np.float64)


def bucket(events_seen: I64, margin: F64) -> I64:
    """(n,) which bucket a placement falls into, 0 .. BUCKETS - 1."""
    seen = np.searchsorted(SEEN_EDGES, events_seen, side="right")
    clear = np.searchsorted(MARGIN_EDGES, margin, side="right")
    return (seen * (len(MARGIN_EDGES) + 1) + clear).astype(np.int64)


class Calibration:
    """Scores for placements, learned from what became of earlier ones: `observe` everybody scored, then `place`."""

    def __init__(self, users_max: int) -> None:
        self._bucket: I8 = np.full(users_max, -1, np.int8)  # of the placement under watch; -1: none
        self._placed: I32 = np.zeros(users_max, np.int32)  # events seen then
        self._aged: I32 = np.zeros(users_max, np.int32)  # events since then, as last observed
        self._risk: F32 = np.zeros(users_max, np.float32)  # prior H
        self.left: F64 = np.zeros(BUCKETS)  # departures seen
        self.expected: F64 = np.zeros(BUCKETS)  # and expected under the prior

    def observe(self, slots: I32, events_seen: I64, gone: Bool) -> None:
        """What became of the placements of these users (n,), each once; `gone`: it moves to another segment now."""
        watched = np.flatnonzero(self._bucket[slots] >= 0)
        if not len(watched):
            return
        slots, gone = slots[watched], gone[watched]
        age = events_seen[watched] - self._placed[slots]
        over = age > STAY_EVENTS
        end = np.minimum(age, STAY_EVENTS).astype(np.int32)
        passed = self._risk[slots] * (PROFILE[end] - PROFILE[self._aged[slots]])
        # who left within a jump of several events did not run the whole risk: 1 - h / (e^h - 1), for risk h
        passed = np.where(gone & (passed > 1e-6), 1.0 - passed / np.expm1(np.maximum(passed, 1e-6)), passed)
        which = self._bucket[slots]
        self.expected += np.bincount(which, passed, BUCKETS)
        self.left += np.bincount(which, (gone & ~over).astype(np.float64), BUCKETS)
        self._aged[slots] = end
        self.clear(slots[gone | (age >= STAY_EVENTS)])
        full = self.expected > FULL
        self.expected[full] /= 2
        self.left[full] /= 2

    def place(self, slots: I32, events_seen: I64, margin: F64, first: Bool, centres: int) -> F64:
        """(n,) the scores of users placed in a segment just now, who are watched from here on."""
        which, risk = bucket(events_seen, margin), prior(events_seen, margin, first, centres)
        self._bucket[slots], self._risk[slots] = which, risk
        self._placed[slots], self._aged[slots] = events_seen, 0
        return self.score(which, risk)

    def score(self, which: I64, risk: F64) -> F64:
        """(n,) of placements in these buckets that run this risk by the prior. Reads only."""
        return np.exp(-np.clip(self.ratios()[which] * risk, _SURE, -np.log(_LEAST)))

    def ratios(self) -> F64:
        """(BUCKETS,) by how much more placements of each bucket leave than the prior says."""
        overall = (self.left.sum() + DRAWN) / (self.expected.sum() + DRAWN)
        ratio: F64 = (self.left + DRAWN * overall) / (self.expected + DRAWN)
        return ratio

    def clear(self, slots: I32) -> None:
        """Watch these users no longer."""
        for name, empty in _SLABS.items():
            getattr(self, name)[slots] = empty

    def fingerprint(self) -> bytes:
        return self.left.tobytes() + self.expected.tobytes()

    def snapshot(self, used: int) -> State:
        """Of the first `used` slots; those above are empty."""
        state: State = {name: getattr(self, name)[:used].copy() for name in _SLABS}
        return state | {"left": self.left.copy(), "expected": self.expected.copy()}

    def restore(self, state: State) -> None:
        for name, empty in _SLABS.items():
            slab = getattr(self, name)
            slab[:] = empty
            slab[: len(state[name])] = state[name]
        self.left, self.expected = state["left"].copy(), state["expected"].copy()


_SLABS: Mapping[str, int] = {"_bucket": -1, "_placed": 0, "_aged": 0, "_risk": 0}
"""Slabs by user slot, and what an empty slot holds."""
