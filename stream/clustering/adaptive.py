"""The default segmenter: River's rule with steps that find their own size, and centres that are put right.

    learn   c_w += h_w (x - c_w), row after row (`steps.py`). A River object whose `halflife` is set, before each
            row, to the step used follows it bit for bit.
    tend    looks at the newest rows now and then (`attention.py`, `sample.py`) and does what is due
            (`decision.py`): a swap, or with a number of centres between bounds a merge or a split. Whoever is at
            a centre that is given up is told, so the more people there are, the more rows it takes.

Always true: centres are finite, unused ones too (they keep their last place, and never win); between two calls
of `tend`, `seed` or `carry` nothing but River's rule moves a centre; there is no randomness after `seed`; and
nothing depends on the unit or the origin of the rows.

Cost of a row: that of River's rule and 8 d operations more. `tend` does nothing in most calls; a look costs about
as much as learning the sample once.
"""

from __future__ import annotations

import numpy as np
import xxhash

from ..events import F32, F64, I32, I64
from ..ports import Intervention, State
from .attention import Attention
from .decision import Change, next_change
from .interventions import Proposal, far
from .river_rule import checked_centres, score_rows
from .sample import STEP_ROWS_MAX, RecentRows, Sample, sample_rows
from .seeding import kmeans_plus_plus
from .steps import STEP_MAX, STEP_MIN, follow

CHANGES_MAX = 4
"""Interventions of one call: each looks at the whole sample again, and a step must not wait for dozens."""

_BLOCK = 2048  # rows measured at a time: their distances to all centres are held meanwhile


class AdaptiveKMeans:
    """Between `fewest` and k centres (the same: always k) in d dimensions.

    Memory: two (k, d) arrays, and 8 d + 32 bytes for each row of the sample (`sample_rows(k)` of them).
    """

    def __init__(self, k: int, d: int, seed: int, fewest: int | None = None) -> None:
        self.k, self.d = k, d
        self.fewest = k if fewest is None else fewest
        self.centres: F64 = np.zeros((k, d), np.float64)
        self.steps: F64 = np.full(k, STEP_MAX)  # (k,) the share of the gap each centre moves at its next row
        self.used = np.ones(k, np.bool_)
        self.seeded = False
        self.version = 0
        self.skipped = 0  # rows never learned from, because a value was not finite
        self._seed = seed
        self._traces: F64 = np.zeros((k, d), np.float64)
        self._energy: F64 = np.zeros(k, np.float64)
        self._placed: I64 = np.zeros(k, np.int64)  # rows seen when an intervention put it there
        self._recent = RecentRows(sample_rows(k), d)
        self._attention = Attention(k, self._recent.rows_max)
        self._limit = np.inf  # squared distance beyond which a row counts as that far only
        self._unfinished = 0  # rows of a look at which more was due than one call does; 0: none
        self._digest = b""  # of every row that was ever taken into the sample

    # --- the port ----------------------------------------------------------------------------------------

    def seed(self, z: F32) -> None:
        """Start from a buffer (n, d), n >= 1: k-means++, each centre as old as the rows it has there.

        What is due by the buffer is done at once, swaps or, with a number between bounds, merges: nobody knows
        these centres yet.
        """
        rows = self._rows(z)
        self.used[:] = True
        self.carry(kmeans_plus_plus(rows, self.k, self._seed, self.fewest))
        measured = self._measured(rows[np.isfinite(rows).all(axis=1)])
        sizes = np.bincount(measured.label, minlength=self.k)
        self.steps = _step_of(sizes)
        self._energy = np.bincount(measured.label, measured.near, self.k) / np.maximum(sizes, 1)
        self._recent = RecentRows(self._recent.rows_max, self.d)
        self._placed[:] = 0
        self._take(measured, self._recent.rows_max)
        self._attention.begin(self._recent.seen)
        kind = "swap" if self.fewest == self.k else "merge"
        for _ in range(self.k if self._recent.seen else 0):
            change = self._next_change(len(self._recent))
            if change is None or change.kind != kind:
                break
            self._apply(change, self._newest())
            self._measure_again()
        self._placed[:] = 0

    def score(self, z: F32) -> tuple[I32, F64]:
        """Nearest centre (n,) and squared distances (n, k), infinite for slots that are not in use.

        A row that is not finite is infinitely far from all, and nearest to the first.
        """
        slots = np.flatnonzero(self.used)
        nearest, own = score_rows(self.centres[slots], self._rows(z), 2)
        if len(slots) == self.k:
            return nearest, own
        distances = np.full((len(own), self.k), np.inf)
        distances[:, slots] = own
        return slots[nearest].astype(np.int32), distances

    def learn(self, z: F32, people: int = 0) -> I32:
        """Move the winner of each row, in order; the winners (n,), -1 for rows that are not finite.

        `people`: how many there are whose rows these are, in turn; 0: each row is of another one.
        """
        return self.learn_with_steps(z, people)[0]

    def learn_with_steps(self, z: F32, people: int = 0) -> tuple[I32, F64]:
        """The same, and the step that each row was learned with (n,): River's `halflife`; 0 where it was not."""
        rows = self._rows(z)
        slots = np.flatnonzero(self.used)
        parts = [part[slots] for part in (self.centres, self.steps, self._traces, self._energy)]
        learned = follow(parts[0], rows, *parts[1:])
        self.centres[slots], self.steps[slots], self._traces[slots], self._energy[slots] = parts
        names = np.append(slots, -1).astype(np.int32)  # so that -1 stays -1
        winner, second = names[learned.winner], names[learned.second]
        self.skipped += int((winner < 0).sum())
        self._take(Sample(rows, winner, second, learned.near, learned.next), people=people)
        return winner, learned.step

    def tend(self) -> tuple[Intervention, ...]:
        """What is due, done, in order; CHANGES_MAX at most, and the next call goes on with what is left."""
        scope = self._unfinished or self._attention.due(self._recent, self._limit)
        self._unfinished = 0
        if not scope:
            return ()
        done: list[Intervention] = []
        exact = False  # whether labels and distances are those of now: at first, those of when it was learned
        self._limit = far(self._recent.near(scope), self.fewest)
        while change := self._next_change(scope):
            if len(done) == CHANGES_MAX:
                self._unfinished = scope
                break
            if exact:
                done.append(self._apply(change, self._recent.newest(scope)))
            self._measure_again()
            exact = True
        return tuple(done)

    def carry(self, centres: F64) -> None:
        """Replace the centres (k, d), as at a publication. The sample's rows go along, each with its centre.

        They were embedded by the encoder before; about where they are now is better than to know nothing for
        as long as it takes to fill the sample again, and what is inside a group moves with it.
        """
        new = checked_centres(centres, self.k, self.d)
        moved = self._newest()
        moved.rows[:] += (new - self.centres)[moved.label]
        self._recent.replace(moved)
        self.centres = new
        self._traces[:] = 0.0
        self._measure_again()
        self.seeded = True
        self.version += 1

    def permute(self, order: I64) -> None:
        """Slot i becomes what slot order[i] was; order (k,) names each slot once. Learning goes on as before."""
        for name in _BY_SLOT:
            setattr(self, name, getattr(self, name)[order].copy())
        self._recent.rename(np.argsort(order).astype(np.int32))
        self.version += 1

    def fingerprint(self) -> bytes:
        """16 bytes of everything later steps depend on; the sample by a running digest of what it took."""
        h = xxhash.xxh3_128(self._digest)
        for part in (self.centres, self.steps, self.used, self._traces, self._energy, self._placed):
            h.update(part.data)
        counters = self._recent.seen, self._attention.counters(), self._limit, self._unfinished, self.version
        h.update(repr(counters).encode())
        return h.digest()

    def snapshot(self) -> State:
        arrays = {name: getattr(self, name).copy() for name in _ARRAYS}
        scalars = {name: getattr(self, name) for name in _SCALARS}
        return {
            **{name.lstrip("_"): value for name, value in (arrays | scalars).items()},
            "recent": self._recent.snapshot(),
            "attention": self._attention.snapshot(),
        }

    def restore(self, state: State) -> None:
        for name in _ARRAYS:
            setattr(self, name, state[name.lstrip("_")].copy())
        for name in _SCALARS:
            setattr(self, name, state[name.lstrip("_")])
        self.centres = checked_centres(self.centres, self.k, self.d)
        self._recent.restore(state["recent"])
        self._attention.restore(state["attention"])

    # --- interventions -----------------------------------------------------------------------------------

    def _next_change(self, scope: int) -> Change | None:
        """What the newest `scope` rows ask for, and those before them, and how long a centre has stood, allow."""
        held = self._newest()
        at = len(held) - scope
        stood = self._recent.seen - self._placed
        return next_change(
            held.take(slice(at, None)),
            held.take(slice(at)),
            self.centres,
            self.used,
            stood,
            self.fewest,
            self._attention.calm,
        )

    def _apply(self, change: Change, sample: Sample) -> Intervention:
        """Do what was decided on this sample (m rows); the fact that says so."""
        self.version += 1
        if change.centre >= 0:
            self._bequeath(change.centre, change.into, sample)
        rows = self._recent.span(len(sample))
        if (proposal := change.proposal) is None:
            return Intervention("merge", change.centre, change.into, -1, change.reason, change.gain, rows)
        slot = change.centre if change.centre >= 0 else int(np.argmin(self.used))
        self._place(slot, proposal)
        return Intervention(change.kind, slot, change.into, proposal.out_of, change.reason, change.gain, rows)

    def _bequeath(self, centre: int, into: int, sample: Sample) -> None:
        """Give up `centre`: its heir moves to the mean of the rows it has and those it gets."""
        got = (sample.label == centre) & (sample.second == into)
        if got.any():
            own = int((sample.label == into).sum())
            total = own * self.centres[into] + sample.rows[got].sum(axis=0)
            self.centres[into] = total / (own + int(got.sum()))
            self._traces[into] = 0.0
        self.used[centre] = False

    def _place(self, slot: int, proposal: Proposal) -> None:
        """Two centres for the rows of one, each as old as its part of them."""
        pair = [proposal.out_of, slot]
        self.centres[pair] = proposal.stays, proposal.leaves
        self.steps[pair] = _step_of(np.array(proposal.sizes))
        self._traces[pair] = 0.0
        self._energy[slot] = self._energy[proposal.out_of]
        self._placed[slot] = self._recent.seen
        self.used[slot] = True

    # --- the sample --------------------------------------------------------------------------------------

    def _take(self, sample: Sample, most: int = STEP_ROWS_MAX, people: int = 0) -> None:
        taken = self._recent.add(sample, most, people)
        h = xxhash.xxh3_128(self._digest)
        h.update(self._recent.learned.to_bytes(8, "big"))
        h.update(np.ascontiguousarray(sample.rows[taken]).data)
        self._digest = h.digest()

    def _newest(self) -> Sample:
        return self._recent.newest(len(self._recent))

    def _measure_again(self) -> None:
        self._recent.replace(self._measured(self._newest().rows))
        self._limit = far(self._recent.near(len(self._recent)), self.fewest)

    def _measured(self, rows: F64) -> Sample:
        """Rows (m, d) with the labels and distances of now."""
        parts = [self._nearest_two(rows[at : at + _BLOCK]) for at in range(0, max(len(rows), 1), _BLOCK)]
        return Sample(rows, *(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _nearest_two(self, rows: F64) -> tuple[I32, I32, F64, F64]:
        """Labels of the nearest and of the second centre (m,), -1 for none; distances (m,) to both."""
        label, distances = self.score(rows)  # type: ignore[arg-type]
        at = np.arange(len(rows))
        near = distances[at, label]
        distances[at, label] = np.inf
        second = distances.argmin(axis=1).astype(np.int32)
        following = distances[at, second]
        return label, np.where(np.isfinite(following), second, -1).astype(np.int32), near, following

    def _rows(self, z: F32 | F64) -> F64:
        assert z.ndim == 2, f"rows are a matrix, got {z.ndim} dimensions"
        assert z.shape[1] == self.d, f"rows have {z.shape[1]} values, this segmenter has {self.d}"
        return np.ascontiguousarray(z, np.float64)


_ARRAYS = _BY_SLOT = ("centres", "steps", "used", "_traces", "_energy", "_placed")
_SCALARS = ("seeded", "version", "skipped", "_limit", "_unfinished", "_digest")


def _step_of(rows: I64) -> F64:
    """The step of a centre that is the mean of that many rows."""
    found: F64 = np.clip(1.0 / np.maximum(rows, 1), STEP_MIN, STEP_MAX)
    return found
