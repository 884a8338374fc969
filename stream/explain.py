"""What made a user fit its new segment better than the old one.

Distances are taken between scaled rows and the segments' mean scaled rows, so the explanation does not depend
on the encoder. For a user with row x that moved from a segment with mean m_from to one with mean m_to,
feature j gains

    gain_j = (x_j - m_from_j)^2 - (x_j - m_to_j)^2

Features that show the same quantity over several horizons (purchase_count_1h, purchase_count_7d ...) gain
together, and the one that gains most stands for them: five entries then say five different things. The
contribution is that gain over the sum of all positive ones, so what is shown adds up to at most 1.

A first assignment is compared with the population; a farewell has no explanation. Single interest columns
mean nothing to people: they are one quantity, `interest`, whose values are projections of the scaled rows on
the direction from m_from to m_to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .catalog import Catalog
from .compiling import kernel
from .events import F32, F64, I32, I64, Bool

FEATURES_MAX = 5
INTEREST = "interest"


@dataclass(frozen=True, slots=True)
class Explained:
    """The strongest quantities of n changes, best first: f <= FEATURES_MAX of them."""

    quantity: I64  # (n, f) index into Catalog.quantities
    column: I64  # (n, f) the feature that stands for it
    user_value: F64  # (n, f) in the feature's own unit
    segment_mean: F64  # (n, f) of the new segment
    previous_mean: F64  # (n, f) of the old one; the population's where there was none
    population_mean: F64  # (n, f)
    contribution: F64  # (n, f) 0..1; 0 where nothing further gains

    def numbers(self) -> tuple[F64, F64, F64, F64, F64]:
        return self.user_value, self.segment_mean, self.previous_mean, self.population_mean, self.contribution


def explain(catalog: Catalog, raw: F32, x: F32, before: I32, after: I32) -> Explained:
    """Rows raw, x (n, d) of users that went from centre `before` (n,), -1 for none, to `after` (n,)."""
    known, population = catalog.scaled.known(), catalog.scaled.population_mean  # (k, d), (d,)
    means = np.concatenate([known, population[None, :]])  # (k+1, d): row -1 is everybody
    gain, best = _gains(x, before, after, means, catalog.quantity_of, len(catalog.quantities))  # (n, q) each
    top = _largest(gain, FEATURES_MAX)  # (n, f)
    total = np.maximum(gain, 0.0).sum(axis=1, keepdims=True)
    share = np.maximum(np.take_along_axis(gain, top, axis=1), 0.0) / np.where(total > 0, total, 1.0)
    column = np.take_along_axis(best, top, axis=1)  # (n, f)
    plain = np.concatenate([catalog.raw.known(), catalog.raw.population_mean[None, :]])
    values = (
        np.take_along_axis(raw, column, axis=1).astype(np.float64),
        plain[after[:, None], column],
        plain[before[:, None], column],
        catalog.raw.population_mean[column],
    )
    if catalog.interest.any():
        shown = top == catalog.quantities.index(INTEREST)
        at = catalog.interest
        own = means[:, at]  # (k+1, w)
        _project(values, shown, x[:, at], own[before], own[after], population[at][None, :])
    return Explained(top, column, *values, contribution=share)


def _largest(gain: F64, most: int) -> I64:
    """(n, min(most, q)) columns of the largest gains, largest first, ties to the lowest column."""
    return np.argsort(-gain, axis=1, kind="stable")[:, :most]


def _project(
    values: tuple[F64, F64, F64, F64], shown: Bool, x: F32, m_from: F64, m_to: F64, population: F64
) -> None:
    """Where `shown` (n, f), put projections on the direction m_from -> m_to (n, w) into the values."""
    direction = m_to - m_from
    length = np.sqrt(np.square(direction).sum(axis=1, keepdims=True))
    direction = direction / np.where(length > 0, length, 1.0)
    points: tuple[F64, F64, F64, F64] = (x.astype(np.float64), m_to, m_from, population)
    for out, point in zip(values, points, strict=True):
        along = (point * direction).sum(axis=1, keepdims=True)  # (n, 1)
        np.copyto(out, along, where=shown)


@kernel
def _gains(x, before, after, means, quantity_of, q):  # type: ignore[no-untyped-def]
    """(n, q) gain per quantity, and (n, q) which of its features gains most."""
    n, d = x.shape
    gain, best = np.zeros((n, q)), np.zeros((n, q), np.int64)
    top = np.full((n, q), -np.inf)
    for i in range(n):
        for j in range(d):
            to_old = x[i, j] - means[before[i], j]
            to_new = x[i, j] - means[after[i], j]
            g = to_old * to_old - to_new * to_new
            at = quantity_of[j]
            gain[i, at] += g
            if g > top[i, at]:
                top[i, at], best[i, at] = g, j
    return gain, best


# --- rounding ------------------------------------------------------------------------------------------

_SMALL, _LARGE = -17, 22  # decimal exponents; powers up to 10**22 are exact in float64
_POWERS = np.array([float(f"1e{e}") for e in range(_SMALL, _LARGE + 1)])
_DIGITS = 6


def rounded(values: F64 | Sequence[float]) -> F64:
    """To six significant digits, so that records are short and do not show the last bits of a sum.

    Only exact powers of ten take part, so a result prints as the decimal number that was meant. What is
    smaller than 1e-17 becomes 0.

    >>> rounded([1234567.8, 0.1 + 0.2]).tolist()
    [1234570.0, 0.3]
    """
    v = np.asarray(values, np.float64)
    exponent = np.searchsorted(_POWERS, np.abs(v), side="right") + (_SMALL - 1)  # floor(log10 |v|)
    places = _DIGITS - 1 - exponent  # decimal places to keep
    up = _POWERS[np.clip(places, 0, _LARGE) - _SMALL]
    down = _POWERS[np.clip(-places, 0, _LARGE) - _SMALL]
    out = np.rint(v / down * up) / up * down
    return np.where(exponent < _SMALL, 0.0, out) + 0.0  # + 0.0: no negative zero


def six(value: float) -> float:
    """One number, as `rounded`; a tenth of the time.

    >>> six(1234567.8), six(0.1 + 0.2), six(-1e-18)
    (1234570.0, 0.3, 0.0)
    """
    return float(f"{value:.{_DIGITS}g}") + 0.0 if abs(value) >= 10.0**_SMALL else 0.0
