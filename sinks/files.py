"""One JSON-lines file per topic; `kill -9` at any point leaves at most a tail that is cut at restart.

A commit appends the step's records to the topic files, makes them durable, and then appends one line to
`shoal.manifest.jsonl`: the manifest, and how long every file is now. That line is the commit. At open,
every file is cut to the length that the last whole manifest line names.

Always true: what a manifest line names is on disk before the line is.

A line is {"key", "headers", "value"}: the same record that Kafka would get. A value that is not JSON (a
rejected record's original bytes) stands as text, or as "value_base64" where it is not UTF-8.
"""

from __future__ import annotations

import base64
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..stream.events import (
    CATALOG,
    CHANGES,
    LINEAGE,
    MANIFEST,
    MEMBERS,
    REJECTED,
    Manifest,
    Output,
    OutRecord,
)
from ..stream.manifest import decode_manifest, encode_manifest
from ..stream.ports import ConfigError, DiskFailed, Published

_TOPICS = (LINEAGE, CATALOG, CHANGES, MEMBERS, REJECTED)
"""The files that are ours to cut; any other file in the folder belongs to somebody else."""


class FileSink:
    """Topic files in a folder. One writer at a time: a second one gets a ConfigError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, FileIO] = {}
        self._lock: BinaryIO | None = None

    def open(self) -> Manifest | None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            last, lengths = self._last_commit()
            for topic in _TOPICS:
                if self.path(topic).exists():
                    _cut(self.path(topic), lengths.get(topic, 0))
            return last
        except OSError as error:
            raise DiskFailed(
                f"{self._directory}: {error.strerror}: is it a folder you may write to?"
            ) from None

    def last(self) -> Manifest | None:
        """Without the lock: somebody else may be writing."""
        found = None
        for manifest in self.manifests():
            found = manifest
        return found

    def confirm(self) -> None:
        """What was synced is there."""

    def commit(self, output: Output) -> None:
        lines: dict[str, list[bytes]] = {}
        for record in output.records:
            lines.setdefault(record.topic, []).append(encode_line(record))
        try:
            for topic, body in lines.items():
                self._append(topic, b"".join(body))
            lengths = {topic: file.tell() for topic, file in sorted(self._files.items()) if topic != MANIFEST}
            manifest = orjson.Fragment(encode_manifest(output.manifest))
            self._append(MANIFEST, orjson.dumps({"value": manifest, "lengths": lengths}) + b"\n")
        except OSError as error:
            raise DiskFailed(
                f"{self._directory}: step {output.step} could not be written: {error.strerror}. Nothing of it "
                f"counts; make room and start again"
            ) from None

    def _append(self, topic: str, data: bytes) -> None:
        file = self._file(topic)
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())

    def _file(self, topic: str) -> FileIO:
        """Open for appending, without a buffer: what failed once must not be tried again by close()."""
        if topic not in self._files:
            assert topic == MANIFEST or topic in _TOPICS, f"{topic} would not be cut after a crash"
            path = self.path(topic)
            fresh = not path.exists()
            self._files[topic] = path.open("ab", buffering=0)
            if fresh:
                _sync_folder(self._directory)
        return self._files[topic]

    def path(self, topic: str) -> Path:
        return self._directory / f"{topic}.jsonl"

    def _take_lock(self) -> None:
        self._lock = (self._directory / ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self._directory}: another shoal process writes here; stop it, or give another --output"
            ) from None

    def _last_commit(self) -> tuple[Manifest | None, dict[str, int]]:
        """The last whole manifest line; the torn one after it, if any, is cut off."""
        path = self.path(MANIFEST)
        if not path.exists():
            return None, {}
        last: dict[str, Any] | None = None
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                body = _commit_line(line)
                if body is None:
                    if file.read(1):
                        raise DiskFailed(
                            f"{path}: line {number} is damaged, and steps were committed after it. Restore the "
                            f"file, or give a fresh --output folder to compute everything again"
                        )
                    break
                last = body
                whole += len(line)
        _cut(path, whole)
        if last is None:
            return None, {}
        lengths: dict[str, int] = last["lengths"]
        for topic, length in lengths.items():
            self._check_length(topic, length)
            self._file(topic)
        return decode_manifest(orjson.dumps(last["value"])), lengths

    def _check_length(self, topic: str, length: int) -> None:
        path = self.path(topic)
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise ConfigError(
                f"{path} has {size} bytes, but {length} were committed: it was cut or replaced. Give a fresh "
                f"--output folder to compute everything again"
            )

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        path = self.path(MANIFEST)
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    manifest = decode_manifest(orjson.dumps(orjson.loads(line)["value"]))
                    if manifest.step > after:
                        yield manifest

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {0: (0, sum(1 for _ in self.published(topic)))}

    def published(self, topic: str) -> Iterator[Published]:
        path = self.path(topic)
        if path.exists():
            with path.open("rb") as file:
                for offset, line in enumerate(file):
                    yield Published(decode_line(topic, line), 0, offset)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class StdoutSink:
    """Every record as one line on stdout, with its topic. Nothing is kept, so nothing can be resumed."""

    def open(self) -> Manifest | None:
        return None

    def last(self) -> Manifest | None:
        return None

    def confirm(self) -> None:
        pass

    def commit(self, output: Output) -> None:
        for record in output.records:
            sys.stdout.buffer.write(encode_line(record, topic=record.topic))
        sys.stdout.buffer.flush()

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return iter(())

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {}

    def published(self, topic: str) -> Iterator[Published]:
        return iter(())

    def close(self) -> None:
        pass


def _commit_line(line: bytes) -> dict[str, Any] | None:
    """A line of the manifest file; None when it is not a whole one."""
    try:
        body = orjson.loads(line) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) and body.keys() >= {"value", "lengths"} else None


def encode_line(record: OutRecord, **extra: str) -> bytes:
    """One record as a JSON line."""
    body: dict[str, Any] = dict(extra)
    body |= _bytes("key", record.key)
    body["headers"] = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    if record.topic == REJECTED:
        body |= _bytes("value", record.value)
    else:
        body["value"] = None if record.value is None else orjson.Fragment(record.value)
    return orjson.dumps(body) + b"\n"


def decode_line(topic: str, line: bytes) -> OutRecord:
    """The record that `encode_line` was given."""
    body = orjson.loads(line)
    if topic == REJECTED:
        value = _unbytes("value", body)
    else:
        value = None if body["value"] is None else _value_bytes(line)
    headers = tuple((name, text.encode()) for name, text in body["headers"].items())
    return OutRecord(topic, _unbytes("key", body), value, headers)


def _value_bytes(line: bytes) -> bytes:
    """The value exactly as it was written: it is the last field of the line."""
    marker = b',"value":'
    return line[line.index(marker) + len(marker) : -2]


def _bytes(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _unbytes(name: str, body: dict[str, Any]) -> bytes | None:
    if f"{name}_base64" in body:
        return base64.b64decode(body[f"{name}_base64"])
    text = body[name]
    return None if text is None else str(text).encode()


def _cut(path: Path, length: int) -> None:
    if path.stat().st_size > length:
        with path.open("r+b") as file:
            file.truncate(length)
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
