"""Who is where, by user: what changes and memberships do to one table. The theory is in `mirror.py`."""

from __future__ import annotations

import hashlib

import msgspec

from ..events import CHANGES, MEMBERS
from . import wire
from .facts import Applied, Change, Member, MirrorFull, Place, Trouble

DUPLICATE = Applied("duplicate")
NOTED = Applied("noted")


class Table:
    """Always true: `sizes` is a recount of `members`, and no user is in both `members` and `gone`."""

    def __init__(self, whole: bool, users_max: int, gone_max: int) -> None:
        self.whole = whole  # a user who is met in the middle of a stay is a gap
        self.healing = False
        self.members: dict[str, Member] = {}  # the latest changed last
        self.gone: dict[int, int] = {}  # `hashed` user -> sequence, the latest gone last
        self.sizes: dict[int, int] = {}
        self._users_max, self._gone_max = users_max, gone_max

    # --- segment.changes ----------------------------------------------------------------------------------------

    def change(self, key: str, value: wire.ChangeValue) -> Applied:
        member, sequence = value.member, value.position.sequence
        same_key(key, value.user.key)
        if value.transition == "erased":
            return self.erase(key, value)
        held = self.members.get(key)
        last = held.sequence if held else self._left_at(key)
        if sequence <= last:
            return self._known(CHANGES, key, held, member, sequence)
        trouble = self._missed(key, value, held, last)
        before = held.place if held else None if self.whole or last else value.before
        self.put(key, member, sequence)
        change = Change(
            key,
            value.user.kind == "anonymous",
            value.transition,
            before,
            member.place if member else None,
            sequence,
            value.reason.kind,
            value.confidence,
            value.times.decided_time,
            after_gap=trouble is not None and trouble.kind == "gap",
        )
        return Applied("change", change, trouble)

    def _missed(self, key: str, value: wire.ChangeValue, held: Member | None, last: int) -> Trouble | None:
        """What this change shows to be missing or wrong, before it is applied."""
        sequence, starts = value.position.sequence, value.from_ is None
        if held is None and (starts or not (self.whole or last)):
            return None
        if held is None or starts or sequence != held.sequence + 1:
            return Trouble("gap", CHANGES, key, f"nothing between sequence {last} and {sequence}")
        if value.from_ is not None and value.from_.segment_id != held.place.segment_id:
            detail = f"from {value.from_.segment_id}, was in {held.place.segment_id}"
            return Trouble("conflict", CHANGES, key, detail)
        return None

    def erase(self, key: str, value: wire.ChangeValue) -> Applied:
        """Nothing of the user stays, not even that there was one. Told again, it is done again."""
        held, sequence = self.members.get(key), value.position.sequence
        if sequence < self._left_at(key) or (held is not None and sequence <= held.sequence):
            return DUPLICATE
        self.put(key, None, 0)
        change = Change(
            key, value.user.kind == "anonymous", "erased", held.place if held else None, None, sequence,
            value.reason.kind, decided_ms=value.times.decided_time,
        )  # fmt: skip
        return Applied("change", change)

    # --- segment.members ----------------------------------------------------------------------------------------

    def member(self, key: str, member: Member) -> Applied:
        same_key(key, member.user)
        held = self.members.get(key)
        last = held.sequence if held else self._left_at(key)
        if member.sequence <= last:
            return self._known(MEMBERS, key, held, member, member.sequence)
        self.put(key, member, member.sequence)
        if held is None:
            transition = "assigned"
        else:
            transition = "moved" if held.place.segment_id != member.place.segment_id else "returned"
        change = Change(
            key, member.anonymous, transition, held.place if held else None, member.place, member.sequence,
            confidence=member.confidence,
        )  # fmt: skip
        return Applied("change", change)

    def absent(self, key: str, sequence: int | None) -> Applied:
        """A tombstone; its number is in the headers, or it is the next one."""
        held = self.members.get(key)
        last = held.sequence if held else self._left_at(key)
        sequence = last + 1 if sequence is None else sequence
        if sequence <= last:
            return self._known(MEMBERS, key, held, None, sequence)
        if held is None:
            if last or self.healing:  # else it may be an erased user's, of whom nothing is kept
                self.put(key, None, sequence)
            return NOTED
        self.put(key, None, sequence)
        return Applied("change", Change(key, held.anonymous, "left", held.place, None, sequence))

    # --- what both topics do to the table -----------------------------------------------------------------------

    def _known(
        self, topic: str, key: str, held: Member | None, member: Member | None, sequence: int
    ) -> Applied:
        """A record that is not new. One of the number held must say what is held."""
        last = held.sequence if held else self._left_at(key)
        if sequence == last and held != member:
            detail = f"sequence {sequence} again, with another membership"
            return Applied("duplicate", trouble=Trouble("conflict", topic, key, detail))
        return DUPLICATE

    def put(self, key: str, member: Member | None, sequence: int) -> None:
        """Place the user, or let it go; `sequence` 0: without a trace."""
        held = self.members.pop(key, None)
        if held is None:
            self.gone.pop(hashed(key), None)
        else:
            self._resize(held.place, -1)
        if member is not None:
            if len(self.members) >= self._users_max:
                raise MirrorFull(
                    f"more than users_max={self._users_max} users: give the mirror a higher limit"
                )
            self.members[key] = member
            self._resize(member.place, 1)
        elif sequence:
            self.gone[hashed(key)] = sequence
            if len(self.gone) > self._gone_max:
                del self.gone[next(iter(self.gone))]

    def _left_at(self, key: str) -> int:
        """The sequence with which the user left; 0: not known."""
        return self.gone.get(hashed(key), 0)

    def _resize(self, place: Place, by: int) -> None:
        size = self.sizes.get(place.segment_id, 0) + by
        if size:
            self.sizes[place.segment_id] = size
        else:
            del self.sizes[place.segment_id]


def hashed(key: str) -> int:
    """64 bits that know a user again, so that no name of anybody who left has to be kept. Of a million users who
    left, one is taken for another user with a probability of 1 in 18,000,000,000,000 for each who comes."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def same_key(key: str, own: str) -> None:
    if key != own:
        raise msgspec.ValidationError("the record's key is not that of its value")
