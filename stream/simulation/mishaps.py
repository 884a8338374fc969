"""What goes wrong on the way: repeats, disorder, lateness, broken clocks, and every kind of bad record.

A row's `fault` says what is wrong with it; at most one thing is, so that counts can be compared exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from ..events import I64, Reason
from .population import DAY_MS, Settings

FAULTS = ("", "duplicate", "late", "future", "absurd", *(reason.value for reason in Reason))
_CODES = {name: code for code, name in enumerate(FAULTS)}
DUPLICATE = _CODES["duplicate"]
FIRST_REJECT = _CODES[Reason.ENCODING.value]

_REPEAT_MS = 600_000  # a repeat comes at most this long after the first


def befall(rows: np.ndarray, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """Give rows (n,) their arrival and their faults; repeats are appended. In order of arrival."""
    n = len(rows)
    rows["arrival_ms"] = rows["time_ms"] + rng.integers(0, settings.disorder_ms + 1, n)
    shares = np.zeros(len(FAULTS))
    for name in ("late", "future", "absurd"):
        shares[_CODES[name]] = getattr(settings, name)
    for name, share in settings.corrupt:
        shares[_CODES[name]] = share
    shares[DUPLICATE] = settings.duplicates
    shares /= 1.0 - settings.duplicates  # repeats add records; shares are of all of them
    shares[0] = 1.0 - shares.sum()
    fate = np.searchsorted(np.cumsum(shares), rng.random(n), side="right")
    fate[fate == len(FAULTS)] = 0  # the shares may add up to a little less than one
    repeated = fate == DUPLICATE
    rows["fault"] = np.where(repeated, 0, fate)
    away_ms = rng.integers(45 * DAY_MS, 90 * DAY_MS, n)
    rows["time_ms"] -= np.where(fate == _CODES["late"], away_ms, 0)
    rows["time_ms"] += np.where(fate == _CODES["future"], 20 * away_ms, 0)
    repeats = rows[repeated]
    repeats["fault"] = DUPLICATE
    repeats["arrival_ms"] += rng.integers(0, _REPEAT_MS, len(repeats))
    together = np.concatenate([rows, repeats])
    return together[np.argsort(together["arrival_ms"], kind="stable")]


def spoil(event: Mapping[str, Any], fault: str, variant: int) -> bytes | None:
    """The record as it arrives with this fault. Variants of one fault differ, their reason does not."""
    match fault:
        case "tombstone":
            return None
        case "late" | "future":
            return orjson.dumps(event)
        case "absurd":
            return orjson.dumps({**event, "value": 1e308})
        case "encoding":
            return orjson.dumps(event).replace(b'"type":"', b'"type":"\xff\xfe', 1)
        case "json":
            line = orjson.dumps(event)
            return (line[: len(line) // 2], line + b"}", b"not json at all")[variant % 3]
        case "number":
            line = orjson.dumps({k: v for k, v in event.items() if k != "value"})
            return line[:-1] + b',"value":' + (b"NaN", b"Infinity", b"-Infinity")[variant % 3] + b"}"
        case "depth":
            return orjson.dumps({**event, "traits": _nested(20 + variant % 5)})
        case "size":
            return orjson.dumps({**event, "text": "x" * 66_000})
        case _:
            if fault == "user_id":
                event = {k: v for k, v in event.items() if k != "anonymous_id"}
            return orjson.dumps({**event, **_WRONG[fault][variant % len(_WRONG[fault])]})


def _nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"in": inner}
    return inner


_WRONG: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "schema": ({"event_id": None}, {"type": 7}, {"event_time": [1]}, {"items": "shoes"}),
    "user_id": ({"user_id": ""}, {"user_id": "u" * 129}, {"user_id": "line\nbreak"}),
    "time": ({"event_time": -1}, {"event_time": 915_148_800_000}, {"event_time": 1_767_571_200}),
}


def tally(faults: I64) -> dict[str, int]:
    """How often each fault occurs, those that occur only."""
    counts = np.bincount(faults, minlength=len(FAULTS))
    return {name: int(counts[code]) for code, name in enumerate(FAULTS) if name and counts[code]}
