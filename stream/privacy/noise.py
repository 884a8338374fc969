"""Whole numbers of noise, exact and repeatable: discrete Laplace from the keyed bytes of a pseudorandom function.

    P(y) = (1 - a) / (1 + a) * a^|y|,  a = exp(-epsilon)

Drawn with whole numbers only (Canonne, Kamath and Steinke, 2020, algorithms 1 and 2): no floating-point number
takes part, so there is nothing for the low bits of one to give away, and every machine draws the same.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

MILLI = 1000
"""Budgets are counted in thousandths, in whole numbers: a sum of them is exact."""


@dataclass(slots=True)
class Draws:
    """Uniform whole numbers that follow from a key and a text; who has not the key cannot foresee them."""

    key: bytes
    text: bytes
    _block: int = 0

    def below(self, n: int) -> int:
        """Uniform in 0..n-1, n <= 2^64."""
        limit = (1 << 64) - (1 << 64) % n  # the rest would come up more often
        while True:
            message = self.text + self._block.to_bytes(8, "big")
            self._block += 1
            drawn = int.from_bytes(hmac.digest(self.key, message, "sha256")[:8], "big")
            if drawn < limit:
                return drawn % n


def discrete_laplace(draws: Draws, epsilon_milli: int) -> int:
    """One value; its standard deviation is about sqrt(2) / epsilon. Cost: a dozen hashes or so.

    >>> [discrete_laplace(Draws(b"key", b"text %d" % i), 500) for i in range(8)]
    [-1, 3, 2, -2, -1, 3, 0, -1]
    """
    assert epsilon_milli > 0, f"epsilon of {epsilon_milli} thousandths"
    while True:
        low = draws.below(MILLI)
        if not _exp(draws, low, MILLI):
            continue
        high = 0
        while _exp(draws, 1, 1):
            high += 1
        size = (low + MILLI * high) // epsilon_milli
        negative = draws.below(2)
        if not (negative and size == 0):  # or zero would come up twice as often
            return -size if negative else size


def _exp(draws: Draws, a: int, b: int) -> bool:
    """True with probability exp(-a / b), 0 <= a <= b."""
    k = 1
    while draws.below(b * k) < a:
        k += 1
    return k % 2 == 1
