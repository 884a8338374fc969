"""Raw rows -> rows that distances make sense of.

1. A magnitude v becomes sign(v) ln(1 + |v| / unit): ten purchases against one weigh like one against none.
2. Each column is centred by its running mean and divided by its running deviation, but by no less than its
   floor: what one user in a thousand does stays small instead of becoming a huge outlier. Then it is
   clipped.
3. A quantity shown for h horizons weighs 1/sqrt(h) in each: it counts once, however often it is shown.
4. The interest block is centred (uncentred, popularity is one common direction) and divided by one common
   deviation; a row without any interest stays at 0, and is not learned from.
5. Each family is divided by the square root of its active dimension (the sum of its columns' variances
   after 1-3), so both weigh alike at `interest_weight` 1, and multiplied by sqrt(d) and the root of its share
   of the squared weights, so that a column is of order 1 whatever the weight: encoders count on that.

Statistics change in `learn` only. They are exact over the first 100,000 rows; from there on older rows fade
(a row 100,000 rows old counts 1/e). They depend on which rows were learned, so on the cut into steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiling import kernel
from .events import F32, F64, Bool
from .ports import State

_ROWS_MAX = 100_000.0
_NO_VARIANCE = 1e-9


class Columns(NamedTuple):
    """How each of the d columns is treated."""

    log: Bool  # (d,) a magnitude
    unit: F64  # (d,) what counts as one
    floor: F64  # (d,) smallest deviation to divide by
    weight: F64  # (d,)


class Scaling:
    """Running means and variances of the columns, and what follows from them. Cost: one pass per call."""

    def __init__(self, columns: Columns, interest: slice, interest_weight: float, clip: float) -> None:
        self._columns = columns
        self._split = interest.start  # columns before are activity, from here on interest
        self._interest_weight = interest_weight
        self._clip = clip
        self._mean = np.zeros(len(columns.log))
        self._var = np.zeros(len(columns.log))
        self._rows = np.zeros(2)  # learned from, at most _ROWS_MAX: activity, interest
        self._prepare()

    @property
    def rows(self) -> F64:
        """(2,) how many rows the moments are a mean of, at most 100,000: activity, interest."""
        return self._rows.copy()

    def scale(self, raw: F32, as_then: F64 | None = None) -> F32:
        """(m, d) -> (m, d), as it was when `constants` gave `as_then`. Before the first `learn` everything is 0."""
        mean, inverse, gain = (self._mean, self._inverse, self._gain) if as_then is None else as_then
        out = np.empty_like(raw)
        _scale(raw, self._columns, self._split, mean, inverse, gain, self._clip, out)
        return out

    def constants(self) -> F64:
        """(3, d) what `scale` depends on: means, divisors and weights of the columns."""
        return np.stack([self._mean, self._inverse, self._gain])

    def learn(self, raw: F32) -> None:
        """Update means and variances by rows (m, d) that were scaled before."""
        known = _known(raw, self._split)
        for family, columns in enumerate((slice(0, self._split), slice(self._split, None))):
            rows = raw[known] if family else raw
            if len(rows) and self._mean[columns].size:
                self._merge(family, columns, rows)
        self._prepare()

    def _merge(self, family: int, columns: slice, rows: F32) -> None:
        """Chan, Golub and LeVeque (1983), with the old rows' weight capped."""
        mean, var = self._mean[columns], self._var[columns]
        first, second = _moments(rows[:, columns], _part(self._columns, columns), mean)  # about the old mean
        old, new = min(self._rows[family], max(_ROWS_MAX - len(rows), 0.0)), float(len(rows))
        share = new / (old + new)
        self._mean[columns] = mean + first * share
        self._var[columns] = np.maximum(var * (1 - share) + second * share - (first * share) ** 2, 0.0)
        self._rows[family] = old + new

    def _prepare(self) -> None:
        """What follows from the statistics: the divisors and the weights of the columns."""
        split, d = self._split, len(self._mean)
        var = self._var.copy()
        if split < d:
            var[split:] = var[split:].mean()  # one common deviation
        divisor = np.maximum(np.sqrt(var), self._columns.floor)
        self._inverse = np.where(var > _NO_VARIANCE, 1.0 / divisor, 0.0)
        shown = var * self._inverse**2 * self._columns.weight**2
        square = self._interest_weight**2
        families = 1.0 + square if split < d else 1.0
        self._gain = self._columns.weight.copy()
        self._gain[:split] *= np.sqrt(d / families / max(1.0, shown[:split].sum()))
        self._gain[split:] *= np.sqrt(d * square / families / max(1.0, shown[split:].sum()))

    def fingerprint(self) -> bytes:
        return self._mean.tobytes() + self._var.tobytes() + self._rows.tobytes()

    def snapshot(self) -> State:
        return {"mean": self._mean.copy(), "var": self._var.copy(), "rows": self._rows.copy()}

    def restore(self, state: State) -> None:
        self._mean = state["mean"].copy()
        self._var = state["var"].copy()
        self._rows = state["rows"].copy()
        self._prepare()


def _part(columns: Columns, part: slice) -> Columns:
    return Columns(columns.log[part], columns.unit[part], columns.floor[part], columns.weight[part])


# --- kernels -------------------------------------------------------------------------------------------


@kernel
def _transformed(value, log, unit):  # type: ignore[no-untyped-def]
    value = np.float64(value)
    if not log or value == 0.0:
        return value
    return np.log1p(value / unit) if value > 0.0 else -np.log1p(-value / unit)


@kernel
def _known(raw, split):  # type: ignore[no-untyped-def]
    """(m,) which rows have any interest."""
    out = np.zeros(len(raw), np.bool_)
    for i in range(len(raw)):
        for j in range(split, raw.shape[1]):
            if raw[i, j] != 0.0:
                out[i] = True
                break
    return out


@kernel
def _moments(rows, columns, about):  # type: ignore[no-untyped-def]
    """Means of (v - about) and of its square, row after row."""
    first, second = np.zeros(len(about)), np.zeros(len(about))
    for i in range(len(rows)):
        for j in range(len(about)):
            gap = _transformed(rows[i, j], columns.log[j], columns.unit[j]) - about[j]
            first[j] += gap
            second[j] += gap * gap
    return first / len(rows), second / len(rows)


@kernel
def _scale(raw, columns, split, mean, inverse, gain, clip, out):  # type: ignore[no-untyped-def]
    known = _known(raw, split)
    for i in range(len(raw)):
        for j in range(raw.shape[1]):
            if j >= split and not known[i]:
                out[i, j] = 0.0
                continue
            value = _transformed(raw[i, j], columns.log[j], columns.unit[j])
            out[i, j] = min(max((value - mean[j]) * inverse[j], -clip), clip) * gain[j]
