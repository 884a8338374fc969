"""The two halves of decoding held against each other: what they make of the same records is the same, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from shoal.stream.config import Input
from shoal.stream.decoding.careful import Careful
from shoal.stream.decoding.plain import Plain
from shoal.stream.events import Events, Records, Reject
from shoal.stream.wire import Decoder


class Halves:
    """A decoder, and the careful half of it alone as its oracle."""

    def __init__(self, config: Input) -> None:
        self.decoder, self.oracle, self.plain = Decoder(config), Careful(config), Plain(config)

    def agree(self, values: Sequence[bytes | None]) -> None:
        n = len(values)
        batch = Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), (None,) * n, values)
        assert_same(self.decoder.decode(batch), self.oracle.decode(values), values)

    def share(self, values: Sequence[bytes | None]) -> float:
        """How many of the records the fast half decides alone, 0..1."""
        return 1.0 - len(self.plain.decode(values)[2]) / len(values)


def assert_same(
    got: tuple[Events, list[Reject]], wanted: tuple[Events, list[Reject]], values: Sequence[bytes | None]
) -> None:
    """Every column by its bytes, every reject by its reason and words; at first by row, to name the record."""
    differing = set(got[0].row.tolist()) ^ set(wanted[0].row.tolist())
    assert not differing, [values[row] for row in sorted(differing)][:3]
    assert got[1] == wanted[1]
    for name in (one.name for one in fields(Events)):
        a, b = getattr(got[0], name), getattr(wanted[0], name)
        if isinstance(b, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            where = np.flatnonzero(a != b)
            assert a.tobytes() == b.tobytes(), (name, [_record(name, i, got[0], values) for i in where[:3]])
        else:
            assert a == b, (name, values[:3])


def _record(name: str, place: int, events: Events, values: Sequence[bytes | None]) -> bytes | None:
    """The record behind a place in a column, where it can be told."""
    return None if name in ("token", "token_ptr") else values[events.row[place]]
