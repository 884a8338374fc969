"""Snapshots of older versions, brought up to date: one function from each version of the format to the next.

A migration changes what `packing.unpack` gave; it may take it apart. When a part's `snapshot()` changes its
layout: raise `packing.FORMAT`, and add here how a state of the old layout becomes one of the new. Where that
cannot be said (the old state lacks what is needed), leave the old version out of MIGRATIONS: such a snapshot
is passed over, and recovery replays the recorded steps instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .packing import FORMAT
from .ports import State


def migrate(body: State, version: int) -> State:
    """`body`, written with format `version`, in today's. Raises ValueError where there is no way."""
    while version < FORMAT:
        if version not in MIGRATIONS:
            raise ValueError(f"it has format {version}, and nothing leads from there to {FORMAT}")
        body = MIGRATIONS[version](body)
        version += 1
    return body


def _from_1_to_2(body: State) -> State:
    """Users and interest: rows of live users, with their slots, become rows of all slots up to the last one."""
    pipeline = body["state"]["pipeline"]
    users, interest = pipeline["users"], pipeline["features"]["interest"]
    slots, used = users.pop("slots"), len(users["names"]) + len(users["free"])
    names = [""] * used
    for slot, name in zip(slots.tolist(), users["names"], strict=True):
        names[slot] = name
    users["names"] = names
    for name in ("last_ms", "first_ms", "events_seen"):
        users[name] = _spread(users[name], slots, used)
    slots = interest.pop("slots")
    used = int(slots[-1]) + 1 if len(slots) else 0
    for name in ("sums", "reference_ms"):
        interest[name] = _spread(interest[name], slots, used)
    return body


def _spread(rows: np.ndarray, slots: np.ndarray, used: int) -> np.ndarray:
    dense = np.zeros((used, *rows.shape[1:]), rows.dtype)
    dense[slots] = rows
    return dense


MIGRATIONS: Mapping[int, Callable[[State], State]] = {1: _from_1_to_2}
