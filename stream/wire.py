"""Bytes -> columns. Every record ends in exactly one of events and rejects; nothing raises on any bytes.

A record is held against the contract in this order, and gets the first reason that applies:

    size       larger than input.value_max_bytes
    tombstone  no value, or an empty one
    encoding   not UTF-8
    depth      nests deeper than 8 (the record's own object is 1), also in fields that are ignored
    number     NaN, Infinity, or a number that no double holds (1e999), also in fields that are ignored
    json       not one JSON value: syntax, trailing bytes, a byte order mark, half a surrogate pair
               (number and json: whichever comes first in the bytes)
    schema     not an object; a field missing, mistyped or out of its bounds; neither user_id nor anonymous_id
    user_id    empty, over 128 bytes of UTF-8, or with control characters (the same for anonymous_id)
    time       text that is no RFC 3339 time with an offset (a leap second is none); before 2000-01-01 or
               from 2200-01-01 on, which is also how a wrong unit shows

What is not an error:

- A key that stands twice: the last one wins. Null for an optional field: absent. Unknown fields: ignored.
- An unknown type: counts as `custom`, +1.
- Negative money and quantities, as shops send with cancellations: the size counts, and whether it subtracts
  follows from the type alone. So `{"type": "refund", "value": -15.3}` takes 15.3 off purchases.
- `value` absent: the sum of price * quantity over the items that have a price (quantity 1 where absent).
  `quantity` absent: the sum over the items that state one.
- Money and quantities beyond input.money_max, and dwell beyond a day: clamped, and the event is counted.
- Fractions of a millisecond: cut off.

Two halves that agree on every record: a compiled one that is only ever sure or not sure (`plain`), and a
careful one that decodes the rest, and says why not (`careful`). Only the first touches ordinary good records.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .config import Input
from .decoding.careful import Careful
from .decoding.contract import TIME_MS_MAX, TIME_MS_MIN
from .decoding.merging import merged
from .decoding.plain import Plain
from .events import I32, Events, Records, Reject, is_control

__all__ = ["TIME_MS_MAX", "TIME_MS_MIN", "Decoder"]


class Decoder:
    """decode(records) -> (events, rejects). Stateless: the same bytes give the same columns, anywhere.

    Raises ConfigError when built from a field map, type map or constants that cannot be meant.
    """

    def __init__(self, config: Input) -> None:
        self._careful = Careful(config)
        self._plain = Plain(config)

    def decode(self, records: Records) -> tuple[Events, list[Reject]]:
        """Every record of `records` but commands in exactly one of the two, both in ascending row order."""
        if (commands := is_control(records.partitions)).any():
            return self._decode_rows(np.flatnonzero(~commands).astype(np.int32), records)
        events, rejects, rest = self._plain.decode(records.values)
        if not len(rest):
            return events, rejects
        rows = rest.tolist()
        others, refused = self._careful.decode([records.values[row] for row in rows])
        rejects += [Reject(rows[one.row], one.reason, one.detail) for one in refused]
        rejects.sort(key=lambda reject: reject.row)
        return merged(events, replace(others, row=rest[others.row])), rejects

    def _decode_rows(self, rows: I32, records: Records) -> tuple[Events, list[Reject]]:
        """The same for some of the records: rows (m,) of them, ascending."""
        at = rows.tolist()
        values = [records.values[row] for row in at]
        parts = Records(records.partitions[rows], records.offsets[rows], (None,) * len(at), values)
        events, rejects = self.decode(parts)
        return replace(events, row=rows[events.row]), [replace(r, row=at[r.row]) for r in rejects]
