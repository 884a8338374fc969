"""Snapshots of older versions, brought up to date: one function from each version of the format to the next.

A migration changes what `packing.unpack` gave; it may take it apart. When a part's `snapshot()` changes its
layout: raise `packing.FORMAT`, and add here how a state of the old layout becomes one of the new. Where that
cannot be said (the old state lacks what is needed), leave the old version out of MIGRATIONS: such a snapshot
is passed over, and recovery replays the recorded steps instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .packing import FORMAT
from .ports import State


def check_way(version: int) -> None:
    """Raises ValueError where nothing leads from format `version` to today's."""
    for passed in range(version, FORMAT):
        if passed not in MIGRATIONS:
            raise ValueError(f"it has format {version}, and nothing leads from there to {FORMAT}")


def migrate(body: State, version: int) -> State:
    """`body`, written with format `version`, in today's. Raises ValueError where there is no way."""
    check_way(version)
    for passed in range(version, FORMAT):
        body = MIGRATIONS[passed](body)
    return body


MIGRATIONS: Mapping[int, Callable[[State], State]] = {}
"""Nothing leads from 2 to 3, nor from 3 to 4: features, embeddings and decisions are others, so every hash is too, and
an engine of the new version begins a new epoch anyway."""
