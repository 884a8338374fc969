"""Snapshots that an engine kept, read by others: nothing in the folder is made, changed or removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import OsDisk
from ..ports import Saved, State, Store
from ..snapshots import DirectoryStore, NoStore

Loaded = tuple[int, str, State]  # step, manifest hash, state


class KeptSnapshots(DirectoryStore):
    """A folder of snapshots for reading only; maybe the one of an engine that runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._disk = OsDisk()

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Keeps nothing."""

    def finished(self) -> Sequence[Saved]:
        return ()


class OldestFirst:
    """The snapshots of these steps, the oldest first, whatever `newest` is called for.

    `held` was loaded already: an engine that runs may remove it before it is asked for.
    """

    def __init__(self, store: Store, steps: Iterable[int], held: Loaded | None = None) -> None:
        self._store = store
        self._steps = sorted(steps)
        self._held = held
        self.given: int | None = None  # the step of the last one that was given, and not asked beyond

    def save(self, step: int, manifest_hash: str, capture: Callable[[], State]) -> None:
        """Keeps nothing."""

    def finished(self) -> Sequence[Saved]:
        return ()

    def newest(self, not_past: int) -> Iterator[tuple[int, str, State]]:
        for step in self._steps:
            saved = self._load(step) if step <= not_past else None
            if saved is not None:
                self.given = step
                yield saved
        self.given = None

    def _load(self, step: int) -> Loaded | None:
        held, self._held = self._held, None
        if held is not None and held[0] == step:
            return held
        found = next(self._store.newest(step), None)
        return found if found is not None and found[0] == step else None

    def close(self) -> None:
        pass


def kept_snapshots(state_dir: str) -> Store:
    """What `engine.state_dir` holds, to be read; nothing where there is no such folder."""
    return KeptSnapshots(Path(state_dir)) if state_dir and Path(state_dir).is_dir() else NoStore()


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the parts of two states that are not the same, bit for bit."""
    one, other = _plain(one), _plain(other)
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            inner = f"{path}.{name}" if path else str(name)
            if name in one and name in other:
                yield from differences(one[name], other[name], inner)
            else:
                yield f"{inner} (only {'computed' if name in one else 'in the snapshot'})"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        if any(next(differences(a, b), None) is not None for a, b in zip(one, other, strict=True)):
            yield path
    elif not _same(one, other):
        yield path


def _plain(value: Any) -> Any:
    """Tuples and numpy scalars come back from a file as lists and numbers."""
    if isinstance(value, tuple):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)
