"""One compiled walk through a record's JSON: all of its syntax is checked, what a shape asks for is kept.

Plain form is what the walk is sure of: one JSON object, nested at most 8 deep, its texts UTF-8; no key of the
shape twice in an object; no escapes in keys and in texts that count; numbers that count worth an exact double;
every value of a kind that the shape allows. A record that is not plain may still be a good one; the careful
half decides. So False may always be said, and True must be right.

    opened    a brace or bracket was just opened: a value may follow, or its end
    comma     a value must follow
    valued    a value has just ended: a comma may follow, or the end

About 1 ns per byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..events import I64
from .compiled import inlined, kernel
from .contract import DEPTH_MAX
from .gather import begin_item, begin_record, end_item, end_record, keep_number, keep_text
from .lexis import (
    CLOSE_OBJECT,
    COLON,
    COMMA,
    NO,
    OPEN_OBJECT,
    ORDINARY,
    QUOTE,
    after_space,
    find,
    hash_of,
    literal_end,
    number,
    text_end,
)
from .shape import (
    ALLOWED,
    BIT,
    BOOL,
    ELEMENTS,
    ITEM,
    KEY_FACTOR,
    LIST,
    NODE,
    NONE,
    NULL,
    NUMBER,
    OBJECT,
    ROOT,
    TARGET,
    TEXT,
    WHOLE,
    Shape,
)
from .slate import Columns, Found, Limits, Names

_OPENED, _COMMA, _VALUED = range(3)
_CLOSES, _ENTRY, _SEEN = range(3)  # columns of a frame: the end's mark, its own entry, the keys seen


@kernel
def read(
    data: NDArray[np.uint8],
    ends: I64,
    shape: Shape,
    limits: Limits,
    found: Found,
    users: Names,
    labels: Names,
    out: Columns,
) -> None:
    """Joined records, a byte 0 behind each, and where each ends (n,): those in plain form become rows of `out`."""
    start = np.int64(0)  # not the literal 0: each kind of argument compiles a function anew
    for i in range(len(ends)):
        end = ends[i]
        if 0 < end - start <= limits.size_max:
            begin_record(found, shape.flat)
            if _walked(data, start, end, shape, limits, found, out.token, out.totals[1]):
                out.verdict[i] = end_record(data, found, shape, limits, users, labels, out)
        start = end + 1


@inlined
def _walked(data, start, end, shape, limits, found, token, at):  # type: ignore[no-untyped-def]
    """Whether data[start:end] is one object in plain form; what it says is in `found`."""
    p = after_space(data, start)
    if data[p] != OPEN_OBJECT:
        return False
    depth, state = np.int64(0), _OPENED
    _open(found.frames, depth, np.int64(CLOSE_OBJECT), np.int64(ROOT))
    p += 1
    while depth >= 0:
        p = after_space(data, p)
        frame = found.frames[depth]
        if data[p] == frame[_CLOSES] and state != _COMMA:
            if frame[_CLOSES] == CLOSE_OBJECT and not _whole(data, frame, shape, found, token, at):
                return False
            depth -= 1
            state = _VALUED
            p += 1
            continue
        if state == _VALUED:
            if data[p] != COMMA:
                return False
            state = _COMMA
            p += 1
            continue
        if frame[_CLOSES] == CLOSE_OBJECT:
            p, entry = _after_key(data, p, frame, shape)
            if p < 0:
                return False
        else:
            entry = shape.entries[frame[_ENTRY], ELEMENTS]
        c = data[p]
        if c | 0x20 == OPEN_OBJECT:  # or OPEN_LIST
            depth += 1
            if depth == DEPTH_MAX or not _may_open(c, entry, shape, found):
                return False
            _open(found.frames, depth, c + 2, entry)
            state = _OPENED
            p += 1
        else:
            p = _after_scalar(data, p, entry, shape, limits, found)
            if p < 0:
                return False
            state = _VALUED
    return after_space(data, p) == end


@inlined
def _open(frames, depth, closes, entry):  # type: ignore[no-untyped-def]
    frames[depth, _CLOSES] = closes
    frames[depth, _ENTRY] = entry
    frames[depth, _SEEN] = 0


@inlined
def _may_open(c, entry, shape, found):  # type: ignore[no-untyped-def]
    if not shape.entries[entry, ALLOWED] & (OBJECT if c == OPEN_OBJECT else LIST):
        return False
    return shape.entries[entry, TARGET] != ITEM or begin_item(found)


@inlined
def _whole(data, frame, shape, found, token, at):  # type: ignore[no-untyped-def]
    """An object ends: it has the keys that it must have; an item becomes tokens."""
    entry = frame[_ENTRY]
    required = shape.required[shape.entries[entry, NODE]]
    if frame[_SEEN] & required != required:
        return False
    return shape.entries[entry, TARGET] != ITEM or end_item(data, found, shape, token, at)


@inlined
def _after_key(data, p, frame, shape):  # type: ignore[no-untyped-def]
    """Where the key's value begins, and its entry."""
    if data[p] != QUOTE:
        return NO, 0
    start = p = p + 1
    hashed = 0
    while ORDINARY[data[p]]:
        hashed = hashed * KEY_FACTOR + data[p]
        p += 1
    if data[p] != QUOTE:
        p = text_end(data, p, np.int64(0))
        if p < 0:
            return NO, 0
        hashed = hash_of(data, start, p)
    node = shape.entries[frame[_ENTRY], NODE]
    entry = find(shape.slots[node], shape.keys, shape.entries, data, start, p, hashed)
    p = after_space(data, p + 1)
    if data[p] != COLON:
        return NO, 0
    if entry:
        bit = 1 << shape.entries[entry, BIT]
        if frame[_SEEN] & bit:
            return NO, 0
        frame[_SEEN] |= bit
    return after_space(data, p + 1), entry


@inlined
def _after_scalar(data, p, entry, shape, limits, found):  # type: ignore[no-untyped-def]
    """After a text, number or literal of a kind that the entry allows; where it counts, it is kept."""
    c, start = data[p], p
    allowed, target = shape.entries[entry, ALLOWED], shape.entries[entry, TARGET]
    if c == QUOTE:
        end = text_end(data, p + 1, np.int64(target == NONE))
        if end < 0 or not allowed & TEXT:
            return NO
        if target and not keep_text(data, p + 1, end, target, found, limits):
            return NO
        return end + 1
    if c > 0x39:  # a letter
        p = literal_end(data, p)
        return p if allowed & (NULL if c == 0x6E else BOOL) else NO
    p, whole, mantissa, power = number(data, p)
    if p < 0 or not allowed & (WHOLE if whole else NUMBER):
        return NO
    if target == NONE:
        return p
    if allowed & NUMBER:
        kept = keep_number(whole, mantissa, power, target, found, limits)
    else:
        kept = keep_text(data, start, p, target, found, limits)
    return p if kept else NO
