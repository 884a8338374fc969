"""What a row would be if its user had done something once more, or once less.

Columns depend on each other: an event of the last hour is also one of the last week, and a purchase is an event,
money and pieces. An `Edit` is n events of one type in one band: in horizon h, but older than the horizon before it.
Then every horizon from h on has n more (or fewer) of the type and of all events, and its money, pieces and dwell
time change by what such events come to: for fewer, on average in that band; for more, on average for this user,
or for the segment in question where the user has none. Distinct items follow the events in proportion. What stays as
it was: the interest directions, the shares of the day, and the time since the first event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .config import Features
from .events import CHANNELS, F32, F64, I64, Bool

PURCHASE = CHANNELS.index("purchase")
_DWELLERS = [CHANNELS.index(name) for name in ("view", "dwell", "play")]
_AMOUNTS = ("money", "quantity", "dwell_ms", "distinct_items")


@dataclass(frozen=True, slots=True)
class Edits:
    """c edits of the rows of users, as columns."""

    user: I64  # (c,) which row
    channel: I64  # (c,)
    band: I64  # (c,) index of the horizon
    events: I64  # (c,) how many more; negative: fewer
    tasteful: Bool  # (c,) about what the segment in question takes to; the interest columns are the caller's


def stacked(edits: Sequence[Edits]) -> Edits:
    """Several of them as one."""
    return Edits(*(np.concatenate([getattr(one, f.name) for one in edits]) for f in fields(Edits)))


class Behaviour:
    """Where a row's columns are, and what an edit does to them."""

    def __init__(self, config: Features, names: Sequence[str]) -> None:
        """`names` as in `Features`. Raises KeyError where they are others."""
        at = {name: j for j, name in enumerate(names)}
        self.horizons = [h.name for h in config.horizons]
        self._ages_ms = np.array([h.window_ms / 2 for h in config.horizons])
        self.count = np.array([[at[f"{c}_count_{h}"] for h in self.horizons] for c in CHANNELS])  # (17, h)
        self.all = np.array([at[f"events_{h}"] for h in self.horizons])  # (h,)
        self._amount = np.array([[at[f"{a}_{h}"] for h in self.horizons] for a in _AMOUNTS])  # (4, h)
        self._begins_ms = np.array([0, *(h.window_ms for h in config.horizons[:-1])])  # (h,) age
        self._recency, self._tenure = at["recency_ms"], at["tenure_ms"]

    def removable(self, raw: F32) -> I64:
        """(n, 17, h) how many events of each type a band has for sure, without the one that came last."""
        counts = raw[:, self.count].astype(np.float64)  # (n, 17, h)
        events = raw[:, self.all].astype(np.float64)  # (n, h)
        spare = _bands(events)
        younger = np.concatenate([np.zeros((len(raw), 1)), events[:, :-1]], axis=1)
        spare = np.where(younger > 0, spare, spare - 1)  # (n, h)
        least = np.minimum(np.minimum(_bands(counts), counts), spare[:, None, :])
        return np.maximum(least, 0).astype(np.int64)

    def lived(self, raw: F32) -> Bool:
        """(n, h) whether the user was there already when the band ended: who was not could do nothing then."""
        there: Bool = raw[:, self._tenure][:, None] >= self._begins_ms
        return there

    def edited(self, raw: F32, means: F64, edits: Edits, onto: F32 | None = None) -> F32:
        """Rows (c, d) after each edit of raw (n, d), or of `onto` (c, d), rows that were edited before.

        `means` (n, d): of the segment in question, what events come to where the user has none.
        """
        out = raw[edits.user].copy() if onto is None else onto
        amounts = self._amounts(raw, means, edits)  # (c, 4)
        for g in range(len(self.horizons)):
            rows = np.flatnonzero(edits.band <= g)
            n = edits.events[rows]
            out[rows, self.count[edits.channel[rows], g]] += n
            out[rows, self.all[g]] += n
            for a in range(len(_AMOUNTS)):
                out[rows, self._amount[a, g]] += n * amounts[rows, a]
        more = np.flatnonzero(edits.events > 0)
        age_ms = self._ages_ms[edits.band[more]]
        out[more, self._recency] = np.minimum(out[more, self._recency], age_ms)
        return out

    def _amounts(self, raw: F32, means: F64, edits: Edits) -> F64:
        """(c, 4) what one such event comes to: money, pieces, dwell time, distinct items."""
        out = np.zeros((len(edits.user), len(_AMOUNTS)))
        fewer = edits.events < 0
        for a in range(len(_AMOUNTS)):
            per = self._counted(raw, a)  # (n, h) the events it is spread over
            total = raw[:, self._amount[a]].astype(np.float64)
            here = _ratio(_bands(total), _bands(per))[edits.user, edits.band]
            usual = _ratio(total, per)[edits.user, -1]
            others = _ratio(means[:, self._amount[a]], self._counted(means, a))[edits.user, -1]
            out[:, a] = np.where(fewer, here, np.where(per[edits.user, -1] > 0, usual, others))
        bought = edits.channel == PURCHASE
        out[:, :2] *= bought[:, None]
        out[:, 2] *= np.isin(edits.channel, _DWELLERS)
        return out

    def _counted(self, rows: F32 | F64, amount: int) -> F64:
        if amount < 2:
            return rows[:, self.count[PURCHASE]].astype(np.float64)
        if amount == 2:
            return rows[:, self.count[_DWELLERS]].sum(axis=1).astype(np.float64)
        return rows[:, self.all].astype(np.float64)


def _bands(nested: F64) -> F64:
    """(..., h) of what each horizon holds: what it holds beyond the horizon before."""
    return np.diff(nested, axis=-1, prepend=0.0)


def _ratio(total: F64, count: F64) -> F64:
    ratio: F64 = np.where(count > 0, total / np.where(count > 0, count, 1.0), 0.0)
    return ratio
