"""What a walk finds in a record, and how it becomes a row of the columns: the compiled twin of `columns`.

An item becomes tokens as soon as it ends; the record becomes a row once all of it was walked. What would not
be exactly what `columns` makes of the same record is refused (False), and decoded there.
"""

from __future__ import annotations

import numpy as np

from .columns import DWELL_MS_MAX, TOKENS_MAX
from .compiled import inner
from .contract import ITEMS_MAX, TIME_MS_MAX, TIME_MS_MIN, USER_BYTES_MAX
from .lexis import find, hash_of, number, same, worth
from .rfc3339 import time_ms
from .shape import (
    ANONYMOUS_ID,
    BRAND,
    CATEGORY,
    CATEGORY_PART,
    CHANNEL,
    DWELL,
    EVENT_ID,
    ITEM_ID,
    ITEM_QUANTITY,
    PRICE,
    QUANTITY,
    SIGN,
    TAG,
    TEXTS_END,
    TIME,
    TIME_OR_DIGITS,
    TYPE,
    USER_ID,
    VALUE,
)
from .slate import (
    ABSENT,
    FIRST_PART,
    FIRST_TAG,
    ITEMS,
    LABEL,
    LABEL_END,
    MONEY,
    NOBODY,
    PARTS,
    PARTS_MAX,
    PIECES,
    ROW,
    TAGS,
    TIME_MS,
    TOKENS,
    UNSURE,
)
from .xxh3 import XXH3_BYTES_MAX, xxh3_64

_SLASH = 0x2F
_I, _C, _B, _T = np.frombuffer(b"icbt", np.uint8).astype(np.int64)  # letters of the tokens


# --- while the walk goes on -------------------------------------------------------------------------------


@inner
def begin_record(found, flat):  # type: ignore[no-untyped-def]
    found.texts[:TEXTS_END] = ABSENT
    found.numbers[:TIME] = np.nan
    found.numbers[TIME:] = 0.0
    found.counts[:] = 0
    found.counts[TIME_MS] = ABSENT
    found.item[0] = 0
    found.counts[ITEMS] = flat


@inner
def begin_item(found):  # type: ignore[no-untyped-def]
    found.texts[ITEM_ID:TEXTS_END] = ABSENT
    found.numbers[PRICE] = np.nan
    found.numbers[ITEM_QUANTITY] = np.nan
    found.counts[PARTS] = 0
    found.counts[TAGS] = 0
    found.counts[ITEMS] += 1
    return found.counts[ITEMS] <= ITEMS_MAX


@inner
def keep_text(data, start, end, target, found, limits):  # type: ignore[no-untyped-def]
    """A text, or a whole number that stands for one."""
    if target < TEXTS_END:
        found.texts[target, 0] = start
        found.texts[target, 1] = end
        return True
    if CATEGORY <= target <= TAG:
        return _listed(found, target - CATEGORY, start, end)
    if target == TIME:
        return _timed(found, time_ms(data, start, end))
    p, whole, mantissa, power = number(data, start)
    if p == end and (whole or target != TIME_OR_DIGITS):
        return keep_number(whole, mantissa, power, target, found, limits)
    return target == TIME_OR_DIGITS and _timed(found, time_ms(data, start, end))


@inner
def _listed(found, which, start, end):  # type: ignore[no-untyped-def]
    """One more part of the category (which = 0), or one more tag (1)."""
    n = found.counts[which]
    if n == PARTS_MAX:
        return False
    at = TEXTS_END + which * PARTS_MAX + n
    found.texts[at, 0] = start
    found.texts[at, 1] = end
    found.counts[which] = n + 1
    return True


@inner
def _timed(found, ms):  # type: ignore[no-untyped-def]
    found.counts[TIME_MS] = ms
    return TIME_MS_MIN <= ms < TIME_MS_MAX


_NEARLY_ONE = 0.99


@inner
def keep_number(whole, mantissa, power, target, found, limits):  # type: ignore[no-untyped-def]
    value = worth(mantissa, power)
    if np.isnan(value):
        return False
    if target < TIME:
        found.numbers[target] = value
        return target != DWELL or value >= 0
    if not limits.time_min <= value < limits.time_end:
        return False
    if whole:
        return _timed(found, mantissa * limits.over // limits.under)
    time_ms = value * limits.over / limits.under
    if time_ms - np.floor(time_ms) > _NEARLY_ONE:  # a double just below a whole one: the careful half rounds
        return False
    return _timed(found, np.int64(time_ms))


# --- when an item ends ------------------------------------------------------------------------------------


@inner
def end_item(data, found, shape, token, at):  # type: ignore[no-untyped-def]
    """Append the item's distinct tokens, at most 64 of a record, to those from `at` on; sum its money."""
    texts, numbers, counts = found.texts, found.numbers, found.counts
    quantity = numbers[ITEM_QUANTITY]
    if not np.isnan(numbers[PRICE]):
        numbers[MONEY] += abs(numbers[PRICE] * (1.0 if np.isnan(quantity) else quantity))
    if not np.isnan(quantity):
        numbers[PIECES] += abs(quantity)
    for part in range(CATEGORY_PART, CATEGORY_PART + shape.category_parts):
        if texts[part, 0] == ABSENT or texts[part, 0] == texts[part, 1]:
            break
        _listed(found, np.int64(PARTS), texts[part, 0], texts[part, 1])
    if counts[ITEMS] == 1:
        _label(found)
    return (
        _one_token(data, found, np.int64(ITEM_ID), _I, token, at)
        and _path_tokens(data, found, token, at)
        and _one_token(data, found, np.int64(BRAND), _B, token, at)
        and _tag_tokens(data, found, token, at)
    )


@inner
def _label(found):  # type: ignore[no-untyped-def]
    """The top of the category path, else the item's id, else nothing."""
    chosen = ITEM_ID
    for part in range(FIRST_PART + found.counts[PARTS] - 1, FIRST_PART - 1, -1):
        if found.texts[part, 0] < found.texts[part, 1]:
            chosen = part
    found.counts[LABEL] = found.texts[chosen, 0]
    found.counts[LABEL_END] = found.texts[chosen, 1]


@inner
def _one_token(data, found, text, letter, token, at):  # type: ignore[no-untyped-def]
    start, end = found.texts[text, 0], found.texts[text, 1]
    if start == end:
        return True
    size = _buffered(data, start, end, found.buffer, _prefixed(found.buffer, letter))
    if size < 0:
        return False
    hashed = xxh3_64(found.buffer, np.int64(0), size)
    if text == ITEM_ID and found.counts[ITEMS] == 1:
        found.item[0] = hashed
    _append(found, hashed, token, at)
    return True


@inner
def _path_tokens(data, found, token, at):  # type: ignore[no-untyped-def]
    """Of every prefix of the category path, widest first."""
    size = first = _prefixed(found.buffer, _C)
    for part in range(FIRST_PART, FIRST_PART + found.counts[PARTS]):
        start, end = found.texts[part, 0], found.texts[part, 1]
        if start == end:
            continue
        if size > first:
            if size == XXH3_BYTES_MAX:
                return False
            found.buffer[size] = _SLASH
            size += 1
        size = _buffered(data, start, end, found.buffer, size)
        if size < 0:
            return False
        _append(found, xxh3_64(found.buffer, np.int64(0), size), token, at)
    return True


@inner
def _tag_tokens(data, found, token, at):  # type: ignore[no-untyped-def]
    tag, end = np.int64(FIRST_TAG), FIRST_TAG + found.counts[TAGS]
    while tag < end and _one_token(data, found, tag, _T, token, at):
        tag += 1
    return tag == end


@inner
def _prefixed(buffer, letter):  # type: ignore[no-untyped-def]
    buffer[0] = letter
    buffer[1] = 0x3A
    return np.int64(2)


@inner
def _buffered(data, start, end, buffer, size):  # type: ignore[no-untyped-def]
    """Copy a text behind the first `size` bytes; the new size, or -1 where it is too long to be hashed here."""
    if size + end - start > XXH3_BYTES_MAX:
        return -1
    for p in range(start, end):
        buffer[size] = data[p]
        size += 1
    return size


@inner
def _append(found, hashed, token, at):  # type: ignore[no-untyped-def]
    count = found.counts[TOKENS]
    if count == TOKENS_MAX:
        return
    for i in range(at, at + count):
        if token[i] == hashed:
            return
    token[at + count] = hashed
    found.counts[TOKENS] = count + 1


# --- when the record ends ---------------------------------------------------------------------------------


@inner
def end_record(data, found, shape, limits, users, labels, out):  # type: ignore[no-untyped-def]
    """The verdict on a record that was walked; if it has all that an event must have, it becomes a row."""
    at = out.totals[1]
    if shape.flat and not end_item(data, found, shape, out.token, at):
        return UNSURE
    kind, size = _type(data, found, shape), _event_id(data, found, shape)
    if kind < 0 or size < 0 or found.counts[TIME_MS] == ABSENT:
        return UNSURE
    user = USER_ID if found.texts[USER_ID, 0] != ABSENT else ANONYMOUS_ID
    if found.texts[user, 0] == ABSENT:
        return NOBODY
    if not _named(data, found.texts[USER_ID]) or not _named(data, found.texts[ANONYMOUS_ID]):
        return UNSURE
    row = out.totals[0]
    out.event_key[row] = xxh3_64(found.buffer, np.int64(0), size)
    out.channel[row] = shape.entries[kind, CHANNEL]
    out.sign[row] = shape.entries[kind, SIGN]
    out.time_ms[row] = found.counts[TIME_MS]
    out.user[row] = _number_of(
        users, data, found.texts[user, 0], found.texts[user, 1], np.int64(user == ANONYMOUS_ID)
    )
    out.label[row] = _number_of(labels, data, found.counts[LABEL], found.counts[LABEL_END], np.int64(0))
    out.item[row] = found.item[0]
    _sizes(found, limits, out, row)
    out.totals[1] = at + found.counts[TOKENS]
    out.token_end[row] = out.totals[1]
    out.totals[0] = row + 1
    return ROW


@inner
def _type(data, found, shape):  # type: ignore[no-untyped-def]
    """The entry of the record's type; entry 0 for an unknown one; below 0: it has none."""
    start, end = found.texts[TYPE, 0], found.texts[TYPE, 1]
    if start == ABSENT:
        return shape.default_type
    hashed = hash_of(data, start, end)
    return find(shape.slots[shape.types], shape.keys, shape.entries, data, start, end, hashed)


@inner
def _named(data, text):  # type: ignore[no-untyped-def]
    """Whether a user's name is absent, or 1 to 128 bytes without control characters (C0 are none in a text)."""
    start, end = text[0], text[1]
    if start == ABSENT:
        return True
    if not 0 < end - start <= USER_BYTES_MAX:
        return False
    p = start
    while p < end and data[p] != 0x7F and not (data[p] == 0xC2 and data[p + 1] < 0xA0):
        p += 1
    return p == end


@inner
def _event_id(data, found, shape):  # type: ignore[no-untyped-def]
    """Its size in the buffer, or -1: too long, or a part is missing, or nothing in it."""
    size = np.int64(0)
    for part in range(EVENT_ID, EVENT_ID + shape.event_id_parts):
        start, end = found.texts[part, 0], found.texts[part, 1]
        if start == ABSENT:
            return -1
        if part > EVENT_ID:
            if size == XXH3_BYTES_MAX:
                return -1
            found.buffer[size] = _SLASH
            size += 1
        size = _buffered(data, start, end, found.buffer, size)
        if size < 0:
            return -1
    return -1 if size == 0 and shape.event_id_parts else size


@inner
def _sizes(found, limits, out, row):  # type: ignore[no-untyped-def]
    """Money, quantity and dwell, without their signs and clamped."""
    numbers = found.numbers
    value = abs(numbers[MONEY] if np.isnan(numbers[VALUE]) else numbers[VALUE])
    quantity = abs(numbers[PIECES] if np.isnan(numbers[QUANTITY]) else numbers[QUANTITY])
    dwell_ms = 0.0 if np.isnan(numbers[DWELL]) else numbers[DWELL]
    out.value[row] = min(value, limits.money_max)
    out.quantity[row] = min(quantity, limits.money_max)
    out.dwell_ms[row] = np.int64(min(dwell_ms, float(DWELL_MS_MAX)))
    out.totals[2] += value > limits.money_max or quantity > limits.money_max or dwell_ms > DWELL_MS_MAX


@inner
def _number_of(names, data, start, end, kind):  # type: ignore[no-untyped-def]
    """The number of a distinct text; a new one gets the next."""
    mask = len(names.table) - 1
    at = np.int64(xxh3_64(data, start, end)) & mask
    while names.table[at] >= 0:
        known = names.texts[names.table[at]]
        if (
            known[1] - known[0] == end - start
            and known[2] == kind
            and same(data, known[0], data, start, end - start)
        ):
            return names.table[at]
        at = (at + 1) & mask
    new = names.used[0]
    names.table[at] = new
    names.texts[new, 0] = start
    names.texts[new, 1] = end
    names.texts[new, 2] = kind
    names.used[0] = new + 1
    return np.int32(new)
