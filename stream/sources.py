"""Sources without a broker: records in memory, and JSON lines in a file or from stdin.

A file is one partition; the offset of a record is its line number, from 0. Every line is a record, also a
bad or an empty one, so that coverage can be checked by counting lines.
"""

from __future__ import annotations

import gzip
import os
import select
import stat
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .events import Range, Records
from .ports import START_OVER, InputError, SourceGone, nothing

_CHUNK_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 25
"""A longer line is cut here; it is far beyond `input.value_max_bytes` and rejected as `size` anyway."""

STEP_BYTES_MAX = 64 << 20
"""Lines of one poll hold at most this much together, however many were asked for; one line is always given."""

_MEND = "fetch it again, or rename it if it is not compressed; a run goes on where it stopped"

Poll = tuple[Records, tuple[Range, ...]]


def _records(partition: int, start: int, values: Sequence[bytes | None]) -> Records:
    n = len(values)
    return Records(
        np.full(n, partition, np.int32), np.arange(start, start + n, dtype=np.int64), (None,) * n, values
    )


class MemorySource:
    """Finite records in memory, per partition; for tests, and for runs inside one process.

    `control`: commands of control partition 0, each behind so many records of the first partition.
    """

    finite = True
    wall_clock = False
    mark = ""

    def __init__(
        self,
        partitions: Sequence[Sequence[bytes | None]],
        control: Sequence[tuple[int, bytes | None]] = (),
    ) -> None:
        self._partitions = partitions
        self._due = [after for after, _ in control]
        self._logs = {-1: [value for _, value in control], **dict(enumerate(partitions))}
        self._next = dict.fromkeys(self._logs, 0)

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        return not stopping()

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        wanted = {p: positions.get(p, 0) for p in range(len(self._partitions))}
        return {p: at if at <= len(self._logs[p]) else 0 for p, at in wanted.items()}

    def seek(self, positions: Mapping[int, int]) -> None:
        for partition, offset in positions.items():
            self._check(partition, offset)
        self._next = {p: positions.get(p, 0) for p in self._logs}

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        ranges = []
        for partition, log in self._logs.items():
            start = self._next[partition]
            end = min(len(log), start + max_records, self._limit(partition))
            max_records -= end - start
            if end > start:
                ranges.append(Range(partition, start, end))
                self._next[partition] = end
        return (self.read(ranges), tuple(ranges)) if ranges else None

    def _limit(self, partition: int) -> int:
        """Commands are not handed out before their time, nor is the first partition past the next command's."""
        if partition == -1:
            return sum(after <= self._next.get(0, 0) for after in self._due)
        due = self._due[self._next[-1] :]
        return due[0] if partition == 0 and due else len(self._logs[partition])

    def read(self, ranges: Sequence[Range]) -> Records:
        for r in ranges:
            self._check(r.partition, r.end)
        parts = [_records(r.partition, r.start, self._logs[r.partition][r.start : r.end]) for r in ranges]
        return join(parts)

    def _check(self, partition: int, offset: int) -> None:
        if partition not in self._logs or offset > len(self._logs[partition]):
            raise SourceGone(f"memory input has no offset {offset} in partition {partition}")

    def lag(self) -> Mapping[int, int]:
        return {p: len(log) - self._next[p] for p, log in self._logs.items() if log or p >= 0}

    def close(self) -> None:
        pass


def join(parts: Sequence[Records]) -> Records:
    """Several runs of records as one, in the order given."""
    if not parts:
        return Records.empty()
    if len(parts) == 1:
        return parts[0]
    traceparents: dict[int, bytes] = {}
    start = 0
    for part in parts:
        traceparents |= {start + row: value for row, value in part.traceparents.items()}
        start += len(part)
    return Records(
        np.concatenate([p.partitions for p in parts]),
        np.concatenate([p.offsets for p in parts]),
        [key for p in parts for key in p.keys],
        [value for p in parts for value in p.values],
        traceparents,
    )


class FileSource:
    """JSON lines from a file, a .gz file, or stdin (`-`); read once, or followed as it grows.

    Raises InputError when the file cannot be read, SourceGone when recorded lines are no longer there.
    """

    wall_clock = False
    mark = ""  # a file may be moved; that it was changed shows in the hashes

    def __init__(self, path: str, follow: bool = False) -> None:
        self._path = path
        self._follow = follow
        self.finite = not follow
        if follow and path.endswith(".gz"):
            raise InputError(
                f"{path}: a compressed file cannot be followed; unpack it, or leave out --follow"
            )
        self._lines: _Lines | None = None
        self._replay: tuple[int, _Lines] | None = None  # next line number, reader
        self._next = 0

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        self._lines = _Lines(self._path, self._follow)
        return not stopping()

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        try:
            self.seek(positions)
        except SourceGone:
            self._rewind()  # what was skipped on the way is to be read
        return {0: self._next}

    def seek(self, positions: Mapping[int, int]) -> None:
        self._check_partitions(positions)
        self._close_replay()
        target = positions.get(0, 0)
        assert self._lines is not None, "open before seek"
        if self._path == "-" and target:
            raise _gone_stdin()
        if target < self._next:
            self._rewind()
        self._skip(self._lines, target - self._next)
        self._next = target

    def _rewind(self) -> None:
        assert self._lines is not None, "open before seek"
        self._lines.close()
        self._lines, self._next = _Lines(self._path, self._follow), 0

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        assert self._lines is not None, "open before poll"
        values = self._lines.take(max_records, timeout_s)
        if values is None:
            return None
        start, self._next = self._next, self._next + len(values)
        ranges = (Range(0, start, self._next),) if values else ()
        return _records(0, start, values), ranges

    def read(self, ranges: Sequence[Range]) -> Records:
        self._check_partitions([r.partition for r in ranges])
        return join([self._read(r) for r in ranges])

    def _check_partitions(self, partitions: Iterable[int]) -> None:
        if any(p < 0 for p in partitions):
            raise SourceGone(
                f"{self._path}: recorded steps obeyed commands from a file beside it; give it with --control"
            )

    def _read(self, r: Range) -> Records:
        if self._path == "-":
            raise _gone_stdin()
        if self._replay is None or self._replay[0] > r.start:
            self._close_replay()
            self._replay = (0, _Lines(self._path, follow=False))
        at, lines = self._replay
        self._skip(lines, r.start - at)
        values = self._take_all(lines, r.end - r.start)
        self._replay = (r.end, lines)
        return _records(r.partition, r.start, values)

    def _skip(self, lines: _Lines, count: int) -> None:
        while count > 0:
            count -= len(self._take_all(lines, min(count, 65_536)))

    def _take_all(self, lines: _Lines, count: int) -> list[bytes]:
        values: list[bytes] = []
        while len(values) < count:
            more = lines.take(count - len(values), 0.0)
            if not more:
                raise SourceGone(
                    f"{self._path}: ends before a line that was already processed; the file was cut or "
                    f"replaced. Bring the old file back, or {START_OVER}"
                )
            values += more
        return values

    def lag(self) -> Mapping[int, int]:
        return {0: 0}

    def close(self) -> None:
        self._close_replay()
        if self._lines is not None:
            self._lines.close()

    def _close_replay(self) -> None:
        if self._replay is not None:
            self._replay[1].close()
            self._replay = None


def _gone_stdin() -> SourceGone:
    return SourceGone("stdin cannot be read a second time; give the file, or a fresh --output folder")


class _Lines:
    """Lines of a byte stream without their line ends; None at the end of what is not followed."""

    def __init__(self, path: str, follow: bool) -> None:
        self._path = path
        self._follow = follow
        self._raw = _open(path)
        self._ready: deque[bytes] = deque()
        self._ready_bytes = 0
        self._rest = b""
        self._ended = False

    def take(self, max_lines: int, timeout_s: float) -> list[bytes] | None:
        deadline = time.monotonic() + timeout_s
        while len(self._ready) < max_lines and self._ready_bytes <= STEP_BYTES_MAX and not self._ended:
            wait_s = deadline - time.monotonic()
            chunk = self._chunk(max(0.0, wait_s))
            if chunk:
                self._split(chunk)
            elif chunk is None or self._follow:  # nothing yet
                if wait_s <= 0 or self._ready:
                    break
                if chunk is not None:
                    time.sleep(min(0.02, wait_s))
            else:
                self._ended = True
                if self._rest:
                    self._split(b"\n")
        if self._ended and not self._ready:
            return None
        return self._give(max_lines)

    def _give(self, max_lines: int) -> list[bytes]:
        """The next lines, as many as fit: a function of the lines alone, however far was read ahead."""
        lines: list[bytes] = []
        size = 0
        while self._ready and len(lines) < max_lines:
            size += len(self._ready[0])
            if lines and size > STEP_BYTES_MAX:
                break
            lines.append(self._ready.popleft())
        self._ready_bytes -= sum(map(len, lines))
        return lines

    def _chunk(self, wait_s: float) -> bytes | None:
        """The next bytes; b"" at the end; None when a pipe has nothing yet."""
        if self._path == "-" and not select.select([self._raw], [], [], wait_s)[0]:
            return None
        try:
            if isinstance(self._raw, gzip.GzipFile):
                return self._raw.read1(_CHUNK_BYTES)
            chunk = os.read(self._raw.fileno(), _CHUNK_BYTES)
            if not chunk and self._follow and self._path != "-":
                self._check_not_shorter()
            return chunk
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._path}: cannot be read further: {error}; {_MEND}") from None

    def _check_not_shorter(self) -> None:
        file = self._raw.fileno()
        if stat.S_ISREG(os.fstat(file).st_mode) and os.fstat(file).st_size < os.lseek(file, 0, os.SEEK_CUR):
            raise SourceGone(
                f"{self._path}: became shorter while it was followed; it was cut or written anew. Start over "
                f"with a fresh --output folder"
            )

    def _split(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        lines = [line.removesuffix(b"\r")[:LINE_BYTES_MAX] for line in lines]
        self._ready.extend(lines)
        self._ready_bytes += sum(map(len, lines))
        if len(self._rest) > 2 * LINE_BYTES_MAX:  # memory stays bounded, whatever the file holds
            self._rest = self._rest[:LINE_BYTES_MAX]

    def close(self) -> None:
        if self._path != "-":
            self._raw.close()


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        if path.endswith(".gz"):
            return cast(BinaryIO, gzip.open(path, "rb"))
        return Path(path).open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; name a JSON-lines file, or -") from None
