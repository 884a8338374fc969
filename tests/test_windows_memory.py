"""Windows take what users do, not what could be: blocks are reused, bounded, and written the same whatever happened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made import T0, Touch, columns, config
from test_windows import CONFIG, SPAN_MS, USERS, feed, logs, newest, oracle, read, slots_of

from shoal.stream.config import Features, Horizon
from shoal.stream.users import Users
from shoal.stream.windows import COUNTS, Windows


def written(windows: Windows, now_ms: int) -> list[bytes]:
    """The snapshot, once everybody's row was read."""
    read(windows, now_ms)
    state = windows.snapshot()
    return [state[name].tobytes() for name in ("heads", "blocks", "due_ms")]


# --- one shape for one content --------------------------------------------------------------------------


@given(logs, logs, st.randoms(use_true_random=False), st.integers(0, 4_000_000))
@settings(max_examples=80, deadline=None)
def test_the_same_content_is_written_the_same_whatever_the_history(
    log: list[Touch], before: list[Touch], random: Any, later_ms: int
) -> None:
    """Other users cleared, other orders, rows read in between, restored half way: the snapshot's bytes are equal."""
    plain, lived = Windows(CONFIG), Windows(CONFIG)
    feed(plain, log)
    feed(lived, [replace(t, time_ms=t.time_ms - SPAN_MS) for t in before])
    read(lived, T0)
    lived.clear(slots_of(USERS))
    shuffled = log.copy()
    random.shuffle(shuffled)
    for t in shuffled[::2]:
        feed(lived, [t])
    lived.restore(lived.snapshot())
    for t in shuffled[1::2]:
        feed(lived, [t])
    lived._pool.check()
    assert written(lived, newest(log) + later_ms) == written(plain, newest(log) + later_ms)
    lived.clear(slots_of(USERS))
    lived._pool.check()
    assert lived._pool.live_bytes() == len(lived.snapshot()["blocks"]) == 0


# --- numbers of every size ------------------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            Touch,
            user=st.just("ann"),
            time_ms=st.integers(T0, T0 + SPAN_MS),
            type=st.sampled_from(["purchase", "refund", "like", "unlike"]),
            value=st.sampled_from([0.01, 300.0, 1e5, 3e7, 1e9, 1e12]),
            quantity=st.sampled_from([0.001, 10.0, 100.0, 1e4]),
            dwell_ms=st.sampled_from([0, 5, 30_000, 10**6, 8 * 10**7]),  # 25 of them fit into one tile
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 4_000_000),
)
@settings(max_examples=100, deadline=None)
def test_lanes_widen_before_a_number_would_not_fit(log: list[Touch], later_ms: int) -> None:
    """From a cent to 25 times 10**12, spent and given back: every column is what the log says."""
    windows = Windows(CONFIG)
    for t in log:
        feed(windows, [t])
    now_ms = newest(log) + later_ms
    wanted = np.array(list(oracle(log, "ann", now_ms).values()), np.float64).astype(np.float32)
    np.testing.assert_array_equal(read(windows, now_ms)[0], wanted)


def test_a_total_that_grows_when_something_leaves_does_not_overflow() -> None:
    """30,000 unlikes, then 60,000 likes in two tiles: when the unlikes leave, the total passes 2**15."""
    windows = Windows(CONFIG)
    for i, kind in ((0, "unlike"), (1, "like"), (2, "like")):
        feed(windows, [Touch("ann", T0 + 2000 * i, kind)] * 30_000)
    at = windows.names.index("like_count_10s")
    assert [read(windows, T0 + ms)[0, at] for ms in (4000, 10_000, 12_000, 14_000)] == [
        30_000,
        60_000,
        30_000,
        0,
    ]


# --- how much -------------------------------------------------------------------------------------------


def test_a_typical_user_takes_less_than_a_kilobyte() -> None:
    """Default windows, 40 events of five types over 30 days, about 12 items."""
    windows, random = Windows(Features(users_max=300)), np.random.default_rng(5)
    kinds = ["view", "view", "view", "click", "search", "cart_add", "purchase"]
    for step in range(40):
        touches = [
            Touch("", T0 + step * 64_800_000, str(random.choice(kinds)), 9.5, 1.0, int(random.integers(2)) * 900,
                  f"item {random.integers(12)}")
            for _ in range(300)
        ]  # fmt: skip
        windows.update(np.arange(300, dtype=np.int32), columns(touches))
    assert windows._pool.live_bytes() / 300 < 800
    assert windows.bytes_per_user < 4096


def test_nobody_passes_the_bound() -> None:
    """Every type, every tile, every bucket, numbers of every size: still one block of the largest class."""
    windows, random = Windows(config(users_max=16)), np.random.default_rng(2)
    kinds = [*(name.removesuffix("_count") for name in COUNTS[:-1]), "refund"]
    for step in range(60):
        log = [
            Touch("ann", T0 + step * 900_000 + int(random.integers(900_000)), kinds[i % len(kinds)], 1e9, 1e5, 10**8,
                  f"{random.integers(1 << 40)}")
            for i in range(200)
        ]  # fmt: skip
        feed(windows, log * (40 if step == 30 else 1))
        assert windows._pool.live_bytes() <= windows.bytes_per_user
    windows._pool.check()


def test_ten_times_the_cap_pass_through_the_same_memory() -> None:
    """Users come, are busy, and leave for others: pools stay as large, and rows equal a fresh user's."""
    cfg = config(users_max=200)
    users, windows, random = Users(cfg), Windows(cfg), np.random.default_rng(1)
    log: list[Touch] = []
    sizes, kinds = [], ["view", "purchase", "cart_add", "search"]
    for first in range(0, 2000, 50):
        step = [
            Touch(
                f"user {first + i % 50}",
                T0 + 40 * (first + i % 50),
                str(random.choice(kinds)),
                3.5,
                1.0,
                20,
                f"{i}",
            )
            for i in range(50 * int(random.integers(1, 12)))
        ]
        gone = users.leaving([t.user for t in step], 0)
        windows.clear(gone)
        users.release(gone)
        windows.update(users.touch(columns(step)), columns(step))
        log += step
        sizes.append((len(windows._pool.slabs.memory), len(users._roster._pool.slabs.memory)))
    windows._pool.check()
    assert len(set(sizes)) == 1
    live = np.flatnonzero(users.last_ms).astype(np.int32)
    assert 150 <= len(live) <= 200
    out = np.empty((len(live), len(windows.names)), np.float32)
    windows.fill(live, newest(log), out)
    for name, row in list(zip(users.names(live), out, strict=True))[::7]:
        wanted = oracle([t for t in log if t.user == name], name, newest(log), cfg.horizons)
        np.testing.assert_array_equal(row, np.array(list(wanted.values()), np.float64).astype(np.float32))


@given(logs, st.integers(0, 4_000_000))
@settings(max_examples=25, deadline=None)
def test_many_tiles_are_as_exact_as_few(log: list[Touch], later_ms: int) -> None:
    """1,000 tiles a window, late events anywhere: searched for among many records, put between them."""
    horizons = (
        Horizon(name="1m", window_ms=60_000, tiles=1000),
        Horizon(name="2h", window_ms=7_200_000, tiles=1000),
    )
    windows = Windows(config(horizons=horizons))
    feed(windows, log)
    now_ms = newest(log) + later_ms
    for name, row in zip(USERS, read(windows, now_ms), strict=True):
        wanted = oracle(log, name, now_ms, horizons)
        got, want = row, np.array(list(wanted.values()), np.float64).astype(np.float32)
        whole = [
            i for i, column in enumerate(windows.names) if column != "distinct_items_1m"
        ]  # tiles of 60 ms
        np.testing.assert_array_equal(got[whole], want[whole])


@given(logs, st.data())
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_blocks_are_refused_before_a_kernel_believes_them(
    log: list[Touch], data: Any
) -> None:
    """A snapshot is protected by a hash; whoever gets round it gets an error, or other numbers, and no crash."""
    windows = Windows(CONFIG)
    feed(windows, log)
    read(windows, T0)
    state = windows.snapshot()
    body = state["blocks"].copy()
    assume(len(body))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    broken = {**state, "blocks": body[: data.draw(st.integers(1, len(body)))]}
    try:
        windows.restore(broken)
    except AssertionError:
        return
    windows._pool.check()
    read(windows, T0)
    read(windows, T0 + SPAN_MS)
    windows.snapshot()
