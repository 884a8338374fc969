"""The store of snapshots: atomic, several kept, a damaged one is never used; trouble is a warning."""

import errno

import numpy as np
import orjson
import pytest

from shoal.stream.disk import OsDisk
from shoal.stream.packing import FORMAT, digest
from shoal.stream.ports import DiskFailed
from shoal.stream.snapshots import DirectoryStore


def test_only_the_newest_are_kept(tmp_path):
    """The folder does not grow."""
    store = DirectoryStore(tmp_path, kept=2)
    for step in (10, 20, 30):
        store.save(step, f"hash-{step}", lambda step=step: {"x": np.arange(step)})
    found = list(store.newest(not_past=100))
    assert [(step, manifest) for step, manifest, _ in found] == [(30, "hash-30"), (20, "hash-20")]
    assert len(found[0][2]["x"]) == 30


def test_a_snapshot_past_the_last_commit_is_not_used(tmp_path):
    """State that ran ahead of what was committed would contradict it."""
    store = DirectoryStore(tmp_path, kept=3)
    store.save(10, "a", dict)
    store.save(20, "b", dict)
    assert [step for step, _, _ in store.newest(not_past=15)] == [10]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_snapshot_is_passed_over(tmp_path, damage):
    """One flipped bit, or a torn write: the older one is used."""
    store = DirectoryStore(tmp_path, kept=3)
    store.save(10, "a", lambda: {"x": np.arange(100)})
    store.save(20, "b", lambda: {"x": np.arange(100)})
    path = max(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-10]), "empty": b""}[damage])
    assert [step for step, _, _ in store.newest(not_past=100)] == [10]


def test_snapshots_of_a_history_that_was_given_up_do_not_push_out_new_ones(tmp_path):
    """After starting over in the same folder, the old, later steps are in nobody's past: they go first."""
    store = DirectoryStore(tmp_path, kept=2)
    for step in (1000, 1200):
        store.save(step, "old", dict)
    store.save(200, "new", dict)
    assert [(step, line) for step, line, _ in store.newest(not_past=10**9)] == [(200, "new")]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    """Crash after crash, the folder does not grow."""
    DirectoryStore(tmp_path, kept=2).save(10, "a", dict)
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


class FailingDisk(OsDisk):
    """One operation, by name, fails as on a disk that is full."""

    def __init__(self, name: str = "") -> None:
        self.fails = name

    def __getattribute__(self, name: str):
        if name == object.__getattribute__(self, "fails"):
            return self._fail
        return object.__getattribute__(self, name)

    def _fail(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_folder"])
def test_a_snapshot_that_cannot_be_written_is_worth_a_warning_and_leaves_nothing_half_done(
    tmp_path, operation, caplog
):
    """A snapshot is a cache: with a full disk the engine goes on, and recovery only takes longer."""
    disk = FailingDisk()
    store = DirectoryStore(tmp_path, kept=2, disk=disk)
    store.save(10, "a", dict)
    assert [saved.step for saved in store.finished()] == [10]
    disk.fails = operation
    store.save(20, "b", lambda: {"x": np.arange(100)})
    assert list(store.finished()) == []
    assert "step 20" in caplog.text
    assert "No space left on device" in caplog.text
    assert [step for step, _, _ in store.newest(not_past=15)] == [10]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("operation", ["remove", "names"])
def test_an_old_snapshot_that_cannot_be_removed_stays_for_the_next_time(tmp_path, operation):
    """The new one is durable all the same."""
    disk = FailingDisk()
    store = DirectoryStore(tmp_path, kept=1, disk=disk)
    store.save(10, "a", dict)
    disk.fails = operation
    store.save(20, "b", dict)
    assert [saved.step for saved in store.finished()] == [10, 20]
    disk.fails = ""
    assert [step for step, _, _ in store.newest(100)] == [20, 10]
    store.save(30, "c", dict)
    assert [step for step, _, _ in store.newest(100)] == [30]


@pytest.mark.parametrize("operation", ["names", "open"])
def test_snapshots_that_cannot_be_read_are_done_without(tmp_path, operation, caplog):
    """The recorded steps are all there is need for."""
    disk = FailingDisk()
    store = DirectoryStore(tmp_path, kept=2, disk=disk)
    store.save(10, "a", dict)
    disk.fails = operation
    assert list(store.newest(100)) == []
    assert "No space left on device" in caplog.text


def test_a_snapshot_of_a_newer_version_is_passed_over_and_named_as_that(tmp_path, caplog):
    """After going back to an older version of Shoal: it is not damaged, it cannot be read here."""
    store = DirectoryStore(tmp_path, kept=3)
    store.save(10, "a", dict)
    header = orjson.dumps({"__metadata__": {"format": str(FORMAT + 1), "tree": "?"}})
    data = len(header).to_bytes(8, "little") + header
    newer = tmp_path / f"snapshot-000000000020-{digest([data])}.safetensors"
    newer.write_bytes(data)
    assert [step for step, _, _ in store.newest(100)] == [10]
    assert f"{newer.name} was written by a newer version of shoal (format {FORMAT + 1}" in caplog.text
    assert "damaged" not in caplog.text


def test_what_is_found_out_is_told_once(tmp_path):
    """Size, time, and how long the caller waited: here, all of it."""
    store = DirectoryStore(tmp_path, kept=2)
    store.save(10, "a", lambda: {"x": np.arange(1000)})
    (saved,) = store.finished()
    assert saved.size_bytes == next(tmp_path.iterdir()).stat().st_size > 8000
    assert saved.pause_s == saved.seconds > 0
    assert list(store.finished()) == []


def test_files_that_are_not_ours_are_not_taken_for_snapshots(tmp_path):
    """A stranger in the folder is neither read nor removed."""
    stranger = tmp_path / "snapshot-copy-of.safetensors"
    stranger.write_bytes(b"?")
    store = DirectoryStore(tmp_path, kept=1)
    store.save(10, "a", dict)
    assert [step for step, _, _ in store.newest(not_past=100)] == [10]
    assert stranger.exists()
