"""What sets segments apart: how far their mean rows stand from everybody's, and whether a person would see it.

What is said must be true and notable: a difference that stands out among users (z) and in the plain numbers
too (`naming.notable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .events import F64, I64, Bool
from .means import Means
from .naming import is_share, notable, quantity

INTEREST = "interest_"
_Z_MIN = 0.3  # below this, a difference is not worth a word
_DEVIATION_MIN = 1e-3  # of a scaled feature: below it is near-constant


@dataclass(frozen=True, slots=True)
class Trait:
    """A feature that sets a segment apart."""

    feature: str
    column: int  # of the row
    z: float  # (segment mean - population mean) / population deviation, of the scaled feature
    segment_mean: float  # in the feature's own unit
    population_mean: float


class Traits:
    """Reads the means of raw and scaled rows by segment; keeps nothing of its own."""

    def __init__(self, features: Sequence[str], raw: Means, scaled: Means) -> None:
        self.features = tuple(features)  # (d,)
        self.interest: Bool = np.array([name.startswith(INTEREST) for name in features], np.bool_)
        self.quantities = list(dict.fromkeys(map(quantity, features)))  # (q,)
        self.quantity_of: I64 = np.array(
            [self.quantities.index(quantity(n)) for n in features], np.int64
        )  # (d,)
        self._shares: Bool = np.array([is_share(name) for name in features], np.bool_)
        self._raw, self._scaled = raw, scaled

    def all_z(self) -> F64:
        """(k, d) z of every segment."""
        return self._z(self._scaled.known())

    def _z(self, means: F64) -> F64:
        """(..., d) how far means stand from the population's; 0 for interest and near-constant features."""
        deviation = np.sqrt(self._scaled.population_variance)
        useful = ~self.interest & (deviation > _DEVIATION_MIN)
        gap = means - self._scaled.population_mean
        return np.where(useful, gap / np.where(useful, deviation, 1.0), 0.0)

    def worth_a_word(self, centre: int, z: F64, strictness: float = 1.0) -> Bool:
        """(d,) features in which a segment stands out by z (d,), and in its plain numbers the same way."""
        own, average = self._raw.of(centre), self._raw.population_mean
        plain = notable(self._shares, own, average, strictness)
        return (np.abs(z) >= strictness * _Z_MIN) & ((own - average) * z > 0) & plain

    def strongest(self, centre: int, most: int) -> tuple[Trait, ...]:
        """What sets a segment apart, strongest first; of several horizons of a quantity the one that shows it best."""
        z, own = self._z(self._scaled.of(centre)), self._raw.of(centre)
        order = np.argsort(-np.abs(z), kind="stable")
        best: dict[int, int] = {}  # quantity -> column
        for j in order[self.worth_a_word(centre, z)[order]].tolist():
            best.setdefault(int(self.quantity_of[j]), j)
        return tuple(
            Trait(self.features[j], j, float(z[j]), float(own[j]), float(self._raw.population_mean[j]))
            for j in list(best.values())[:most]
        )


def standing(z: F64) -> F64:
    """(k, d) |z|, but less where another segment stands out the same way: half where it does as much.

    >>> standing(np.array([[1.0, 2.0], [1.0, 0.0], [-3.0, 0.0]])).tolist()
    [[0.5, 2.0], [0.5, 0.0], [3.0, 0.0]]
    """
    strength = np.zeros_like(z)
    for side in (np.maximum(z, 0.0), np.maximum(-z, 0.0)):  # (k, d) each
        first = side.argmax(axis=0)  # (d,)
        columns = np.arange(z.shape[1])
        others = side.copy()
        others[first, columns] = 0.0
        rival = np.broadcast_to(side[first, columns], z.shape).copy()
        rival[first, columns] = others.max(axis=0)
        strength += np.where(side > 0, side * side / np.where(side > 0, side + rival, 1.0), 0.0)
    return strength
