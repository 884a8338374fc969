"""The words of JSON in bytes: where a text, a number or a literal ends, and what a number is worth.

Every function is given a place in the joined records of a step and answers with the place after what it
read, or NO: not JSON, or not something it is sure of. None of them looks further than the first byte 0,
which stands behind every record and can be part of none.

A number's worth is exact or not given at all. A mantissa below 2**53 and a power of ten of at most 22 are
both doubles, so one multiplication or division rounds once, as a correct parser does (W. D. Clinger, "How to
read floating point numbers accurately", 1990).
"""

from __future__ import annotations

import numpy as np

from .compiled import inlined, inner
from .shape import ANYTHING, KEY_END, KEY_FACTOR, KEY_START

NO = -1
QUOTE, BACKSLASH, COMMA, COLON = 0x22, 0x5C, 0x2C, 0x3A
OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_MINUS, _PLUS, _POINT, _ZERO = 0x2D, 0x2B, 0x2E, 0x30

WHOLE_DIGITS_MAX = 18  # always an int64
_DIGITS_MAX = 99  # with an exponent of two digits a double still holds it
_MANTISSA_MAX = 1 << 53
_POWERS = np.array([float(10**i) for i in range(23)])  # each of them exact
ORDINARY = np.array([0x20 <= c < 0x80 and c not in (QUOTE, BACKSLASH) for c in range(256)])
_SPACE = np.array([c in b" \t\n\r" for c in range(256)])


@inlined
def after_space(data, p):  # type: ignore[no-untyped-def]
    while _SPACE[data[p]]:
        p += 1
    return p


@inner
def text_end(data, p, escapes):  # type: ignore[no-untyped-def]
    """Where the closing quotation mark of a text stands whose first byte is at `p`."""
    while True:
        while ORDINARY[data[p]]:
            p += 1
        c = data[p]
        if c == QUOTE:
            return p
        if c >= 0x80:
            p = _after_utf8(data, p)
        elif c == BACKSLASH and escapes:
            p = _after_escape(data, p)
        else:
            return NO
        if p < 0:
            return NO


@inner
def _after_escape(data, p):  # type: ignore[no-untyped-def]
    """Halves of surrogate pairs are left for others to look at."""
    c = data[p + 1]
    if c == 0x75:  # u
        first = _hex(data[p + 2])
        if first < 0:  # the end of the text, maybe of everything: no byte is read behind it
            return NO
        second = _hex(data[p + 3])
        if second < 0 or (first == 0xD and second >= 8):
            return NO
        return p + 6 if _hex(data[p + 4]) >= 0 and _hex(data[p + 5]) >= 0 else NO
    for known in (QUOTE, BACKSLASH, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74):  # / b f n r t
        if c == known:
            return p + 2
    return NO


@inner
def _hex(c):  # type: ignore[no-untyped-def]
    if _ZERO <= c <= 0x39:
        return c - _ZERO
    c |= 0x20
    return c - 0x61 + 10 if 0x61 <= c <= 0x66 else -1


@inner
def _after_utf8(data, p):  # type: ignore[no-untyped-def]
    """RFC 3629: the shortest form, no surrogates, at most U+10FFFF."""
    c, low, high = data[p], 0x80, 0xBF
    if 0xC2 <= c <= 0xDF:
        more = 1
    elif 0xE0 <= c <= 0xEF:
        more = 2
        low, high = 0xA0 if c == 0xE0 else low, 0x9F if c == 0xED else high
    elif 0xF0 <= c <= 0xF4:
        more = 3
        low, high = 0x90 if c == 0xF0 else low, 0x8F if c == 0xF4 else high
    else:
        return NO
    if not low <= data[p + 1] <= high:
        return NO
    for i in range(2, more + 1):
        if not 0x80 <= data[p + i] <= 0xBF:
            return NO
    return p + more + 1


@inner
def literal_end(data, p):  # type: ignore[no-untyped-def]
    """After null, true or false, the one that its first letter announces."""
    if data[p] == 0x6E:
        word = (0x6E, 0x75, 0x6C, 0x6C)
    elif data[p] == 0x74:
        word = (0x74, 0x72, 0x75, 0x65)
    else:
        word = (0x61, 0x6C, 0x73, 0x65)
        if data[p] != 0x66:
            return NO
        p += 1
    for i in range(4):
        if data[p + i] != word[i]:
            return NO
    return p + 4


@inner
def number(data, p):  # type: ignore[no-untyped-def]
    """After the number, whether it is a whole one, its digits as an integer, and the power of ten behind them.

    Whole: no point, no exponent, at most 18 digits, and not -0. With more digits than 18 the integer says
    nothing, and the power is one that `worth` refuses.
    """
    start, mantissa, digits, power = p, 0, 0, 0
    negative = data[p] == _MINUS
    p += negative
    leading = data[p] == _ZERO
    while _ZERO <= data[p] <= 0x39:
        digits += 1
        if digits <= WHOLE_DIGITS_MAX:
            mantissa = mantissa * 10 + (data[p] - _ZERO)
        p += 1
    if digits == 0 or (leading and digits > 1):
        return NO, False, 0, 0
    whole = digits <= WHOLE_DIGITS_MAX and not (negative and leading)
    if data[p] == _POINT:
        whole = False
        p += 1
        start = p
        while _ZERO <= data[p] <= 0x39:
            digits += 1
            if digits <= WHOLE_DIGITS_MAX:
                mantissa = mantissa * 10 + (data[p] - _ZERO)
            p += 1
        power = start - p
        if power == 0:
            return NO, False, 0, 0
    if data[p] | 0x20 == 0x65:
        whole = False
        p, exponent = _exponent(data, p + 1)
        power += exponent
    if p < 0 or digits > _DIGITS_MAX:
        return NO, False, 0, 0
    if digits > WHOLE_DIGITS_MAX:
        power = len(_POWERS)
    return p, whole, -mantissa if negative else mantissa, power


@inner
def _exponent(data, p):  # type: ignore[no-untyped-def]
    """After an exponent of one or two digits, and what it is."""
    negative = data[p] == _MINUS
    p += negative or data[p] == _PLUS
    start, exponent = p, 0
    while _ZERO <= data[p] <= 0x39 and p - start < 3:
        exponent = exponent * 10 + (data[p] - _ZERO)
        p += 1
    if not 1 <= p - start <= 2:
        return NO, 0
    return p, -exponent if negative else exponent


@inlined
def worth(mantissa, power):  # type: ignore[no-untyped-def]
    """mantissa * 10**power as the nearest double; not a number where that is not sure."""
    if not -_MANTISSA_MAX <= mantissa <= _MANTISSA_MAX or not -len(_POWERS) < power < len(_POWERS):
        return np.nan
    return mantissa * _POWERS[power] if power >= 0 else mantissa / _POWERS[-power]


# --- words that are known ---------------------------------------------------------------------------------


@inlined
def find(known, keys, entries, data, start, end, hashed):  # type: ignore[no-untyped-def]
    """The entry whose key is data[start:end], by its hash in a row of a shape's slots; 0 where there is none."""
    mask = len(known) - 1
    at = hashed & mask
    while known[at] >= 0:
        entry = known[at]
        at_key = entries[entry, KEY_START]
        if entries[entry, KEY_END] - at_key == end - start and same(keys, at_key, data, start, end - start):
            return entry
        at = (at + 1) & mask
    return ANYTHING


@inlined
def hash_of(data, start, end):  # type: ignore[no-untyped-def]
    """As `shape.key_hash`, in 64 bits."""
    h = 0
    for p in range(start, end):
        h = h * KEY_FACTOR + data[p]
    return h


@inlined
def same(a, at, b, start, size):  # type: ignore[no-untyped-def]
    i = 0
    while i < size and a[at + i] == b[start + i]:
        i += 1
    return i == size
