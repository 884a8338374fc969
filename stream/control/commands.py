"""Commands as types: what `schemas/segment.control.json` says, and why a record is none.

Strict, unlike events: a field that is not known is refused, for somebody meant something by it. Checked from the
outside in like events (see `wire.py`), and refused for the first reason that applies, with the same reason codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct, field

from ..decoding.contract import DEPTH_MAX, USER_BYTES_MAX
from ..decoding.refusals import Problem, mistyped, not_json, not_utf8
from ..decoding.scan import DEEP, scan
from ..events import Reason
from ..users import ANONYMOUS

NAMES_BYTES_MAX = 256  # of a segment's name, in one language

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=1024)]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
SegmentId = Annotated[int, Meta(ge=1)]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Who(Struct, frozen=True, forbid_unknown_fields=True):
    """A user, as events name one: exactly one of the two."""

    user_id: str | None = None
    anonymous_id: str | None = None

    @property
    def name(self) -> str:
        """As `Events.users` has it. `decode` has seen to it that one of the two is there."""
        return self.user_id if self.user_id is not None else f"{ANONYMOUS}{self.anonymous_id}"


class Names(Struct, frozen=True, forbid_unknown_fields=True):
    """What people call a segment, by language."""

    en: Label
    zh: Label | None = None


class Command(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=str.lower, tag_field="command"
):
    """What every command has. Nothing but `command_id` comes back: the rest is for whoever reads the topic."""

    command_id: Id
    issued_by: Text | None = None
    reason: Text | None = None
    issued_time: Text | int | None = None


class Erase(Command, frozen=True):
    """Forget a user: everything that is kept about them."""

    user: Who


class Consent(Command, frozen=True):
    """Withdraw the consent to be put into segments, or give it (again)."""

    user: Who
    segmentation: bool


class Merge(Command, frozen=True):
    """Two names are one person: from now on what `source` does is `into`'s, and so is what it did."""

    source: Who = field(name="from")
    into: Who


class Pin(Command, frozen=True):
    """Hold a user in a segment, whatever its row says; null lets it go."""

    user: Who
    segment_id: SegmentId | None


class Rename(Command, frozen=True):
    """What people call a segment; null gives the name back to the engine."""

    segment_id: SegmentId
    names: Names | None = None
    name: Label | None = None


class Freeze(Command, frozen=True):
    """Stop learning, or go on: scores and memberships go on all the same."""

    learning: bool


Any_ = Erase | Consent | Merge | Pin | Rename | Freeze
KINDS: tuple[type[Command], ...] = (Erase, Consent, Merge, Pin, Rename, Freeze)

_parse: Callable[[bytes], Any_] = msgspec.json.Decoder(Any_).decode
_json: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def decode(value: bytes | None, size_max: int) -> Any_ | Problem:
    """The command that a record's value is, or why it is none.

    >>> decode(b'{"command":"freeze","command_id":"c1","learning":false}', 4096).learning
    False
    >>> decode(b'{"command":"freeze"}', 4096).detail
    'command_id: missing'
    """
    if not value:
        return Problem(Reason.TOMBSTONE, "command: got no value, wanted one JSON object")
    if len(value) > size_max:
        return Problem(Reason.SIZE, f"command: got {len(value)} bytes, wanted at most {size_max}")
    try:
        command = _parse(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refused(value, error)
    return next(filter(None, map(bad_user, _users(command))), None) or command


def _refused(value: bytes, error: Exception) -> Problem:
    if problem := not_utf8(value):
        return Problem(problem.reason, problem.detail.replace("event:", "command:", 1))
    if scan(np.frombuffer(value, np.uint8), np.array([len(value)]), DEPTH_MAX)[0] & DEEP:
        return Problem(Reason.DEPTH, f"command: nests deeper than {DEPTH_MAX}, wanted at most {DEPTH_MAX}")
    if problem := not_json(value):
        return Problem(problem.reason, problem.detail.replace("event:", "command:", 1))
    if not isinstance(error, msgspec.ValidationError):
        return Problem(Reason.JSON, "command: got no JSON value, wanted one JSON object")
    problem = mistyped(error, {})
    if "Invalid value" in problem.detail or "unknown field" in problem.detail:  # their words quote the record
        return Problem(Reason.SCHEMA, _unknown(str(error)))
    return Problem(problem.reason, problem.detail.replace("event:", "command:", 1))


def _unknown(text: str) -> str:
    """A name that is not known, without saying it."""
    if "unknown field" in text:
        return "command: has a field that no such command has"
    return f"command: got another one, wanted {', '.join(sorted(str(k.__name__).lower() for k in KINDS))}"


def _users(command: Any_) -> tuple[Who, ...]:
    match command:
        case Merge():
            return command.source, command.into
        case Erase() | Consent() | Pin():
            return (command.user,)
        case _:
            return ()


def bad_user(who: Who) -> Problem | None:
    """Why a user is not named as events name one; None where it is."""
    names = [name for name in (who.user_id, who.anonymous_id) if name is not None]
    if len(names) != 1:
        return Problem(Reason.SCHEMA, f"user: got {len(names)} ids, wanted user_id or anonymous_id")
    size = len(names[0].encode())
    if not 0 < size <= USER_BYTES_MAX:
        return Problem(Reason.USER_ID, f"user: got {size} bytes, wanted 1 to {USER_BYTES_MAX}")
    if _CONTROL.search(names[0]):
        return Problem(Reason.USER_ID, "user: got control characters, wanted none")
    return None
