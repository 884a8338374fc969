"""Sliding windows equal a recomputation from the full log, whatever the steps and the order."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made import HORIZONS, T0, Touch, columns, config, hashed

from shoal.stream.config import Horizon
from shoal.stream.events import CHANNELS, NEGATIVE, TYPE_CODES
from shoal.stream.windows import BUCKETS, Windows, window_start_ms

CONFIG = config()
USERS = ("ann", "bob", "cat")
SPAN_MS = 2 * 3_600_000


# --- the oracle: one user's columns from the full log, as one would write them down -------------------


def in_window(time_ms: int, horizon: Horizon, now_ms: int) -> bool:
    width = horizon.window_ms // horizon.tiles
    return now_ms // width - horizon.tiles < time_ms // width <= now_ms // width


def oracle(
    log: list[Touch], user: str, now_ms: int, horizons: tuple[Horizon, ...] = HORIZONS
) -> dict[str, float]:
    row: dict[str, float] = {}
    for horizon in horizons:
        mine = [t for t in log if t.user == user and in_window(t.time_ms, horizon, now_ms)]
        for channel in CHANNELS:
            plus = sum(t.type == channel for t in mine)
            minus = sum(NEGATIVE.get(t.type) == channel for t in mine)
            row[f"{channel}_count_{horizon.name}"] = plus - minus
        row[f"events_{horizon.name}"] = len(mine)
        paid = {"purchase": 1, "refund": -1}
        row[f"money_{horizon.name}"] = sum(paid.get(t.type, 0) * round(t.value * 100) for t in mine) / 100
        row[f"quantity_{horizon.name}"] = (
            sum(paid.get(t.type, 0) * round(t.quantity * 1000) for t in mine) / 1000
        )
        row[f"dwell_ms_{horizon.name}"] = sum(t.dwell_ms for t in mine)
        items = {t.item for t in mine if t.item and t.type not in NEGATIVE and t.type != "impression"}
        empty = BUCKETS - len({hashed(item) >> 58 for item in items})
        row[f"distinct_items_{horizon.name}"] = BUCKETS * math.log(BUCKETS / max(empty, 0.5))
    return row | shape([t for t in log if t.user == user and in_window(t.time_ms, horizons[-1], now_ms)])


def shape(mine: list[Touch]) -> dict[str, float]:
    times = [datetime.fromtimestamp(t.time_ms / 1000, UTC) for t in mine]
    row = {}
    for part, name in enumerate(("night", "morning", "afternoon", "evening")):
        row[f"{name}_share"] = (sum(t.hour // 6 == part for t in times) + 1) / (len(times) + 4)
    row["weekend_share"] = (sum(t.weekday() >= 5 for t in times) + 8 / 7) / (len(times) + 4)
    return row


# --- what the laws are tried on -----------------------------------------------------------------------

touches = st.builds(
    Touch,
    user=st.sampled_from(USERS),
    time_ms=st.one_of(
        st.integers(T0, T0 + SPAN_MS),
        st.integers(0, SPAN_MS // 2000).map(lambda i: T0 + 2000 * i),  # on the tile boundaries
        st.integers(1, SPAN_MS // 2000).map(lambda i: T0 + 2000 * i - 1),
        st.integers(T0 + SPAN_MS - 15_000, T0 + SPAN_MS),  # many within the shortest window
    ),
    type=st.sampled_from(
        ["view", "view", "purchase", "purchase", "refund", "cart_add", "cart_remove", "impression"]
    ),
    value=st.floats(0, 1000),
    quantity=st.floats(0, 50),
    dwell_ms=st.integers(0, 100_000),
    item=st.sampled_from(["", *(f"item {i}" for i in range(40))]),
)
logs = st.lists(touches, min_size=1, max_size=40)


def slots_of(names: list[str] | tuple[str, ...]) -> Any:
    return np.array([USERS.index(name) for name in names], np.int32)


def feed(windows: Windows, log: list[Touch]) -> None:
    windows.update(slots_of([t.user for t in log]), columns(log))


def read(windows: Windows, now_ms: int) -> Any:
    out = np.full((len(USERS), len(windows.names)), np.nan, np.float32)
    windows.fill(slots_of(USERS), now_ms, out)
    return out


def cut(log: list[Touch], places: list[int]) -> list[list[Touch]]:
    edges = sorted({0, len(log), *(place % (len(log) + 1) for place in places)})
    return [log[a:b] for a, b in pairwise(edges)]


def newest(log: list[Touch]) -> int:
    return max(t.time_ms for t in log)


# --- laws ---------------------------------------------------------------------------------------------


@given(logs, st.lists(st.integers(0, 40), max_size=6), st.booleans(), st.integers(0, 4_000_000))
@settings(max_examples=150, deadline=None)
def test_columns_equal_a_recomputation_from_the_full_log(
    log: list[Touch], places: list[int], read_between: bool, later_ms: int
) -> None:
    """Any order of events, any cut into steps, rows read in between or not: each column is what the log says."""
    windows, now_ms = Windows(CONFIG), 0
    for step in cut(log, places):
        feed(windows, step)
        now_ms = max(now_ms, newest(step))
        if read_between:
            read(windows, now_ms)
    now_ms += later_ms
    got = read(windows, now_ms)
    for name, row in zip(USERS, got, strict=True):
        wanted = oracle(log, name, now_ms)
        assert tuple(wanted) == windows.names
        np.testing.assert_array_equal(row, np.array(list(wanted.values()), np.float64).astype(np.float32))


@given(logs, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=6))
@settings(max_examples=60, deadline=None)
def test_order_and_cut_do_not_matter(log: list[Touch], random: Any, places: list[int]) -> None:
    """The state's every bit that can be read later is the same for one step and for a shuffled log in many."""
    shuffled = log.copy()
    random.shuffle(shuffled)
    once, often = Windows(CONFIG), Windows(CONFIG)
    feed(once, log)
    for step in cut(shuffled, places):
        feed(often, step)
    for later_ms in (0, 1999, 10_000, 60_000, 3_000_000):
        now_ms = newest(log) + later_ms
        np.testing.assert_array_equal(read(once, now_ms), read(often, now_ms))


@given(logs, st.integers(0, 40), st.integers(0, 4_000_000))
@settings(max_examples=60, deadline=None)
def test_a_restored_snapshot_continues_bit_for_bit(log: list[Touch], place: int, later_ms: int) -> None:
    """Live and restored state agree on all later rows, and the snapshot does not change with the live one."""
    first, second = log[: place % len(log)], log[place % len(log) :]
    live, restored = Windows(CONFIG), Windows(CONFIG)
    feed(live, first)
    state = live.snapshot()
    feed(live, second)
    feed(restored, [Touch("ann", T0)])  # whatever was there before is gone
    restored.restore(state)
    feed(restored, second)
    assert read(live, newest(log) + later_ms).tobytes() == read(restored, newest(log) + later_ms).tobytes()
    again = Windows(CONFIG)
    again.restore(restored.snapshot())
    assert read(live, newest(log) + later_ms).tobytes() == read(again, newest(log) + later_ms).tobytes()


@given(logs, st.integers(0, 4_000_000))
@settings(max_examples=60, deadline=None)
def test_due_says_exactly_whose_columns_have_changed(log: list[Touch], later_ms: int) -> None:
    """Without new events, a user is due if and only if reading the columns again gives others."""
    windows = Windows(CONFIG)
    feed(windows, log)
    before = read(windows, newest(log))
    assert not windows.due(slots_of(USERS), newest(log)).any()
    due = windows.due(slots_of(USERS), newest(log) + later_ms)
    after = read(windows, newest(log) + later_ms)
    np.testing.assert_array_equal(due, (before != after).any(axis=1))


# --- single facts -------------------------------------------------------------------------------------


def test_an_event_leaves_with_its_tile() -> None:
    """The event counts to the last millisecond of the window's tiles, and no longer."""
    windows = Windows(CONFIG)
    feed(windows, [Touch("ann", T0 + 1999)])
    at = windows.names.index("events_10s")
    assert read(windows, T0 + 9_999)[0, at] == 1
    assert read(windows, T0 + 10_000)[0, at] == 0
    assert read(windows, T0 + 10_000)[0, windows.names.index("events_1h")] == 1


def test_the_window_starts_where_events_begin_to_count() -> None:
    """`window_start_ms` is the oldest time that is inside: the rule for late events agrees with the windows."""
    for horizon in HORIZONS:
        for now_ms in (T0, T0 + 1, T0 + 7_654_321):
            start_ms = window_start_ms(horizon, now_ms)
            assert in_window(start_ms, horizon, now_ms)
            assert not in_window(start_ms - 1, horizon, now_ms)


def test_a_cleared_slot_is_empty_for_its_next_user() -> None:
    """Nothing of the user before shows, and the neighbours keep what they have."""
    windows = Windows(CONFIG)
    feed(windows, [Touch(name, T0, "purchase", 5.0, 1.0, 10, "a") for name in USERS])
    untouched = read(windows, T0)[1]
    windows.clear(slots_of(["ann"]))
    got = read(windows, T0)
    np.testing.assert_array_equal(got[0], np.array(list(oracle([], "ann", T0).values()), np.float32))
    np.testing.assert_array_equal(got[1], untouched)


def test_a_full_tile_stays_at_its_limit_and_empties_whole() -> None:
    """40,000 views in one tile count 32,767; when the tile leaves, the total is 0 again and not negative."""
    windows = Windows(CONFIG)
    feed(windows, [Touch("ann", T0)] * 40_000)
    at = windows.names.index("view_count_1m")
    assert read(windows, T0)[0, at] == 32_767
    assert read(windows, T0 + 60_000)[0, at] == 0
    assert read(windows, T0 + SPAN_MS)[0, windows.names.index("view_count_1h")] == 0


def test_a_tile_full_of_things_taken_back_stays_at_its_limit_too() -> None:
    """40,000 unlikes count -32,767; 16 bits of them would wrap round to a liking."""
    windows = Windows(CONFIG)
    feed(windows, [Touch("ann", T0, "unlike")] * 40_000)
    at = windows.names.index("like_count_1m")
    assert read(windows, T0)[0, at] == -32_767
    assert read(windows, T0 + 60_000)[0, at] == 0


def test_money_is_exact_to_the_hundredth() -> None:
    """A thousand times ten cents and one refund of a hundred is zero, not a rounding error."""
    windows = Windows(CONFIG)
    feed(windows, [Touch("ann", T0, "purchase", 0.1)] * 1000 + [Touch("ann", T0, "refund", 100.0)])
    assert read(windows, T0)[0, windows.names.index("money_1h")] == 0.0


def test_distinct_items_are_estimated_within_a_tenth() -> None:
    """Against the true number, on average over 200 users with 5, 20, 50 and 100 items each."""
    random = np.random.default_rng(7)
    for true in (5, 20, 50, 100):
        windows = Windows(config(users_max=200))
        slots = np.repeat(np.arange(200, dtype=np.int32), 2 * true)  # each item twice
        ids = [f"{random.integers(1 << 60)}" for _ in range(200 * true)]
        events = columns([Touch("", T0, item=ids[i // 2]) for i in range(2 * 200 * true)])
        windows.update(slots, events)
        out = np.empty((200, len(windows.names)), np.float32)
        windows.fill(np.arange(200, dtype=np.int32), T0, out)
        estimates = out[:, windows.names.index("distinct_items_1h")]
        assert abs(estimates.mean() / true - 1) < 0.05
        assert abs(estimates / true - 1).mean() < 0.15


def test_weekends_are_saturday_and_sunday_utc() -> None:
    """One event on each day of a week, just after and just before midnight: two of seven at the weekend."""
    monday = 1_704_067_200_000  # 2024-01-01
    for first_ms in (monday, monday + 86_399_999):
        for day in range(7):
            windows = Windows(CONFIG)
            feed(windows, [Touch("ann", first_ms + day * 86_400_000)])
            share = read(windows, first_ms + day * 86_400_000)[0, windows.names.index("weekend_share")]
            assert (share > 2 / 7) == (day >= 5)


def test_every_event_type_has_its_column() -> None:
    """Each type raises or lowers the count of its channel by one, and `events` always rises."""
    for kind, (channel, sign) in TYPE_CODES.items():
        windows = Windows(CONFIG)
        feed(windows, [Touch("ann", T0, kind)])
        row = dict(zip(windows.names, read(windows, T0)[0].tolist(), strict=True))
        assert row[f"{CHANNELS[channel]}_count_1h"] == sign
        assert row["events_1h"] == 1
