"""Two users into one: what is carried over, and what is not.

windows     exactly: features are those of a history in which all events were the survivor's, see
            `windowing/merging.py`
interest    the sums as they are, brought to one time: float rounding apart. What tokens meant when they were
            touched does not change
seen        the first and last event, and their number; days with events are added up, those of both twice
warm-up     one row, as it is now, where either had one
not         the membership, the anchor and a pin of the one who goes; what was learned from the rows of two
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..clock import Clock
from ..features import Features
from ..lifecycle import Lifecycle
from ..users import Users
from ..warmup import Warmup


class Kept(Protocol):
    """Where users' own state is."""

    clock: Clock
    users: Users
    features: Features
    warmup: Warmup
    lifecycle: Lifecycle


def carry(kept: Kept, source: int, into: int) -> None:
    """What slot `source` has is added to slot `into`; the source is to be forgotten by whoever calls."""
    kept.features.merge(source, into)
    kept.users.merge(source, into)
    kept.lifecycle.merge(source, into)
    pair = np.array([source, into], np.int32)
    if kept.warmup.forget(pair[:1]) | kept.warmup.holds(into):
        row = kept.features.rows(pair[1:], kept.users, kept.clock.now_ms)[0]
        kept.warmup.put(into, row)
