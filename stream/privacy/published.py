"""What may be said of segments where small ones are folded: names, profiles and lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..catalog import Profile
from ..events import I64
from ..lineage import Lineage
from .floor import Floor


def nameless(floor: Floor, ids: I64) -> frozenset[int]:
    """Segments of `ids` (k,) that are not published under their own id, or too small for a profile of their own."""
    silent = ~floor.own() | floor.mute()
    return frozenset(ids[silent].tolist()) - {0}


def profiles(floor: Floor, found: Iterable[Profile], hidden: frozenset[int]) -> list[Profile]:
    """Of those published under their own id; of a group of small ones no more than its size."""
    own = floor.own()
    return [
        replace(one, name=f"segment {one.segment_id}", traits=(), takes_to=())
        if one.segment_id in hidden
        else one
        for one in found
        if own[one.centre]
    ]


def fact(one: Lineage, public: Mapping[int, int], unpublished: frozenset[int]) -> Lineage:
    """Its remap as people must read it: `public` says under which id a segment is published, 0: under none.

    What was never published (`unpublished`) needs no remap.
    """
    remap = tuple(
        (old, public.get(new, new))
        for old, new in one.remap
        if old not in unpublished and public.get(new, new)
    )
    return replace(one, remap=remap)
