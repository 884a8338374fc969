"""How many bytes the parts of a pipeline hold, by their own arrays: what grows shows by name."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..pipeline import STATEFUL, Pipeline

_SAMPLED = 1000


def sizes(pipeline: Pipeline) -> dict[str, int]:
    """Part -> bytes of its arrays (untouched pages included), lists, dictionaries and their strings.

    A part that says itself how many bytes it takes (`nbytes`) is believed.
    """
    seen: set[int] = set()
    return {name: _size(getattr(pipeline, name), seen) for name in STATEFUL}


def size_of(thing: Any) -> int:
    """Bytes that it holds, as `sizes` counts them."""
    return _size(thing, set())


def _size(thing: Any, seen: set[int]) -> int:
    if id(thing) in seen or isinstance(thing, type):
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return _size(thing.base, seen) if isinstance(thing.base, np.ndarray) else thing.nbytes
    if isinstance(thing, str | bytes | int | float):
        return sys.getsizeof(thing)
    if isinstance(thing, Mapping):
        return sys.getsizeof(thing) + _members(thing.keys(), seen) + _members(thing.values(), seen)
    if isinstance(thing, list | tuple | set | frozenset):
        return sys.getsizeof(thing) + _members(thing, seen)
    if isinstance(nbytes := getattr(thing, "nbytes", None), int):
        return nbytes  # a tensor, or a part that knows
    fields = [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
    return _members([*getattr(thing, "__dict__", {}).values(), *fields], seen)


def _members(things: Iterable[Any], seen: set[int]) -> int:
    """Of many plain things of one kind only some are measured: a million names take their time."""
    members = list(things)
    if len(members) > _SAMPLED and isinstance(members[0], str | bytes | int | float):
        some = members[:: len(members) // _SAMPLED]
        return sum(map(sys.getsizeof, some)) * len(members) // len(some)
    return sum(_size(member, seen) for member in members)
