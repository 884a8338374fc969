"""Facts made by hand: events as the columns that the pure half reads, and manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from shoal.stream.config import Features, Horizon
from shoal.stream.events import TYPE_CODES, Counts, Events, Manifest, Range

T0 = 1_699_999_200_000  # a whole hour
HORIZONS = (
    Horizon(name="10s", window_ms=10_000, tiles=5),
    Horizon(name="1m", window_ms=60_000, tiles=1),
    Horizon(name="1h", window_ms=3_600_000, tiles=4),
)


def config(**changes: object) -> Features:
    """Short windows and few users, so that a test can cross every boundary."""
    return Features(
        **{
            "horizons": HORIZONS,
            "users_max": 16,
            "keep_ms": 0,
            "dedup_max": 1024,
            "interest_dim": 8,
            **changes,
        }
    )  # type: ignore[arg-type]


@dataclass(frozen=True)
class Touch:
    user: str
    time_ms: int
    type: str = "view"
    value: float = 0.0
    quantity: float = 0.0
    dwell_ms: int = 0
    item: str = ""
    tokens: tuple[str, ...] = ()
    key: str = ""


def manifest(step: int, **changes: object) -> Manifest:
    """Of a step about which only `changes` matter; what is hashed shows nowhere."""
    base: dict[str, object] = {
        "step": step,
        "epoch": 1,
        "opening": False,
        "source": "",
        "ranges": (Range(0, 0, 1),),
        "as_of_ms": None,
        "closing": False,
        "config_hash": "c",
        "versions": {"features": "f", "encoder": 0, "segmenter": 1},
        "watermark_ms": 0,
        "counts": Counts(),
        "next_segment_id": 1,
        "next_lineage_id": 1,
        "previous_hash": f"{step - 1}" if step > 1 else "",
        "output_hash": "o",
        "state_hash": f"s{step}",
    }
    return Manifest(**(base | changes))  # type: ignore[arg-type]


def hashed(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode()) if text else 0


def columns(touches: Sequence[Touch]) -> Events:
    """The same events as columns, in the same order."""
    codes = [TYPE_CODES[touch.type] for touch in touches]
    tokens = [hashed(token) for touch in touches for token in touch.tokens]
    return Events(
        row=np.arange(len(touches), dtype=np.int32),
        users=[touch.user for touch in touches],
        event_key=np.array([hashed(touch.key) for touch in touches], np.uint64),
        channel=np.array([channel for channel, _ in codes], np.int8),
        sign=np.array([sign for _, sign in codes], np.int8),
        time_ms=np.array([touch.time_ms for touch in touches], np.int64),
        value=np.array([touch.value for touch in touches], np.float64),
        quantity=np.array([touch.quantity for touch in touches], np.float64),
        dwell_ms=np.array([touch.dwell_ms for touch in touches], np.int64),
        item=np.array([hashed(touch.item) for touch in touches], np.uint64),
        token_ptr=np.cumsum([0, *(len(touch.tokens) for touch in touches)]).astype(np.int32),
        token=np.array(tokens, np.uint64),
        labels=[touch.item for touch in touches],
    )
