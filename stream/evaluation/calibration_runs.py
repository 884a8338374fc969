"""Placements as a run of the real pipeline published them, and what became of each.

A placement is due when its user has sent STAY_EVENTS more events by the end of the run; others say nothing, however
they ended, so that early departures do not count twice. It stayed when no later change took the user to
another segment within these events. A remap (the segment was given up) is a new placement, and ends none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..confidence import STAY_EVENTS, confidence
from ..config import Config
from ..events import F64, I64, Bool, Step
from ..pipeline import Pipeline
from ..wiring import pipeline_parts

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Placements:
    """n placements that are due, as columns, in the order in which they were published."""

    score: F64  # (n,) as published
    degree: F64  # (n,) peer: fuzzy c-means
    softmax: F64  # (n,) peer: of minus the distances, in units of their mean
    margin: F64  # (n,)
    seen: I64  # (n,) events of the user then
    first: Bool  # (n,) it was in no segment before
    centres: I64  # (n,) in use then
    lasted: I64  # (n,) events until it left; NEVER: it did not within the run

    def __len__(self) -> int:
        return len(self.score)

    @property
    def stayed(self) -> Bool:
        return self.lasted > STAY_EVENTS

    def take(self, keep: Bool) -> Placements:
        return Placements(*(getattr(self, f.name)[keep] for f in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Placements]) -> Placements:
        return Placements(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Placements)))


def placements(config: Config, steps: Iterator[Step]) -> Placements:
    """Run the pipeline over the steps. Nobody may leave: `features.keep_ms` and `users_max` are large enough."""
    pipeline = Pipeline(config, *pipeline_parts(config))
    columns: list[tuple[F64, ...]] = []
    for step in steps:
        pipeline.step(step)
        columns += _published(pipeline)
    table = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
    slot, before, same = table[0].astype(np.int64), table[6] > 0, table[7] > 0
    seen = table[5].astype(np.int64)
    lasted = _lasted(slot, seen, before & ~same)
    due = pipeline.users.events_seen[slot] - seen >= STAY_EVENTS
    score, degree, softmax, margin = table[1:5]
    centres = table[8].astype(np.int64)
    return Placements(score, degree, softmax, margin, seen, ~before, centres, lasted).take(due)


def _published(pipeline: Pipeline) -> Iterator[tuple[F64, ...]]:
    for told in pipeline.narrator.told():
        m, scored = told.moves, told.scored
        if scored is None or not len(m):
            continue
        distances = scored.distances[m.row]
        margin, degree = confidence(distances, m.centre_after)
        facts = (
            m.slot,
            m.score,
            degree,
            _softmax(distances, m),
            margin,
            m.events_seen,
            m.before,
            m.remapped(),
        )
        centres = np.full(len(m), int((pipeline.membership.ids > 0).sum()))
        yield tuple(np.asarray(column, np.float64) for column in (*facts, centres))


def _softmax(distances: F64, moves: object) -> F64:
    """Of minus the distances in units of their mean over the centres in use: what one would write down first."""
    chosen = moves.centre_after  # type: ignore[attr-defined]
    d = np.sqrt(distances)
    used = np.isfinite(d)
    unit = np.where(used, d, 0.0).sum(axis=1, keepdims=True) / used.sum(axis=1, keepdims=True)
    weight = np.exp(-np.where(used, d, np.inf) / np.maximum(unit, 1e-300))
    rows = np.arange(len(d))
    share: F64 = weight[rows, chosen] / weight.sum(axis=1)
    return share


def _lasted(slot: I64, seen: I64, moved: Bool) -> I64:
    """(n,) events from each change of a user to its next move; changes in the order of time."""
    lasted = np.full(len(slot), NEVER, np.int64)
    next_move: dict[int, int] = {}
    for i in range(len(slot) - 1, -1, -1):
        user = int(slot[i])
        if user in next_move:
            lasted[i] = next_move[user] - seen[i]
        if moved[i]:
            next_move[user] = int(seen[i])
    return lasted
