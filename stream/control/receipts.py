"""What a user's erasure says to the outside: a change of its own kind, with a receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ..membership import Moves
from ..values import Told, Value

ERASED = "erased"
ELSEWHERE = ("input", "commands", "published", "snapshots", "event_hashes")
"""Where this engine does not reach, or not at once; the schema says what each means. The same in every receipt."""


@dataclass(frozen=True, slots=True)
class Erased(Told):
    """Told, and what was erased."""

    receipts: Sequence[Value] = ()  # (n,)

    def transitions(self) -> list[str]:
        return [ERASED] * len(self.moves)

    def more(self) -> list[str]:
        return [f',"receipt":{orjson.dumps(proof).decode()}' for proof in self.receipts]


def receipt(
    command_ids: Sequence[str], held: bool, erased: Sequence[str], residual: dict[str, Any] | None
) -> Value:
    """`held`: something was kept about the user. If not, nobody knows whether rows of an earlier stay were learned."""
    return {
        "command_ids": list(command_ids),
        "held": held,
        "erased": list(erased),
        "residual": residual,
        "elsewhere": list(ELSEWHERE),
    }


def nowhere(step_number: int) -> Moves:
    """A change of one user who is in no segment, to none."""
    none, nobody = np.zeros(1, np.int64), np.full(1, -1, np.int32)
    return Moves.to_nowhere(nobody, none, nobody, none, np.full(1, step_number, np.int64))
