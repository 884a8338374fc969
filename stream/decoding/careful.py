"""The careful half of decoding: whatever the fast half was not sure of, with reasons where it is no event.

Inside, again yes fast and no slowly: `scan` and msgspec's typed decoding say yes, `refusals` says why not.
This half can decode everything by itself; on good records the fast half must give exactly what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import Any

import msgspec
import numpy as np

from ..config import Input
from ..events import Events, Reason, Reject
from .adapters import adapter, sources, type_codes
from .columns import columns
from .contract import DEPTH_MAX, TIME_MS_MAX, TIME_MS_MIN, Event
from .conventions import Mistyped
from .refusals import Problem, bad_user, is_time, mistyped, not_json, not_utf8
from .scan import DEEP, NOT_ASCII, NUMBER, UNREAD, scan
from .units import UNITS, Unit

_BAD_TIME = -1
_NOBODY = ""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT = 32  # characters: at most 128 bytes of UTF-8

_json: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_contract: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode


class Careful:
    """decode(values) -> (events, rejects), by row of `values`. Stateless: the same bytes give the same columns.

    Raises ConfigError when built from a field map, type map or constants that cannot be meant.
    """

    def __init__(self, config: Input) -> None:
        self._size_max = config.value_max_bytes
        self._money_max = config.money_max
        self._codes = type_codes(config)
        self._unit = Unit.of(config)
        self._sources = sources(config)
        self._adapt = adapter(config)
        self._parse = _contract if self._adapt is None else self._parse_mapped

    def decode(self, values: Sequence[bytes | None]) -> tuple[Events, list[Reject]]:
        """Every record in exactly one of the two, both in ascending row order."""
        rows, parsed, rejects = self._read(values)
        users = [_user(event) for event in parsed]
        times = [self._time_ms(event.event_time) for event in parsed]
        good = [user != _NOBODY and time != _BAD_TIME for user, time in zip(users, times, strict=True)]
        if not all(good):
            bad = [i for i, kept in enumerate(good) if not kept]
            rejects += [Reject(rows[i], *self._inadmissible(parsed[i])) for i in bad]
            rejects.sort(key=lambda reject: reject.row)
            rows, parsed = list(compress(rows, good)), list(compress(parsed, good))
            users, times = list(compress(users, good)), list(compress(times, good))
        return columns(rows, parsed, users, times, self._codes, self._money_max), rejects

    def _read(self, values: Sequence[bytes | None]) -> tuple[list[int], list[Event], list[Reject]]:
        """What parses: its rows and events; and why the rest does not."""
        rows, parsed, rejects = [], [], []
        parse = self._parse
        for row, (value, flags) in enumerate(zip(values, self._flags(values), strict=True)):
            if flags and (problem := self._unreadable(value or b"", flags)):
                rejects.append(Reject(row, *problem))
                continue
            try:
                parsed.append(parse(value or b""))
            except (msgspec.DecodeError, Mistyped) as error:
                rejects.append(Reject(row, *self._refused(value or b"", error)))
            else:
                rows.append(row)
        return rows, parsed, rejects

    def _flags(self, values: Sequence[bytes | None]) -> bytes:
        """(n,) 0 where a record can be parsed without a closer look."""
        sizes = np.fromiter((len(value or b"") for value in values), np.int64, len(values))
        unread = (sizes > self._size_max) | (sizes == 0)
        sizes[unread] = 0
        data = b"".join(
            [value or b"" for value, skip in zip(values, unread.tolist(), strict=True) if not skip]
        )
        flags = scan(np.frombuffer(data, np.uint8), np.cumsum(sizes), DEPTH_MAX)
        flags[unread] = UNREAD
        return flags.tobytes()

    def _parse_mapped(self, value: bytes) -> Event:
        source = _json(value)
        if type(source) is not dict:
            raise Mistyped("event", source, "object")
        return msgspec.convert(self._adapt(source, value), Event)  # type: ignore[misc]  # not None here

    def _time_ms(self, time: datetime | float) -> int:
        """Milliseconds since 1970, or _BAD_TIME."""
        if isinstance(time, datetime):
            since = time - _EPOCH
            ms = since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
            return ms if TIME_MS_MIN <= ms < TIME_MS_MAX else _BAD_TIME
        if not self._unit.time_min <= time < self._unit.time_end:
            return _BAD_TIME
        a, b = self._unit.over, self._unit.under
        return time * a // b if isinstance(time, int) else int(round(time * a / b, 3))

    # --- why not ----------------------------------------------------------------------------------------

    def _unreadable(self, value: bytes, flags: int) -> Problem | None:
        """A closer look at a record that the scan marked."""
        if flags & UNREAD:
            wanted = f"event: got {len(value)} bytes, wanted at most {self._size_max}"
            return Problem(Reason.SIZE, wanted) if value else _TOMBSTONE
        if flags & NOT_ASCII and (problem := not_utf8(value)):
            return problem
        if flags & DEEP:
            return Problem(Reason.DEPTH, f"event: nests deeper than {DEPTH_MAX}, wanted at most {DEPTH_MAX}")
        return not_json(value) if flags & NUMBER else None

    def _refused(self, value: bytes, error: Exception) -> Problem:
        """Why a record did not parse: `number`, `json`, `schema`, or the first thing wrong after these."""
        if problem := not_json(value):
            return problem
        try:
            _json(value)  # stricter than Python's: no half of a surrogate pair, in any field
        except msgspec.DecodeError as not_text:
            return Problem(Reason.JSON, f"event: {not_text}")
        if isinstance(error, Mistyped):
            return Problem(Reason.SCHEMA, str(error))
        if not isinstance(error, msgspec.ValidationError):
            return Problem(Reason.JSON, f"event: {error}")
        return self._bad_time_text(value) if is_time(error) else mistyped(error, self._sources)

    def _bad_time_text(self, value: bytes) -> Problem:
        """`event_time` is text but no time: other fields may be wrong too, and are named first."""
        source = _json(value)
        document = source if self._adapt is None else self._adapt(source, value)
        try:
            event = msgspec.convert({**document, "event_time": 0}, Event)
        except msgspec.ValidationError as error:
            return mistyped(error, self._sources)
        wanted = "event_time: got text that is no RFC 3339 time, wanted for example 2024-02-29T12:00:00Z"
        return bad_user(event) or Problem(Reason.TIME, wanted)

    def _inadmissible(self, event: Event) -> Problem:
        """A parsed event with a bad user id or a time out of range."""
        return bad_user(event) or Problem(Reason.TIME, _time_detail(event.event_time, self._unit.name))


_TOMBSTONE = Problem(Reason.TOMBSTONE, "event: got no value; only the control topic erases")


def _user(event: Event) -> str:
    """The user's name: the user id, or NUL and the anonymous id; _NOBODY where it may not stand."""
    user = event.user_id
    if user is not None and 0 < len(user) <= _SHORT and user.isprintable() and event.anonymous_id is None:
        return user
    if bad_user(event) is not None:
        return _NOBODY
    return user if user is not None else f"\x00{event.anonymous_id}"


def _time_detail(time: datetime | float, unit: str) -> str:
    """What is wrong with a time out of range, with a guess at the unit."""
    if isinstance(time, datetime):
        return f"event_time: got a time in the year {time.year}, wanted 2000 to 2199"
    for other, (a, b) in UNITS.items():
        if other != unit and TIME_MS_MIN <= time * a // b < TIME_MS_MAX:
            return f"event_time: got {time}, which looks like {other}, wanted {unit} (input.time_unit)"
    return f"event_time: got {time:.6g}, wanted {unit} since 1970, in 2000 to 2199"
