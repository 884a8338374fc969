"""What a user turns to: a decayed, idf-weighted sum of token vectors.

    interest(user, t) = sum over events e of  weight(type) * 2**-((t - time of e) / half life)
                                              * sum over tokens of e of  idf(token) * vector(token)

A token's vector is drawn from its hash: d signs, +-1/sqrt(d) (a seeded random projection; no table, so no
limit on the catalogue). Negative types subtract. The idf of a token is 1 + ln((1 + events) / (1 + events
with it)), from hashed counters that are all halved after `_EVENTS_MAX` events; it is frozen within a step:
weights are read before the step's tokens are counted.

A row is the sum brought to length 1: what, not how much. Where taking back leaves less than a hundredth of
all that was ever added, it is shorter than 1 instead, so that rounding noise is not mistaken for taste.

What depends on the cut into steps: only the idf, for it is as of the last step. Given the same idf weights,
any order and any cut give the same row up to float32 rounding: 1e-5, or 1e-4 where nearly all was taken back.

Memory: (d + 1) * 4 + 8 bytes a user, 512 KiB of counters. Source: Achlioptas (2003), database-friendly random
projections; Spärck Jones (1972) for the idf.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .config import Features
from .events import CHANNELS, F32, I32, Events
from .ports import State

_WEIGHTS = {"impression": 0.1, "dwell": 0.5, "favorite": 2.0, "like": 2.0, "cart_add": 3.0, "purchase": 5.0}
"""How much a touch of each type says about taste; 1 where not named."""

TYPE_WEIGHTS: F32 = np.array([_WEIGHTS.get(channel, 1.0) for channel in CHANNELS], np.float32)

_COUNTERS = 1 << 17  # tokens share counters beyond this: their idf is then too low, never too high
_EVENTS_MAX = 1 << 22
_LEFT_MIN = 0.01


class Interest:
    """The decayed sums of `users_max` users, and how often tokens were seen."""

    def __init__(self, config: Features) -> None:
        self.dim = config.interest_dim
        self._users_max = config.users_max
        self._half_life_ms = float(config.interest_half_life_ms)
        self._seed = np.uint64(config.seed)
        self._sums = np.zeros((self._users_max, self.dim + 1), np.float32)  # last column: all ever added
        self._reference_ms = np.zeros(self._users_max, np.int64)  # (u,) the sums are as of then
        self._seen = np.zeros(_COUNTERS, np.uint32)
        self._events = 0
        self.names = tuple(f"interest_{j:02d}" for j in range(self.dim))
        self.bytes_per_user = self._sums[:1].nbytes + self._reference_ms[:1].nbytes

    def update(self, slots: I32, events: Events) -> None:
        """Add events (n,) of the users in `slots` (n,), then count their tokens."""
        if not self.dim or not len(events.token):
            return
        weights = (TYPE_WEIGHTS[events.channel] * events.sign).astype(np.float32)  # (n,)
        _add(
            self._sums, self._reference_ms, slots, weights, events.time_ms, events.token_ptr, events.token,
            self._seen, self._events, self._seed, self._half_life_ms,
        )  # fmt: skip
        self._count(events)

    def _count(self, events: Events) -> None:
        np.add.at(self._seen, (events.token & np.uint64(_COUNTERS - 1)).astype(np.int64), np.uint32(1))
        self._events += int(np.count_nonzero(np.diff(events.token_ptr)))
        if self._events > _EVENTS_MAX:
            self._seen >>= np.uint32(1)
            self._events >>= 1

    def fill(self, slots: I32, out: F32) -> None:
        """Write the users' vectors, length 1 (0 where nothing is known), into `out` (m, d)."""
        _directions(self._sums, slots, out)

    def clear(self, slots: I32) -> None:
        self._sums[slots] = 0
        self._reference_ms[slots] = 0

    def fingerprint(self) -> bytes:
        """Of the idf counters; the sums show in the rows."""
        return b"%d %d" % (self._events, int(_weigh(self._seen)))

    def snapshot(self) -> State:
        touched = np.flatnonzero(self._reference_ms)
        used = int(touched[-1]) + 1 if len(touched) else 0  # slots above are empty
        tokens = np.flatnonzero(self._seen)
        return {
            "sums": self._sums[:used].copy(),
            "reference_ms": self._reference_ms[:used].copy(),
            "tokens": tokens,
            "seen": self._seen[tokens],
            "events": self._events,
        }

    def restore(self, state: State) -> None:
        used = len(state["sums"])
        self._sums = np.zeros(self._sums.shape, np.float32)  # zeros_like would touch every page
        self._reference_ms = np.zeros(self._users_max, np.int64)
        self._seen = np.zeros(_COUNTERS, np.uint32)
        self._sums[:used], self._reference_ms[:used] = state["sums"], state["reference_ms"]
        self._seen[state["tokens"]] = state["seen"]
        self._events = state["events"]


# --- kernels -------------------------------------------------------------------------------------------


@njit(cache=True)
def _mix(x):  # type: ignore[no-untyped-def]
    """splitmix64 (Steele, Lea and Flood, 2014): 64 bits, each as good as a coin."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _weigh(seen):  # type: ignore[no-untyped-def]
    """Sum of counter j times 2 j + 1, modulo 2**64."""
    total = np.uint64(0)
    for j in range(len(seen)):
        total += np.uint64(seen[j]) * (np.uint64(2) * np.uint64(j) + np.uint64(1))
    return total


@njit(cache=True)
def _project(sums, u, token, weight):  # type: ignore[no-untyped-def]
    """Add `weight` times the token's signs to row u of sums (u, d + 1), and its size to the last column."""
    d = sums.shape[1] - 1
    step = np.float32(weight / np.sqrt(d))
    bits = token
    for j in range(d):
        if j % 64 == 0:
            bits = _mix(bits)
        if (bits >> np.uint64(j % 64)) & np.uint64(1):
            sums[u, j] += step
        else:
            sums[u, j] -= step
    sums[u, d] += abs(weight)


@njit(cache=True)
def _add(  # type: ignore[no-untyped-def]
    sums, reference_ms, slots, weights, time_ms, token_ptr, token, seen, n_events, seed, half_life_ms
):
    salt = _mix(seed)
    mask = np.uint64(len(seen) - 1)
    for i in range(len(slots)):
        if token_ptr[i] == token_ptr[i + 1]:
            continue
        u = slots[i]
        later_ms = time_ms[i] - reference_ms[u]
        decay = 2.0 ** (-abs(later_ms) / half_life_ms)
        weight = np.float64(weights[i])
        if later_ms > 0:
            for j in range(sums.shape[1]):
                sums[u, j] *= np.float32(decay)
            reference_ms[u] = time_ms[i]
        else:
            weight *= decay
        for k in range(token_ptr[i], token_ptr[i + 1]):
            idf = 1.0 + np.log((1.0 + n_events) / (1.0 + min(seen[token[k] & mask], n_events)))
            _project(sums, u, token[k] ^ salt, weight * idf)


@njit(cache=True)
def _directions(sums, slots, out):  # type: ignore[no-untyped-def]
    d = sums.shape[1] - 1
    for i in range(len(slots)):
        row = sums[slots[i]]
        square = 0.0
        for j in range(d):
            square += np.float64(row[j]) * np.float64(row[j])
        length = max(np.sqrt(square), _LEFT_MIN * np.float64(row[d]))
        for j in range(d):
            out[i, j] = row[j] / length if length > 0.0 else 0.0
