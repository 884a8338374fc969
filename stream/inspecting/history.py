"""What was published about one user, or about segments: read from the topics, which may be written meanwhile."""

from __future__ import annotations

from collections import deque
from typing import Any

import orjson

from ..events import CHANGES, LINEAGE
from ..ports import Published, Sink

CHANGES_MAX = 10_000
"""Of one user, the newest: nobody reads more."""

Value = dict[str, Any]


def published_changes(sink: Sink, key: str) -> list[Published]:
    """The records of segment.changes with this key, oldest first. Cost: one pass over the topic."""
    wanted = key.encode()
    found = (each for each in sink.published(CHANGES) if each.record.key == wanted)
    return list(deque(found, maxlen=CHANGES_MAX))


def changes(sink: Sink, key: str) -> list[Value]:
    """Their values, oldest first."""
    return [value for each in published_changes(sink, key) if (value := value_of(each)) is not None]


def until(history: list[Value], segment: Value | None, now_ms: int) -> list[Value]:
    """Those that a state knows: of a user that it sees in `segment` (None: in none), at its stream time."""
    if segment is not None:
        return [change for change in history if change["position"]["sequence"] <= segment["sequence"]]
    return [change for change in history if change["times"]["decided_time"] <= now_ms]


def lineage(sink: Sink) -> list[Value]:
    """Every fact about segments, oldest first."""
    return [value for each in sink.published(LINEAGE) if (value := value_of(each)) is not None]


def value_of(published: Published) -> Value | None:
    """A published value; None for what is no JSON object: only a check says something about that."""
    try:
        value = orjson.loads(published.record.value or b"null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
