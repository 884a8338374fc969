"""A mirror's snapshot: one JSON object, strict in both directions. No pickle."""

from __future__ import annotations

import msgspec

from .facts import Counts, Lineage, Member, Segment, Trouble

FORMAT = 1


class Stored(msgspec.Struct, forbid_unknown_fields=True):
    """Lists are in the order of the mirror's own tables, which decides who is forgotten first."""

    whole: bool
    ailing: bool
    step: int
    epoch: int
    members: list[Member]
    gone: list[tuple[int, int]]
    segments: list[Segment]
    lineage: list[Lineage]
    positions: dict[str, dict[int, int]]
    counts: Counts
    troubles: list[Trouble]
    format: int = FORMAT


def encode(stored: Stored) -> bytes:
    return msgspec.json.encode(stored)


def decode(data: bytes) -> Stored:
    """Raises ValueError when it is not a mirror's snapshot, or of another version."""
    try:
        stored = msgspec.json.decode(data, type=Stored)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a mirror's snapshot: {error}") from None
    if stored.format != FORMAT:
        raise ValueError(f"a mirror's snapshot of format {stored.format}, this version reads {FORMAT}")
    return stored
