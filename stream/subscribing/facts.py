"""What a subscriber gets to see: frozen, typed, and the same from Kafka and from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from ..ports import ConfigError

Headers = Iterable[tuple[str, bytes]]
Positions = Mapping[str, Mapping[int, int]]
"""topic (contract name) -> partition -> where the next record begins."""


class Record(msgspec.Struct, frozen=True):
    """A published record, and where it stands in its log."""

    topic: str  # contract name, without a prefix
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = 0
    offset: int = -1  # Kafka: the offset; files: the byte its line begins at; -1: stands nowhere
    end: int = -1  # where the next one begins


class Confidence(msgspec.Struct, frozen=True, gc=False):
    """How sure a placement is; see the schema of `segment.changes`."""

    score: float
    margin: float
    events_seen: int
    provisional: bool


class Place(msgspec.Struct, frozen=True, gc=False):
    """A segment, as the one a user is in or was in."""

    segment_id: int
    name: str
    since_ms: int


class Member(msgspec.Struct, frozen=True):
    """Where a user is now."""

    user: str
    anonymous: bool
    place: Place
    sequence: int
    confidence: Confidence


class Change(msgspec.Struct, frozen=True):
    """The table changed for one user.

    `before` is what the mirror held, so that changes add up to the table: also where records are missing, and
    where the record's own `from` is another one. Only where a mirror began in the middle of a topic, and has
    not met the user yet, it is the record's.
    """

    user: str
    anonymous: bool
    transition: (
        str  # assigned moved remapped left erased; returned: was away and is back, seen in members only
    )
    before: Place | None
    after: Place | None
    sequence: int
    reason: str | None = None  # as in segment.changes; None where it was learned from segment.members
    confidence: Confidence | None = None
    decided_ms: int | None = None  # stream time
    after_gap: bool = False  # changes of this user were missed before this one


class Segment(msgspec.Struct, frozen=True):
    """A segment's profile. `profile` is the whole value of its record, with fields of later versions too."""

    segment_id: int
    name: str
    profile: Mapping[str, Any]


class Lineage(msgspec.Struct, frozen=True):
    """What happened to a segment id. Kinds that this version does not know are kept as they are."""

    lineage_id: int
    kind: str
    segment_id: int | None  # None: about all segments
    name: str | None
    parents: tuple[int, ...] = ()
    remap: tuple[tuple[int, int], ...] = ()  # (old segment id, new segment id)
    decided_ms: int = 0


class Trouble(msgspec.Struct, frozen=True):
    """Something that an unbroken log would not have shown."""

    kind: str  # gap, conflict, unknown, broken
    topic: str
    key: str
    detail: str


class Counts(msgspec.Struct):
    """Records by what became of them, `records` in all; and what they showed."""

    records: int = 0
    changes: int = 0  # changed the table
    noted: int = 0  # segments, lineage, steps; members that were known
    duplicates: int = 0  # seen before, or overtaken by a later one of the user
    unknown: int = 0  # of another topic, or of a later version of the contract
    broken: int = 0  # do not keep the contract
    gaps: int = 0  # changes whose predecessors were not seen
    conflicts: int = 0  # two records of one sequence that differ, or a `from` that is not where the user was
    healed: int = 0  # changes that healing made


class Applied(msgspec.Struct, frozen=True):
    """What became of a record: `change`, `noted`, `duplicate`, `unknown` or `broken`."""

    kind: str
    change: Change | None = None
    trouble: Trouble | None = None


class Start(msgspec.Struct, frozen=True):
    """Where a reader goes on, and what the mirror cannot know by reading from there."""

    positions: Positions
    whole: bool  # everything from the mirror's own positions on is still there (all there ever was, for a new one)
    bootstrap: bool = False  # the members up to now come first, from `members`


class Reader(Protocol):
    """Where records come from; `SegmentMirror.follow` asks in this order."""

    def start(self, positions: Positions) -> Start:
        """Go to these positions; with none, wherever the reader was told to begin."""

    def poll(self) -> list[Record] | None:
        """What has come, soon; nothing is an empty list. None: told to end, or the end was reached."""

    def lost(self) -> bool:
        """Whether records were gone from the log before they could be read, since the last time this was asked."""

    def members(self) -> Iterable[Record]:
        """The whole members topic, up to an end that covers everything `poll` and `start` have given."""


class MirrorFull(ConfigError):
    """More users, or segments, than the mirror may hold: raise the limit; nothing was left out in silence."""
