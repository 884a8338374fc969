"""Which intervention is due, if any: the best one that the newest rows bear out.

With a fixed number of centres only swaps are possible, a merge and a split in one:

    misplaced, dead   the swap that saves most squared distance, if that is sure and material; `dead` when no
                      row of its newer half was the given-up centre's. Not if it would trade two lumps for one:
                      least squares would rather cut a large group in two than keep two small ones apart.
                      Nor if it is only the hour's: see below
    one_lump          the centre shares one lump with its neighbour, and another one serves two lumps; this
                      may even cost a little squared distance (`LOSS`). Only on the whole sample

With a number between bounds:

    merge             a centre without rows (`dead`) or one that shares a lump with its neighbour (`one_lump`);
                      only on the whole sample: nothing is lost by waiting
    split             a centre that serves `two_lumps`, if there is a free slot, and it is sure and material
    swap              as above, when no slot is free

A group that sleeps is not gone. Rows of one hour are alike, so counting them makes nothing sure: whole blocks of
them are the independent things. The rows before the newest m are cut into blocks of m too, as far back as the
centre to be given up has stood where it is, and what the same swap would have saved in each of them is its usual
ups and downs. A swap is due if

    it stands out     the newest block saves more than those before it let expect (`STANDS_OUT`): groups that always
                      came come no more. Two blocks before are the least, so a centre just placed is left in
                      peace; and the shorter a silence is, the more blocks there are to know it by
    it is confirmed   the newest `long` rows and the `long` rows before them each gain by it, sure and material
    it is the whole   sample that says so
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..events import F64, I32, I64, Bool
from .interventions import MATERIAL, Cuts, Proposal, cut, far, is_sure, needed, savings, share, swaps
from .lumps import ONE, TWO, neighbours, valley, valleys
from .sample import Sample

LOSS = 0.25
"""Of a mean centre's inertia: what putting a centre where it separates two lumps may cost at most."""

STANDS_OUT = (6.3, 2.9, 2.4, 2.1, 2.0)
"""Deviations, by the blocks before, from two on: what chance exceeds once in twenty times (Student's t)."""


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
    past: Sample  # the rows before those m
    stood: I64  # (k,) rows since an intervention put each centre where it is
    long: int  # rows that may confirm other rows, if they are as many

    @property
    def whole(self) -> bool:
        return not len(self.past)

    def is_alive(self, centre: int) -> bool:
        """Whether any row of the newer half is its; an alarm's first rows are from before the change."""
        return bool((self.sample.label[len(self.sample) // 2 :] == centre).any())

    def neighbours(self) -> tuple[I32, F64]:
        """(k,) each centre's neighbour and (k,) the valley between them; dear, so only asked when it decides."""
        heirs = neighbours(self.sample, self.centres, self.used)
        return heirs, valleys(self.sample, self.centres, heirs)


def next_change(
    sample: Sample, past: Sample, centres: F64, used: Bool, stood: I64, fewest: int, long: int
) -> Change | None:
    """The change that is due first, by the newest rows; without a `past` they are all that is known."""
    order = np.argsort(sample.label[::2], kind="stable")
    fitted, judges = sample.take(2 * order), sample.take(np.arange(1, len(sample), 2))
    view = _View(sample, fitted, judges, centres, used, far(sample.near, fewest), past, stood, long)
    if fewest < len(used):
        if view.whole and used.sum() > fewest and (merge := _merge(view)):
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
        if gain is None or not _is_lasting(view, proposal):
            continue
        r = proposal.centre
        alive = view.is_alive(r)
        heirs, between = view.neighbours()
        if not (alive and between[r] > ONE and _depth(view.judges, proposal) <= ONE):
            return Change("swap", r, int(heirs[r]), proposal, "misplaced" if alive else "dead", gain)
    return None


def _lump_swap(view: _View, cuts: Cuts, cost: F64) -> Change | None:
    if not view.whole:
        return None
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
    return _gain(savings(view.judges, proposal, view.limit), view.judges.near, view)


def _gain(saved: F64, near: F64, view: _View) -> float | None:
    gain = share(saved, near, view.limit)
    return gain if is_sure(saved) and gain >= MATERIAL / len(view.used) else None


def _is_lasting(view: _View, proposal: Proposal) -> bool:
    """Whether what the newest rows say is more than a mood of the hour; see the top of this module."""
    if view.whole:
        return True
    m, past = len(view.sample), len(view.past)
    near = np.concatenate([view.past.near, view.sample.near])
    saved = np.concatenate([savings(rows, proposal, view.limit) for rows in (view.past, view.sample)])
    stood = min(int(view.stood[proposal.centre]), past + m)
    part = view.long
    if (
        m == part
        and stood >= 2 * part
        and all(
            _gain(saved[at : at + part], near[at : at + part], view) is not None
            for at in (past + m - 2 * part, past + m - part)
        )
    ):
        return True
    blocks = max(stood - m, 0) // m
    before = saved[past - blocks * m : past].reshape(blocks, m).mean(axis=1)
    return _stands_out(float(saved[past + 1 :: 2].mean()), before)


def _stands_out(now: float, before: F64) -> bool:
    """Whether a number is higher than the earlier ones (b,) and their spread let expect."""
    if len(before) < 2:
        return False
    spread = before.std(ddof=1) * np.sqrt(1 + 1 / len(before))
    limit = STANDS_OUT[min(len(before) - 2, len(STANDS_OUT) - 1)]
    return bool(now - before.mean() > limit * spread)


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
