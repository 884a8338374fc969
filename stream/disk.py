"""The disk as Shoal uses it: few operations, so that tests can put one in their place that fails.

What a crash leaves, and the rules that follow from it. Written bytes survive only after `sync` of the file;
a new name, a rename or a removal only after `sync_folder`. Until then any part of what was written may be
there or not. So: write, sync the file, rename, sync the folder; and append, sync, and only then speak of it.

A failed `sync` is never tried again: the system may have given the bytes up and still show them, until the
power goes. Whoever comes after takes what is shown for durable only once it has written it again (`refresh`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

Bytes = bytes | memoryview


class Appender(Protocol):
    """A file open for appending, without a buffer: what failed once is not tried again by close()."""

    def write(self, data: bytes) -> None: ...  # all of it, or OSError with any part of it written
    def sync(self) -> None: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """Every method raises OSError as the operating system does."""

    def make_folder(self, path: Path) -> None: ...  # with its parents; fine when it is there
    def names(self, folder: Path) -> list[str]: ...  # sorted
    def size(self, path: Path) -> int | None: ...  # None: neither a file nor a folder there
    def open(self, path: Path) -> BinaryIO: ...  # for reading, from the start
    def append(self, path: Path) -> Appender: ...  # made when it is not there
    def write(self, path: Path, parts: Sequence[Bytes]) -> None: ...  # a whole new file; not yet durable
    def sync(self, path: Path) -> None: ...  # the file's bytes
    def sync_folder(self, path: Path) -> None: ...  # the names in it
    def rename(self, old: Path, new: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def truncate(self, path: Path, length: int) -> None: ...
    def refresh(self, path: Path, start: int) -> None: ...  # the bytes from `start` on, over themselves
    def lock(self, path: Path) -> Callable[[], None]: ...  # what unlocks; BlockingIOError when taken


def make_folder(disk: Disk, path: Path) -> None:
    """A folder whose name survives: a parent's own name is durable before anything is made in it.

    That the folder is there proves nothing, a process killed before its `sync_folder` may have made it.
    """
    if disk.size(path) is None:
        make_folder(disk, path.parent)
        disk.make_folder(path)
    disk.sync_folder(path.parent)


_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.EROFS)  # this file system keeps names in its own way
_CANNOT_OPEN = (errno.EACCES, errno.EISDIR)  # somebody else's folder, made before us


class OsDisk:
    """The operating system's."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: Path) -> BinaryIO:
        return path.open("rb")

    def append(self, path: Path) -> Appender:
        return _OsAppender(path)

    def write(self, path: Path, parts: Sequence[Bytes]) -> None:
        with path.open("wb", buffering=0) as file:
            for part in parts:
                _write_all(file.fileno(), part)

    def sync(self, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Does nothing where folders cannot be synced, as PostgreSQL does."""
        try:
            folder = os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno in _CANNOT_OPEN:
                return
            raise
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
        finally:
            os.close(folder)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def truncate(self, path: Path, length: int) -> None:
        os.truncate(path, length)

    def refresh(self, path: Path, start: int) -> None:
        with path.open("r+b", buffering=0) as file:
            file.seek(start)
            data = file.read()
            file.seek(start)
            _write_all(file.fileno(), data)

    def lock(self, path: Path) -> Callable[[], None]:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return file.close


class _OsAppender:
    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        _write_all(self._file.fileno(), data)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def _write_all(file: int, data: Bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
