"""The disk in memory: as the real one while all goes well, and as forgetful as it may be when it does not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof.disk import FakeDisk, ProcessDisk
from proof.points import Crash, Points
from proof.storage import BLOCK_BYTES, Survives

from shoal.stream.disk import Disk, OsDisk, make_folder

A, B = Path("a"), Path("b")


def _written(disk: FakeDisk, data: bytes = b"one", synced: bool = True) -> ProcessDisk:
    """A file `a` whose name is durable."""
    process = disk.process()
    process.write(A, [data])
    if synced:
        process.sync(A)
    process.sync_folder(Path())
    return process


# --- as the real one ----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "folder/c", "none/d", "a/under-a-file"])
FOLDERS = st.sampled_from(["", "folder", "other/d", "none"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "write"]), NAMES, st.binary(max_size=200)),
        st.tuples(st.just("rename"), st.just("a"), st.just("b")),
        st.tuples(st.sampled_from(["truncate", "refresh"]), NAMES, st.integers(0, 20)),
        st.tuples(st.sampled_from(["remove", "sync", "size", "read"]), NAMES, st.none()),
        st.tuples(st.just("make_folder"), st.sampled_from(["folder", "other/d"]), st.none()),
        st.tuples(st.sampled_from(["names", "sync_folder"]), FOLDERS, st.none()),
    ),
    max_size=25,
)  # fmt: skip


def _do(disk: Disk, root: Path, operation: tuple[str, str, object]) -> object:
    """What the operation answered, or the number of its error."""
    what, name, more = operation
    path = root / name
    try:
        match what:
            case "append":
                file = disk.append(path)
                file.write(more)
                file.sync()
                file.close()
                return disk.size(path)
            case "write":
                return disk.write(path, [more, more])
            case "rename":
                return disk.rename(path, root / more)
            case "read":
                with disk.open(path) as opened:
                    return opened.read()
            case "truncate" | "refresh":
                return getattr(disk, what)(path, more)
            case _:
                return getattr(disk, what)(path)
    except OSError as error:
        return error.errno


@given(OPERATIONS)
def test_without_faults_nobody_can_tell_it_from_the_operating_system(operations):
    """Every operation answers the same, errors included."""
    with TemporaryDirectory() as folder:
        fake = FakeDisk().process()
        for operation in [("make_folder", "folder", None), *operations]:
            answer = _do(fake, Path("/"), operation)
            assert answer == _do(OsDisk(), Path(folder), operation), operation


# --- what a crash leaves --------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["append", "sync", "folder", "kill"]), st.binary(max_size=150))),
    st.sampled_from(Survives),
    st.integers(0, 1000),
)
def test_only_what_was_synced_is_sure_to_survive(steps, survives, seed):
    """A file that grows: the synced bytes stand, behind them a torn beginning of the others; or it is not there."""
    disk = FakeDisk(seed)
    process = disk.process()
    written = synced = b""
    named = False
    for what, data in steps:
        match what:
            case "append":
                process.append(A).write(data)
                written += data
            case "sync" if disk.files(Path()):
                process.sync(A)
                synced = written
            case "folder":
                process.sync_folder(Path())
                named = bool(disk.files(Path()))
            case "kill":
                process = disk.process()
    seen = disk.files(Path())
    assert seen.get("a", b"") == written
    disk.lose_power(survives)
    found = disk.files(Path())
    if named:
        assert "a" in found
    if "a" in found:
        assert found["a"].startswith(synced)
        assert len(found["a"]) <= len(written)
    if survives is Survives.ALL:
        assert found == seen
    if survives is Survives.NOTHING:
        assert found == ({"a": synced} if named else {})


def test_unsynced_bytes_tear_in_every_way():
    """Nothing, all, a beginning, holes of zeros and a file of zeros only are all met within a few hundred seeds."""
    data = bytes(range(1, 200))
    found = set()
    for seed in range(300):
        disk = FakeDisk(seed)
        process = _written(disk, b"")
        process.append(A).write(data)
        disk.lose_power()
        found.add(disk.files(Path())["a"])
    assert {b"", data, bytes(len(data)), data[:BLOCK_BYTES]} <= found
    assert data[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + data[2 * BLOCK_BYTES :] in found


def test_names_survive_in_the_order_in_which_they_were_made():
    """Of create, rename and remove any beginning may have happened, never a later one without an earlier one."""
    found = set()
    for seed in range(100):
        disk = FakeDisk(seed)
        process = _written(disk)
        process.append(B)
        process.rename(A, Path("c"))
        process.remove(B)
        disk.lose_power()
        found.add(tuple(disk.files(Path())))
    assert found == {("a",), ("a", "b"), ("b", "c"), ("c",)}


def test_a_file_in_a_folder_that_was_never_synced_is_gone_with_it():
    """Its bytes and its name are durable, and nobody finds them."""
    disk = FakeDisk()
    process = disk.process()
    process.make_folder(Path("out"))
    process.write(Path("out/a"), [b"one"])
    process.sync(Path("out/a"))
    process.sync_folder(Path("out"))
    disk.lose_power(Survives.NOTHING)
    assert disk.find(Path("out")) is None


@pytest.mark.parametrize("killed_at", range(1, 9))
def test_a_folder_made_to_last_lasts_wherever_its_maker_was_killed(killed_at):
    """Made once more by the next process, it and its parents survive; that they are there already proves nothing."""
    disk = FakeDisk()
    path = Path("/data/shoal/out")

    def act(number: int, label: str) -> None:
        if number == killed_at:
            raise Crash

    with suppress(Crash):
        make_folder(disk.process(Points(act)), path)
    make_folder(disk.process(), path)
    disk.lose_power(Survives.NOTHING)
    assert disk.find(path) is not None


def test_a_renamed_file_may_have_its_name_and_not_its_bytes():
    """The trap of a rename without a sync before it."""
    disk = FakeDisk()
    process = disk.process()
    process.write(A, [b"one"])
    process.rename(A, B)
    process.sync_folder(Path())
    disk.lose_power(Survives.NOTHING)
    assert disk.files(Path()) == {"b": b""}


def test_a_failed_sync_has_given_the_bytes_up():
    """They are shown, later syncs succeed, and when the power goes there is a hole, unless they were written again."""
    found = set()
    for seed in range(60):
        for refreshed in (False, True):
            disk = FakeDisk(seed)
            process = _written(disk)
            file = process.append(A)
            file.write(b"-two")
            process.points.act = _failing_sync
            with pytest.raises(OSError, match="Input/output"):
                file.sync()
            process.points.act = lambda number, label: None
            if refreshed:
                process.refresh(A, 3)
            file.write(b"-three")
            file.sync()
            assert disk.files(Path())["a"] == b"one-two-three"
            disk.lose_power()
            found.add((refreshed, disk.files(Path())["a"]))
    assert found == {
        (False, b"one-two-three"), (False, b"one\0\0\0\0-three"), (True, b"one-two-three"),
    }  # fmt: skip


def _failing_sync(number: int, label: str) -> None:
    if label.startswith("disk: sync"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_kill_takes_nothing_and_frees_the_locks():
    """The next process sees every byte; the dead one does nothing more, whatever it tries."""
    disk = FakeDisk()
    process = _written(disk, synced=False)
    process.lock(B)
    with pytest.raises(BlockingIOError):
        disk.process().lock(B)
    process.points.dead = True
    again = disk.process()
    unlock = again.lock(B)
    assert again.open(A).read() == b"one"
    attempts: list[Callable[[], object]] = [
        lambda: process.append(A), lambda: process.write(A, [b"x"]), lambda: process.remove(A), lambda: process.size(A),
        lambda: process.lock(B),
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(Crash):
            attempt()
    assert disk.files(Path())["a"] == b"one"
    unlock()
    disk.process().lock(B)


def test_a_full_disk_takes_a_part():
    """As much as there is room for, then ENOSPC; with room again it goes on."""
    disk = FakeDisk()
    disk.room_bytes = 5
    process = disk.process()
    file = process.append(A)
    file.write(b"one")
    with pytest.raises(OSError, match="No space") as failed:
        file.write(b"two")
    assert failed.value.errno == errno.ENOSPC
    assert disk.files(Path()) == {"a": b"onetw"}
    disk.room_bytes = 100
    file.write(b"three")
    assert file.size() == 10


def test_killed_in_the_middle_of_a_write_any_part_was_written():
    """From nothing to everything."""
    found = set()
    for seed in range(100):
        disk = FakeDisk(seed)
        process = _written(disk)

        def act(number: int, label: str) -> None:
            if label == "disk: write a":
                raise Crash

        process.points.act = act
        with pytest.raises(Crash):
            process.append(A).write(b"-two")
        found.add(disk.files(Path())["a"])
    assert found == {b"one-two"[:end] for end in range(3, 8)}


def test_every_effect_has_a_point_and_reading_has_none():
    """Numbered from 1, in order, with a label that says what is about to happen to which name."""
    labels: list[str] = []
    process = FakeDisk().process(Points(lambda number, label: labels.append(label)))
    process.make_folder(Path("/out"))
    file = process.append(Path("/out/a"))
    file.write(b"one")
    file.sync()
    process.write(Path("/out/b"), [b"1", b"2"])
    process.write(Path("/out/b"), [b"3"])
    process.truncate(Path("/out/a"), 1)
    process.refresh(Path("/out/a"), 0)
    process.rename(Path("/out/b"), Path("/out/c"))
    process.sync_folder(Path("/out"))
    process.remove(Path("/out/c"))
    assert process.names(Path("/out")) == ["a"]
    assert process.open(Path("/out/a")).read() == b"o"
    assert labels == [
        "disk: make folder out", "disk: create a", "disk: write a", "disk: sync a", "disk: create b", "disk: write b",
        "disk: empty b", "disk: write b", "disk: truncate a", "disk: refresh a", "disk: rename c",
        "disk: sync folder out", "disk: remove c",
    ]  # fmt: skip


def test_one_bit_flips_at_rest():
    """Processes see it, and it stays after a loss of power."""
    disk = FakeDisk()
    process = _written(disk)
    disk.flip(A)
    flipped = process.open(A).read()
    assert sum((x ^ y).bit_count() for x, y in zip(flipped, b"one", strict=True)) == 1
    disk.lose_power()
    assert disk.files(Path()) == {"a": flipped}
