"""A user's row: what they do (activity) and what they turn to (interest).

    activity   per horizon: events by type, all events, money, quantity, dwell time, distinct items;
               once: day parts and weekend, time since the last and the first event
    interest   a direction in `interest_dim` dimensions (see `interest.py`)

Rows are as a person would read them; `scale` makes them comparable (see `scaling.py`). The activity of a
row depends on the accepted events and on `now` alone; its interest also on what tokens meant in the steps it
went through (`context.py`). Memory: `bytes_per_user` for each of the `users_max` slots that was ever used,
allocated by the page.
"""

from __future__ import annotations

import numpy as np

from .config import Features as Config
from .digest import content_hash
from .events import F32, F64, I32, U64, Bool, Events
from .interest import Interest
from .ports import State
from .scaling import Columns, Scaling
from .users import Users
from .windows import PARTS, Windows

_LAYOUT = "2"  # of the columns and of what they mean: change it with either
_SECOND_MS, _MINUTE_MS = 1000.0, 60_000.0


class Features:
    """Windows, interest and scaling as one: `update` with events, then `rows`, then `scale`, then `learn`."""

    def __init__(self, config: Config) -> None:
        self._windows = Windows(config)
        self._interest = Interest(config)
        activity = (*self._windows.names, "recency_ms", "tenure_ms")
        self.names: tuple[str, ...] = (*activity, *self._interest.names)
        self.d = len(self.names)
        self.interest = slice(len(activity), self.d)
        self.version = _version(config, self.names)
        self.bytes_per_user = self._windows.bytes_per_user + self._interest.bytes_per_user
        columns = _columns(self.names, len(activity), len(config.horizons))
        self._scaling = Scaling(columns, self.interest, config.interest_weight, config.clip)

    def update(self, slots: I32, events: Events, learning: bool = True) -> None:
        """Add accepted events (n,); `slots` (n,) says whose they are. `learning`: also what their tokens mean."""
        self._windows.update(slots, events)
        self._interest.update(slots, events, learning)

    def rows(self, slots: I32, users: Users, now_ms: int, peek: bool = False) -> F32:
        """(m,) -> (m, d): the users' rows as of `now_ms`, unscaled. With `peek`, who was due stays due.

        `now_ms` is not older than any event or any row before.
        """
        raw = np.empty((len(slots), self.d), np.float32)
        (self._windows.peek if peek else self._windows.fill)(slots, now_ms, raw)
        self._fill_rest(slots, users, now_ms, raw)
        return raw

    def look(self, slots: I32, users: Users, now_ms: int) -> F32:
        """(m,) -> (m, d): the same rows, for those who ask; nothing changes. `now_ms`: that of the latest `rows`."""
        raw = np.empty((len(slots), self.d), np.float32)
        self._windows.look(slots, raw)
        self._fill_rest(slots, users, now_ms, raw)
        return raw

    def _fill_rest(self, slots: I32, users: Users, now_ms: int, raw: F32) -> None:
        """The columns that are no windows."""
        at = self.interest.start
        raw[:, at - 2] = np.maximum(now_ms - users.last_ms[slots], 0)
        raw[:, at - 1] = np.maximum(now_ms - users.first_ms[slots], 0)
        self._interest.fill(slots, raw[:, self.interest])

    def with_taste(self, slots: I32, token: U64, weight: F32, now_ms: int) -> F32:
        """(m, interest columns) had these users just touched one token each, so weightily; read-only."""
        return self._interest.with_more(slots, token, weight, now_ms)

    def due(self, slots: I32, now_ms: int) -> Bool:
        """(m,) whose row has changed since it was last built, by more than the time that passed."""
        return self._windows.due(slots, now_ms)

    def scale(self, raw: F32, as_then: F64 | None = None) -> F32:
        """(m, d) -> (m, d): centred, each family of the same weight; see `scaling.py`."""
        return self._scaling.scale(raw, as_then)

    def scale_now(self) -> F64:
        """What `scale` depends on now, to be given back to it later as `as_then`."""
        return self._scaling.constants()

    def learn(self, raw: F32) -> None:
        """Let the scaling follow rows (m, d). Score before you learn."""
        self._scaling.learn(raw)

    def clear(self, slots: I32) -> None:
        self._windows.clear(slots)
        self._interest.clear(slots)

    def merge(self, source: int, into: int) -> None:
        """Add what user `source` did to what user `into` did; the source is to be cleared."""
        self._windows.merge(source, into)
        self._interest.merge(source, into)

    def scrub(self) -> None:
        """Overwrite what is left in memory of users who were cleared."""
        self._windows.scrub()

    @property
    def learned_rows(self) -> F64:
        """(2,) rows behind the scaling's moments, at most 100,000: activity, interest."""
        return self._scaling.rows

    def fingerprint(self) -> bytes:
        """Of what was learned from all users together; each user's own state shows in the rows."""
        return self._scaling.fingerprint() + self._interest.fingerprint()

    def snapshot(self) -> State:
        return {
            "windows": self._windows.snapshot(),
            "interest": self._interest.snapshot(),
            "scaling": self._scaling.snapshot(),
        }

    def restore(self, state: State) -> None:
        self._windows.restore(state["windows"])
        self._interest.restore(state["interest"])
        self._scaling.restore(state["scaling"])


def _version(config: Config, names: tuple[str, ...]) -> str:
    """Changes with the columns, the windows and the projection: rows of two versions do not compare."""
    spans = [f"{h.name} {h.window_ms} {h.tiles}" for h in config.horizons]
    projection = f"{config.interest_dim} {config.interest_half_life_ms} {config.seed}"
    return content_hash(*(part.encode() for part in (_LAYOUT, *names, *spans, projection)))[:12]


def _columns(names: tuple[str, ...], activity: int, horizons: int) -> Columns:
    """How columns are scaled. Floors: a quarter of ln(1 + count), a tenth of a share, two e-folds of time."""
    share = np.array([name in PARTS for name in names])
    interest = np.arange(len(names)) >= activity
    since = np.array([name in ("recency_ms", "tenure_ms") for name in names])
    dwell = np.array([name.startswith("dwell_ms") for name in names])
    weight = np.full(len(names), horizons**-0.5)
    weight[share] = len(PARTS) ** -0.5
    weight[interest | since] = 1.0
    return Columns(
        log=~(share | interest),
        unit=np.select([since, dwell], [_MINUTE_MS, _SECOND_MS], 1.0),
        floor=np.select([interest, share, since], [1e-3, 0.1, 2.0], 0.25),
        weight=weight,
    )
