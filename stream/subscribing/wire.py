"""Values of Shoal's topics, read strictly in what a mirror needs and blind to all that later versions add."""

from __future__ import annotations

from typing import Any

import msgspec

from .facts import Confidence, Headers, Lineage, Member, Place, Segment

VERSION = "v1"


class Unknown(Exception):
    """A record of a later version of the contract."""


class _User(msgspec.Struct):
    key: str
    kind: str


class _Place(msgspec.Struct):
    segment_id: int
    name: str
    since: int

    def place(self) -> Place:
        return Place(self.segment_id, self.name, self.since)


class _Reason(msgspec.Struct):
    kind: str


class _Position(msgspec.Struct):
    sequence: int


class _Times(msgspec.Struct):
    decided_time: int


class ChangeValue(msgspec.Struct, rename={"from_": "from"}):
    """What a mirror needs of a `segment.changes` value."""

    user: _User
    transition: str
    from_: _Place | None
    to: _Place | None
    reason: _Reason
    confidence: Confidence | None
    position: _Position
    times: _Times

    @property
    def before(self) -> Place | None:
        return None if self.from_ is None else self.from_.place()

    @property
    def member(self) -> Member | None:
        """Where it leaves the user."""
        if self.to is None:
            return None
        if self.confidence is None:
            raise msgspec.ValidationError("a user who is somewhere, without confidence")
        return Member(
            self.user.key,
            self.user.kind == "anonymous",
            self.to.place(),
            self.position.sequence,
            self.confidence,
        )


class _MemberValue(msgspec.Struct):
    user: _User
    segment_id: int
    name: str
    since: int
    sequence: int
    confidence: Confidence


class _Remap(msgspec.Struct, rename={"old": "from", "new": "to"}):
    old: int
    new: int


class _LineageValue(msgspec.Struct):
    lineage_id: int
    kind: str
    segment_id: int | None
    name: str | None
    parents: tuple[int, ...]
    remap: tuple[_Remap, ...]
    decided_time: int


class _SegmentValue(msgspec.Struct):
    segment_id: int
    name: str


class StepValue(msgspec.Struct):
    """What a mirror needs of a manifest."""

    step: int
    epoch: int


_change = msgspec.json.Decoder(ChangeValue)
_member = msgspec.json.Decoder(_MemberValue)
_lineage = msgspec.json.Decoder(_LineageValue)
_segment = msgspec.json.Decoder(_SegmentValue)
_profile = msgspec.json.Decoder(dict[str, Any])
step = msgspec.json.Decoder(StepValue).decode


def known(headers: Headers, kind: str) -> None:
    """Raises Unknown for another version of this kind of record; headers may be missing."""
    for name, value in headers:
        if name == "ce_type" and value != f"shoal.segment.{kind}.{VERSION}".encode():
            raise Unknown(f"type {value.decode('utf-8', 'replace')}")


def change(value: bytes) -> ChangeValue:
    return _change.decode(value)


def member(value: bytes) -> Member:
    found = _member.decode(value)
    place = Place(found.segment_id, found.name, found.since)
    return Member(found.user.key, found.user.kind == "anonymous", place, found.sequence, found.confidence)


def lineage(value: bytes) -> Lineage:
    found = _lineage.decode(value)
    return Lineage(
        found.lineage_id,
        found.kind,
        found.segment_id,
        found.name,
        found.parents,
        tuple((pair.old, pair.new) for pair in found.remap),
        found.decided_time,
    )


def segment(value: bytes) -> Segment:
    found = _segment.decode(value)
    return Segment(found.segment_id, found.name, _profile.decode(value))


def sequence(headers: Headers) -> int | None:
    """The sequence in a `ce_id` of the form `user key:sequence`: all that a tombstone says; None without one."""
    for name, value in headers:
        if name == "ce_id":
            number = value.rpartition(b":")[2]
            return int(number) if number.isdigit() and len(number) < 19 else None
    return None
