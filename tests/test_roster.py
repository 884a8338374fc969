"""Names and slots: exact, whatever the hashes say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.windowing import roster
from shoal.stream.windowing.roster import NAME_BYTES_MAX, Roster

MAX = 20
some = st.text(min_size=1, max_size=20) | st.sampled_from([f"user {i}" for i in range(30)])
steps = st.lists(st.lists(some, min_size=1, max_size=8), max_size=12)


@given(steps, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_names_and_slots_agree_with_a_dictionary(log: list[list[str]], random) -> None:  # type: ignore[no-untyped-def]
    """Any text, line ends included; the last slot freed is given first; a restored one goes on the same."""
    one, slot_of, freed, used = Roster(MAX), dict[str, int](), list[int](), 0
    for names in log:
        gone = random.sample(sorted(slot_of), max(0, len(slot_of) + len(names) - MAX))
        one.remove(np.array([slot_of[name] for name in gone], np.int32))
        freed += [slot_of.pop(name) for name in gone]
        for name in names:
            if name not in slot_of:
                slot_of[name] = freed.pop() if freed else used
                used = max(used, slot_of[name] + 1)
        assert one.add(names).tolist() == [slot_of[name] for name in names]
        assert (len(one), one.used, one.freed.tolist()) == (len(slot_of), used, freed)
        assert one.find([*slot_of, "nobody at all"]).tolist() == [*slot_of.values(), -1]
    name_of = {slot: name for name, slot in slot_of.items()}
    everybody = one.names(np.arange(used, dtype=np.int32))
    assert everybody == [name_of.get(slot, "") for slot in range(used)]
    again = Roster(MAX)
    again.add(["somebody else"])
    again.restore(everybody, one.freed)
    assert (len(again), again.used, again.freed.tolist()) == (len(one), one.used, freed)
    assert again.find([*slot_of, "somebody else"]).tolist() == one.find([*slot_of, "somebody else"]).tolist()
    again._pool.check()


def test_two_names_with_one_hash_are_two() -> None:
    """Their 31 bits agree, found by search. Each keeps its own slot, also when the other leaves."""
    names = _twins()
    one = Roster(MAX)
    assert one.add(names).tolist() == [0, 1]
    one.remove(np.array([0], np.int32))
    assert one.find(names).tolist() == [-1, 1]
    assert one.add(names).tolist() == [0, 1]


def _twins() -> list[str]:
    """Two names whose hashes agree in all bits that are kept: among 200,000 there are some."""
    names = [f"{i}" for i in range(200_000)]
    coded = roster._coded(names)
    begins = np.concatenate([[0], coded.ends[:-1] + 1])
    at, salt = coded.text.ctypes.data, np.zeros(3, np.int64)
    tags = np.array(
        [roster._hash(salt, at + a, b - a) for a, b in zip(begins.tolist(), coded.ends.tolist(), strict=True)]
    )
    order = np.argsort(tags, kind="stable")
    twin = np.flatnonzero(np.diff(tags[order]) == 0)[0]
    return [names[order[twin]], names[order[twin + 1]]]


def test_entries_that_wrap_round_the_end_of_the_table_are_found() -> None:
    """A table of 32 places, half full, over and over: whoever is there is found, whoever left is not."""
    one, random = Roster(16), np.random.default_rng(3)
    live: list[str] = []
    for i in range(2000):
        if len(live) == 16:
            gone = live.pop(int(random.integers(16)))
            one.remove(one.find([gone]))
            assert one.find([gone]).tolist() == [-1]
        live.append(f"name {i}")
        one.add(live[-1:])
        assert (one.find(live) >= 0).all()
        assert one.names(one.find(live)) == live


def test_a_name_too_long_or_empty_is_our_mistake() -> None:
    """The decoder refuses both; here they would be cut short in silence."""
    for bad in ("", "x" * (NAME_BYTES_MAX + 1)):
        with pytest.raises(AssertionError, match="bytes"):
            Roster(MAX).add(["ann", bad])


def test_names_of_users_who_left_take_no_memory() -> None:
    """A hundred thousand pass through a hundred slots: the names there are need what a hundred names need."""
    one = Roster(100)
    for first in range(0, 100_000, 100):
        one.remove(np.arange(100 if first else 0, dtype=np.int32))
        one.add([f"somebody with a long name {i}" for i in range(first, first + 100)])
    assert one._pool.live_bytes() == 100 * 48
    one._pool.check()


def test_no_salt_shows_in_slots_or_names():
    """It only keeps people from making names that collide; removing a slot twice is removing it once."""
    seen = []
    for salt in (0, 12345, 2**61):
        one = Roster(MAX, salt)
        slots = one.add(["ann", "bo", "cy", "ann"]).tolist()
        one.remove(np.array([1, 1], np.int32))
        one.remove(np.array([1], np.int32))
        slots += one.add(["di", "cy"]).tolist() + one.find(["bo", "di"]).tolist()
        seen.append((slots, one.names(np.arange(3, dtype=np.int32)), len(one)))
    assert seen[0] == ([0, 1, 2, 0, 1, 2, -1, 1], ["ann", "di", "cy"], 3)
    assert seen[1:] == seen[:1] * 2
