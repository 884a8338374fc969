"""The events of `shoal bench endurance`: any number of them, each a function of its offset, at little cost.

Records are rows of a byte template of one length; only digits differ (event, user, time, item, category, money).
No text is formatted and nothing is kept, so that a run of any length needs the memory of one step for them.

Who sends them: first every user of the cap, once each; from then on new users in turn, evenly to the end,
between visits of anybody among the `users_cap` newest. With as many users as the cap there are only visits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..events import I64, U64, Records
from ..ports import InputError

_START_MS = 1_700_000_000_000
_DAY_MS = 86_400_000
_FIELDS = {"E": 12, "U": 9, "T": 13, "I": 6, "A": 2, "M": 4}  # letter in the template -> digits
_TEMPLATE = (
    '{"event_id":"e%E","user_id":"u%U","event_time":%T,"value":1%M.5,'
    '"items":[{"id":"i%I","category":["a%A"]}],"type":'
)
_TASTES = (
    ("view", "view", "click", "search"),
    ("view", "view", "cart_add", "purchase"),
    ("play", "play", "like", "share"),
    ("view", "favorite", "rate", "comment"),
)
_AISLES, _AISLE_ITEMS = 16, 1000


class Passing:
    """`events` records of `users` users, `users_cap` of them at a time, over `days` of their own time."""

    def __init__(self, users_cap: int, users: int, events: int, days: float) -> None:
        if not users_cap <= users <= events or 4 * users_cap > events:
            raise InputError(
                f"endurance: {users_cap:,} users at a time, {users:,} in all, {events:,} events: wanted at most "
                f"as many at a time as in all, as many in all as events, and four events for each at a time"
            )
        self.events = events
        self._cap, self._users = users_cap, users
        self._span_ms = int(days * _DAY_MS)

    def records(self, start: int, end: int) -> Records:
        """Those with offsets start .. end - 1."""
        at = np.arange(start, min(end, self.events), dtype=np.int64)
        n = len(at)
        rows = self._rows(at)
        text, length = rows.tobytes(), rows.shape[1]
        values = [text[i : i + length] for i in range(0, n * length, length)]
        return Records(np.zeros(n, np.int32), at, (None,) * n, values)

    def who(self, at: I64) -> I64:
        """(n,) offsets -> (n,) users."""
        later = np.maximum(at - self._cap, 0)
        new, left = self._users - self._cap, self.events - self._cap
        came = later * new // left  # new users before this event
        arrives = (later + 1) * new // left > came
        returns = self._cap + came - 1 - (_mixed(at, 1) % np.uint64(self._cap)).astype(np.int64)
        return np.where(at < self._cap, at, np.where(arrives, self._cap + came, returns))

    def _rows(self, at: I64) -> NDArray[np.uint8]:
        """(n,) offsets -> (n, length) the bytes of their records."""
        users, chance = self.who(at), _mixed(at, 2)
        aisles = np.where(
            chance % np.uint64(5) > 0, users % _AISLES, (chance >> np.uint64(8)).astype(np.int64) % _AISLES
        )
        rows = _TEMPLATES[users % len(_TASTES), (chance >> np.uint64(16)) % np.uint64(4)]  # (n, length)
        columns = {
            "E": at,
            "U": users,
            "T": _START_MS + at * self._span_ms // self.events,
            "I": aisles * _AISLE_ITEMS + (chance >> np.uint64(24)).astype(np.int64) % _AISLE_ITEMS,
            "A": aisles,
            "M": (chance >> np.uint64(40)).astype(np.int64) % 1000,
        }
        for letter, values in columns.items():
            first, width = _PLACES[letter]
            rows[:, first : first + width] = values[:, None] // 10 ** np.arange(width)[::-1] % 10 + ord("0")
        return rows


def _mixed(at: I64, salt: int) -> U64:
    """(n,) 64 bits for each offset, each as good as a coin. splitmix64 (Steele, Lea and Flood, 2014)."""
    x = at.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _templates() -> tuple[NDArray[np.uint8], dict[str, tuple[int, int]]]:
    """(tastes, types of each, length) bytes, and where which digits go: first place and width."""
    head, places = "", {}
    for piece in _TEMPLATE.split("%"):
        if head:
            places[piece[0]] = (len(head), _FIELDS[piece[0]])
            head += "0" * _FIELDS[piece[0]] + piece[1:]
        else:
            head = piece
    longest = max(len(name) for taste in _TASTES for name in taste)
    lines = [
        [f'{head}"{name}"{" " * (longest - len(name))}}}'.encode() for name in taste] for taste in _TASTES
    ]
    return np.array([[list(line) for line in row] for row in lines], np.uint8), places


_TEMPLATES, _PLACES = _templates()
