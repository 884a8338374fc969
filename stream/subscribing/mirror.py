"""A subscriber's exact copy of who is in which segment, folded from the topics. No I/O: records in, facts out.

Theory of operation. A user's changes are numbered: the first change of a stay has the number of its step, every
later one is one more, and a later stay starts higher. So for each user the newest number decides:

    not above the one held      a duplicate, or overtaken: ignored
    the next one                the change that follows
    anything else               changes were missed (a gap): the record is applied, since it says where the user
                                is now, and the gap is counted and named

`segment.members` says the same as the newest change, with the same number, so the two topics can be read
together, in any order of the two, from overlapping positions. Gone users' numbers are remembered (the last
`gone_max` of them, under a hash, without the name), so that an older record does not bring anybody back. Of an
erased user not even that is kept; only `segment.members` by itself cannot tell who was erased from who left.

Guaranteed: after all records up to the end of step n, each at least once, the mirror equals the engine's table of
step n: from `segment.changes` alone, from `segment.members` alone (compacted or not), or from members up to any
end and changes from a position taken before that end was asked for. What is missing from `segment.changes`
shows as a gap at the user's next change; two cases show only in `heal`: a user's last change, and a whole stay.

A new epoch needs nothing of its own: its opening steps say that everybody left and every segment ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from ..events import CATALOG, CHANGES, LINEAGE, MANIFEST, MEMBERS
from . import wire
from .facts import (
    Applied,
    Change,
    Counts,
    Headers,
    Lineage,
    Member,
    MirrorFull,
    Positions,
    Reader,
    Record,
    Segment,
    Trouble,
)
from .stored import Stored, decode, encode
from .table import DUPLICATE, NOTED, Table, same_key

_COUNTED = {
    "change": "changes",
    "noted": "noted",
    "duplicate": "duplicates",
    "unknown": "unknown",
    "broken": "broken",
}


class SegmentMirror:
    """Who is in which segment, from the records of Shoal's topics.

    >>> mirror = SegmentMirror()
    >>> value = (
    ...     b'{"user":{"key":"42","kind":"user"},"transition":"assigned","from":null,'
    ...     b'"to":{"segment_id":3,"name":"night shoppers","since":1700000000000},'
    ...     b'"reason":{"kind":"user_behavior"},"position":{"sequence":7},"times":{"decided_time":1700000000000},'
    ...     b'"confidence":{"score":0.9,"margin":0.4,"events_seen":12,"provisional":false}}'
    ... )
    >>> mirror.apply("segment.changes", b"42", value).change.after.name
    'night shoppers'
    >>> mirror.apply("segment.changes", b"42", value).kind  # once more: nothing happens
    'duplicate'
    >>> mirror.members["42"].place.segment_id, mirror.sizes
    (3, {3: 1})
    >>> SegmentMirror.restore(mirror.snapshot()).members == mirror.members
    True

    Cost: some microseconds a record; about 0.6 KB a user.
    """

    def __init__(
        self,
        *,
        whole: bool = True,
        users_max: int = 10_000_000,
        gone_max: int = 1_000_000,
        segments_max: int = 100_000,
        lineage_max: int = 10_000,
        troubles_max: int = 100,
    ) -> None:
        """`whole`: records come from the first one that ever was, or `heal` comes first; without it, a user who
        is met in the middle of a stay is no gap. Raises MirrorFull, later, beyond `users_max` or `segments_max`;
        of lineage and troubles the oldest are forgotten."""
        self._table = Table(whole, users_max, gone_max)
        self._segments_max, self._lineage_max = segments_max, lineage_max
        self._ailing = False  # something is missing that only `heal` can bring
        self._segments: dict[int, Segment] = {}
        self._lineage: dict[int, Lineage] = {}
        self._positions: dict[str, dict[int, int]] = {}
        self._counts = Counts()
        self._troubles: deque[Trouble] = deque(maxlen=troubles_max)
        self._step = self._epoch = 0

    # --- what it knows ------------------------------------------------------------------------------------------

    @property
    def members(self) -> Mapping[str, Member]:
        """User key -> where the user is. A view: it follows."""
        return MappingProxyType(self._table.members)

    @property
    def sizes(self) -> dict[int, int]:
        """Users by segment id, in order of ids; segments without users are not named."""
        return dict(sorted(self._table.sizes.items()))

    @property
    def segments(self) -> Mapping[int, Segment]:
        """Segment id -> profile, of those there are; empty unless `segment.catalog` is read."""
        return MappingProxyType(self._segments)

    @property
    def lineage(self) -> tuple[Lineage, ...]:
        """What happened to segment ids, in order: the last `lineage_max` facts."""
        return tuple(fact for _, fact in sorted(self._lineage.items()))

    @property
    def positions(self) -> Positions:
        """Where the next record of every topic that was read begins."""
        return {topic: dict(found) for topic, found in self._positions.items()}

    @property
    def counts(self) -> Counts:
        return msgspec.structs.replace(self._counts)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """The latest gaps, conflicts and records that could not be read; they name users."""
        return tuple(self._troubles)

    @property
    def ailing(self) -> bool:
        """Something was missed; `heal` puts it right."""
        return self._ailing

    @property
    def step(self) -> int:
        """The newest step known; 0 unless `shoal.manifest` is read, as from files."""
        return self._step

    @property
    def epoch(self) -> int:
        return self._epoch

    def successor(self, segment_id: int) -> int:
        """The segment that this id's members went to when it was given up, and so on; itself if it was not.

        The members are told one by one: until then the mirror, like the engine, has them under the old id.
        """
        heirs = {old: new for fact in self.lineage for old, new in fact.remap}
        for _ in range(len(heirs)):
            if segment_id not in heirs:
                break
            segment_id = heirs[segment_id]
        return segment_id

    # --- taking records -----------------------------------------------------------------------------------------

    def take(self, record: Record) -> Applied:
        """`apply`, for a record that knows where it stands: one from before the position is a duplicate."""
        if record.offset < 0:
            return self.apply(record.topic, record.key, record.value, record.headers)
        positions = self._positions.setdefault(record.topic, {})
        if record.offset < positions.get(record.partition, 0):
            self._counts.records += 1
            return self._count(DUPLICATE)
        applied = self.apply(record.topic, record.key, record.value, record.headers)
        positions[record.partition] = record.end
        return applied

    def apply(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> Applied:
        """Fold one record in; topics by their contract names. Never raises for what a record says."""
        self._counts.records += 1
        name = "" if key is None else key.decode("utf-8", "replace")
        try:
            return self._count(self._apply(topic, name, value, headers))
        except wire.Unknown as error:
            return self._count(Applied("unknown", trouble=Trouble("unknown", topic, name, str(error))))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._count(Applied("broken", trouble=Trouble("broken", topic, name, str(error))))

    def _apply(self, topic: str, key: str, value: bytes | None, headers: Headers) -> Applied:
        if topic == CHANGES:
            wire.known(headers, "change")
            if value is None:
                raise wire.Unknown("a tombstone")
            return self._table.change(key, wire.change(value))
        if topic == MEMBERS:
            wire.known(headers, "member")
            member = None if value is None else wire.member(value)
            if member is None:
                return self._table.absent(key, wire.sequence(headers))
            return self._table.member(key, member)
        if topic == CATALOG:
            wire.known(headers, "catalog")
            return self._profile(key, value)
        if topic == LINEAGE:
            wire.known(headers, "lineage")
            return self._told(value)
        if topic == MANIFEST:
            found = wire.step(value or b"")
            self._step, self._epoch = max(self._step, found.step), max(self._epoch, found.epoch)
            return NOTED
        return Applied("unknown")

    def _count(self, applied: Applied) -> Applied:
        counts, trouble = self._counts, applied.trouble
        field = _COUNTED[applied.kind]
        setattr(counts, field, getattr(counts, field) + 1)
        if trouble is not None:
            self._troubles.append(trouble)
            counts.gaps += trouble.kind == "gap"
            counts.conflicts += trouble.kind == "conflict"
            self._ailing |= trouble.topic == CHANGES and trouble.kind != "unknown"
        return applied

    # --- segments -----------------------------------------------------------------------------------------------

    def _profile(self, key: str, value: bytes | None) -> Applied:
        if value is None:
            self._segments.pop(int(key) if key.isdecimal() and len(key) < 19 else 0, None)
            return NOTED
        segment = wire.segment(value)
        same_key(key, str(segment.segment_id))
        self._segments[segment.segment_id] = segment
        if len(self._segments) > self._segments_max:
            raise MirrorFull(
                f"more than segments_max={self._segments_max} segments: give the mirror a higher limit"
            )
        return NOTED

    def _told(self, value: bytes | None) -> Applied:
        fact = wire.lineage(value or b"")
        if fact.lineage_id in self._lineage:
            return DUPLICATE
        self._lineage[fact.lineage_id] = fact
        if len(self._lineage) > self._lineage_max:
            del self._lineage[min(self._lineage)]
        return NOTED

    # --- following and going on ----------------------------------------------------------------------------------

    def heal(self, members: Iterable[Record]) -> Iterator[Change]:
        """Make the table what `segment.members` says, which is all of it: the changes this makes.

        `members` is the whole topic, up to an end that was asked for after the last record this mirror took.
        Whoever is not in it is gone. For a new mirror this is the quick way to begin: then read
        `segment.changes` from a position that was taken before.
        """
        self._ailing = True  # a snapshot from the middle of this begins it again
        named: set[str] = set()
        for record in members:
            self._table.healing = True
            applied = self.apply(record.topic, record.key, record.value, record.headers)
            self._table.healing = False
            if record.topic == MEMBERS:
                named.add((record.key or b"").decode("utf-8", "replace"))
            if applied.change is not None:
                self._counts.healed += 1
                yield applied.change
        for key in [key for key in self._table.members if key not in named]:
            yield self._gone(key)
        self._table.whole, self._ailing = True, False

    def _gone(self, key: str) -> Change:
        """A user whom the members do not know any more."""
        held = self._table.members[key]
        self._table.put(key, None, held.sequence + 1)
        self._counts.healed += 1
        return Change(key, held.anonymous, "left", held.place, None, held.sequence + 1)

    def follow(self, reader: Reader) -> Iterator[Change]:
        """Who entered, moved and left, as it happens: every change of the table, once, until the reader ends.

        Begins where this mirror stands. What was missed is healed from the members, and yielded too. A snapshot
        that is taken inside the loop goes on behind the change just yielded.
        """
        new = not self._positions
        start = reader.start(self.positions)
        self._positions = {topic: dict(found) for topic, found in start.positions.items()}
        if new and start.bootstrap:
            for _ in self.heal(reader.members()):  # what was there before is no change
                pass
        elif new:
            self._table.whole = start.whole
        elif not start.whole:
            self._ailing = True
        if self._ailing:
            yield from self.heal(reader.members())
        while (records := reader.poll()) is not None:
            for record in records:
                change = self.take(record).change
                if change is not None:
                    yield change
            if reader.lost() or self._ailing:
                yield from self.heal(reader.members())

    def snapshot(self) -> bytes:
        """Everything, as JSON: `restore` goes on as if nothing had happened. The limits are not in it."""
        return encode(
            Stored(
                whole=self._table.whole,
                ailing=self._ailing,
                step=self._step,
                epoch=self._epoch,
                members=list(self._table.members.values()),
                gone=list(self._table.gone.items()),
                segments=list(self._segments.values()),
                lineage=list(self._lineage.values()),
                positions=self._positions,
                counts=self._counts,
                troubles=list(self._troubles),
            )
        )

    @classmethod
    def restore(cls, snapshot: bytes, **limits: int) -> SegmentMirror:
        """A mirror that goes on where `snapshot` was taken. Raises ValueError for anything else."""
        stored = decode(snapshot)
        mirror = cls(whole=stored.whole, **limits)
        mirror._ailing, mirror._step, mirror._epoch = stored.ailing, stored.step, stored.epoch
        for member in stored.members:
            mirror._table.put(member.user, member, member.sequence)
        mirror._table.gone = dict(stored.gone)
        mirror._segments = {segment.segment_id: segment for segment in stored.segments}
        mirror._lineage = {fact.lineage_id: fact for fact in stored.lineage}
        mirror._positions = {topic: dict(found) for topic, found in stored.positions.items()}
        mirror._counts = stored.counts
        mirror._troubles.extend(stored.troubles)
        return mirror
