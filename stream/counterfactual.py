"""What little a user would have had to do otherwise, and the decision had been another.

    moved      fewer or more events of a type, and the user would have stayed where it was
    assigned   the same, and it would have been placed in the runner-up

More events may be about what the segment in question takes to most: "1 purchase of Games more". Every candidate row
goes through the step's own scaling, encoder, centres and policy, all candidates of all users in one call;
one is given only if that decides otherwise, and with CLEAR to spare, or CLEAR_TASTE, since what a row cannot know
(at what time of day; which items) would shift it a little. First single edits, LEVELS events of each type and band
tried, then pairs of them; fewest events first.

Tried are two types about the taste, and the TRIED plain types and bands that pull the scaled row most along the
line from the new segment's mean to the old one's. Cost: (2 + TRIED + pairs of PAIRED) times len(LEVELS) rows scaled,
encoded and scored per user at most, for the `membership.counterfactuals_max` users of a step that were decided
most narrowly; the others get none, and none of those whose placement is provisional: with a few events any further
one changes all shares. What is about a taste is never about goods taken: a row cannot know how many, and how dear.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Protocol

import numpy as np
import xxhash

from .behaviour import Amounts, Behaviour, Edits
from .catalog import Catalog
from .config import Features
from .earlier import Scales
from .events import CHANNELS, F32, F64, I32, I64, U64, Bool, Scored
from .interest import TYPE_WEIGHTS
from .membership import Membership, Moves
from .ports import Publisher, Segmenter

_TASTEFUL = [CHANNELS.index(name) for name in ("view", "click", "play", "like")]
_PLAIN = [CHANNELS.index(name) for name in ("search", "login")]
LEVELS = (1, 2, 3)
TRIED, PAIRED = 4, 3
CLEAR, CLEAR_TASTE = 0.1, 0.25
"""By so much of the distance to the next centre the wanted one must be nearer; where a taste is part of it, the
second."""


class Rows(Scales, Protocol):
    """Who scales rows, and knows what a taste would make of them."""

    interest: slice

    def with_taste(self, slots: I32, token: U64, weight: F32, now_ms: int) -> F32: ...


@dataclass(frozen=True, slots=True)
class Edit:
    """So many events of a type more, or fewer (negative), in a horizon, older than the horizon before it."""

    channel: int
    band: int
    events: int
    before: float  # the count in this horizon as it is
    label: str = ""  # what they are about; "": anything


@dataclass(frozen=True, slots=True)
class Counterfactual:
    edits: tuple[Edit, ...]
    centre: int  # where the user would be


class Counterfactuals:
    """`find` them for a step's moves. Keeps nothing from one step to the next."""

    def __init__(self, config: Features, names: Sequence[str], most: int) -> None:
        self.most = most
        self._behaviour: Behaviour | None
        try:
            self._behaviour = Behaviour(config, names)
        except KeyError:  # rows of other features: nobody can say what their columns mean
            self._behaviour = None
        self.horizons = [h.name for h in config.horizons]

    def find(
        self,
        moves: Moves,
        scored: Scored,
        catalog: Catalog,
        membership: Membership,
        features: Rows,
        publisher: Publisher,
        segmenter: Segmenter,
        now_ms: int,
    ) -> dict[int, Counterfactual]:
        """By index of the move; read-only. Called before anything is learned."""
        asked = np.flatnonzero(~moves.remapped() & ~moves.provisional)
        asked = asked[np.argsort(moves.margin[asked], kind="stable")][: self.most]
        if self._behaviour is None or not len(asked):
            return {}
        second = _runner_up(scored.distances[moves.row[asked]], moves.centre_after[asked])
        goal = np.where(moves.centre_before[asked] < 0, second, moves.centre_before[asked])
        other = goal != moves.centre_after[asked]  # one centre alone is its own runner-up
        asked, goal = asked[other], goal[other]
        rows, first = moves.row[asked], moves.centre_before[asked] < 0
        means = catalog.scaled.known()
        pull = means[goal] - means[moves.centre_after[asked]]  # (n, d)
        raw, usual = scored.raw[rows], catalog.raw.known()[goal]
        search = _Search(
            self._behaviour, raw, usual, self._behaviour.amounts(raw, usual), goal.astype(np.int32), first,
            moves.slot[asked], _labels(catalog, goal), membership, features, publisher, segmenter, now_ms,
        )  # fmt: skip
        found = search.run(pull) if len(asked) else {}
        return {int(asked[i]): one for i, one in sorted(found.items())}


@dataclass(frozen=True, slots=True)
class _Search:
    """The n users of a step, and whom to ask about them."""

    behaviour: Behaviour
    raw: F32  # (n, d)
    means: F64  # (n, d) of the segment each should have been in, unscaled
    amounts: Amounts
    goal: I32  # (n,) its centre
    first: Bool  # (n,)
    slots: I32  # (n,)
    labels: list[str]  # (n,) what that segment takes to most; "" where nothing stands out
    membership: Membership
    features: Rows
    publisher: Publisher
    segmenter: Segmenter
    now_ms: int

    def run(self, pull: F64) -> dict[int, Counterfactual]:
        columns = zip(self._tastes(), self._promising(pull), strict=True)
        channel, band, sign, room = (np.concatenate(pair, axis=1) for pair in columns)  # (n, 2 + TRIED) each
        found: dict[int, Counterfactual] = {}
        for choices in (np.arange(room.shape[1])[:, None], np.array(list(combinations(range(PAIRED), 2)))):
            left = np.array([i for i in range(len(self.raw)) if i not in found], np.int64)
            self._try(found, left, choices, channel, band, sign, room)
        return found

    def _tastes(self) -> tuple[I64, I64, I64, I64]:
        """(n, 2) each, as `_promising`: more of what the segment takes to, by the two ways it mostly does."""
        usual = self.means[:, self.behaviour.count[_TASTEFUL][:, -1]]  # (n, types) over the longest horizon
        best = np.argsort(-usual, axis=1, kind="stable")[:, :2]
        known = np.array([label != "" for label in self.labels])
        room = np.where(known[:, None], LEVELS[-1], 0) * np.ones_like(best)
        return np.array(_TASTEFUL)[best], np.zeros_like(best), np.ones_like(best), room

    def _promising(self, pull: F64) -> tuple[I64, I64, I64, I64]:
        """(n, TRIED) each: channel, band, more or fewer, and how many at most; best first, 0 where none is left."""
        b = self.behaviour
        _, inverse, gain = self.features.scale_now()
        slope = (inverse * gain)[None, :] / (1.0 + np.abs(self.raw))  # of ln(1 + count)
        along = (pull * slope)[:, b.count] + (pull * slope)[:, b.all][:, None, :]  # (n, 17, h)
        along = np.cumsum(along[:, :, ::-1], axis=2)[
            :, :, ::-1
        ]  # an event of a band is in all longer horizons
        room = b.removable(self.raw)
        more = np.zeros_like(along)  # of what is about no item: else it would depend on which
        more[:, _PLAIN] = along[:, _PLAIN]
        worth = np.concatenate([np.where(room > 0, -along, 0.0), more], axis=1)  # (n, 34, h) fewer, more
        flat = worth.reshape(len(worth), -1)
        best = np.argsort(-flat, axis=1, kind="stable")[:, :TRIED]
        kind, band = np.divmod(best, len(b.horizons))
        fewer = kind < len(CHANNELS)
        channel = np.where(fewer, kind, kind - len(CHANNELS))
        most = np.where(fewer, room[np.arange(len(room))[:, None], channel, band], LEVELS[-1])
        there = fewer | b.lived(self.raw)[np.arange(len(room))[:, None], band]
        pulls = np.take_along_axis(flat, best, axis=1) > 0
        most = np.where(pulls & there, np.minimum(most, LEVELS[-1]), 0)
        return channel, band, np.where(fewer, -1, 1), most

    def _try(
        self, found: dict[int, Counterfactual], users: I64, choices: I64, channel: I64, band: I64, sign: I64, room: I64
    ) -> None:  # fmt: skip
        """Ask all candidates at once; of those that flip, each user's with the fewest events is found.

        `choices` (m, 1) or (m, 2): the columns that are tried alone, or together.
        """
        users, choices = np.tile(users, len(choices)), np.repeat(choices, len(users), axis=0)
        most = room[users[:, None], choices].min(axis=1)
        level, at = np.nonzero(most >= np.array(LEVELS)[:, None])
        if not len(at):
            return
        user, events = users[at], np.array(LEVELS)[level]
        edits = [  # one, or the two of a pair; (c,) each
            Edits(user, channel[user, c], band[user, c], sign[user, c] * events, c < 2) for c in choices[at].T
        ]
        tasteful = np.any([edit.tasteful for edit in edits], axis=0)
        flips = self._flips(user, self._rows(edits), np.where(tasteful, CLEAR_TASTE, CLEAR))
        size = np.sum([np.abs(edit.events) for edit in edits], axis=0)
        for c in np.lexsort((np.arange(len(user)), size, user)).tolist():
            if flips[c] and int(user[c]) not in found:
                made = tuple(self._edit(edit, c) for edit in edits)
                found[int(user[c])] = Counterfactual(made, int(self.goal[user[c]]))

    def _rows(self, edits: list[Edits]) -> F32:
        """(c, d) raw rows after all of these edits, each (c,)."""
        rows: F32 | None = None
        weight = np.zeros(len(edits[0].user), np.float32)
        for edit in edits:
            rows = self.behaviour.edited(self.raw, self.amounts, edit, rows)
            weight += np.where(edit.tasteful, TYPE_WEIGHTS[edit.channel] * edit.events, 0).astype(np.float32)
        assert rows is not None
        user = edits[0].user
        at = np.flatnonzero(weight)
        token = np.array([_token(self.labels[i]) for i in user[at].tolist()], np.uint64)
        rows[at, self.features.interest] = self.features.with_taste(
            self.slots[user[at]], token, weight[at], self.now_ms
        )
        return rows

    def _flips(self, user: I64, raw: F32, clear: F64) -> Bool:
        """(c,) whether these rows would have been decided the other way, by the step's own models and policy, and
        with so much to spare, `clear` (c,)."""
        z = self.publisher.encode(self.features.scale(raw))
        nearest, distances = self.segmenter.score(z)
        goal = self.goal[user]
        there = np.arange(len(user))
        own = np.sqrt(distances[there, goal])
        others = distances.copy()
        others[there, goal] = np.inf
        placed = (nearest == goal) & (own <= (1.0 - clear) * np.sqrt(others.min(axis=1)))
        moves = self.membership.policy.would_move(distances, nearest, goal, self.segmenter.centres, clear)
        return np.where(self.first[user], placed, ~moves)

    def _edit(self, edits: Edits, i: int) -> Edit:
        channel, band = int(edits.channel[i]), int(edits.band[i])
        before = float(self.raw[edits.user[i], self.behaviour.count[channel, band]])
        label = self.labels[edits.user[i]] if edits.tasteful[i] else ""
        return Edit(channel, band, int(edits.events[i]), before, label)


def _labels(catalog: Catalog, centres: I64) -> list[str]:
    """(n,) what these segments take to most; "" where nothing stands out."""
    tastes = {centre: catalog.labels.tastes(centre, 1) for centre in set(centres.tolist())}
    return [tastes[centre][0].label if tastes[centre] else "" for centre in centres.tolist()]


@lru_cache(4096)
def _token(label: str) -> int:
    """Of the category of this name; one that is none is a token nobody touched, which changes nothing."""
    return xxhash.xxh3_64_intdigest(f"c:{label}".encode())


def _runner_up(distances: F64, own: I32) -> I32:
    others = distances.copy()
    others[np.arange(len(own)), own] = np.inf
    return np.where(np.isfinite(others.min(axis=1)), others.argmin(axis=1), own).astype(np.int32)


# --- in words -----------------------------------------------------------------------------------------------

_NOUNS = {
    "search": ("search", "searches"),
    "dwell": ("longer stay", "longer stays"),
    "rate": ("rating", "ratings"),
    "cart_add": ("cart addition", "cart additions"),
    "custom": ("other event", "other events"),
}
_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}


def what(edit: Edit, horizons: Sequence[str]) -> str:
    """
    >>> what(Edit(CHANNELS.index("purchase"), 1, -1, 3.0), ["1d", "7d"])
    '1 purchase fewer in the last 7 days, before the last day'
    """
    name = CHANNELS[edit.channel]
    n = abs(edit.events)
    noun = _NOUNS.get(name, (name, f"{name}s"))[n > 1] + (f" of {edit.label}" if edit.label else "")
    when = span(horizons[edit.band])
    before = f", before the {span(horizons[edit.band - 1])}" if edit.band else ""
    return f"{n} {noun} {'more' if edit.events > 0 else 'fewer'} in the {when}{before}"


def span(horizon: str) -> str:
    """
    >>> span("7d"), span("1h"), span("season")
    ('last 7 days', 'last hour', 'window season')
    """
    match = re.fullmatch(r"(\d+)([smhdw])", horizon)
    if not match:
        return f"window {horizon}"
    number, unit = int(match[1]), _UNITS[match[2]]
    return f"last {unit}" if number == 1 else f"last {number} {unit}s"


def text(edits: Sequence[Edit], horizons: Sequence[str], stays: bool, name: str) -> str:
    """The whole sentence."""
    done = " and ".join(what(edit, horizons) for edit in edits)
    return f"{done}: they would have {'stayed in' if stays else 'been placed in'} {name}"
