"""User slots: given and taken back deterministically, never more than `users_max`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import HORIZONS, T0, Touch, columns, config

from shoal.stream.events import I32, Bool
from shoal.stream.users import ANONYMOUS, Users
from shoal.stream.windows import window_start_ms

USERS_MAX = 16
HOUR_MS = 3_600_000
CONFIG = config(users_max=USERS_MAX)
NAMES = [f"user {i}" for i in range(40)]


class Always:
    """Windows that have always moved."""

    def due(self, slots: I32, now_ms: int) -> Bool:
        return np.ones(len(slots), np.bool_)


class Odd:
    """Only users in odd slots are due."""

    def due(self, slots: I32, now_ms: int) -> Bool:
        return slots % 2 == 1


def take(users: Users, log: list[Touch], watermark_ms: int = 0) -> I32:
    """What the pipeline does in a step; the slots it released."""
    gone = users.leaving([t.user for t in log], watermark_ms)
    users.release(gone)
    users.touch(columns(log))
    return gone


def state(users: Users) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in users.snapshot().items()}


Steps = list[list[tuple[str, int]]]
steps = st.lists(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 200)), min_size=1, max_size=USERS_MAX),
    min_size=1,
    max_size=12,
)


def leave_by_hand(
    known: dict[str, list[int]], slot_of: dict[str, int], names: set[str], watermark_ms: int, keep_ms: int
) -> list[str]:
    """Who leaves, as one would write it down: silent for too long, with empty windows; then the longest silent."""
    start_ms = min(window_start_ms(HORIZONS[-1], watermark_ms), watermark_ms - keep_ms)
    gone = [name for name, times in known.items() if max(times) < start_ms and name not in names]
    excess = len(known) - len(gone) + len(names - set(known)) - USERS_MAX
    rest = [name for name in known if name not in names and name not in gone]
    rest.sort(key=lambda name: (max(known[name]), slot_of[name]))
    return gone + rest[: max(0, excess)]


@given(steps, st.integers(0, 60), st.sampled_from([0, HOUR_MS * 5 // 2, 4 * HOUR_MS]))
@settings(max_examples=150, deadline=None)
def test_users_come_and_go_as_in_a_plain_dictionary(log: Steps, lag_min: int, keep_ms: int) -> None:
    """Who is kept, since when, until when, how many events: equal to lists of times per name."""
    users, known, base = Users(config(users_max=USERS_MAX, keep_ms=keep_ms)), dict[str, list[int]](), 0
    for number, step in enumerate(log):
        base = number * HOUR_MS // 2
        touched = [Touch(name, T0 + base + minute * 60_000) for name, minute in step]
        watermark_ms = T0 + base - lag_min * 60_000
        slot_of = {name: users.slot(name) for name in known}
        names = {t.user for t in touched}
        wanted = leave_by_hand(known, slot_of, names, watermark_ms, keep_ms)  # type: ignore[arg-type]
        gone = users.leaving([t.user for t in touched], watermark_ms)
        assert sorted(users.names(gone)) == sorted(wanted)
        assert gone.tolist() == sorted(gone.tolist())
        users.release(gone)
        for name in wanted:
            del known[name]
        slots = users.touch(columns(touched))
        assert users.names(slots) == [t.user for t in touched]
        for t in touched:
            known.setdefault(t.user, []).append(t.time_ms)
        assert len(users) == len(known) <= USERS_MAX
        for name, times in known.items():
            slot = users.slot(name)
            assert slot is not None
            seen = (users.first_ms[slot], users.last_ms[slot], users.events_seen[slot])
            assert seen == (min(times), max(times), len(times))


def test_more_users_than_fit_pass_through_and_memory_stays() -> None:
    """10,000 users through 16 slots: never more than 16, and the newest are those that are kept."""
    users = Users(CONFIG)
    for first in range(0, 10_000, 10):
        take(users, [Touch(f"user {i}", T0 + i) for i in range(first, first + 10)])
        assert len(users) <= USERS_MAX
    live = users.silent(np.empty(0, np.int32), Always(), T0, everybody=True)
    assert sorted(users.names(live)) == sorted(f"user {i}" for i in range(10_000 - USERS_MAX, 10_000))
    assert len(users.snapshot()["names"]) <= USERS_MAX


def test_one_in_a_hundred_leaves_at_a_time() -> None:
    """Making room for one makes room for the next few as well."""
    users = Users(config(users_max=1000))
    take(users, [Touch(f"user {i}", T0 + i) for i in range(1000)])
    gone = take(users, [Touch("new", T0 + 2000)])
    assert gone.tolist() == list(range(10))
    assert len(users) == 991
    assert users.slot("new") == 9  # the last slot freed
    assert users.names(np.array([8, 9, 10], np.int32)) == ["", "new", "user 10"]


def test_users_named_in_the_step_never_make_room() -> None:
    """The longest silent user stays when it is back in this very step."""
    users = Users(CONFIG)
    take(users, [Touch(f"user {i}", T0 + i) for i in range(USERS_MAX)])
    gone = take(users, [Touch("user 0", T0 + 100), Touch("new", T0 + 100)])
    assert gone.tolist() == [1]
    assert users.slot("user 0") == 0


def test_a_returning_user_with_empty_windows_is_not_told_farewell() -> None:
    """A user named in the step keeps its slot and its first event, however long it was silent."""
    users = Users(CONFIG)
    take(users, [Touch("ann", T0), Touch("bob", T0)])
    gone = take(users, [Touch("ann", T0 + 5 * HOUR_MS)], watermark_ms=T0 + 5 * HOUR_MS)
    assert gone.tolist() == [1]
    assert users.first_ms[users.slot("ann")] == T0  # type: ignore[index]


def test_a_late_event_does_not_turn_back_the_last_seen_time() -> None:
    """`last_ms` is the newest and `first_ms` the oldest event, in whatever order they come."""
    users = Users(CONFIG)
    take(users, [Touch("ann", T0 + 5), Touch("ann", T0 + 1)])
    take(users, [Touch("ann", T0 + 3)])
    assert (users.first_ms[0], users.last_ms[0], users.events_seen[0]) == (T0 + 1, T0 + 5, 3)


def test_too_many_users_in_one_step_is_our_mistake() -> None:
    """The configuration rules it out; if it happens all the same, it stops instead of overwriting somebody."""
    with pytest.raises(AssertionError, match="users_max = 16"):
        Users(CONFIG).touch(columns([Touch(name, T0) for name in NAMES]))


def test_anonymous_and_known_users_of_one_id_are_two() -> None:
    """The first character keeps them apart."""
    users = Users(CONFIG)
    slots = users.touch(columns([Touch("7", T0), Touch(ANONYMOUS + "7", T0)]))
    assert slots.tolist() == [0, 1]


@given(steps, steps, st.integers(0, 60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restored_snapshot_continues_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, before: Steps, after: Steps, lag_min: int
) -> None:
    """The same slots are given and taken, the same users are swept; a snapshot does not change any more."""
    monkeypatch.setattr("shoal.stream.users._EXPIRY_SCAN", 3)  # so that turns matter among so few
    monkeypatch.setattr("shoal.stream.users._SWEEP_SCAN", 2)
    slow = config(users_max=USERS_MAX, sweep_rows_max=1)
    live, restored = Users(slow), Users(slow)
    for step in before:
        take(live, [Touch(name, T0 + minute * 60_000) for name, minute in step])
        live.silent(np.array([0], np.int32), Odd(), T0, False)
    kept = live.snapshot()
    restored.restore(kept)
    watermark_ms = T0 + (200 - lag_min) * 60_000
    for step in after:
        touched = [Touch(name, T0 + minute * 60_000) for name, minute in step]
        for users in (live, restored):
            take(users, touched, watermark_ms)
        swept = [
            users.silent(np.array([0], np.int32), Odd(), T0, False).tolist() for users in (live, restored)
        ]
        assert swept[0] == swept[1]
    assert state(live) == state(restored)
    again = Users(CONFIG)
    again.restore(kept)
    assert state(again) == {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()}


# --- the sweep over silent users ----------------------------------------------------------------------


def swept(users: Users, features: Always | Odd, touched: list[int] | None = None) -> list[int]:
    return users.silent(np.array(touched or [], np.int32), features, T0, everybody=False).tolist()


def filled(sweep_rows_max: int, n: int = 10) -> Users:
    users = Users(config(users_max=USERS_MAX, sweep_rows_max=sweep_rows_max))
    take(users, [Touch(f"user {i}", T0 + i) for i in range(n)])
    return users


def test_the_sweep_takes_turns() -> None:
    """No more than `sweep_rows_max` a step, and everyone before anyone twice."""
    users = filled(sweep_rows_max=4)
    assert [swept(users, Always()) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 8, 9]]


def test_the_sweep_leaves_out_the_touched_the_gone_and_those_who_are_not_due() -> None:
    """Touched users have their row already; free slots have none."""
    users = filled(sweep_rows_max=100)
    users.release(np.array([3], np.int32))
    assert swept(users, Always(), touched=[0, 1]) == [2, 4, 5, 6, 7, 8, 9]
    assert swept(users, Odd(), touched=[1]) == [5, 7, 9]


def test_a_sweep_of_nobody_is_empty() -> None:
    """With no users, or with `sweep_rows_max` 0."""
    assert swept(filled(4, n=0), Always()) == []
    assert swept(filled(0), Always()) == []


def test_everybody_is_everybody_else() -> None:
    """At the end of a file, and at the warm start, every live user gets a row, due or not."""
    users = filled(sweep_rows_max=1)
    got = users.silent(np.array([2, 5], np.int32), Odd(), T0, everybody=True)
    assert got.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert got.dtype == np.int32
