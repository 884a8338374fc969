"""What the walk writes on: the record at hand, the names met in a step, and the columns that come of it.

Plain arrays and numbers, made anew for every step, so that compiled code can be given all of it at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..events import F64, I8, I32, I64, U64
from .columns import TOKENS_MAX
from .contract import DEPTH_MAX
from .shape import TEXTS_END, TIME
from .xxh3 import XXH3_BYTES_MAX

UNSURE, ROW, NOBODY = range(3)  # verdicts: left to the careful half; a row; refused: names no user

ABSENT = -1
PARTS_MAX = 64  # of a category, and tags of an item
FIRST_PART, FIRST_TAG, _TEXTS = TEXTS_END, TEXTS_END + PARTS_MAX, TEXTS_END + 2 * PARTS_MAX  # rows of `texts`
MONEY, PIECES, _NUMBERS = TIME, TIME + 1, TIME + 2  # in `numbers`, after those that a target names
PARTS, TAGS, ITEMS, TOKENS, TIME_MS, LABEL, LABEL_END, _COUNTS = range(8)  # in `counts`


class Limits(NamedTuple):
    """Of the configuration. Numeric times are in a unit: time * over // under = milliseconds."""

    size_max: int  # bytes
    money_max: float
    over: int
    under: int
    time_min: int  # in the unit
    time_end: int


class Found(NamedTuple):
    """Of the record that is being walked; item fields of the item that is."""

    texts: I64  # (_TEXTS, 2) start and end: by target, then the parts of the category, then the tags
    numbers: F64  # (_NUMBERS,) by target, NaN where absent; then money and quantity of the items so far
    counts: I64  # (_COUNTS,) category parts, tags, items, tokens; the time; start and end of the label
    item: U64  # (1,) hash of the first item's id
    buffer: NDArray[np.uint8]  # a text to hash
    frames: I64  # (DEPTH_MAX, 3) what is open: see `walk`


class Names(NamedTuple):
    """Distinct texts, each with its number; of users and of labels."""

    table: I32  # (a power of two) number by hash, or -1
    texts: I64  # (n, 3) start, end and kind (1: an anonymous user)
    used: I64  # (1,) how many there are


class Columns(NamedTuple):
    """As in `Events`, for r <= n rows; users and labels by their numbers in `Names`."""

    verdict: I8  # (n,) UNSURE, ROW or NOBODY
    event_key: U64
    channel: I8
    sign: I8
    time_ms: I64
    value: F64
    quantity: F64
    dwell_ms: I64
    item: U64
    token_end: I32
    user: I32
    label: I32
    token: U64
    totals: I64  # (3,) rows, tokens, rows with a clamped value


def new_found() -> Found:
    return Found(
        np.zeros((_TEXTS, 2), np.int64),
        np.zeros(_NUMBERS),
        np.zeros(_COUNTS, np.int64),
        np.zeros(1, np.uint64),
        np.zeros(XXH3_BYTES_MAX, np.uint8),
        np.zeros((DEPTH_MAX, 3), np.int64),
    )


def new_names(n: int) -> Names:
    return Names(
        np.full(2 << n.bit_length(), -1, np.int32), np.empty((n, 3), np.int64), np.zeros(1, np.int64)
    )


def new_columns(n: int, size: int) -> Columns:
    """For n records of `size` bytes in all: a token takes two bytes at least."""
    return Columns(
        verdict=np.full(n, UNSURE, np.int8),
        event_key=np.empty(n, np.uint64),
        channel=np.empty(n, np.int8),
        sign=np.empty(n, np.int8),
        time_ms=np.empty(n, np.int64),
        value=np.empty(n),
        quantity=np.empty(n),
        dwell_ms=np.empty(n, np.int64),
        item=np.empty(n, np.uint64),
        token_end=np.empty(n, np.int32),
        user=np.empty(n, np.int32),
        label=np.empty(n, np.int32),
        token=np.empty(min(TOKENS_MAX * n, size // 2 + n), np.uint64),
        totals=np.zeros(3, np.int64),
    )
