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
from dataclasses import dataclass

import numpy as np

from .config import Features
from .events import CHANNELS, F32, F64, I64, Bool

PURCHASE = CHANNELS.index("purchase")
_DWELLERS = [CHANNELS.index(name) for name in ("view", "dwell", "play")]
_DWELLS = np.isin(np.arange(len(CHANNELS)), _DWELLERS)
_AMOUNTS = ("money", "quantity", "dwell_ms", "distinct_items")


@dataclass(frozen=True, slots=True)
class Edits:
    """c edits of the rows of users, as columns."""

    user: I64  # (c,) which row
    channel: I64  # (c,)
    band: I64  # (c,) index of the horizon
    events: I64  # (c,) how many more; negative: fewer
    tasteful: Bool  # (c,) about what the segment in question takes to; the interest columns are the caller's


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one event of n users comes to: money, pieces, dwell time, distinct items."""

    fewer: F64  # (n, 4, h) on average in each band
    more: F64  # (n, 4) on average for the user, or for the segment in question where the user has none


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

    def amounts(self, raw: F32, means: F64) -> Amounts:
        """Of rows (n, d); `means` (n, d): of the segment in question, what events come to where the user has none."""
        total, per = raw[:, self._amount].astype(np.float64), self._spread(raw)  # (n, 4, h)
        usual = _ratio(total[..., -1], per[..., -1])
        others = _ratio(means[:, self._amount[:, -1]], self._spread(means)[..., -1])
        return Amounts(_ratio(_bands(total), _bands(per)), np.where(per[..., -1] > 0, usual, others))

    def _spread(self, rows: F32 | F64) -> F64:
        """(n, 4, h) how many events each amount is spread over."""
        bought = rows[:, self.count[PURCHASE]]
        dwelt = rows[:, self.count[_DWELLERS]].sum(axis=1)
        return np.stack([bought, bought, dwelt, rows[:, self.all]], axis=1).astype(np.float64)

    def edited(self, raw: F32, amounts: Amounts, edits: Edits, onto: F32 | None = None) -> F32:
        """Rows (c, d) after each edit of raw (n, d), or of `onto` (c, d), rows that were edited before."""
        out = raw[edits.user].copy() if onto is None else onto
        each = self._each(amounts, edits)  # (c, 4)
        rows, g = np.nonzero(
            edits.band[:, None] <= np.arange(len(self.horizons))
        )  # every horizon from the band's on
        n = edits.events[rows]
        out[rows, self.count[edits.channel[rows], g]] += n
        out[rows, self.all[g]] += n
        out[rows[:, None], self._amount.T[g]] += n[:, None] * each[rows]
        more = np.flatnonzero(edits.events > 0)
        age_ms = self._ages_ms[edits.band[more]]
        out[more, self._recency] = np.minimum(out[more, self._recency], age_ms)
        return out

    def _each(self, amounts: Amounts, edits: Edits) -> F64:
        """(c, 4) what one event of each edit comes to."""
        fewer = amounts.fewer[edits.user, :, edits.band]
        out = np.where(edits.events[:, None] < 0, fewer, amounts.more[edits.user])
        out[:, :2] *= (edits.channel == PURCHASE)[:, None]
        out[:, 2] *= _DWELLS[edits.channel]
        return out


def _bands(nested: F64) -> F64:
    """(..., h) of what each horizon holds: what it holds beyond the horizon before."""
    bands = nested.copy()
    bands[..., 1:] -= nested[..., :-1]
    return bands


def _ratio(total: F64, count: F64) -> F64:
    ratio: F64 = np.where(count > 0, total / np.where(count > 0, count, 1.0), 0.0)
    return ratio
