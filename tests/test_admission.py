"""Late events and repeated ids are set aside and counted; everything else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import HORIZONS, T0, Touch, columns, config

from shoal.stream.admission import Admission, Admitted
from shoal.stream.clock import Clocked
from shoal.stream.windows import window_start_ms

CONFIG = config()


def admit(
    admission: Admission, log: list[Touch], behind_ms: int, future: list[bool] | None = None
) -> Admitted:
    """A step of one partition that had reached `behind_ms` before; future times are clamped to that."""
    events = columns(log)
    flags = np.array(future if future is not None else [False] * len(log), np.bool_)
    times = np.where(flags, behind_ms, events.time_ms)
    return admission.admit(events, Clocked(times, flags, np.full(len(log), behind_ms, np.int64)))


def keys(*numbers: int) -> list[Touch]:
    return [Touch("ann", T0, key=f"id {number}") for number in numbers]


steps = st.lists(
    st.lists(
        st.builds(Touch, st.just("ann"), st.integers(T0, T0 + 5_000_000), key=st.sampled_from("abcdefgh"))
    ),
    max_size=6,
)


@given(steps)
@settings(max_examples=100, deadline=None)
def test_every_event_is_accepted_or_duplicate_or_late(log: list[list[Touch]]) -> None:
    """Equal to a set of ids and a comparison of times, written down; a late id is not remembered."""
    admission, seen, behind_ms = Admission(CONFIG), set[str](), 0
    for step in log:
        wanted, late = [], 0
        for t in step:
            if t.time_ms < window_start_ms(HORIZONS[-1], behind_ms):
                late += 1
            elif t.key not in seen:
                seen.add(t.key)
                wanted.append(t.time_ms)
        got = admit(admission, step, behind_ms)
        assert got.events.time_ms.tolist() == wanted
        assert (got.late, got.duplicates) == (late, len(step) - late - len(wanted))
        behind_ms = max([behind_ms, *(t.time_ms for t in step)])


def test_an_event_is_late_against_its_own_partition() -> None:
    """A partition that is read faster makes nobody in another one late."""
    events = columns([Touch("ann", T0, key="a"), Touch("bob", T0, key="b"), Touch("cat", T0, key="c")])
    behind_ms = np.array([0, T0 + 1000, T0 + 5 * 3_600_000], np.int64)  # nothing yet, close, far ahead
    got = Admission(CONFIG).admit(events, Clocked(events.time_ms, np.zeros(3, np.bool_), behind_ms))
    assert got.events.users == ["ann", "bob"]
    assert got.late == 1


def test_the_first_of_two_events_with_one_id_wins() -> None:
    """Within a step and across steps."""
    admission = Admission(CONFIG)
    step = [Touch("ann", T0, "view", key="a"), Touch("ann", T0, "click", key="a"), Touch("bob", T0, key="b")]
    got = admit(admission, step, T0)
    assert got.events.users == ["ann", "bob"]
    assert got.by_type() == {"view": 2}
    assert got.duplicates == 1
    assert admit(admission, step, T0).duplicates == 3


@pytest.mark.parametrize("half", [512, 700])
def test_ids_are_forgotten_oldest_half_first(half: int) -> None:
    """At least the last `dedup_max` / 2 distinct ids are known, at most `dedup_max`; then an id counts again."""
    admission = Admission(config(dedup_max=2 * half))
    admit(admission, keys(*range(2 * half)), T0)
    assert admit(admission, keys(*range(half, 2 * half)), T0).duplicates == half
    assert admit(admission, keys(0), T0).duplicates == 0


def test_ids_are_remembered_the_same_however_they_are_cut_into_steps() -> None:
    """One step of 5,000 ids with repeats, or many: the same events are accepted."""
    numbers = (np.random.default_rng(1).zipf(1.3, 5000) % 3000).tolist()
    once, often = Admission(CONFIG), Admission(CONFIG)
    whole = len(admit(once, keys(*numbers), T0).events)
    parts = sum(len(admit(often, keys(*numbers[i : i + 77]), T0).events) for i in range(0, 5000, 77))
    assert whole == parts
    assert 0 < whole < 5000


def test_a_future_event_counts_at_its_clamped_time() -> None:
    """It is accepted with the time the clock gave it; a repeated one is a duplicate, not a future one."""
    admission = Admission(CONFIG)
    step = [Touch("ann", T0 + 10**9, key="a"), Touch("ann", T0 + 10**9, key="a"), Touch("ann", T0, key="b")]
    got = admit(admission, step, T0, future=[True, True, False])
    assert (got.future, got.duplicates, got.late) == (1, 1, 0)
    assert got.events.time_ms.tolist() == [T0, T0]


def test_an_id_whose_hash_is_zero_is_an_id() -> None:
    """Zero marks a free place in the table; such an id is remembered all the same."""
    admission = Admission(CONFIG)
    step = [Touch("ann", T0), Touch("ann", T0)]  # an empty key hashes to 0 here
    assert admit(admission, step, T0).duplicates == 1


def test_accepted_events_are_counted_by_type_in_channel_order() -> None:
    """Only types that occur; a refund counts under the channel it subtracts from."""
    step = [Touch("ann", T0, kind, key=kind) for kind in ("refund", "purchase", "view")]
    assert list(admit(Admission(CONFIG), step, T0).by_type().items()) == [("view", 1), ("purchase", 2)]


def test_no_events_are_no_trouble() -> None:
    """An idle step admits nothing."""
    got = admit(Admission(CONFIG), [], T0)
    assert (len(got.events), got.late, got.duplicates, got.future, got.by_type()) == (0, 0, 0, 0, {})


def test_a_restored_generation_is_as_full_as_it_was() -> None:
    """It is given up after the same id as without the restart; a table that never is would fill up."""
    live, restored = Admission(CONFIG), Admission(CONFIG)
    admit(live, keys(*range(300)), T0)
    restored.restore(live.snapshot())
    for admission in (live, restored):
        admit(admission, keys(*range(300, 600)), T0)
    assert [len(ids) for ids in restored.snapshot().values()] == [600 - 512, 512]
    for name, ids in live.snapshot().items():
        np.testing.assert_array_equal(ids, restored.snapshot()[name])


@given(st.lists(st.integers(0, 2000), max_size=3000), st.lists(st.integers(0, 2000), max_size=1500))
@settings(max_examples=20, deadline=None)
def test_a_restored_snapshot_continues_as_if_nothing_happened(before: list[int], after: list[int]) -> None:
    """The same events are accepted, and the next snapshots are equal."""
    live, restored = Admission(CONFIG), Admission(CONFIG)
    admit(live, keys(*before), T0)
    restored.restore(live.snapshot())
    got = [admit(admission, keys(*after), T0).events.event_key.tolist() for admission in (live, restored)]
    assert got[0] == got[1]
    for name, ids in live.snapshot().items():
        np.testing.assert_array_equal(ids, restored.snapshot()[name])
