"""The events of `shoal bench recovery`, drawn from a seed: what a state is built from, and what comes after it."""

from __future__ import annotations

import numpy as np

from ..events import I64
from ..sources import MemorySource, Poll

BUILD_STEP = 1 << 16
_EVENTS_PER_USER = 2
_START_MS = 1_700_000_000_000
_BUILD_MS = 20 * 86_400_000
_SETTLE_ROWS = 1000  # a little fewer than a step re-scores by default (`features.sweep_rows_max`)
_AISLES = 16
_TASTES = (
    (b"view", b"view", b"click", b"search"),
    (b"view", b"view", b"cart_add", b"purchase"),
    (b"play", b"play", b"like", b"share"),
    (b"view", b"favorite", b"rate", b"comment"),
)


def build_steps(users: int) -> int:
    """How many steps `Building` makes."""
    return -(-users * _EVENTS_PER_USER // BUILD_STEP) + _settling(users)


def build_records(users: int) -> int:
    """How many records `Building` has."""
    return users * _EVENTS_PER_USER + _settling(users)


def _settling(users: int) -> int:
    return users // _SETTLE_ROWS + 1


class Building(MemorySource):
    """Every user in turn, in another order each time, over the days before the live part, in large steps.

    Then steps of one record, as many as it takes to look at everybody whose windows have moved. Otherwise every
    live step would re-score as many of them as it may, which no engine does that kept up with its input.
    """

    def __init__(self, users: int) -> None:
        rng = np.random.default_rng(0)
        turns = [rng.permutation(users) for _ in range(_EVENTS_PER_USER)]
        order = np.concatenate([*turns, np.arange(_settling(users)) % users])
        self._large = users * _EVENTS_PER_USER
        times_ms = np.full(len(order), _START_MS + _BUILD_MS)
        times_ms[: self._large] = np.linspace(_START_MS, _START_MS + _BUILD_MS, self._large)
        super().__init__([_values(order, times_ms, seed=1), ()])

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        left = self._large - self._next[0]
        return super().poll(min(BUILD_STEP, left) if left > 0 else 1, timeout_s)


class Live(MemorySource):
    """What comes after `Building`, in a partition of its own. Nobody asks for the records before it again.

    Anybody at any time: the worst case for caches, and for pages that are copied when they are written to.
    """

    def __init__(self, users: int, events: int, rate: float) -> None:
        order = np.random.default_rng(2).integers(users, size=events)
        times_ms = _START_MS + _BUILD_MS + (np.arange(events) * (1000 / rate)).astype(np.int64)
        super().__init__([(None,) * build_records(users), _values(order, times_ms, seed=3)])


def _values(users: I64, times_ms: I64, seed: int) -> list[bytes]:
    """One contract event per user and time given, (n,) each. Every user has one of a few tastes."""
    rng = np.random.default_rng(seed)
    n = len(users)
    aisles = np.where(rng.random(n) < 0.8, users % _AISLES, rng.integers(_AISLES, size=n))
    items = aisles * 1000 + (rng.random(n) ** 3 * 1000).astype(np.int64)  # few of them often
    kinds, cents = rng.integers(4, size=n), rng.integers(100, 20_000, size=n)
    columns = (users, times_ms, aisles, items, kinds, cents)
    return [
        b'{"event_id":"%d-%d","type":"%b","user_id":"user-%07d","event_time":%d,"value":%d.%02d,'
        b'"items":[{"id":"i%d","category":["a%d","s%d"]}]}'
        % (seed, i, _TASTES[user % 4][kind], user, at_ms, money // 100, money % 100, item, aisle, item % 50)
        for i, (user, at_ms, aisle, item, kind, money) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]
