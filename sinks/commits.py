"""The manifest file: one line per commit, {"value": the manifest, "lengths": bytes of every topic file then}.

Always true: only the last line can be torn. It is the only one whose bytes may not be durable, since each
is synced before the next is written. A torn line has no end, or, after a loss of power, an end and holes
before it. Damage anywhere else was not done by a crash, and nothing is cut or skipped because of it.

Steps ascend, so a step is found by halving the file, and the newest one by reading from its end: however
long the history is, neither costs more than a few reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from ..stream.disk import Disk
from ..stream.events import Manifest
from ..stream.manifest import decode_manifest, encode_manifest
from ..stream.ports import DiskFailed

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Commit:
    """A whole line: bytes [start, end) of the manifest file."""

    manifest: Manifest
    lengths: Mapping[str, int]  # topic -> bytes of its file that are committed
    start: int
    end: int


def encode_commit(manifest: Manifest, lengths: Mapping[str, int]) -> bytes:
    return orjson.dumps({"value": orjson.Fragment(encode_manifest(manifest)), "lengths": lengths}) + b"\n"


def newest(disk: Disk, path: Path) -> Commit | None:
    """The last commit; None where there is none yet. Raises DiskFailed when the lines before it are damaged."""
    if disk.size(path) is None:
        return None
    with disk.open(path) as file:
        size = file.seek(0, os.SEEK_END)
        start, line = _line_before(file, size)
        commit = _decode(line, start)
        if commit is None and start + len(line) == size:
            start, line = _line_before(file, start)
            commit = _decode(line, start)
    if commit is None and line:
        raise _damaged(path, start)
    return commit


def commits(disk: Disk, path: Path, after: int) -> Iterator[Commit]:
    """Those with step > after that are there now, in order. Raises DiskFailed at a damaged line."""
    last = newest(disk, path)
    if last is None:
        return
    with disk.open(path) as file:
        start = _find(file, path, last.end, after)
        while start < last.end:
            commit = _read(file, path, start)
            yield commit
            start = commit.end


def _find(file: BinaryIO, path: Path, end: int, after: int) -> int:
    """Where the first line with step > after starts; `end` if there is none.

    Always true: lines that start before `low` are of steps <= after, those from `high` on of later ones.
    """
    low, high = 0, end
    while low < high:
        start = _line_start(file, low, (low + high) // 2)
        commit = _read(file, path, start) if start < high else None
        if commit is not None and commit.manifest.step <= after:
            low = commit.end
        else:
            high = (low + high) // 2
    return low


def _line_start(file: BinaryIO, low: int, at: int) -> int:
    """The first line start from `at` on; `low` is one."""
    if at == low:
        return low
    file.seek(at - 1)
    return at - 1 + len(file.readline())


def _read(file: BinaryIO, path: Path, start: int) -> Commit:
    file.seek(start)
    commit = _decode(file.readline(), start)
    if commit is None:
        raise _damaged(path, start)
    return commit


def _line_before(file: BinaryIO, end: int) -> tuple[int, bytes]:
    """The last whole line in the bytes before `end`, and where it starts; b"" if there is none."""
    start, data = end, b""
    while start and data.count(b"\n") < 2:
        size = min(start, max(_CHUNK_BYTES, len(data)))
        start -= size
        file.seek(start)
        data = file.read(size) + data
    stop = data.rfind(b"\n") + 1
    begin = data.rfind(b"\n", 0, max(0, stop - 1)) + 1
    return start + begin, data[begin:stop]


def _decode(line: bytes, start: int) -> Commit | None:
    """None when it is not a whole line of a manifest file."""
    try:
        body = orjson.loads(line) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or not body.keys() >= {"value", "lengths"}:
        return None
    return Commit(decode_manifest(orjson.dumps(body["value"])), body["lengths"], start, start + len(line))


def _damaged(path: Path, start: int) -> DiskFailed:
    return DiskFailed(
        f"{path}: the line at byte {start} is damaged, and steps were committed after it. Restore the file, or "
        f"give a fresh --output folder to compute everything again"
    )
