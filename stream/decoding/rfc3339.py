"""RFC 3339 times in bytes, to milliseconds: `2024-02-29T12:00:00.25+01:00`.

With a date and a time of day that exist, at most six digits of a second, and an offset; T may be small or a
space. A leap second is none. Everything else is NO, which is not to say that it is no time.
"""

from __future__ import annotations

from .compiled import inner
from .lexis import NO

_NO_OFFSET = 1 << 20
_ZERO, _NINE, _PLUS, _MINUS, _POINT, _COLON = 0x30, 0x39, 0x2B, 0x2D, 0x2E, 0x3A


@inner
def time_ms(data, start, end):  # type: ignore[no-untyped-def]
    """Milliseconds since 1970 of the time that data[start:end] says, of years from 1970 on; else NO."""
    p = start + 19
    if end - start < 20 or not _stamped(data, start):
        return NO
    year = 100 * _pair(data, start) + _pair(data, start + 2)
    month, day = _pair(data, start + 5), _pair(data, start + 8)
    hour, minute, second = _pair(data, start + 11), _pair(data, start + 14), _pair(data, start + 17)
    if year < 1970 or not 1 <= month <= 12 or not 1 <= day <= _days_in(year, month):
        return NO
    if hour > 23 or minute > 59 or second > 59:
        return NO
    ms = 0
    if data[p] == _POINT:
        p, ms = _fraction_ms(data, p + 1, end)
    minutes = _offset_minutes(data, p, end)
    if minutes == _NO_OFFSET:
        return NO
    days = _days(year, month, day)
    return (((days * 24 + hour) * 60 + minute - minutes) * 60 + second) * 1000 + ms


@inner
def _stamped(data, p):  # type: ignore[no-untyped-def]
    """Digits and marks where 2024-02-29T12:00:00 has them."""
    for i in range(19):
        c = data[p + i]
        if i == 4 or i == 7:
            right = c == _MINUS
        elif i == 10:
            right = c == 0x54 or c == 0x74 or c == 0x20  # T, t or a space
        elif i == 13 or i == 16:
            right = c == _COLON
        else:
            right = _ZERO <= c <= _NINE
        if not right:
            return False
    return True


@inner
def _pair(data, p):  # type: ignore[no-untyped-def]
    return 10 * (data[p] - _ZERO) + (data[p + 1] - _ZERO)


@inner
def _fraction_ms(data, p, end):  # type: ignore[no-untyped-def]
    """After one to six digits, and the whole milliseconds in them."""
    ms, digits = 0, 0
    while p < end and _ZERO <= data[p] <= _NINE:
        if digits < 3:
            ms = ms * 10 + (data[p] - _ZERO)
        digits += 1
        p += 1
    if not 1 <= digits <= 6:
        return end, 0
    for _ in range(3 - digits):
        ms *= 10
    return p, ms


@inner
def _offset_minutes(data, p, end):  # type: ignore[no-untyped-def]
    """Z or +01:00 up to the very end, as minutes east."""
    if p + 1 == end and (data[p] == 0x5A or data[p] == 0x7A):
        return 0
    if p + 6 != end or (data[p] != _PLUS and data[p] != _MINUS) or data[p + 3] != _COLON:
        return _NO_OFFSET
    for i in (1, 2, 4, 5):
        if not _ZERO <= data[p + i] <= _NINE:
            return _NO_OFFSET
    hours, minutes = _pair(data, p + 1), _pair(data, p + 4)
    if hours > 23 or minutes > 59:
        return _NO_OFFSET
    return 60 * hours + minutes if data[p] == _PLUS else -60 * hours - minutes


@inner
def _days_in(year, month):  # type: ignore[no-untyped-def]
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


@inner
def _days(year, month, day):  # type: ignore[no-untyped-def]
    """Since 1970-01-01; years begin in March, so that the leap day comes last (H. Hinnant, "chrono")."""
    year -= month <= 2
    month = (month + 9) % 12
    in_year = (153 * month + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + in_year - 719_468
