"""Where users are in their life with the site, beside their segment: a stage, and three tiers (RFM).

A user's rhythm is the mean time between the days (UTC) on which it did something,

    rhythm = (last - first + new_ms / 3) / days,    at least one day

The middle term is one gap that everybody is credited with: a user of one day has a rhythm too. Days and not
events, for the events of one visit say nothing about when the next one comes. With the silence since the last
event, and the two bounds of the configuration (`membership.new_ms`, `membership.silent_ms`),

    silent     silence > 6 rhythms, or > silent_ms
    at_risk    silence > 3 rhythms, or > silent_ms / 2
    new        else, first seen less than new_ms ago
    active     else

If gaps are exponential, a user comes back after more than 3 rhythms once in twenty times, after more than 6
once in four hundred.

The tiers compare a user with all users in segments: recency by the last event, frequency by events and monetary
by money in the longest window, as of the last scoring. `high`: more than four in five users have, `mid`: more
than half have, `low`: the rest; so whoever never spends is `low`. What users have is counted in bins of float32 that
share their sign, exponent and four bits of the mantissa, about 5 % wide: exact arithmetic, the same on every machine.

Always true: the bounds between tiers, and the shares per segment, are those of the last `census`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import orjson

from .compiling import kernel
from .config import Membership as Config
from .events import F32, I32, I64, Events, Scored
from .ports import State
from .users import Users

STAGES = ("new", "active", "at_risk", "silent")
TIERS = ("low", "mid", "high")
MEASURES = ("recency", "frequency", "monetary")
_SHAPE = (len(STAGES), *[len(TIERS)] * len(MEASURES))
_TEXTS = [  # in the order of that shape
    orjson.dumps({"stage": stage, **dict(zip(MEASURES, tiers, strict=True))}).decode()
    for stage in STAGES
    for tiers in product(TIERS, repeat=len(MEASURES))
]
CENSUS_MAX = 1 << 18
"""Users a census looks at, at most: beyond, every second, third ... slot. Shares are estimates then."""

_DAY_MS = 86_400_000
_AT_RISK, _SILENT = 3, 6  # rhythms
_BINS, _BIN_SHIFT = 1 << 12, 19  # of the bits of a positive float32
_BOUNDS = (0.5, 0.8)  # share of the users who have less or as much: mid and high begin behind
_DAYS_MAX = np.iinfo(np.uint16).max


class Lifecycle:
    """One row per user slot, allocated once: 10 bytes times `features.users_max`."""

    def __init__(self, config: Config, features: Sequence[str], users_max: int, k: int) -> None:
        """`features` names the columns of rows; `events_...` and `money_...` of the longest window are read."""
        self._new_ms, self._silent_ms, self._k = config.new_ms, config.silent_ms, k
        self._columns = [_last(features, prefix) for prefix in ("events_", "money_")]
        self._day: I32 = np.zeros(users_max, np.int32)  # newest day with an event, from 1; 0: none
        self._days = np.zeros(users_max, np.uint16)  # with an event
        self._bins = np.zeros((2, users_max), np.uint16)  # frequency and monetary, as of the last scoring
        self._bounds: I64 = np.zeros((3, 2), np.int64)  # by measure: bins behind which mid and high begin
        self._shares = np.zeros((k, 4 + 9))  # stages, then tiers by measure, of each segment's members

    def meet(self, slots: I32, events: Events) -> None:
        """Count the days of events (n,) of the users in `slots` (n,); a day older than the newest does not count."""
        _count_days(slots, events.time_ms, self._day, self._days)

    def see(self, scored: Scored) -> None:
        """Remember what the scored rows say about how often, and for how much."""
        for bins, column in zip(self._bins, self._columns, strict=True):
            if column >= 0:
                bins[scored.slots] = _bin(scored.raw[:, column])

    def of(self, slots: I32, users: Users, now_ms: int) -> list[str]:
        """Stage and tiers of these users (n,) now, as JSON."""
        stages, tiers = self._stages(slots, users, now_ms), self._tiers(slots, users, now_ms)
        return [_TEXTS[i] for i in np.ravel_multi_index((stages, *tiers), _SHAPE).tolist()]

    def census(self, users: Users, centre_by_slot: I32, now_ms: int) -> None:
        """Look at everybody in a segment: where tiers begin, and how each segment's members are spread."""
        slots = np.flatnonzero(centre_by_slot >= 0).astype(np.int32)
        slots = slots[:: 1 + len(slots) // CENSUS_MAX]
        if not len(slots):
            return
        have = self._have(slots, users, now_ms)  # (3, n)
        for measure, bins in enumerate(have):
            behind = np.cumsum(np.bincount(bins, minlength=_BINS))
            self._bounds[measure] = [int(np.searchsorted(behind, b * len(slots))) for b in _BOUNDS]
        counts = _tally(
            centre_by_slot, slots, self._stages(slots, users, now_ms), have, self._bounds, self._k
        )
        members = counts[:, :4].sum(axis=1, keepdims=True)
        self._shares = counts / np.maximum(members, 1)

    def shares(self, centre: int) -> Mapping[str, Mapping[str, float]]:
        """Of a segment's members, as of the last census: by stage, and by tier of each measure; 0 where nobody is."""
        own = self._shares[centre].tolist()
        tiers = {
            measure: dict(zip(TIERS, own[4 + 3 * i : 7 + 3 * i], strict=True))
            for i, measure in enumerate(MEASURES)
        }
        return {"stage": dict(zip(STAGES, own[:4], strict=True)), **tiers}

    def _stages(self, slots: I32, users: Users, now_ms: int) -> I64:
        """(n,) index into STAGES."""
        bounds = now_ms, self._new_ms, self._silent_ms
        stages: I64 = _stages(slots, users.first_ms, users.last_ms, self._days, *bounds)
        return stages

    def _tiers(self, slots: I32, users: Users, now_ms: int) -> I64:
        """(3, n) index into TIERS."""
        have = self._have(slots, users, now_ms)
        return (have > self._bounds[:, :1]).astype(np.int64) + (have > self._bounds[:, 1:])

    def _have(self, slots: I32, users: Users, now_ms: int) -> I32:
        """(3, n) bins by measure, the larger the better."""
        have = np.empty((3, len(slots)), np.int32)
        have[0] = _BINS - 1 - _bin((now_ms - users.last_ms[slots]).astype(np.float32))
        have[1:] = self._bins[:, slots]
        return have

    def merge(self, source: int, into: int) -> None:
        """What user `source` did counts for user `into`; a day on which both did something counts twice."""
        self._day[into] = max(self._day[source], self._day[into])
        self._days[into] = min(int(self._days[source]) + int(self._days[into]), _DAYS_MAX)
        self._bins[:, into] = np.maximum(self._bins[:, source], self._bins[:, into])

    def clear(self, slots: I32) -> None:
        """Forget these users."""
        self._day[slots], self._days[slots] = 0, 0
        self._bins[:, slots] = 0

    def snapshot(self) -> State:
        seen = np.flatnonzero(self._day)
        used = int(seen[-1]) + 1 if len(seen) else 0  # slots above are empty
        slabs = {"day": self._day[:used].copy(), "days": self._days[:used].copy()}
        shared = {"bounds": self._bounds.copy(), "shares": self._shares.copy()}
        return slabs | {"bins": self._bins[:, :used].copy()} | shared

    def restore(self, state: State) -> None:
        used = len(state["day"])
        self._day[:], self._days[:], self._bins[:] = 0, 0, 0
        self._day[:used], self._days[:used] = state["day"], state["days"]
        self._bins[:, :used] = state["bins"]
        self._bounds, self._shares = state["bounds"].copy(), state["shares"].copy()


def _last(features: Sequence[str], prefix: str) -> int:
    """The last column of this quantity, which is that of the longest window; -1 where rows have none."""
    columns = [j for j, name in enumerate(features) if name.startswith(prefix)]
    return columns[-1] if columns else -1


def _bin(values: F32) -> I32:
    """(n,) 0 for nothing and less, else 1.._BINS - 1, larger for larger values."""
    bits = np.ascontiguousarray(np.maximum(values, np.float32(0.0)), np.float32).view(np.int32)
    return bits >> _BIN_SHIFT


@kernel
def _stages(slots, first_ms, last_ms, active_days, now_ms, new_ms, silent_ms):  # type: ignore[no-untyped-def]
    """(n,) index into STAGES, by the rules at the top of this file."""
    out = np.empty(len(slots), np.int64)
    for i in range(len(slots)):
        u = slots[i]
        days, span_ms = max(np.int64(active_days[u]), 1), last_ms[u] - first_ms[u]
        rhythm_ms = max((span_ms + new_ms // 3) // days, _DAY_MS)
        silence_ms = now_ms - last_ms[u]
        if silence_ms > min(_SILENT * rhythm_ms, silent_ms):
            out[i] = 3
        elif silence_ms > min(_AT_RISK * rhythm_ms, silent_ms // 2):
            out[i] = 2
        else:
            out[i] = 0 if now_ms - first_ms[u] < new_ms else 1
    return out


@kernel
def _tally(centre_by_slot, slots, stages, have, bounds, k):  # type: ignore[no-untyped-def]
    """(k, 13) how many of these users are in each centre, by stage, and by tier of each measure."""
    counts = np.zeros((k, 4 + 9), np.int64)
    for i in range(len(slots)):
        own = counts[centre_by_slot[slots[i]]]
        own[stages[i]] += 1
        for measure in range(3):
            bin = have[measure, i]
            own[4 + 3 * measure + (bin > bounds[measure, 0]) + (bin > bounds[measure, 1])] += 1
    return counts


@kernel
def _count_days(slots, time_ms, newest, days):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        u, day = slots[i], time_ms[i] // _DAY_MS + 1
        if day > newest[u]:
            newest[u] = day
            days[u] = min(days[u] + 1, _DAYS_MAX)
