"""Which intervention is due, if any: the best one that the newest rows bear out.

With a fixed number of centres only swaps are possible, a merge and a split in one:

    misplaced, dead   the swap that saves most squared distance, if that is sure and material; `dead` when no
                      row of its newer half was the given-up centre's. Not if it would trade two lumps for one:
                      least squares would rather cut a large group in two than keep two small ones apart
    one_lump          the centre shares one lump with its neighbour, and another one serves two lumps; this
                      may even cost a little squared distance (`LOSS`)

With a number between bounds:

    merge             a centre without rows (`dead`) or one that shares a lump with its neighbour (`one_lump`);
                      only on the whole sample: nothing is lost by waiting
    split             a centre that serves `two_lumps`, if there is a free slot, and it is sure and material
    swap              as above, when no slot is free
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..events import F64, I32, Bool
from .interventions import MATERIAL, Cuts, Proposal, cut, far, is_sure, needed, savings, share, swaps
from .lumps import ONE, TWO, neighbours, valley, valleys
from .sample import Sample

LOSS = 0.25
"""Of a mean centre's inertia: what putting a centre where it separates two lumps may cost at most."""


@dataclass(frozen=True, slots=True)
class Change:
    """An intervention that is due."""

    kind: str  # swap, merge, split
    centre: int  # given up; -1 in a split
    into: int  # takes its rows; -1 in a split
    proposal: Proposal | None  # None in a merge
    reason: str
    gain: float  # share of the inertia, of the rows that judged it


@dataclass(frozen=True, slots=True)
class _View:
    """What a decision is made from: m rows and their centres."""

    sample: Sample
    fitted: Sample  # the even rows, by label
    judges: Sample  # the odd rows
    centres: F64  # (k, d)
    used: Bool  # (k,)
    limit: float

    def is_alive(self, centre: int) -> bool:
        """Whether any row of the newer half is its; an alarm's first rows are from before the change."""
        return bool((self.sample.label[len(self.sample) // 2 :] == centre).any())

    def neighbours(self) -> tuple[I32, F64]:
        """(k,) each centre's neighbour and (k,) the valley between them; dear, so only asked when it decides."""
        heirs = neighbours(self.sample, self.centres, self.used)
        return heirs, valleys(self.sample, self.centres, heirs)


def next_change(sample: Sample, centres: F64, used: Bool, fewest: int, whole: bool) -> Change | None:
    """The change that is due first. `whole`: the sample is all there is, and calm."""
    order = np.argsort(sample.label[::2], kind="stable")
    fitted, judges = sample.take(2 * order), sample.take(np.arange(1, len(sample), 2))
    view = _View(sample, fitted, judges, centres, used, far(sample.near))
    if fewest < len(used):
        if whole and used.sum() > fewest and (merge := _merge(view)):
            return merge
        if not used.all():
            return _split(view)
    return _swap(view)


def _merge(view: _View) -> Change | None:
    heirs, between = view.neighbours()
    sizes = np.bincount(view.sample.label, minlength=len(view.used))
    candidates = np.flatnonzero(view.used & (heirs >= 0) & ((between <= ONE) | (sizes == 0)))
    if not len(candidates):
        return None
    r = int(candidates[np.argmin(sizes[candidates])])
    return Change("merge", r, int(heirs[r]), None, "one_lump" if sizes[r] else "dead", 0.0)


def _split(view: _View) -> Change | None:
    proposal = _two_lumps(view, cut(view.fitted, len(view.used), view.limit))
    if proposal is None or (gain := _sure_gain(view, proposal)) is None:
        return None
    return Change("split", -1, -1, proposal, "two_lumps", gain)


def _swap(view: _View) -> Change | None:
    if view.used.sum() < 2:
        return None
    cuts = cut(view.fitted, len(view.used), view.limit)
    cost = needed(view.fitted, view.used, view.limit)
    return _saving_swap(view, cuts, cost) or _lump_swap(view, cuts, cost)


def _saving_swap(view: _View, cuts: Cuts, cost: F64) -> Change | None:
    for proposal in swaps(cuts, cost):
        gain = _sure_gain(view, proposal)
        if gain is None:
            continue
        r = proposal.centre
        alive = view.is_alive(r)
        heirs, between = view.neighbours()
        if not (alive and between[r] > ONE and _depth(view.judges, proposal) <= ONE):
            return Change("swap", r, int(heirs[r]), proposal, "misplaced" if alive else "dead", gain)
    return None


def _lump_swap(view: _View, cuts: Cuts, cost: F64) -> Change | None:
    proposal = _two_lumps(view, cuts)
    if proposal is None:
        return None
    heirs, between = view.neighbours()
    shared = np.where(between <= ONE, cost, np.inf)
    shared[proposal.out_of] = np.inf
    r = int(np.argmin(shared))
    if not np.isfinite(shared[r]):
        return None
    proposal = replace(proposal, centre=r)
    gain = share(savings(view.judges, proposal, view.limit), view.judges.near, view.limit)
    if gain < -LOSS / len(view.used):
        return None
    return Change("swap", r, int(heirs[r]), proposal, "one_lump", max(gain, 0.0))


def _sure_gain(view: _View, proposal: Proposal) -> float | None:
    """What the proposal saves, by the rows that had no say in it; None if that is not sure, or not material."""
    saved = savings(view.judges, proposal, view.limit)
    gain = share(saved, view.judges.near, view.limit)
    return gain if is_sure(saved) and gain >= MATERIAL / len(view.used) else None


def _two_lumps(view: _View, cuts: Cuts) -> Proposal | None:
    """The cut with the deepest valley, if the rows that had no say in it show that valley too."""
    start = np.searchsorted(view.fitted.label, np.arange(len(view.used) + 1))
    best, found = ONE, None
    for c in np.flatnonzero(cuts.gains > 0.0).tolist():
        rows = view.fitted.rows[start[c] : start[c + 1]]
        depth = valley(rows, cuts.halves[c, 0], cuts.halves[c, 1])
        if depth > best:
            best, found = depth, cuts.at(c)
    return found if found is not None and _depth(view.judges, found) >= TWO else None


def _depth(judges: Sample, proposal: Proposal) -> float:
    """The valley between the two parts of a cut."""
    rows = judges.rows[judges.label == proposal.out_of]
    return valley(rows, proposal.stays, proposal.leaves)
