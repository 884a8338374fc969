"""Who is asked when centres are rearranged: users, the segment each was in a while ago, and who came lately.

    elsewhere centres that are not where they were `HOME_ROWS` ago
    home      the segment a user was in `HOME_ROWS` learned rows ago: before whatever made the model rearrange
    lately    users with an event within the rows that made the model rearrange; within the last `PRESENT_ROWS`
              where nothing did

Rows are the segmenter's own measure of time: what it notices, it notices after so many of them, be that an hour
or a month. With many users it is more: `HOME_TURNS` and `PRESENT_TURNS` rows for each, so that most people had
their turn; else a group that sleeps at night would be said to have died. `Past` says what the stream time was so
many rows ago.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .events import F32, F64, I32, I64, Bool
from .membership import Membership
from .overlap import Table, table_of
from .ports import Segmenter, State

HOME_ROWS, HOME_TURNS = 16_384, 4
PRESENT_ROWS, PRESENT_TURNS = 2048, 2
PEOPLE_MAX = 4096
"""Users asked where they are now, at most: evenly spread over those who came since then."""
MARKS = 256
"""Marks in the time that is looked back."""
AWAY = 0.5
"""Of the gap to the nearest other centre: a centre that far from where it was may stand for other people."""


class Past:
    """Stream times by learned rows: `MARKS` marks in the time looked back, at most two more."""

    def __init__(self) -> None:
        self.rows = 0
        self.home_rows, self.present_rows = HOME_ROWS, PRESENT_ROWS
        self._marks: list[tuple[int, int]] = []  # (rows, now_ms), oldest first
        self._looked = 0  # rows at the last look
        self._then: F64 | None = None  # (k, e) centres of a while ago
        self._since: F64 | None = None  # (k, e) and of later: of a while ago, in a while
        self._seen = 0  # rows when they were
        self._encoder_version = 0

    def learned(self, rows: int, now_ms: int, users: int) -> None:
        """So many rows more; it is `now_ms`, and there are so many users."""
        self.home_rows = max(HOME_ROWS, HOME_TURNS * users)
        self.present_rows = max(PRESENT_ROWS, PRESENT_TURNS * users)
        if not self._marks or self.rows >= self._marks[-1][0] + self.home_rows // MARKS:
            self._marks.append((self.rows, now_ms))
            del self._marks[: -MARKS - 2]
        self.rows += rows

    def see(self, segmenter: Segmenter, encoder_version: int) -> None:
        """Remember where the centres are; what is remembered is `home_rows` old, or up to twice that.

        A new encoder has places of its own: then all begins anew.
        """
        if self._then is None or encoder_version != self._encoder_version:
            self._then, self._since = segmenter.centres.copy(), segmenter.centres.copy()
            self._encoder_version, self._seen = encoder_version, self.rows
        elif self.rows >= self._seen + self.home_rows:
            self._then, self._since, self._seen = self._since, segmenter.centres.copy(), self.rows

    def rearranged(self, order: I64, begun: Sequence[int], centres: F64) -> None:
        """Slot i is what order[i] was; these centres stand for something new, where they are now."""
        for known in (self._then, self._since):
            if known is not None:
                known[:] = known[order]
                known[begun] = centres[begun]

    def elsewhere(self, segmenter: Segmenter) -> Bool:
        """(k,) centres that have gone `AWAY` of the gap to the nearest other one."""
        k = segmenter.k
        if self._then is None:
            return np.zeros(k, np.bool_)
        lengths = (self._then**2).sum(axis=1)
        gaps = np.maximum(lengths[:, None] + lengths - 2.0 * self._then @ self._then.T, 0.0)  # squared
        gaps[np.arange(k), np.arange(k)] = np.inf
        gaps[:, ~segmenter.used] = np.inf
        went = ((segmenter.centres - self._then) ** 2).sum(axis=1)
        result: Bool = segmenter.used & (went > (AWAY * AWAY) * gaps.min(axis=1))
        return result

    def due(self) -> bool:
        """Whether it is time to look who went elsewhere; true once, then not for half of `present_rows`."""
        if self.rows < self._looked + self.present_rows // 2:
            return False
        self._looked = self.rows
        return True

    def ago_ms(self, rows: int) -> int:
        """What time it was so many rows ago, or a little earlier; if nobody knows, the first time known."""
        known = [now_ms for at, now_ms in self._marks if at <= self.rows - rows]
        return known[-1] if known else self._marks[0][1] if self._marks else 0

    def snapshot(self) -> State:
        return {
            "rows": self.rows,
            "looked": self._looked,
            "home_rows": self.home_rows,
            "present_rows": self.present_rows,
            "then": None if self._then is None else self._then.copy(),
            "since": None if self._since is None else self._since.copy(),
            "seen": self._seen,
            "encoder_version": self._encoder_version,
            "marks": np.array(self._marks, np.int64).reshape(-1, 2),
        }

    def restore(self, state: State) -> None:
        self.rows, self._looked = int(state["rows"]), int(state["looked"])
        self.home_rows, self.present_rows = int(state["home_rows"]), int(state["present_rows"])
        self._then = None if state["then"] is None else state["then"].copy()
        self._since = None if state["since"] is None else state["since"].copy()
        self._seen, self._encoder_version = int(state["seen"]), int(state["encoder_version"])
        self._marks = [(int(rows), int(now_ms)) for rows, now_ms in state["marks"].tolist()]


@dataclass(frozen=True, slots=True)
class People:
    """Who is asked (n,), and how many there are altogether."""

    slots: I32  # (n,) users
    home: (
        I32  # (n,) slot of the model that their segment of a while ago is at; -1: it is gone, or they are new
    )
    members: I64  # (k,) users that were in each segment a while ago ...
    present: I64  # (k,) ... and those of them who came lately


def people(membership: Membership, last_ms: I64, past: Past, rows: int) -> People:
    """Those who came within the newest `rows` learned rows; `last_ms` (users_max,) is each user's newest event.

    Where the others are now they have not shown yet. Cost: one look at every user.
    """
    placed = np.flatnonzero(membership.centre >= 0)
    home = membership.home(placed, past.ago_ms(past.home_rows))
    came = last_ms[placed] >= past.ago_ms(rows)
    members, present = (np.bincount(h[h >= 0], minlength=membership.k) for h in (home, home[came]))
    asked = np.flatnonzero(came)
    if len(asked) > PEOPLE_MAX:
        asked = asked[np.arange(PEOPLE_MAX) * len(asked) // PEOPLE_MAX]
    return People(placed[asked].astype(np.int32), home[asked], members, present)


def found(membership: Membership, last_ms: I64, past: Past, segmenter: Segmenter) -> Table:
    """Where people are by their segment, when nothing was rearranged. Nobody is asked."""
    who = people(membership, last_ms, past, past.present_rows)
    return table_of(
        membership.ids.copy(),
        segmenter.used.copy(),
        who.home,
        membership.centre[who.slots],
        who.members,
        who.present,
    )


def asked(
    membership: Membership,
    last_ms: I64,
    past: Past,
    rows: int,
    segmenter: Segmenter,
    embed: Callable[[I32], F32],
) -> Table:
    """Where people are, after the segmenter rearranged its centres. `embed`: users (n,) -> embeddings (n, e) of now."""
    who = people(membership, last_ms, past, rows or past.present_rows)
    after = segmenter.score(embed(who.slots))[0]
    return table_of(membership.ids.copy(), segmenter.used.copy(), who.home, after, who.members, who.present)
