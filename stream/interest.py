"""What a user turns to: a decayed sum of the meanings of what they touched.

    interest(user, t) = sum over events e of  weight(type) * 2**-((t - time of e) / half life)
                                              * sum over tokens of e of  meaning(token)

A token's meaning is learned from the users who turn to it (`context.py`); it is as of the end of the step before,
and stays what it was when the event was added. Negative types subtract, and teach no meaning.

A row is the sum brought to length 1: what, not how much. Where taking back leaves less than a hundredth of
all that was ever added, it is shorter than 1 instead, so that rounding noise is not mistaken for taste.

What depends on the cut into steps: only the meanings. With the same meanings, any order and any cut give the
same row up to float32 rounding: 1e-5, or 1e-4 where nearly all was taken back.

The history that meanings are learned from is kept at 16 bits a dimension, with a scale a user: decay goes into
the scale, so that no small step of it is lost. Memory: (d + 1) * 4 + 2 d + 12 bytes a user, and the table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiling import kernel
from .config import Features
from .context import Contexts, add_index, add_meaning, mix
from .events import CHANNELS, F32, I32, U64, Events
from .ports import State

_WEIGHTS = {"impression": 0.1, "dwell": 0.5, "favorite": 2.0, "like": 2.0, "cart_add": 3.0, "purchase": 5.0}
"""How much a touch of each type says about taste; 1 where not named."""

TYPE_WEIGHTS: F32 = np.array([_WEIGHTS.get(channel, 1.0) for channel in CHANNELS], np.float32)

_LEFT_MIN = 0.01
_INT16_MAX = 32_767.0


class Interest:
    """The decayed sums of `users_max` users, and what tokens mean."""

    def __init__(self, config: Features) -> None:
        self.dim = config.interest_dim
        self._users_max = config.users_max
        self._half_life_ms = float(config.interest_half_life_ms)
        self._salt = np.uint64(mix(np.uint64(config.seed)))
        self._contexts = Contexts(self.dim)
        self._reset()
        self.names = tuple(f"interest_{j:02d}" for j in range(self.dim))
        self.bytes_per_user = sum(getattr(self, f"_{name}")[:1].nbytes for name in _SLABS)

    def _reset(self) -> None:
        u, d = self._users_max, self.dim
        self._sums: F32 = np.zeros((u, d + 1), np.float32)  # last column: the length of all ever added
        self._history: NDArray[np.int16] = np.zeros((u, d), np.int16)  # in units of `scale`
        self._scale: F32 = np.zeros(u, np.float32)
        self._reference_ms = np.zeros(u, np.int64)  # (u,) the sums and the history are as of then

    def update(self, slots: I32, events: Events, learning: bool = True) -> None:
        """Add events (n,) of the users in `slots` (n,), then learn what their tokens mean."""
        if not self.dim or not len(events.token):
            return
        weights = (TYPE_WEIGHTS[events.channel] * events.sign).astype(np.float32)  # (n,)
        columns = (slots, weights, events.time_ms, events.token_ptr, events.token)
        slabs = (self._sums, self._history, self._scale, self._reference_ms)
        _add(*slabs, *self._contexts.table, *columns, self._salt, self._half_life_ms)
        if not learning:
            return
        direction = np.zeros((len(slots), self.dim), np.float32)
        _others(*slabs[1:], *columns, self._salt, self._half_life_ms, direction)
        owner = np.repeat(np.arange(len(slots), dtype=np.int32), np.diff(events.token_ptr))  # (t,)
        self._contexts.learn(events.token, owner, direction)

    def fill(self, slots: I32, out: F32) -> None:
        """Write the users' vectors, length 1 (0 where nothing is known), into `out` (m, d)."""
        _directions(self._sums, slots, out)

    def with_more(self, slots: I32, token: U64, weight: F32, now_ms: int) -> F32:
        """(n, d) the vectors of these users had each just touched one token (n,) so weightily (n,); read-only."""
        out = np.zeros((len(slots), self.dim), np.float32)
        if self.dim:
            sums = self._sums[slots]  # a copy
            passed_ms = np.maximum(now_ms - self._reference_ms[slots], 0)
            sums *= (2.0 ** (-passed_ms / self._half_life_ms)).astype(np.float32)[:, None]
            _touch(sums, *self._contexts.table, token, weight)
            _directions(sums, np.arange(len(slots), dtype=np.int32), out)
        return out

    def merge(self, source: int, into: int) -> None:
        """Add what user `source` turned to to that of user `into`, as of the later time of the two."""
        reference_ms = int(self._reference_ms[[source, into]].max())
        if not reference_ms:
            return
        sums, past = np.zeros(self.dim + 1), np.zeros(self.dim)
        for u in (source, into):
            decay = 2.0 ** ((int(self._reference_ms[u]) - reference_ms) / self._half_life_ms)
            sums += decay * self._sums[u]
            past += decay * float(self._scale[u]) * self._history[u]
        self._sums[into] = sums
        self._scale[into] = _pack(past, self._history[into])
        self._reference_ms[into] = reference_ms

    def clear(self, slots: I32) -> None:
        for name in _SLABS:
            getattr(self, f"_{name}")[slots] = 0

    def fingerprint(self) -> bytes:
        """Of what was learned from all users; the sums show in the rows, the history in what is learned."""
        return self._contexts.fingerprint()

    def snapshot(self) -> State:
        touched = np.flatnonzero(self._reference_ms)
        used = int(touched[-1]) + 1 if len(touched) else 0  # slots above are empty
        slabs = {name: getattr(self, f"_{name}")[:used].copy() for name in _SLABS}
        return slabs | self._contexts.snapshot()

    def restore(self, state: State) -> None:
        self._reset()  # new arrays: filling the old ones with zeros would touch every page
        for name in _SLABS:
            getattr(self, f"_{name}")[: len(state[name])] = state[name]
        self._contexts.restore(state)


_SLABS = ("sums", "history", "scale", "reference_ms")


# --- kernels -------------------------------------------------------------------------------------------


@kernel
def _add(  # type: ignore[no-untyped-def]
    sums, history, scale, reference_ms, context, touches, mean,
    slots, weights, time_ms, token_ptr, token, salt, half_life_ms,
):  # fmt: skip
    """Every event into its user's sum and history; a late one with the weight that it has by now."""
    d = history.shape[1]
    past = np.empty(d)
    for i in range(len(slots)):
        if token_ptr[i] == token_ptr[i + 1]:
            continue
        u = slots[i]
        later_ms = time_ms[i] - reference_ms[u]
        decay = 2.0 ** (-abs(later_ms) / half_life_ms)
        weight = np.float64(weights[i])
        if later_ms > 0:
            scale[u] *= np.float32(decay)
            for j in range(d + 1):
                sums[u, j] *= np.float32(decay)
            reference_ms[u] = time_ms[i]
        else:
            weight *= decay
        for j in range(d):
            past[j] = np.float64(scale[u]) * history[u, j]
        for t in range(token_ptr[i], token_ptr[i + 1]):
            add_index(token[t] ^ salt, weight, past)
            sums[u, d] += np.float32(add_meaning(context, touches, mean, token[t], weight, sums[u, :d]))
        scale[u] = _pack(past, history[u])


@kernel
def _touch(sums, context, touches, mean, token, weight):  # type: ignore[no-untyped-def]
    d = sums.shape[1] - 1
    for i in range(len(sums)):
        sums[i, d] += np.float32(add_meaning(context, touches, mean, token[i], weight[i], sums[i, :d]))


@kernel
def _pack(past, out):  # type: ignore[no-untyped-def]
    """Round to 16 bits, in units of what is returned: the largest has all of them."""
    largest = 0.0
    for j in range(len(past)):
        largest = max(largest, abs(past[j]))
    unit = np.float32(largest / _INT16_MAX)
    if unit == np.float32(0.0):
        out[:] = 0
        return unit
    for j in range(len(past)):
        out[j] = np.int16(min(max(np.rint(past[j] / np.float64(unit)), -_INT16_MAX), _INT16_MAX))
    return unit


@kernel
def _others(  # type: ignore[no-untyped-def]
    history, scale, reference_ms, slots, weights, time_ms, token_ptr, token, salt, half_life_ms, out
):
    """The direction (n, d) of what else the user of each event has touched; 0 where there is nothing else."""
    d = history.shape[1]
    rest = np.empty(d)
    for i in range(len(slots)):
        if token_ptr[i] == token_ptr[i + 1] or weights[i] <= 0.0:
            continue
        u = slots[i]
        square = 0.0
        for j in range(d):
            rest[j] = np.float64(scale[u]) * history[u, j]
            square += rest[j] * rest[j]
        weight = np.float64(weights[i]) * 2.0 ** (-abs(reference_ms[u] - time_ms[i]) / half_life_ms)
        for t in range(token_ptr[i], token_ptr[i + 1]):
            add_index(token[t] ^ salt, -weight, rest)
        left = 0.0
        for j in range(d):
            left += rest[j] * rest[j]
        if left > _LEFT_MIN * _LEFT_MIN * max(square, weight * weight):
            for j in range(d):
                out[i, j] = rest[j] / np.sqrt(left)


@kernel
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
