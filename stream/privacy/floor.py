"""No small segment is published: it is folded into another one until it is large enough again.

Inside, every segment keeps its own centre, id and members; outside, people are told `public[centre]`, the id of
the segment that stands for its group. Always true after `settle`, for the sizes it was given:

    every group has `floor_members` users or more, and every segment that is in use belongs to one; or nobody is
    published at all, because all segments together have fewer users
    a group goes on while that holds: who stands for it changes only when it must, or when a part of it (one
    segment, or several near each other) has grown to `floor_members * (1 + floor_release)` users

What people have been told lags behind where they are (a step can tell only so many), so `summoned` says who must be
told in this very step, because else a reader who counts would see a group of 1 to floor - 1.

Cost: nothing where `floor_members` is 0; else one look at every user in steps where somebody waits to be told,
and a fold (k^2 e operations for k centres of e dimensions) when a group has become too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..config import Privacy
from ..events import I32, I64, Bool
from ..ports import State

Fold = Callable[[I64, int], I32]
"""fold(sizes (k,), floor) -> (k,): the centre that each is published as, so that each group has `floor` users."""


@dataclass(frozen=True, slots=True)
class Refolded:
    """What `settle` changed, by segment id; 0: nobody is published."""

    folded: tuple[tuple[int, int], ...] = ()  # (id that is no longer published, id that stands for it)
    unfolded: tuple[tuple[int, int], ...] = ()  # (id that is published, id that stood for it until now)

    def __bool__(self) -> bool:
        return bool(self.folded or self.unfolded)


class Floor:
    """Which segment stands for which. 21 bytes times `segmenter.segments`."""

    def __init__(self, config: Privacy, k: int) -> None:
        assert config.floor_members > 0, "without a floor there is nothing to fold"
        self.least = config.floor_members
        self.release = math.ceil(config.floor_members * (1 + config.floor_release))
        self._ids: I64 = np.zeros(k, np.int64)  # (k,) as of the last `settle`
        self._stands: I32 = np.full(k, -1, np.int32)  # (k,) the centre that stands for each one; -1: nobody
        self._tried: I64 = np.zeros(k, np.int64)  # (k,) users of the group when parting it was last looked at
        self._speaks: Bool = np.zeros(k, np.bool_)  # (k,) large enough by itself for a profile

    @property
    def public(self) -> I64:
        """(k,) the id under which each centre's people are published; 0: under none."""
        return np.where(self._stands >= 0, self._ids[self._stands], 0)

    def own(self) -> Bool:
        """(k,) centres that are published under their own id."""
        return self._stands == np.arange(len(self._stands))

    def mute(self) -> Bool:
        """(k,) centres that stand for a group, but have so few users themselves that they show no profile."""
        return self.own() & ~self._speaks

    def shown(self, centres: I32) -> I32:
        """(n,) the centres that stand for these; a centre that nobody stands for, and -1, stay what they are."""
        known = np.append(self._stands, np.int32(-1))[centres]
        return np.where(known >= 0, known, centres).astype(np.int32)

    def grouped(self, counts: I64) -> I64:
        """(k,) users of each group at the centre that stands for it, 0 elsewhere."""
        at = np.flatnonzero(self._stands >= 0)
        sums = np.zeros(len(counts), np.int64)
        np.add.at(sums, self._stands[at], counts[at])
        return sums

    # --- who stands for whom -----------------------------------------------------------------------------

    def settle(self, ids: I64, counts: I64, fold: Fold) -> Refolded:
        """Centres stand for segments `ids` (k,) and have `counts` (k,) users now."""
        fresh = ids != self._ids
        known, before = self._ids, self.public
        stands = self._kept(ids, fresh)
        stands = self._merged(stands, ids, counts, fold)
        stands = self._parted(self._released(stands, ids, counts), counts, fold)
        self._ids, self._stands = ids.copy(), stands
        self._speaks = (counts >= self.release) | (self._speaks & (counts >= self.least) & ~fresh)
        self._speaks |= fresh & (counts >= self.least)
        was_own = (known != 0) & (before == known)
        return self._difference(ids, fresh, before, was_own)

    def _kept(self, ids: I64, fresh: Bool) -> I32:
        """The groups as they were, without those whose segment is another one now."""
        stands = self._stands.copy()
        lost = (ids == 0) | fresh | ((stands >= 0) & fresh[stands])
        stands[lost] = -1
        return stands

    def _merged(self, stands: I32, ids: I64, counts: I64, fold: Fold) -> I32:
        """Groups that are too small join others as a whole; new segments are groups of their own so far."""
        used = np.flatnonzero(ids)
        nobody = np.full(len(ids), -1, np.int32)
        if counts[used].sum() < (self.least if self.public.any() else self.release):
            return nobody
        group = np.where(stands >= 0, stands, np.arange(len(ids), dtype=np.int32))[used]
        sizes = np.bincount(group, counts[used], len(ids)).astype(np.int64)  # (k,)
        if (sizes[group] < self.least).any():
            group = fold(sizes, self.least)[group]
            assert (group >= 0).all(), f"{counts[used].sum()} users, and no group of {self.least}"
        nobody[used] = group
        return nobody

    def _released(self, stands: I32, ids: I64, counts: I64) -> I32:
        """Folded segments that have grown stand for themselves, or for the group if the rest is too small."""
        grown = np.flatnonzero((stands >= 0) & (counts >= self.release) & (stands != np.arange(len(stands))))
        if not len(grown):
            return stands
        stands = stands.copy()
        sizes = np.bincount(stands[stands >= 0], counts[stands >= 0], len(counts)).astype(np.int64)
        for centre in grown[np.argsort(ids[grown], kind="stable")].tolist():
            old = int(stands[centre])
            if old == centre:  # it took the group over a moment ago
                continue
            rest = int(sizes[old] - counts[centre])
            if rest >= self.least:
                sizes[old], sizes[centre], stands[centre] = rest, counts[centre], centre
            elif counts[old] < self.least:
                sizes[centre], sizes[old] = sizes[old], 0
                stands[stands == old] = centre
        return stands

    def _parted(self, stands: I32, counts: I64, fold: Fold) -> I32:
        """A group of small segments that has room for two becomes two. Tried again when it is a tenth larger."""
        used = stands >= 0
        sizes = np.bincount(stands[used], counts[used], len(counts)).astype(np.int64)  # (k,)
        largest = np.zeros(len(counts), np.int64)
        np.maximum.at(largest, stands[used], counts[used])
        self._tried[sizes < self._tried // 2] = 0
        due = (sizes - largest >= self.release) & (largest > 0) & (10 * sizes >= 11 * self._tried)
        for head in np.flatnonzero(due).tolist():
            self._tried[head] = sizes[head]
            members = np.flatnonzero(stands == head)
            inside = np.zeros(len(counts), np.int64)
            inside[members] = counts[members]
            parts = fold(inside, self.release)[members]
            if (parts != parts[0]).any():
                stands = stands.copy()
                stands[members] = np.where(parts == parts[members == head], head, parts)
        return stands

    def _difference(self, ids: I64, fresh: Bool, before: I64, was_own: Bool) -> Refolded:
        """In the order of ids. A segment that is new, or has ended, has its lineage fact already."""
        now, own = self.public, self.own()
        order = np.argsort(ids, kind="stable")
        folded = order[(was_own & ~own & ~fresh)[order]]
        unfolded = order[(own & ~was_own & ~fresh)[order]]
        return Refolded(
            tuple(zip(ids[folded].tolist(), now[folded].tolist(), strict=True)),
            tuple(zip(ids[unfolded].tolist(), before[unfolded].tolist(), strict=True)),
        )

    # --- who must be told --------------------------------------------------------------------------------

    def summoned(self, told: Mapping[int, int], slots: I32, here: I64, there: I64) -> I32:
        """Of the users who wait to be told, those who must be told now, ascending.

        `told`: segment id -> users who have been told it, after all that this step tells anyhow. Users `slots` (w,)
        wait: they were told `here` (w,) and belong to `there` (w,); 0: nowhere.
        """
        sizes, chosen = dict(told), np.zeros(len(slots), np.bool_)
        public = set(self.public.tolist()) - {0}
        while thin := sorted(i for i, size in sizes.items() if i and 0 < size < self.least):
            progress = False
            for segment in thin:
                size = sizes.get(segment, 0)
                if not 0 < size < self.least:
                    continue  # mended meanwhile
                joins = np.flatnonzero(~chosen & (there == segment))[: self.least - size]
                leaves = np.flatnonzero(~chosen & (here == segment))
                rows = joins if segment in public else leaves
                progress |= len(rows) > 0
                chosen[rows] = True
                for side, sign in ((here, -1), (there, 1)):
                    for found, n in zip(*np.unique(side[rows], return_counts=True), strict=True):
                        sizes[int(found)] = sizes.get(int(found), 0) + sign * int(n)
            assert progress, f"segments {thin} are too small, and nobody waits to be told: {sizes}"
        return slots[chosen]

    # --- state -------------------------------------------------------------------------------------------

    def fingerprint(self) -> bytes:
        parts = self._stands, self._ids, self._speaks, self._tried
        return b"".join(part.tobytes() for part in parts)

    def snapshot(self) -> State:
        return {name: getattr(self, f"_{name}").copy() for name in _FIELDS}

    def restore(self, state: State) -> None:
        for name in _FIELDS:
            setattr(self, f"_{name}", state[name].copy())


_FIELDS = ("ids", "stands", "speaks", "tried")
