"""Snapshots: any state round-trips; a damaged one is never used."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.stream.ports import DiskFailed
from shoal.stream.snapshots import DirectoryStore, pack, unpack

DTYPES = [
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint32,
    np.uint64,
    np.bool_,
]
scalars = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False) | st.binary(max_size=9)
)  # fmt: skip
arrays = st.builds(
    lambda kind, shape: np.arange(int(np.prod(shape))).reshape(shape).astype(kind),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), min_size=0, max_size=3).map(tuple),
)
names = st.lists(st.text(max_size=4), min_size=33, max_size=40)
trees = st.recursive(
    scalars | arrays | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def _same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4), trees, max_size=4))
def test_any_state_round_trips(tree):
    """Arrays keep their dtype and shape, text its characters, numbers their every bit."""
    assert _same(unpack(pack(tree)), tree)


def test_loaded_arrays_can_be_written():
    """A restored part goes on changing its arrays."""
    unpack(pack({"a": np.zeros(3)}))["a"][0] = 1.0


def test_only_the_newest_are_kept(tmp_path):
    """The folder does not grow."""
    store = DirectoryStore(tmp_path, kept=2)
    for step in (10, 20, 30):
        assert store.save(step, f"hash-{step}", {"x": np.arange(step)}) > 0
    found = list(store.newest(not_past=100))
    assert [(step, manifest) for step, manifest, _ in found] == [(30, "hash-30"), (20, "hash-20")]
    assert len(found[0][2]["x"]) == 30


def test_a_snapshot_past_the_last_commit_is_not_used(tmp_path):
    """State that ran ahead of what was committed would contradict it."""
    store = DirectoryStore(tmp_path, kept=3)
    store.save(10, "a", {})
    store.save(20, "b", {})
    assert [step for step, _, _ in store.newest(not_past=15)] == [10]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_snapshot_is_passed_over(tmp_path, damage):
    """One flipped bit, or a torn write: the older one is used."""
    store = DirectoryStore(tmp_path, kept=3)
    store.save(10, "a", {"x": np.arange(100)})
    store.save(20, "b", {"x": np.arange(100)})
    path = max(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-10]), "empty": b""}[damage])
    assert [step for step, _, _ in store.newest(not_past=100)] == [10]


def test_objects_have_no_place_in_a_state():
    """An object array would need pickle."""
    with pytest.raises(AssertionError, match="object array"):
        pack({"x": np.array([object()])})


def test_snapshots_of_a_history_that_was_given_up_do_not_push_out_new_ones(tmp_path):
    """After starting over in the same folder, the old, later steps are in nobody's past: they go first."""
    store = DirectoryStore(tmp_path, kept=2)
    for step in (1000, 1200):
        store.save(step, "old", {})
    store.save(200, "new", {})
    assert [(step, line) for step, line, _ in store.newest(not_past=10**9)] == [(200, "new")]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    """Crash after crash, the folder does not grow."""
    DirectoryStore(tmp_path, kept=2).save(10, "a", {})
    torn = tmp_path / "snapshot-000000000020-0123456789abcdef.tmp"
    torn.write_bytes(b"torn")
    DirectoryStore(tmp_path, kept=2)
    assert not torn.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_at_start(tmp_path):
    """Not 200 steps later."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFailed, match=r"engine\.state_dir .*file"):
        DirectoryStore(tmp_path / "file" / "state", kept=2)


def test_a_snapshot_that_cannot_be_written_is_worth_a_warning_and_leaves_nothing_behind(
    tmp_path, monkeypatch, caplog
):
    """A snapshot is a cache: with a full disk the engine goes on, and recovery only takes longer."""
    store = DirectoryStore(tmp_path, kept=2)
    store.save(10, "a", {})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert store.save(20, "b", {"x": np.arange(100)}) == 0
    assert "No space left on device" in caplog.text
    assert [step for step, _, _ in store.newest(not_past=100)] == [10]
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_not_ours_are_not_taken_for_snapshots(tmp_path):
    """A stranger in the folder is neither read nor removed."""
    stranger = tmp_path / "snapshot-copy-of.safetensors"
    stranger.write_bytes(b"?")
    store = DirectoryStore(tmp_path, kept=1)
    store.save(10, "a", {})
    assert [step for step, _, _ in store.newest(not_past=100)] == [10]
    assert stranger.exists()
