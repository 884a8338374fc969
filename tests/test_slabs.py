"""Pools of blocks without holes: whatever is given and taken back, no block is lost, doubled or overwritten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from shoal.stream.windowing.memory import load16, store16
from shoal.stream.windowing.slabs import CLASS, GRANULE, HEAD, SPARE_MIN, Pool, drop, find, give, take_back

OWNERS, BYTES_MAX = 12, 40_000


@njit
def _resize(slabs, owner, size):
    """Another block for the owner, filled with its number; the old one goes back."""
    old = find(slabs, owner)
    block = give(slabs, owner, size)
    for at in range(HEAD, size - 1, 2):
        store16(block + at, owner)
    if old:
        take_back(slabs, old)


@njit
def _holds(slabs, owner, size):
    """Whether the owner's block is large enough and still all its own."""
    block = find(slabs, owner)
    if slabs.sizes[load16(block + CLASS)] < size:
        return False
    wrong = 0
    for at in range(HEAD, size - 1, 2):
        wrong += load16(block + at) != owner
    return wrong == 0


changes = st.lists(
    st.tuples(
        st.integers(0, OWNERS - 1),
        st.one_of(st.just(0), st.integers(HEAD, 300), st.integers(HEAD, BYTES_MAX)),
    ),
    max_size=60,
)


@given(changes)
@settings(max_examples=100, deadline=None)
def test_every_owner_keeps_its_own_block_whatever_others_do(log: list[tuple[int, int]]) -> None:
    """Against a dictionary of sizes: contents stay, chunks and blocks are each in exactly one place."""
    pool, sizes = Pool(OWNERS, BYTES_MAX), dict[int, int]()
    for owner, size in log:
        pool.reserve()
        if size:
            _resize(pool.slabs, owner, size)
            sizes[owner] = size
        else:
            drop(pool.slabs, np.array([owner], np.int32))
            sizes.pop(owner, None)
    pool.check()
    assert int(pool.filled().sum()) == len(sizes)
    assert all(_holds(pool.slabs, owner, size) for owner, size in sizes.items())
    drop(pool.slabs, np.arange(OWNERS, dtype=np.int32))
    pool.check()
    assert pool.nbytes == pool.live_bytes() == 0


def test_blocks_given_back_serve_any_size() -> None:
    """A crowd that grows through all sizes in step leaves nothing behind: the array is as long as its last need."""
    pool = Pool(2000, 2048)
    for size in range(32, 2049, 32):
        for owner in range(2000):
            pool.reserve()
            _resize(pool.slabs, owner, size)
    assert pool.live_bytes() == 2000 * 2048
    assert len(pool.slabs.memory) < 1.4 * pool.live_bytes()


def test_a_block_is_at_most_an_eighth_larger_than_asked() -> None:
    """Beyond the smallest ones, where it is rounded up to 16 bytes."""
    pool = Pool(1, 1 << 20)
    sizes = pool.slabs.sizes
    assert (np.diff(sizes) <= np.maximum(sizes[:-1] / 8, GRANULE)).all()
    assert sizes[-1] >= 1 << 20
    for wanted in (1, 16, 17, 1000, 70_000, 1 << 20):
        c = pool.slabs.class_of[-(-wanted // GRANULE)]
        assert sizes[c] >= wanted > (sizes[c - 1] if c else 0)


def test_there_is_always_spare_memory_after_reserve() -> None:
    """And a second call changes nothing."""
    pool = Pool(1, 100)
    pool.reserve()
    n = len(pool.slabs.memory)
    assert pool.slabs.spare[1] >= SPARE_MIN
    pool.reserve()
    assert len(pool.slabs.memory) == n


def test_the_check_sees_a_lost_block() -> None:
    """It is what the other tests lean on."""
    pool = Pool(2, 100)
    pool.reserve()
    _resize(pool.slabs, 0, 50)
    pool.slabs.place[1] = pool.slabs.place[0]
    with pytest.raises(AssertionError, match="not there"):
        pool.check()
    pool.slabs.place[:] = 0
    with pytest.raises(AssertionError, match="not where its owner thinks"):
        pool.check()
