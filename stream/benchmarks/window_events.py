"""The events of `shoal bench windows`, drawn from a seed, and the answer that every contestant must give.

The window all of them keep: 60 s long, a new one every 10 s, per user the number of purchases and their sum.
Windows are aligned to the epoch, include their start and not their end: an event lies in six of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Features, Horizon
from ..events import CHANNELS, I64, U64, Events

LENGTH_MS, SLIDE_MS = 60_000, 10_000
WINDOW = Horizon(name="1m", window_ms=LENGTH_MS, tiles=LENGTH_MS // SLIDE_MS)
START_MS = 1_700_000_040_000  # a multiple of both
_PURCHASE, _DWELL = CHANNELS.index("purchase"), CHANNELS.index("dwell")
_ITEMS = 20_000
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # hashes use all their bits

Answers = dict[tuple[int, int], tuple[int, int]]
"""(user, start of the window in ms) -> (purchases, their sum in cents); windows without events are not there."""


@dataclass(frozen=True, slots=True)
class Purchases:
    """n purchases in the order of their times."""

    users: I64  # (n,) 0..users-1
    time_ms: I64  # (n,) ascending
    cents: I64  # (n,)

    def __len__(self) -> int:
        return len(self.users)


def purchases(users: int, count: int, per_s: float, seed: int = 1) -> Purchases:
    """Anybody at any time, `per_s` of them in a second."""
    rng = np.random.default_rng(seed)
    time_ms = START_MS + np.floor(np.arange(count) * (1000.0 / per_s)).astype(np.int64)
    return Purchases(rng.integers(users, size=count), time_ms, rng.integers(1, 20_000, size=count))


def expected(bought: Purchases) -> Answers:
    """What everybody must answer, counted naively: every event into each of its windows."""
    answers: Answers = {}
    for user, time_ms, cents in zip(
        *(a.tolist() for a in (bought.users, bought.time_ms, bought.cents)), strict=True
    ):
        newest = time_ms // SLIDE_MS * SLIDE_MS
        for start_ms in range(newest - LENGTH_MS + SLIDE_MS, newest + SLIDE_MS, SLIDE_MS):
            count, total = answers.get((user, start_ms), (0, 0))
            answers[user, start_ms] = (count + 1, total + cents)
    return answers


def bought_events(bought: Purchases) -> Events:
    """The purchases as the columns that the decoder hands on."""
    n = len(bought)
    names = [f"user-{user}" for user in bought.users.tolist()]
    zeros = np.zeros(n, np.int64)
    none = np.empty((n, 0), np.uint64)
    return _events(
        names, zeros + _PURCHASE, bought.time_ms, bought.cents, zeros, zeros.astype(np.uint64), none
    )


def mixed_events(users: int, count: int, span_ms: int, seed: int = 2) -> Events:
    """Any type of event of anybody at any time, `count` of them evenly over `span_ms`; each has three tokens."""
    rng = np.random.default_rng(seed)
    channel = np.minimum(rng.geometric(0.25, size=count) - 1, len(CHANNELS) - 1)  # some types are frequent
    channel = rng.permutation(len(CHANNELS))[channel]
    names = [f"user-{user}" for user in rng.integers(users, size=count).tolist()]
    time_ms = START_MS + np.linspace(0, span_ms, count, endpoint=False).astype(np.int64)
    cents = np.where(channel == _PURCHASE, rng.integers(100, 20_000, size=count), 0)
    dwell_ms = np.where(channel == _DWELL, rng.integers(1_000, 60_000, size=count), 0)
    item = rng.integers(1, _ITEMS, size=count, dtype=np.uint64)
    token = np.stack([item, item % np.uint64(50) + np.uint64(_ITEMS), item % np.uint64(9)], axis=1) * _SPREAD
    return _events(names, channel, time_ms, cents, dwell_ms, item * _SPREAD, token)


def _events(
    names: Sequence[str], channel: I64, time_ms: I64, cents: I64, dwell_ms: I64, item: U64, token: U64
) -> Events:
    """Columns (n,) as events; token (n, tokens of each)."""
    n, each = token.shape
    return Events(
        row=np.arange(n, dtype=np.int32),
        users=names,
        event_key=np.arange(n, dtype=np.uint64),
        channel=channel.astype(np.int8),
        sign=np.ones(n, np.int8),
        time_ms=time_ms,
        value=cents / 100.0,
        quantity=np.ones(n),
        dwell_ms=dwell_ms,
        item=item,
        token_ptr=np.arange(n + 1, dtype=np.int32) * np.int32(each),
        token=token.reshape(-1),
        labels=[""] * n,
    )


def steps_of(events: Events, step: int) -> Iterator[Events]:
    """The events in steps of `step`."""
    for start in range(0, len(events), step):
        part = slice(start, start + step)
        ptr = events.token_ptr[start : start + step + 1]
        yield Events(
            **{name: getattr(events, name)[part] for name in _COLUMNS},
            token_ptr=ptr - ptr[0],
            token=events.token[ptr[0] : ptr[-1]],
        )


_COLUMNS = (
    "row", "users", "event_key", "channel", "sign", "time_ms", "value", "quantity", "dwell_ms", "item", "labels"
)  # fmt: skip


def same_window(users: int) -> Features:
    """Shoal's configuration for the window that all contestants keep, and nothing else."""
    return Features(horizons=(WINDOW,), users_max=users, interest_dim=0)


def tiled(users: int, tiles: int) -> Features:
    """One hour in so many tiles."""
    return Features(
        horizons=(Horizon(name="1h", window_ms=3_600_000, tiles=tiles),), users_max=users, interest_dim=0
    )
