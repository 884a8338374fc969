"""Snapshots of the pipeline's state: arrays and JSON in one safetensors file; a cache, never the truth.

A snapshot is written to a temporary file, made durable, and renamed; its name ends in the hash of its bytes,
so a torn or damaged one is seen at load and an older one is used. No pickle.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .ports import DiskFailed, Saved, State

FORMAT = 1
log = logging.getLogger("shoal")


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
    """The newest `kept` snapshots in a folder, one engine's. Raises DiskFailed when it cannot be written.

    After that a snapshot that fails is a warning, not an end: what was committed is safe without it, and only
    the next recovery takes longer.
    """

    def __init__(self, directory: Path, kept: int) -> None:
        self._directory = directory
        self._kept = kept
        self._finished: list[Saved] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for torn in directory.glob("snapshot-*.tmp"):  # of a process that was killed
                torn.unlink()
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise DiskFailed(
                f"engine.state_dir {directory}: {error.strerror}. Name a folder that this user may write to"
            ) from None

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Write one snapshot, atomically; a warning when the disk refused."""
        started_s = time.monotonic()
        data = pack({"step": step, "manifest_hash": manifest_hash, "state": capture()})
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        path = self._directory / f"snapshot-{step:012d}-{digest}.safetensors"
        temporary = path.with_suffix(".tmp")
        try:
            _write_durably(temporary, path, data)
            self._remove_old(step)
        except OSError as error:
            log.warning("snapshot %s could not be written (%s); going on without it", path, error.strerror)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        took_s = time.monotonic() - started_s
        self._finished.append(Saved(step, took_s, len(data), took_s))

    def finished(self) -> Sequence[Saved]:
        found, self._finished = self._finished, []
        return found

    def close(self) -> None:
        pass

    def _remove_old(self, step: int) -> None:
        """Nothing is later than the step just saved, except in a history that was given up."""
        paths = self._paths()
        later = [path for path in paths if _step_of(path) > step]
        for path in later + paths[len(later) + self._kept :]:
            path.unlink()

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        for path in self._paths():
            if _step_of(path) > not_past:
                continue
            try:
                data = path.read_bytes()
                if hashlib.blake2b(data, digest_size=8).hexdigest() != path.stem.split("-")[2]:
                    raise ValueError("its bytes do not match its name")
                body = unpack(data)
            except (OSError, ValueError, SafetensorError, KeyError) as error:
                log.warning("snapshot %s is damaged (%s); trying an older one", path.name, error)
                continue
            yield body["step"], body["manifest_hash"], body["state"]

    def _paths(self) -> list[Path]:
        """Newest first."""
        found = self._directory.glob("snapshot-*-*.safetensors")
        return sorted((path for path in found if _NAME.fullmatch(path.name)), reverse=True)


_NAME = re.compile(r"snapshot-(\d{12})-[0-9a-f]{16}\.safetensors")


def _step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def _write_durably(temporary: Path, path: Path, data: bytes) -> None:
    """All of `data` under its name, or an OSError and nothing under that name."""
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def pack(tree: State) -> bytes:
    """Nested dicts of arrays, bytes, scalars, None and lists as one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    plain = _flatten(tree, arrays)
    return save(arrays, metadata={"format": str(FORMAT), "tree": orjson.dumps(plain).decode()})


def unpack(data: bytes) -> State:
    """What `pack` was given. Raises ValueError for another format version."""
    header = orjson.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if int(header["format"]) != FORMAT:
        raise ValueError(f"snapshot format {header['format']}, this process reads {FORMAT}")
    tree: State = _unflatten(orjson.loads(header["tree"]), load(data))
    return tree


def _flatten(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for `value`, its arrays put aside under the names the JSON refers to."""
    if isinstance(value, dict):
        return {"d": {key: _flatten(inner, arrays) for key, inner in value.items()}}
    if isinstance(value, np.ndarray):
        assert value.dtype != object, "state holds an object array"
        return {"a": _put(arrays, value), "s": list(value.shape)}
    if isinstance(value, bytes):
        return {"b": _put(arrays, np.frombuffer(value, np.uint8))}
    if isinstance(value, (list, tuple)) and len(value) > 32 and all(isinstance(v, str) for v in value):
        raw = [v.encode("utf-8", "surrogatepass") for v in value]
        ends = np.cumsum([len(v) for v in raw], dtype=np.int64)
        return {"t": [_put(arrays, np.frombuffer(b"".join(raw), np.uint8)), _put(arrays, ends)]}
    if isinstance(value, (list, tuple)):
        return {"l": [_flatten(inner, arrays) for inner in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return {"i": str(value)}
    assert value is None or isinstance(value, (bool, int, float, str)), f"state holds a {type(value)}"
    return {"v": value}


def _put(arrays: dict[str, np.ndarray], value: np.ndarray) -> str:
    name = str(len(arrays))
    arrays[name] = np.ascontiguousarray(value).reshape(-1)
    return name


def _unflatten(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    ((kind, body),) = [item for item in node.items() if item[0] != "s"]
    match kind:
        case "d":
            return {key: _unflatten(inner, arrays) for key, inner in body.items()}
        case "a":
            return arrays[body].reshape(node["s"]).copy()  # loaded arrays are read-only views
        case "b":
            return arrays[body].tobytes()
        case "t":
            text, ends = arrays[body[0]].tobytes(), arrays[body[1]].tolist()
            return [
                text[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)
            ]
        case "l":
            return [_unflatten(inner, arrays) for inner in body]
        case "i":
            return int(body)
        case "v":
            return body
    raise ValueError(f"unknown node {kind!r}")
