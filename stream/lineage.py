"""Which public segment a model's centre stands for, and every fact about segments that came to be or ended.

A centre is a slot of the model; what it stands for can change (`ports.Intervention`). A segment id stands for
one group of people, only grows, and is never used twice. Which ids go on, end and begin when centres are
rearranged is found out by asking the people (`overlap.py`); here it is written down:

    merge   the members of the old id are from now on members of the survivor; `remap` says so
    death   the same, but its people are with many others, or come no more: the survivor has what is left.
            Also at the end of an epoch, without a survivor
    split   a new id, drawn from among the members of its parent, who move by themselves
    birth   a new id, of people who are new or came from many; also at the warm start
    rename  another name
    fold    too few people: published as part of another one; `unfold`: by itself again (`privacy/floor.py`)

Every fact has its evidence, `overlap`: where the people of the old id are now, or where those of the new one
came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .events import I32, I64, Bool
from .ports import Intervention, Share, State

FREEZE, UNFREEZE = "freeze", "unfreeze"
KINDS = ("birth", "split", "merge", "rename", "death")
"""What happens to segments; FREEZE and UNFREEZE are about all of them."""
FOLD, UNFOLD = "fold", "unfold"
"""Of the privacy floor: no segment came to be or ended, so they are not counted."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What happened to a segment id: one of KINDS, FOLD or UNFOLD. `merge` names the survivor."""

    lineage_id: int
    kind: str
    segment_id: int
    decided_ms: int
    parents: tuple[int, ...] = ()
    remap: tuple[tuple[int, int], ...] = ()  # (old segment id, new segment id)
    overlap: tuple[Share, ...] = ()  # where its people are, or came from; the largest shares, 0: no segment
    people: int = 0  # how many were asked; 0: nobody


def centres_of(ids: I64, wanted: I64) -> I32:
    """(n,) the centre that stands for each segment `wanted` (n,), -1: none; `ids` (k,) of the centres."""
    order = np.argsort(ids, kind="stable")
    at = order[np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)]
    return np.where((wanted > 0) & (ids[at] == wanted), at, -1).astype(np.int32)


class Identities:
    """Segment ids by centre. Ids of segments and of lineage facts start at 1 and only grow."""

    def __init__(self, k: int) -> None:
        self.ids: I64 = np.zeros(k, np.int64)  # (k,) 0: the centre stands for no segment
        self.next_id = 1
        self.next_lineage_id = 1

    def begin(self, used: Bool, now_ms: int) -> tuple[Lineage, ...]:
        """Give every centre in use (k,) its first segment id. Called once, when the centres are seeded."""
        assert not self.ids.any(), f"begin() again: centres already stand for segments {self.ids}"
        return tuple(self._born(centre, "birth", now_ms, ()) for centre in np.flatnonzero(used).tolist())

    def froze(self, learning: bool, now_ms: int) -> Lineage:
        """Learning was stopped, or goes on: a fact about no segment (id 0)."""
        return self._fact(UNFREEZE if learning else FREEZE, 0, now_ms)

    def renamed(self, segment_id: int, now_ms: int) -> Lineage:
        """A segment's name changed: the fact that says so."""
        return self._fact("rename", segment_id, now_ms)

    def folded(self, segment_id: int, into: int, now_ms: int) -> Lineage:
        """A segment is too small to be published: `into` stands for it; 0: nobody is published."""
        if not into:
            return self._fact(FOLD, segment_id, now_ms)
        return self._fact(FOLD, into, now_ms, (into, segment_id), ((segment_id, into),))

    def unfolded(self, segment_id: int, out_of: int, now_ms: int) -> Lineage:
        """A segment is published by itself again; `out_of` stood for it until now, 0: none did."""
        return self._fact(UNFOLD, segment_id, now_ms, (out_of,) if out_of else ())

    def rearranged(self, interventions: Sequence[Intervention], now_ms: int) -> tuple[Lineage, ...]:
        """Interventions of one moment, in order. A parent is named by the id it had before the first of them."""
        before = self.ids.copy()
        return tuple(fact for one in interventions for fact in self._intervened(one, before, now_ms))

    def _intervened(self, one: Intervention, before: I64, now_ms: int) -> Iterator[Lineage]:
        """What an intervention means for segments: one ends, one begins, or one after the other."""
        asked = (one.overlap, one.people)
        if one.ends:
            old, survivor = int(self.ids[one.centre]), int(self.ids[one.into])
            assert old, f"centre {one.centre} was given up, but stands for no segment"
            assert survivor, f"centre {one.into} takes over, but stands for no segment"
            self.ids[one.centre] = 0
            if one.kind == "death":
                yield self._fact("death", old, now_ms, (old,), ((old, survivor),), *asked)
            else:
                yield self._fact("merge", survivor, now_ms, (survivor, old), ((old, survivor),), *asked)
        if one.begins:
            if one.kind == "birth":
                yield self._born(one.centre, "birth", now_ms, (), *asked)
            else:
                parent = int(before[one.out_of]) or int(self.ids[one.out_of])
                yield self._born(one.centre, "split", now_ms, (parent,), *asked)

    def _born(
        self,
        centre: int,
        kind: str,
        now_ms: int,
        parents: tuple[int, ...],
        overlap: tuple[Share, ...] = (),
        people: int = 0,
    ) -> Lineage:
        assert not self.ids[centre], f"centre {centre} still stands for segment {self.ids[centre]}"
        self.ids[centre] = self.next_id
        self.next_id += 1
        return self._fact(kind, self.next_id - 1, now_ms, parents, (), overlap, people)

    def _fact(
        self,
        kind: str,
        segment_id: int,
        now_ms: int,
        parents: tuple[int, ...] = (),
        remap: tuple[tuple[int, int], ...] = (),
        overlap: tuple[Share, ...] = (),
        people: int = 0,
    ) -> Lineage:
        self.next_lineage_id += 1
        return Lineage(self.next_lineage_id - 1, kind, segment_id, now_ms, parents, remap, overlap, people)

    def snapshot(self) -> State:
        return {"ids": self.ids.copy(), "next_id": self.next_id, "next_lineage_id": self.next_lineage_id}

    def restore(self, state: State) -> None:
        self.ids = state["ids"].copy()
        self.next_id, self.next_lineage_id = int(state["next_id"]), int(state["next_lineage_id"])
