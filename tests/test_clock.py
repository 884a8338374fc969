"""Stream time comes from the events; the wall clock only bounds it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.stream.clock import Clock, Clocked
from shoal.stream.config import Time

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


def _times(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _advance(clock: Clock, times: np.ndarray, as_of_ms: int | None, partition: int = 0) -> Clocked:
    return clock.advance(times, np.full(len(times), partition, np.int32), as_of_ms)


@given(st.lists(st.lists(st.integers(NOW_MS - DAY_MS, NOW_MS + 10 * DAY_MS), max_size=20), max_size=10))
def test_time_never_goes_back_nor_past_the_wall_clock(steps):
    """Whatever arrives, now only grows, and stays within the skew of the wall clock."""
    clock, before = Clock(Time()), 0
    for i, times in enumerate(steps):
        as_of_ms = NOW_MS + i * 1000
        clocked = _advance(clock, _times(*times), as_of_ms)
        assert before <= clock.now_ms <= as_of_ms + 300_000
        assert clocked.future.tolist() == [t > as_of_ms + 300_000 for t in times]
        assert (clocked.time_ms <= as_of_ms + 300_000).all()
        before = clock.now_ms


def test_an_idle_step_moves_time_by_the_wall_clock():
    """With no events, windows still move."""
    clock = Clock(Time())
    _advance(clock, _times(NOW_MS), NOW_MS)
    _advance(clock, _times(), NOW_MS + 60_000)
    assert clock.now_ms == NOW_MS + 60_000
    assert clock.watermark_ms == NOW_MS + 60_000 - Time().lateness_ms


def test_a_replayed_history_does_not_age_by_years_when_it_pauses():
    """Events of ten years ago, then silence: a minute later they are a minute older, not ten years."""
    clock = Clock(Time())
    old_ms = NOW_MS - 3650 * DAY_MS
    _advance(clock, _times(old_ms), NOW_MS)
    _advance(clock, _times(), NOW_MS + 60_000)
    assert clock.now_ms == old_ms + 60_000
    copy = Clock(Time())
    copy.restore(clock.snapshot())
    _advance(copy, _times(), NOW_MS + 3 * DAY_MS)
    assert copy.now_ms == old_ms + 3 * DAY_MS, "time that passed while the engine was down counts"


def test_an_idle_step_without_a_wall_clock_moves_nothing():
    """A file that says nothing says nothing about time either."""
    clock = Clock(Time())
    _advance(clock, _times(NOW_MS), None)
    _advance(clock, _times(), None)
    assert clock.now_ms == NOW_MS


@given(st.integers(0, 199), st.integers(400 * DAY_MS, 30_000 * DAY_MS))
def test_one_event_from_the_far_future_moves_nothing_in_a_file(where, ahead_ms):
    """A file is its own clock: one wrong date among many right ones is clamped, wherever it stands."""
    times = NOW_MS + np.arange(200, dtype=np.int64) * 60_000
    times[where] += ahead_ms
    clock = Clock(Time())
    clocked = _advance(clock, times, None)
    assert clocked.future.tolist() == [i == where for i in range(200)]
    assert clock.now_ms <= NOW_MS + 200 * 60_000


@given(st.lists(st.integers(0, DAY_MS), min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_disorder_within_a_day_is_not_the_future(offsets, random):
    """Events that are out of order by less than a day are believed as they are."""
    random.shuffle(offsets)
    clock = Clock(Time())
    clocked = _advance(clock, _times(*(NOW_MS + o for o in offsets)), None)
    assert not clocked.future.any()
    assert clock.now_ms == NOW_MS + max(offsets)


def test_a_long_pause_in_a_file_is_only_a_pause():
    """A shop that was closed for a month opens again: those events are not from the future."""
    before = NOW_MS + np.arange(100, dtype=np.int64) * 1000
    after = before + 30 * DAY_MS
    clock = Clock(Time())
    assert not _advance(clock, np.concatenate([before, after]), None).future.any()
    assert not _advance(clock, _times(int(after[-1]) + 200 * DAY_MS), None).future.any()


def test_restore_continues_as_if_nothing_happened():
    """restore(snapshot()) is the same clock."""
    clock, copy = Clock(Time()), Clock(Time())
    _advance(clock, _times(NOW_MS), None)
    copy.restore(clock.snapshot())
    assert (copy.now_ms, copy.watermark_ms) == (clock.now_ms, clock.watermark_ms)
    later = _times(NOW_MS + 5_000)
    assert _advance(copy, later, None).behind_ms.tolist() == _advance(clock, later, None).behind_ms.tolist()


def test_an_event_is_late_against_its_own_partition_only():
    """A partition that is read faster, or a step that spans months, makes nobody else late."""
    clock = Clock(Time())
    assert _advance(clock, _times(NOW_MS, NOW_MS + 90 * DAY_MS), None, 0).behind_ms.tolist() == [0, 0]
    assert _advance(clock, _times(NOW_MS), None, 1).behind_ms.tolist() == [0]
    assert _advance(clock, _times(NOW_MS), None, 1).behind_ms.tolist() == [NOW_MS]
    assert _advance(clock, _times(NOW_MS), None, 0).behind_ms.tolist() == [NOW_MS + 90 * DAY_MS]


def test_the_slowest_active_partition_holds_the_watermark():
    """Nobody is declared gone because another partition was read first; a silent one stops holding on."""
    lateness_ms = Time().lateness_ms
    clock = Clock(Time())
    _advance(clock, _times(NOW_MS), None, 1)
    _advance(clock, _times(NOW_MS + 90 * DAY_MS), None, 0)
    assert clock.watermark_ms == NOW_MS - lateness_ms
    for i in range(20):
        _advance(clock, _times(NOW_MS + 90 * DAY_MS + i), None, 0)
    assert clock.watermark_ms == NOW_MS + 90 * DAY_MS + 19 - lateness_ms
