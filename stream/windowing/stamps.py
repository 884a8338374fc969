"""Distinct items of a block: 64 buckets of hashed items, each stamped with the second it was last touched at."""

from __future__ import annotations

import numpy as np

from ..compiling import kernel
from .blocks import BUCKETS, ROOM, STAMP, STAMPED, stamps_of
from .memory import load16, load32, load64, move, ones, store32, store64

SECOND_MAX = 2**32 - 1


@kernel
def stamp(block, h, bucket, second, start_s):  # type: ignore[no-untyped-def]
    """Note that an item of this bucket was touched at `second`; False where there is no room for it."""
    bit, stamps = np.int64(1) << bucket, stamps_of(block, h)
    stamped = load64(block + STAMPED)
    place = stamps + STAMP * ones(stamped & (bit - 1))
    if stamped & bit:
        store32(place, max(load32(place) & SECOND_MAX, second))
        return True
    if ones(stamped) == load16(block + ROOM):
        forget_stamps(block, h, start_s)
        stamped = load64(block + STAMPED)
        if ones(stamped) == load16(block + ROOM):
            return False
        place = stamps + STAMP * ones(stamped & (bit - 1))
    move(place + STAMP, place, stamps + STAMP * ones(stamped) - place)
    store32(place, second)
    store64(block + STAMPED, stamped | bit)
    return True


@kernel
def forget_stamps(block, h, start_s):  # type: ignore[no-untyped-def]
    """Drop the stamps from before `start_s`: no window will ever count them again."""
    stamped, kept = load64(block + STAMPED), np.int64(0)
    one = other = stamps_of(block, h)
    for bucket in range(BUCKETS):
        bit = np.int64(1) << bucket
        if stamped & bit:
            second = load32(one) & SECOND_MAX
            one += STAMP
            if second >= start_s:
                store32(other, second)
                other += STAMP
                kept |= bit
    store64(block + STAMPED, kept)
