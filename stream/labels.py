"""What segments take to: decayed counts of event labels per segment, in a table of bounded size.

A user counts once per step and label, however many events it sent: one bot does not name a segment.
At the limit of LABELS_MAX labels a newcomer takes the row of the weakest label, if it came to more users
in this step than the weakest still counts for; else it is not counted. Labels are cut to LABEL_CHARS_MAX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from .events import F64, I32, I64
from .ports import State

LABELS_MAX = 1024
LABEL_CHARS_MAX = 64
_SHRINK = 10.0  # imagined users with average taste, so that thin counts do not shout
_LIFT_MIN = 1.1
_USERS_MIN = 3.0


@dataclass(frozen=True, slots=True)
class Taste:
    """A label that a segment turns to more than everybody does."""

    label: str
    share: float  # of the segment's label counts, 0..1
    lift: float  # that share over the population's, shrunk toward 1


class Labels:
    def __init__(self, k: int, half_life_rows: int, labels_max: int = LABELS_MAX) -> None:
        self._half_life_rows = half_life_rows
        self._labels_max = labels_max
        self._labels: list[str] = []
        self._index: dict[str, int] = {}
        self._counts: F64 = np.zeros((labels_max, k))  # row i counts self._labels[i]

    def learn(self, labels: Sequence[str], slots: I32, centres: I32, rows: int) -> None:
        """Count labels (n,) of users `slots` (n,) in segments `centres` (n,); -1 and "" are left out.

        `rows` is how far the decay moves on.
        """
        self._counts *= 0.5 ** (rows / self._half_life_rows)
        ids, counted = self._ids(labels), centres >= 0
        unknown = [i for i in np.flatnonzero((ids < 0) & counted).tolist() if labels[i]]
        if unknown:
            labels = [label[:LABEL_CHARS_MAX] for label in labels]
            self._admit(Counter(labels[i] for i in unknown if labels[i] not in self._index))
            ids = self._ids(labels)
        counted &= ids >= 0
        k = self._counts.shape[1]
        cells = ids[counted] * k + centres[counted]
        once = np.unique(slots[counted] * np.int64(self._counts.size) + cells)  # a user counts once in a cell
        np.add.at(self._counts.reshape(-1), once % self._counts.size, 1.0)

    def _ids(self, labels: Sequence[str]) -> I64:
        """(n,) row of each label, -1 where it has none."""
        return np.fromiter(map(self._index.get, labels, repeat(-1)), np.int64, len(labels))

    def hand_over(self, centre: int, heir: int) -> None:
        """What was counted in a segment counts in another one from now on."""
        self._counts[:, heir] += self._counts[:, centre]
        self._counts[:, centre] = 0.0

    def _admit(self, new: Counter[str]) -> None:
        """Newcomers get free rows first, then those of the weakest, or none."""
        ranked = sorted(new.items(), key=lambda item: -item[1])  # stable: first seen first
        free = self._labels_max - len(self._labels)
        for label, _ in ranked[:free]:
            self._index[label] = len(self._labels)
            self._labels.append(label)
        if len(ranked) > free:
            self._replace(ranked[free:])

    def _replace(self, ranked: list[tuple[str, int]]) -> None:
        totals = self._counts.sum(axis=1)
        weakest = np.argsort(totals, kind="stable").tolist()
        for (label, count), row in zip(ranked, weakest, strict=False):
            if count <= totals[row]:
                return
            del self._index[self._labels[row]]
            self._labels[row], self._index[label] = label, row
            self._counts[row] = 0.0

    def tastes(self, centre: int, n: int) -> list[Taste]:
        """Up to n labels that set the segment apart, strongest lift first."""
        used = self._counts[: len(self._labels)]
        own = used[:, centre]  # (l,)
        everybody = used.sum(axis=1)
        own_total, total = own.sum(), everybody.sum()
        if own_total <= 0:
            return []
        expected = everybody * (own_total / total)
        lift = (own + _SHRINK) / (expected + _SHRINK)
        strong = np.flatnonzero((lift >= _LIFT_MIN) & (own >= _USERS_MIN))
        order = sorted(strong.tolist(), key=lambda i: (-lift[i], self._labels[i]))[:n]
        return [Taste(readable(self._labels[i]), float(own[i] / own_total), float(lift[i])) for i in order]

    def snapshot(self) -> State:
        return {"labels": list(self._labels), "counts": self._counts[: len(self._labels)].copy()}

    def restore(self, state: State) -> None:
        self._labels = list(state["labels"])
        self._index = {label: i for i, label in enumerate(self._labels)}
        self._counts[:] = 0.0
        self._counts[: len(self._labels)] = state["counts"]


def readable(label: str) -> str:
    """A label from outside, fit for a name: printable characters only."""
    return "".join(c for c in label if c.isprintable()).strip() or "?"
