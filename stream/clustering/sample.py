"""The newest rows the segmenter learned, with what was known about each: what interventions are decided on.

A ring: the oldest row leaves first. Two limits keep it a fair sample:

    of a step    at most `STEP_ROWS_MAX` rows, spread evenly over it (rows of a step are in slot order, old users
                 before new ones, so its end alone would be none)
    of a while   no more than let the ring reach back over `TURNS` rows for each of the people there are. The rows
                 of an hour are those of whoever is awake, again and again: many rows, few people. What serves them
                 best would be another thing an hour later, and everybody would be told, each time

So a quarter of the ring, which is what a calm look sees, is a turn of everybody; and the more people there are to be
told, the more rows a decision takes.

A row keeps the label and the distances it had when it was learned, before it moved its centre, until the
whole ring is measured again: looking costs nothing then. No chance is involved anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..events import F64, I32, I64, Bool
from ..ports import State

STEP_ROWS_MAX = 512
PER_CENTRE, ROWS_MIN, ROWS_MAX = 256, 8192, 16_384
TURNS = 4
"""As many as `people.py` looks back: after so many rows for each, most people had their turn."""
_GOLDEN = 0.6180339887498949  # where in its part of the step the next row is taken from: evenly spread, too


def sample_rows(k: int) -> int:
    """Rows kept for k centres."""
    return min(max(PER_CENTRE * k, ROWS_MIN), ROWS_MAX)


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest m rows, oldest first; even ones are fitted to, odd ones are the judge."""

    rows: F64  # (m, d)
    label: I32  # (m,) nearest centre
    second: I32  # (m,) nearest but one; -1: there is none
    near: F64  # (m,) squared distance to the nearest
    next: F64  # (m,) and to the nearest but one

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, keep: Bool | I64 | slice) -> Sample:
        return Sample(self.rows[keep], self.label[keep], self.second[keep], self.near[keep], self.next[keep])


class RecentRows:
    """At most `rows_max` rows of d values: 8 d + 32 bytes each."""

    def __init__(self, rows_max: int, d: int) -> None:
        self.rows_max = rows_max
        self.seen = 0  # rows taken so far
        self.learned = 0  # rows there were to take from
        self._learned_at: I64 = np.zeros(rows_max, np.int64)  # how many there were before each
        self._all = Sample(
            np.zeros((rows_max, d)),
            np.zeros(rows_max, np.int32), np.zeros(rows_max, np.int32),
            np.zeros(rows_max), np.zeros(rows_max),
        )  # fmt: skip

    def __len__(self) -> int:
        return min(self.seen, self.rows_max)

    def add(self, rows: Sample, most: int = STEP_ROWS_MAX, people: int = 0) -> I64:
        """Take some of the n rows, at most `most`; which ones. Rows with label -1 are passed over.

        `people`: how many there are who have rows in turn; 0: each row is of another one, so none is too many.
        """
        usable = np.flatnonzero(rows.label >= 0)
        before, self.learned = self.learned, self.learned + len(usable)
        reach = max(TURNS * people, self.rows_max)
        fair = self.learned * self.rows_max // reach - before * self.rows_max // reach
        chosen = self._spread(len(usable), min(most, fair, self.rows_max))
        places = (self.seen + np.arange(len(chosen))) % self.rows_max
        self._put(places, rows.take(usable[chosen]))
        self._learned_at[places] = before + chosen
        self.seen += len(chosen)
        taken: I64 = usable[chosen]
        return taken

    def _spread(self, n: int, most: int) -> I64:
        """Which of n rows are taken, in order: one of each part of the step."""
        if n <= most:
            return np.arange(n)
        bounds = np.arange(most + 1) * n // max(most, 1)
        inside = ((self.seen + np.arange(most)) * _GOLDEN) % 1.0
        chosen: I64 = bounds[:-1] + (inside * np.diff(bounds)).astype(np.int64)
        return chosen

    def places(self, m: int) -> I64:
        """Where the newest m rows (at most those there are) stand, oldest first."""
        m = min(m, len(self))
        found: I64 = (self.seen - m + np.arange(m)) % self.rows_max
        return found

    def newest(self, m: int) -> Sample:
        return self._all.take(self.places(m))

    def span(self, m: int) -> int:
        """Over how many learned rows the newest m reach back, taken or not."""
        at = self.places(m)
        return self.learned - int(self._learned_at[at[0]]) if len(at) else 0

    def near(self, m: int) -> F64:
        """(m,) squared distances of the newest m rows to their centres."""
        found: F64 = self._all.near[self.places(m)]
        return found

    def replace(self, sample: Sample) -> None:
        """Put the newest len(sample) rows back, measured anew or moved."""
        self._put(self.places(len(sample)), sample)

    def rename(self, names: I32) -> None:
        """Slot c is called names[c] (k,) from now on."""
        for labels in (self._all.label, self._all.second):
            labels[labels >= 0] = names[labels[labels >= 0]]

    def _put(self, places: I64, sample: Sample) -> None:
        own = self._all
        own.rows[places], own.label[places], own.second[places] = sample.rows, sample.label, sample.second
        own.near[places], own.next[places] = sample.near, sample.next

    def snapshot(self) -> State:
        held, own = len(self), self._all
        return {
            "seen": self.seen,
            "learned": self.learned,
            "learned_at": self._learned_at[:held].copy(),
            **{name: getattr(own, name)[:held].copy() for name in _COLUMNS},
        }

    def restore(self, state: State) -> None:
        self.seen = state["seen"]
        self.learned = state.get("learned", self.seen)  # before it was counted, nearly all were taken
        held = np.arange(len(self))
        self._learned_at[held] = state.get(
            "learned_at", self.seen - 1 - (self.seen - 1 - held) % self.rows_max
        )
        self._put(held, Sample(**{name: state[name] for name in _COLUMNS}))


_COLUMNS = ("rows", "label", "second", "near", "next")
