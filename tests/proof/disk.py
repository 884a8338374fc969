"""A disk in memory that forgets what it may forget; `storage.py` says what that is.

Points (`points.py`) stand before every effect: "disk: sync shoal.manifest.jsonl". Killed at a write's point,
or refused at it (`OSError`), any part of the bytes was written; refused at a sync's, what was pending is
given up. Reading changes nothing and has no points.

`kill -9` takes nothing from a disk: what was written is seen by the next process, and locks are free.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO

from .points import Crash, Points
from .storage import File, Folder, Node, Survives, Truncate, Write


class FakeDisk:
    """One machine's disk. Processes use it through `process`; what happens to the machine is called here."""

    def __init__(self, seed: int = 0) -> None:
        self.room_bytes: float = float("inf")  # more cannot be written: then ENOSPC, with a part written
        self.rng = Random(seed)
        self._root = Folder()
        self._processes: list[Points] = []

    def process(self, points: Points | None = None) -> ProcessDisk:
        """The disk as one process sees it, whose points these are."""
        points = points or Points()
        self._processes.append(points)
        return ProcessDisk(self, points)

    def lose_power(self, survives: Survives = Survives.ANYTHING) -> None:
        """Every process is gone, and of what was not synced any beginning is there."""
        for points in self._processes:
            points.dead = True
        self._processes.clear()
        self._root.lose_power(survives, self.rng)

    def flip(self, path: Path) -> None:
        """One bit of a file at rest is another one now."""
        file = self.file(path)
        assert file.cache == file.durable != b"", f"{path} is empty, or not at rest"
        bit = self.rng.randrange(8 * len(file.cache))
        for copy in (file.cache, file.durable):
            copy[bit // 8] ^= 1 << bit % 8

    def cut(self, path: Path, length: int) -> None:
        """A file at rest has lost its end."""
        file = self.file(path)
        del file.cache[length:], file.durable[length:]

    def files(self, folder: Path) -> dict[str, bytes]:
        """Name -> bytes, as a process would read them now."""
        found = self.find(folder)
        names = sorted(found.cache.items()) if isinstance(found, Folder) else []
        return {name: bytes(node.cache) for name, node in names if isinstance(node, File)}

    def file(self, path: Path) -> File:
        found = self.find(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        if isinstance(found, Folder):
            raise _error(errno.EISDIR, path)
        return found

    def folder(self, path: Path) -> Folder:
        found = self.find(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        if isinstance(found, File):
            raise _error(errno.ENOTDIR, path)
        return found

    def find(self, path: Path) -> Node | None:
        found: Node | None = self._root
        for part in path.parts:
            if part != path.anchor:
                if isinstance(found, File):
                    raise _error(errno.ENOTDIR, path)
                found = found.cache.get(part) if found else None
        return found

    def take(self, wanted: int) -> int:
        """Room for so many bytes, or for as many as there is."""
        given = int(min(wanted, self.room_bytes))
        self.room_bytes -= given
        return given


class ProcessDisk:
    """`stream/disk.py`'s Disk for one process."""

    def __init__(self, disk: FakeDisk, points: Points) -> None:
        self.disk = disk
        self.points = points

    def make_folder(self, path: Path) -> None:
        for folder in (*reversed(path.parents), path):
            if self._find(folder) is None:
                self._reach("make folder", folder)
                self.disk.folder(folder.parent).change((folder.name, Folder()))
        if isinstance(self._find(path), File):
            raise _error(errno.EEXIST, path)

    def names(self, folder: Path) -> list[str]:
        self._alive()
        return sorted(self.disk.folder(folder).cache)

    def size(self, path: Path) -> int | None:
        found = self._find(path)
        return len(found.cache) if found is not None else None

    def open(self, path: Path) -> BinaryIO:
        self._alive()
        return io.BytesIO(bytes(self.disk.file(path).cache))

    def append(self, path: Path) -> FakeAppender:
        return FakeAppender(self, path, self._make(path))

    def write(self, path: Path, parts: list[bytes]) -> None:
        there = self._find(path) is not None
        file = self._make(path)
        if there:
            self._reach("empty", path)
            file.change(Truncate(0))
        self.write_to(file, path, b"".join(parts))

    def sync(self, path: Path) -> None:
        self._alive()
        self.sync_file(self.disk.file(path), path)

    def sync_folder(self, path: Path) -> None:
        self._reach("sync folder", path)
        self.disk.folder(path).sync()

    def rename(self, old: Path, new: Path) -> None:
        assert old.parent == new.parent, "a rename that nobody makes"
        file = self._existing(old)
        self._reach("rename", new)
        self.disk.folder(old.parent).change((old.name, None), (new.name, file))

    def remove(self, path: Path) -> None:
        self._existing(path)
        self._reach("remove", path)
        self.disk.folder(path.parent).change((path.name, None))

    def truncate(self, path: Path, length: int) -> None:
        file = self._existing(path)
        self._reach("truncate", path)
        file.change(Truncate(length))

    def refresh(self, path: Path, start: int) -> None:
        file = self._existing(path)
        self._reach("refresh", path)
        if start < len(file.cache):
            file.change(Write(start, bytes(file.cache[start:])))

    def lock(self, path: Path) -> Callable[[], None]:
        file = self._make(path)
        if file.holder is not None and not file.holder.dead:
            raise _error(errno.EWOULDBLOCK, path)
        file.holder = self.points
        return lambda: self._unlock(file)

    def _unlock(self, file: File) -> None:
        if file.holder is self.points:
            file.holder = None

    # --- what the appender shares ---------------------------------------------------------------------------

    def write_to(self, file: File, path: Path, data: bytes) -> None:
        alive = not self.points.dead
        try:
            self._reach("write", path)
        except (Crash, OSError):
            if alive:
                self._put(file, data[: self.disk.rng.randint(0, len(data))])
            raise
        room = self.disk.take(len(data))
        self._put(file, data[:room])
        if room < len(data):
            raise _error(errno.ENOSPC, path)

    def _put(self, file: File, data: bytes) -> None:
        if data:
            file.change(Write(len(file.cache), data))

    def sync_file(self, file: File, path: Path) -> None:
        try:
            self._reach("sync", path)
        except OSError:
            file.give_up(self.disk.rng)
            raise
        file.sync()

    def _make(self, path: Path) -> File:
        """The file, made if it is not there."""
        self._alive()
        if self._find(path) is None:
            folder = self.disk.folder(path.parent)
            self._reach("create", path)
            folder.change((path.name, File()))
        return self.disk.file(path)

    def _existing(self, path: Path) -> File:
        self._alive()
        return self.disk.file(path)

    def _find(self, path: Path) -> Node | None:
        self._alive()
        return self.disk.find(path)

    def _reach(self, what: str, path: Path) -> None:
        self.points.reach(f"disk: {what} {path.name}")

    def _alive(self) -> None:
        if self.points.dead:
            raise Crash


@dataclass
class FakeAppender:
    """A file open for appending. To close it is no effect, also for the dead."""

    process: ProcessDisk
    path: Path
    file: File

    def write(self, data: bytes) -> None:
        self.process.write_to(self.file, self.path, data)

    def sync(self) -> None:
        self.process.sync_file(self.file, self.path)

    def size(self) -> int:
        return len(self.file.cache)

    def close(self) -> None:
        pass


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def snapshots(disk: FakeDisk, folder: Path) -> list[Path]:
    """Snapshot files in a folder, oldest first."""
    return [folder / name for name in disk.files(folder) if name.endswith(".safetensors")]
