"""Who stands for a segment: the few members nearest to its centre, under names that lead nowhere else.

Of the rows that were scored since the last refresh, each segment keeps the nearest ones, of different users;
those of before fill up what is missing. Only members of today are shown, and only where a segment has
MEMBERS_MIN members: below, "a typical member" is a person.

A pseudonym is a hash of the user's key, keyed by the segment and the configuration, so that it is another one
in every segment and cannot be joined across them. It is no anonymity: whoever knows a user's key can compute it
and see whether this user is the exemplar. That is what it is for; where it must not be, see `privacy`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .compiling import kernel
from .events import F32, F64, I32, Scored
from .ports import State

EXEMPLARS_MAX = 3
MEMBERS_MIN = 20


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A member that is much like its segment."""

    slot: int  # whose it is: never published
    row: F32  # (d,) the row it had then, unscaled


def pseudonym(user_key: str, segment_id: int, config_hash: str) -> str:
    """16 hexadecimal digits that stand for a user in one segment's profile.

    >>> pseudonym("42", 7, "0" * 32)
    '15b63c2bc4bcfb12'
    """
    key = f"{segment_id}:{config_hash}".encode()
    return hashlib.blake2b(user_key.encode("utf-8", "surrogatepass"), key=key, digest_size=8).hexdigest()


class Exemplars:
    """By centre: EXEMPLARS_MAX slots, how far off each was, and its row: 12 d + 36 bytes, d features."""

    def __init__(self, k: int, d: int) -> None:
        self._slots: I32 = np.full((k, EXEMPLARS_MAX), -1, np.int32)
        self._gaps: F64 = np.full((k, EXEMPLARS_MAX), np.inf)  # nearest first; inf: none, or an old one
        self._rows: F32 = np.zeros((k, EXEMPLARS_MAX, d), np.float32)

    def learn(self, scored: Scored, centres: I32) -> None:
        """Rows of `scored` whose user is in `centres` (m,); -1: in none."""
        _learn(scored.slots, scored.distances, scored.raw, centres, self._slots, self._gaps, self._rows)

    def age(self) -> None:
        """Any row from now on stands before those known; they remain until enough have come."""
        self._gaps[:] = np.inf

    def of(self, centre: int, size: int, centre_by_slot: I32) -> tuple[Exemplar, ...]:
        """Of a segment with so many members, nearest first; `centre_by_slot`: where everybody is now."""
        if size < MEMBERS_MIN:
            return ()
        pairs = zip(self._slots[centre].tolist(), self._rows[centre], strict=True)
        return tuple(
            Exemplar(slot, row.copy()) for slot, row in pairs if slot >= 0 and centre_by_slot[slot] == centre
        )

    def give_up(self, centre: int) -> None:
        """The segment of this centre has ended."""
        self._slots[centre], self._gaps[centre], self._rows[centre] = -1, np.inf, 0.0

    def clear(self, slots: I32) -> None:
        """Forget these users."""
        gone = np.isin(self._slots, slots) & (self._slots >= 0)
        for centre in np.flatnonzero(gone.any(axis=1)).tolist():
            stays = np.flatnonzero(~gone[centre])
            n = len(stays)
            slots, gaps, rows = (
                self._slots[centre, stays],
                self._gaps[centre, stays],
                self._rows[centre, stays],
            )
            self.give_up(centre)
            self._slots[centre, :n], self._gaps[centre, :n], self._rows[centre, :n] = slots, gaps, rows

    def snapshot(self) -> State:
        return {"slots": self._slots.copy(), "gaps": self._gaps.copy(), "rows": self._rows.copy()}

    def restore(self, state: State) -> None:
        self._slots, self._gaps = state["slots"].copy(), state["gaps"].copy()
        self._rows = state["rows"].copy()


@kernel
def _learn(slots, distances, raw, centres, best, gaps, rows):  # type: ignore[no-untyped-def]
    """Put each row in its place among the nearest of its segment; a user stands there once, as it was last."""
    most = best.shape[1]
    for i in range(len(slots)):
        c = centres[i]
        if c < 0 or not np.isfinite(distances[i, c]):
            continue
        gap, at = distances[i, c], most
        for e in range(most):
            if best[c, e] == slots[i]:
                at = e
        if at == most and not gap < gaps[c, most - 1]:
            continue
        if at == most:
            at = most - 1
        while at + 1 < most and best[c, at + 1] >= 0 and gaps[c, at + 1] < gap:
            best[c, at], gaps[c, at], rows[c, at] = best[c, at + 1], gaps[c, at + 1], rows[c, at + 1]
            at += 1
        while at > 0 and gap < gaps[c, at - 1]:
            best[c, at], gaps[c, at], rows[c, at] = best[c, at - 1], gaps[c, at - 1], rows[c, at - 1]
            at -= 1
        best[c, at], gaps[c, at], rows[c, at] = slots[i], gap, raw[i]
