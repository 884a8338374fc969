"""The fast half of decoding: records in plain form, straight from bytes to columns.

`walk` says which records those are; they come out exactly as the careful half would make them, and the rest
is left to it. Python sees only what has to be a Python text: each distinct user and label of the step once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from ..config import Input
from ..events import I32, I64, Events, Reject
from . import refusals
from .field_map import content_id
from .shape import shape_of
from .slate import NOBODY, ROW, UNSURE, Columns, Limits, Names, new_columns, new_found, new_names
from .units import Unit
from .walk import read


class Plain:
    """decode(values) -> (events, rejects, rest). Stateless: the same bytes give the same columns, anywhere."""

    def __init__(self, config: Input) -> None:
        self._shape = shape_of(config)
        unit = Unit.of(config)
        self._limits = Limits(config.value_max_bytes, float(config.money_max), *unit[1:])

    def decode(self, values: Sequence[bytes | None]) -> tuple[Events, list[Reject], I32]:
        """Plain events and rejects, both in ascending row order, and the rows left to the careful half (r,)."""
        n, shape = len(values), self._shape
        if shape is None:
            return _events(new_columns(0, 0), [], []), [], np.arange(n, dtype=np.int32)
        data, ends = _joined(values)
        users, labels, out = new_names(n), new_names(n), new_columns(n, len(data))
        read(np.frombuffer(data, np.uint8), ends, shape, self._limits, new_found(), users, labels, out)
        events = _events(out, _named(users, data), _named(labels, data))
        if not shape.event_id_parts:
            events.event_key[:] = [_content_key(values[row] or b"") for row in events.row.tolist()]
        rejects = [Reject(row, *refusals.NOBODY) for row in np.flatnonzero(out.verdict == NOBODY).tolist()]
        return events, rejects, np.flatnonzero(out.verdict == UNSURE).astype(np.int32)


def _joined(values: Sequence[bytes | None]) -> tuple[bytearray, I64]:
    """All records, a byte 0 behind each, and where each ends."""
    full = values if all(values) else [value or b"" for value in values]
    sizes = np.fromiter(map(len, full), np.int64, len(full))  # type: ignore[arg-type]  # no None is left
    return bytearray(b"\0").join([*full, b""]), np.cumsum(sizes + 1) - 1  # type: ignore[list-item]


def _named(names: Names, data: bytearray) -> list[str]:
    """Each distinct text once."""
    found = names.texts[: names.used[0]].tolist()
    return ["\0" * kind + data[start:end].decode() for start, end, kind in found]


def _content_key(value: bytes) -> int:
    return xxhash.xxh3_64_intdigest(content_id(value).encode())


def _events(out: Columns, users: list[str], labels: list[str]) -> Events:
    rows, tokens, clamped = out.totals.tolist()
    token_ptr = np.zeros(rows + 1, np.int32)
    token_ptr[1:] = out.token_end[:rows]
    return Events(
        row=np.flatnonzero(out.verdict == ROW).astype(np.int32),
        users=list(map(users.__getitem__, out.user[:rows].tolist())),
        event_key=out.event_key[:rows],
        channel=out.channel[:rows],
        sign=out.sign[:rows],
        time_ms=out.time_ms[:rows],
        value=out.value[:rows],
        quantity=out.quantity[:rows],
        dwell_ms=out.dwell_ms[:rows],
        item=out.item[:rows],
        token_ptr=token_ptr,
        token=out.token[:tokens].copy(),
        labels=list(map(labels.__getitem__, out.label[:rows].tolist())),
        clamped=clamped,
    )
