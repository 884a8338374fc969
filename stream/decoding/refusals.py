"""Why a record is refused: the slow, careful half of decoding, used only where the fast half said no.

Details say the field, what it got and what was wanted. They never quote a text from the record, and so never
a user id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from ..events import Reason
from .contract import USER_BYTES_MAX, Event

_EXPECTED = re.compile(
    r"Expected `([^`]+)`(?: (?!- at)([^,`]+?))?(?:, got `([^`]+)`)?(?: - at `\$\.?([^`]*)`)?$"
)
_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$\.?([^`]*)`)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Problem(NamedTuple):
    """Why a record is refused: for a counter, and for a person."""

    reason: Reason
    detail: str


NOBODY = Problem(Reason.SCHEMA, "user_id: missing, and so is anonymous_id: wanted one of them")


class _NotFinite(Exception):
    pass


def not_utf8(value: bytes) -> Problem | None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Problem(Reason.ENCODING, f"event: got a byte that is not UTF-8 at {error.start}, wanted UTF-8")
    return None


def not_json(value: bytes) -> Problem | None:
    """`json` or `number`, whichever comes first in the bytes (UTF-8, nested at most 8 deep)."""
    try:
        json.loads(value.decode(), parse_constant=_refuse, parse_float=_finite, parse_int=_finite)
    except _NotFinite as error:
        return Problem(Reason.NUMBER, f"event: got {error}, wanted finite numbers")
    except json.JSONDecodeError as error:
        return Problem(
            Reason.JSON, f"event: got a syntax error at character {error.pos}, wanted one JSON object"
        )
    return None


def _refuse(name: str) -> NoReturn:
    raise _NotFinite(name)


def _finite(digits: str) -> None:
    if float(digits) in (float("inf"), float("-inf")):
        raise _NotFinite(f"a number of {len(digits)} characters that no double holds")


def is_time(error: Exception) -> bool:
    """Whether a validation error says that `event_time` is text, but not a time."""
    text = str(error)
    return text.endswith("`$.event_time`") and ("RFC3339" in text or "timezone" in text)


def mistyped(error: Exception, sources: Mapping[str, str]) -> Problem:
    """A msgspec.ValidationError in our words, with the user's own field name where one is mapped."""
    text = str(error)
    if match := _MISSING.match(text):
        name, parent = match.groups()
        return Problem(Reason.SCHEMA, f"{_named(f'{parent}.{name}' if parent else name, sources)}: missing")
    if match := _EXPECTED.match(text):
        wanted, bound, got, field = match.groups()
        detail = f"got {got}, wanted {wanted}" if got else f"wanted {wanted} {bound or ''}".rstrip()
        return Problem(Reason.SCHEMA, f"{_named(field or 'event', sources)}: {detail}")
    return Problem(Reason.SCHEMA, f"event: {text}")


def _named(field: str, sources: Mapping[str, str]) -> str:
    source = sources.get(re.sub(r"\[[^\]]*\]", "[]", field))
    return f"{field} (your `{source}`)" if source else field


def bad_user(event: Event) -> Problem | None:
    """`schema` when nobody is named, `user_id` when a name is empty, too long or has control characters."""
    if event.user_id is None and event.anonymous_id is None:
        return NOBODY
    for field in ("user_id", "anonymous_id"):
        name: Any = getattr(event, field)
        if name is None:
            continue
        size = len(name.encode())
        if not 0 < size <= USER_BYTES_MAX:
            return Problem(Reason.USER_ID, f"{field}: got {size} bytes, wanted 1 to {USER_BYTES_MAX}")
        if _CONTROL.search(name):
            return Problem(Reason.USER_ID, f"{field}: got control characters, wanted none")
    return None
