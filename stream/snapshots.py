"""Stores of snapshots: a cache of the state in files, never the truth.

A snapshot is written to a temporary file, made durable, and renamed; its name ends in the hash of its bytes,
so a torn or damaged one is seen at load, and an older one is used. What an older version of Shoal wrote is
brought up to date as it is loaded (`migrations.py`); what a newer one wrote is passed over.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from .disk import Disk, OsDisk, make_folder
from .migrations import check_way, migrate
from .packing import FORMAT, digest, pack, read_format, unpack
from .ports import DiskFailed, Saved, State, Ticker

log = logging.getLogger("shoal")

_NAME = re.compile(r"snapshot-(\d{12})-[0-9a-f]{16,}\.safetensors")


def _always() -> bool:
    return True


class NoStore:
    """Keeps nothing: recovery replays every recorded step."""

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        pass

    def finished(self) -> Sequence[Saved]:
        return ()

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        return iter(())

    def close(self) -> None:
        pass


class DirectoryStore:
    """The newest `kept` snapshots in a folder, one engine's, written while the engine waits.

    Raises DiskFailed when the folder cannot be written to at the start. After that a snapshot that fails is a
    warning, not an end: what was committed is safe without it, and only the next recovery takes longer.
    """

    def __init__(self, directory: Path, kept: int, disk: Disk | None = None, clock: Ticker = time) -> None:
        self._directory = directory
        self._kept = kept
        self._disk = disk or OsDisk()
        self._clock = clock
        self._finished: list[Saved] = []
        try:
            make_folder(self._disk, directory)
            self._remove_torn()
            self._try_to_write()
        except OSError as error:
            raise DiskFailed(
                f"engine.state_dir {directory}: {error.strerror}. Name a folder that this user may write to"
            ) from None

    def _remove_torn(self) -> None:
        """What killed processes left half written. One that still writes fails at its rename: no harm done."""
        for name in self._disk.names(self._directory):
            if name.startswith("snapshot-") and name.endswith(".tmp"):
                with suppress(FileNotFoundError):
                    self._disk.remove(self._directory / name)

    def _try_to_write(self) -> None:
        probe = self._directory / f"snapshot-probe.{os.getpid()}.tmp"
        self._disk.write(probe, [b"?"])
        self._disk.remove(probe)

    # --- writing --------------------------------------------------------------------------------------------

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Write one snapshot; a warning when the disk refused."""
        started_s = self._clock.monotonic()
        try:
            size_bytes = self.write(step, manifest_hash, capture())
        except OSError as error:
            self.warn(step, error.strerror or str(error))
            return
        took_s = self._clock.monotonic() - started_s
        self._finished.append(Saved(step, took_s, size_bytes, took_s))

    def write(self, step: int, manifest_hash: str, state: State, wanted: Callable[[], bool] = _always) -> int:
        """One snapshot, durable and under its name; old ones are removed. Its size in bytes. Raises OSError.

        `wanted` is asked once more before anything that others can see is done.
        """
        parts = pack({"step": step, "manifest_hash": manifest_hash, "state": state})
        path = self._directory / f"snapshot-{step:012d}-{digest(parts)}.safetensors"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._disk.write(temporary, parts)
            self._disk.sync(temporary)
            if not wanted():
                raise OSError(errno.ECANCELED, "nobody waits for it any more")
            self._disk.rename(temporary, path)
            self._disk.sync_folder(self._directory)
        except OSError:
            with suppress(OSError):
                self._disk.remove(temporary)
            raise
        self._remove_old(step)
        return sum(part.nbytes for part in parts)

    def _remove_old(self, step: int) -> None:
        """All but the newest `kept`. Nothing is later than the step just saved, except in a history given up."""
        with suppress(OSError):  # the next snapshot tries again
            names = self._names()
            later = [name for name in names if _step_of(name) > step]
            for name in later + names[len(later) + self._kept :]:
                self._disk.remove(self._directory / name)

    def warn(self, step: int, why: str) -> None:
        log.warning(
            "the snapshot of step %d in %s could not be written (%s); going on without it",
            step, self._directory, why,
        )  # fmt: skip

    def finished(self) -> Sequence[Saved]:
        found, self._finished = self._finished, []
        return found

    def close(self) -> None:
        pass

    # --- reading --------------------------------------------------------------------------------------------

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        try:
            names = self._names()
        except OSError as error:
            log.warning("snapshots in %s cannot be read (%s)", self._directory, error.strerror or error)
            return
        for name in names:
            if _step_of(name) <= not_past and (body := self._load(name)) is not None:
                yield body["step"], body["manifest_hash"], body["state"]

    def _load(self, name: str) -> State | None:
        """One snapshot's content; None, with a warning, where it cannot be used."""
        try:
            with self._disk.open(self._directory / name) as file:
                data = memoryview(file.read())  # not mapped: a bad sector would end the process, not raise
            version = read_format(data)
            check_way(version)
            if version <= FORMAT:
                if digest([data]) != _hash_of(name):
                    raise ValueError("its bytes do not match its name")
                return migrate(unpack(data), version)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("snapshot %s is damaged (%s); trying an older one", name, error)
            return None
        log.warning(
            "snapshot %s was written by a newer version of shoal (format %d, this one reads up to %d); trying "
            "an older one", name, version, FORMAT,
        )  # fmt: skip
        return None

    def _names(self) -> list[str]:
        """Newest first."""
        return sorted(filter(_NAME.fullmatch, self._disk.names(self._directory)), reverse=True)


def _step_of(name: str) -> int:
    return int(name.split("-")[1])


def _hash_of(name: str) -> str:
    return name.split("-")[2].split(".")[0]
