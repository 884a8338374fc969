"""Which public segment a model's centre stands for, and every fact about segments that came to be or ended.

A centre is a slot of the model; what it stands for can change (`ports.Intervention`). A segment id stands for
one group of people, only grows, and is never used twice. So an intervention ends one id and begins another:

    given up    `merge`: the members of the old id are from now on members of the survivor; `remap` says so
    placed      `split`: a new id, drawn from among the members of its parent, who move by themselves
    warm start  `birth`; a new epoch: `death`; another name: `rename`
    too small   `fold`: published as part of another one; `unfold`: by itself again (`privacy/floor.py`)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .events import I64, Bool
from .ports import Intervention, State

FREEZE, UNFREEZE = "freeze", "unfreeze"
KINDS = ("birth", "split", "merge", "rename", "death")
FOLD, UNFOLD = (
    "fold",
    "unfold",
)  # of the privacy floor: no segment came to be or ended, so they are not counted
"""What happens to segments; FREEZE and UNFREEZE are about all of them."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What happened to a segment id: one of KINDS, FOLD or UNFOLD. `merge` names the survivor."""

    lineage_id: int
    kind: str
    segment_id: int
    decided_ms: int
    parents: tuple[int, ...] = ()
    remap: tuple[tuple[int, int], ...] = ()  # (old segment id, new segment id)


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

    def intervened(self, one: Intervention, now_ms: int) -> tuple[Lineage, ...]:
        """What an intervention means for segments: a merge, a split, or one after the other."""
        facts = []
        if one.into >= 0:
            old, survivor = int(self.ids[one.centre]), int(self.ids[one.into])
            assert old, f"centre {one.centre} was given up, but stands for no segment"
            assert survivor, f"centre {one.into} takes over, but stands for no segment"
            self.ids[one.centre] = 0
            facts.append(self._fact("merge", survivor, now_ms, (survivor, old), ((old, survivor),)))
        if one.out_of >= 0:
            facts.append(self._born(one.centre, "split", now_ms, (int(self.ids[one.out_of]),)))
        return tuple(facts)

    def _born(self, centre: int, kind: str, now_ms: int, parents: tuple[int, ...]) -> Lineage:
        assert not self.ids[centre], f"centre {centre} still stands for segment {self.ids[centre]}"
        self.ids[centre] = self.next_id
        self.next_id += 1
        return self._fact(kind, self.next_id - 1, now_ms, parents)

    def _fact(
        self,
        kind: str,
        segment_id: int,
        now_ms: int,
        parents: tuple[int, ...] = (),
        remap: tuple[tuple[int, int], ...] = (),
    ) -> Lineage:
        self.next_lineage_id += 1
        return Lineage(self.next_lineage_id - 1, kind, segment_id, now_ms, parents, remap)

    def snapshot(self) -> State:
        return {"ids": self.ids.copy(), "next_id": self.next_id, "next_lineage_id": self.next_lineage_id}

    def restore(self, state: State) -> None:
        self.ids = state["ids"].copy()
        self.next_id, self.next_lineage_id = int(state["next_id"]), int(state["next_lineage_id"])
