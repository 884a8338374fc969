"""What groups of users are like now: means that fade with time, each row with a weight of its own.

A busy user is seen a hundred times while a quiet one is seen once. If every sighting weighed the same, three
bots in a thousand users would multiply the average several-fold. So weights halve in a day, and a row brings
back what its user's earlier rows have lost since the last one (`Sightings`). Then every user known for a
day or two weighs almost 1, however often it is seen.
"""

from __future__ import annotations

import numpy as np

from .compiling import kernel
from .events import F32, F64, I32, I64
from .ports import State

HALF_LIFE_MS = 86_400_000
"""One daily round: shorter, and the means would follow the time of day."""

FIRST_MS = 600_000  # a first row weighs as if its user had been there so long: it says little yet
_FADED = 1e-12  # a mean that is all but forgotten still stands until the next row


class Means:
    """Running means of rows (., d) per group 0..k-1, and mean and variance over everybody."""

    def __init__(self, k: int, d: int) -> None:
        self.mean: F64 = np.zeros((k, d))
        self.weight: F64 = np.zeros(k)  # behind each mean
        self.population_mean: F64 = np.zeros(d)
        self.population_variance: F64 = np.zeros(d)
        self.population_weight = 0.0

    def fade(self, kept: float) -> None:
        """Let all that was learned weigh only this share, 0..1, from now on."""
        self.weight = np.where(self.weight > 0, np.maximum(self.weight * kept, _FADED), 0.0)
        if self.population_weight > 0:
            self.population_weight = max(self.population_weight * kept, _FADED)

    def learn(self, rows: F32, groups: I32, weights: F64) -> None:
        """Rows (n, d), n >= 1, of groups (n,), each 0..k-1, with weights (n,) > 0."""
        added, sums = group_sums(rows, groups, weights, len(self.weight))  # (k,), (k, d)
        met = added > 0
        self.weight[met] += added[met]
        step = (added[met] / self.weight[met])[:, None]
        self.mean[met] += step * (sums[met] / added[met][:, None] - self.mean[met])
        self._learn_population(rows, weights, sums.sum(axis=0))

    def _learn_population(self, rows: F32, weights: F64, total: F64) -> None:
        added = float(weights.sum())
        mean = total / added
        self.population_weight += added
        step = added / self.population_weight
        variance = weighted_squares(rows, mean, weights) / added
        gap = mean - self.population_mean
        self.population_mean = self.population_mean + step * gap
        kept = (1.0 - step) * (self.population_variance + step * gap * gap)
        self.population_variance = kept + step * variance

    def hand_over(self, group: int, heir: int) -> None:
        """What was learned of a group belongs to another one; the group itself is as if never seen."""
        total = self.weight[group] + self.weight[heir]
        if total > 0:
            self.mean[heir] += self.weight[group] / total * (self.mean[group] - self.mean[heir])
        self.weight[heir], self.weight[group] = total, 0.0
        self.mean[group] = 0.0

    def known(self) -> F64:
        """(k, d) group means, the population's where a group has no rows yet."""
        return np.where(self.weight[:, None] > 0, self.mean, self.population_mean)

    def of(self, group: int) -> F64:
        """(d,) one row of `known`."""
        row: F64 = self.mean[group] if self.weight[group] > 0 else self.population_mean
        return row

    def snapshot(self) -> State:
        return {name: _copy(getattr(self, name)) for name in _FIELDS}

    def restore(self, state: State) -> None:
        for name in _FIELDS:
            setattr(self, name, _copy(state[name]))


_FIELDS = ("mean", "weight", "population_mean", "population_variance", "population_weight")


class Sightings:
    """When each user slot was last learned from. Memory: 8 bytes times `features.users_max`."""

    def __init__(self) -> None:
        self._last_ms: I64 = np.zeros(0, np.int64)  # by slot; 0: never
        self._now_ms = 0

    def advance(self, time_ms: I64) -> float:
        """Stream time has come to the newest of these events: the share of old weights that is kept, 0..1."""
        passed_ms = max(0, int(time_ms.max(initial=0)) - self._now_ms)
        first = self._now_ms == 0
        self._now_ms += passed_ms
        return 1.0 if first else float(0.5 ** (passed_ms / HALF_LIFE_MS))

    def weigh(self, slots: I32, users_max: int) -> F64:
        """Weights (n,), 0..1 and never 0, of rows of these slots (n,), each once; they count as seen now."""
        if len(self._last_ms) < users_max:
            self._last_ms = np.concatenate(
                [self._last_ms, np.zeros(users_max - len(self._last_ms), np.int64)]
            )
        last_ms = self._last_ms[slots]
        passed_ms = np.where(last_ms > 0, np.maximum(self._now_ms - last_ms, 1), FIRST_MS)
        self._last_ms[slots] = self._now_ms
        return np.asarray(1.0 - 0.5 ** (passed_ms / HALF_LIFE_MS), np.float64)

    def clear(self, slots: I32) -> None:
        """Whoever gets these slots was never seen."""
        self._last_ms[slots[slots < len(self._last_ms)]] = 0

    def snapshot(self) -> State:
        seen = np.flatnonzero(self._last_ms)
        used = int(seen[-1]) + 1 if len(seen) else 0  # slots above were never seen
        return {"last_ms": self._last_ms[:used].copy(), "now_ms": self._now_ms}

    def restore(self, state: State) -> None:
        self._last_ms = state["last_ms"].copy()
        self._now_ms = int(state["now_ms"])


def _copy(value: F64 | float) -> F64 | float:
    return value.copy() if isinstance(value, np.ndarray) else float(value)


@kernel
def group_sums(rows, groups, weights, k):  # type: ignore[no-untyped-def]
    """(k,) summed weights and (k, d) weighted sums of rows (n, d) by group (n,)."""
    added, sums = np.zeros(k), np.zeros((k, rows.shape[1]))
    for i in range(rows.shape[0]):
        c = groups[i]
        added[c] += weights[i]
        for j in range(rows.shape[1]):
            sums[c, j] += weights[i] * rows[i, j]
    return added, sums


@kernel
def weighted_squares(rows, mean, weights):  # type: ignore[no-untyped-def]
    """(d,) weighted sums of squared gaps of rows (n, d) to the mean (d,)."""
    squares = np.zeros(len(mean))
    for i in range(rows.shape[0]):
        for j in range(len(mean)):
            gap = rows[i, j] - mean[j]
            squares[j] += weights[i] * gap * gap
    return squares
