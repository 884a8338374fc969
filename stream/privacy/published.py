"""What may be said of segments where small ones are folded: names, profiles and lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..catalog import Profile
from ..events import I64
from ..lineage import Lineage
from ..names import Names
from .floor import Floor


def nameless(floor: Floor, ids: I64) -> frozenset[int]:
    """Segments of `ids` (k,) that are not published under their own id, or too small for a profile of their own."""
    silent = ~floor.own() | floor.mute()
    return frozenset(ids[silent].tolist()) - {0}


def profiles(
    floor: Floor, found: Iterable[Profile], hidden: frozenset[int], public: Mapping[int, int]
) -> list[Profile]:
    """Of those published under their own id; of a group of small ones no more than its size.

    `public` says under which id a segment is published: relatives go by that one.
    """
    own = floor.own()
    return [
        _among_relatives(_bare(one) if one.segment_id in hidden else one, public)
        for one in found
        if own[one.centre]
    ]


def _bare(one: Profile) -> Profile:
    name = Names()[one.segment_id]
    names = dict.fromkeys(one.names, name)
    return replace(one, name=name, names=names, name_source="generated", traits=(), takes_to=(), exemplars=())


def _among_relatives(one: Profile, public: Mapping[int, int]) -> Profile:
    nearest = public.get(one.nearest, 0) if one.nearest is not None else 0
    groups = {}
    for level, group in one.groups.items():
        first = public.get(int(group.partition(":")[2]), 0)
        groups[level] = f"{level}:{first or one.segment_id}"
    return replace(one, groups=groups, nearest=nearest if nearest not in (0, one.segment_id) else None)


def fact(one: Lineage, public: Mapping[int, int], unpublished: frozenset[int]) -> Lineage:
    """Its remap as people must read it: `public` says under which id a segment is published, 0: under none.

    What was never published (`unpublished`) needs no remap; how many were asked is not told.
    """
    remap = tuple(
        (old, public.get(new, new))
        for old, new in one.remap
        if old not in unpublished and public.get(new, new)
    )
    return replace(one, remap=remap, overlap=(), people=0)
