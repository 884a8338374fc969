"""The real pipeline with planted causes: models that stand still, or users that do.

    still models   from one step on nothing is learned, tended or published: whoever moves moved itself
    held users     from one step on their raw rows do not change, whatever they do: whoever of them moves
                   was moved by the model, which goes on learning from everybody else (and from these rows)
    walkers        held users whose row is led to that of a user elsewhere, at once or over WALK scorings,
                   while the model goes on: who moves in the second half of the way, or SOON scorings later
                   at most, moved itself

At the start of the experiment every user gets a new anchor at the next scoring in its own segment. Changes
before that are not judged: their cause lies, at least in part, before the experiment. Nor are changes whose cause
is not planted: `lineage`, farewells, first assignments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..attribution import ENCODER_PUBLISHED, SEGMENT_MOVED, USER_BEHAVIOR
from ..confidence import confidence
from ..config import Config
from ..events import F32, I32, I64, Bool, Output, Scored, Step
from ..features import Features
from ..membership import MOVED, Moves
from ..pipeline import Pipeline
from ..ports import Publication
from ..users import Users
from ..wiring import pipeline_parts

WALK, SOON = 20, 8
"""Scorings that a gradual walk takes; scorings after the end of a walk in which a move is due to it."""
CLEARLY = 0.2
"""Margin from which a user may be sent elsewhere: nearer the border the model is half of the cause."""

OF_MODEL = (SEGMENT_MOVED, ENCODER_PUBLISHED)


class Held(Features):
    """Features in which some users' rows stand still, or walk from one row to another."""

    def hold(self, slots: I32, users_max: int) -> None:
        """From the next reading on, the rows of these users are what they are then."""
        self.kept: F32 = np.full((users_max, self.d), np.nan, np.float32)
        self.goal: F32 = np.full((users_max, self.d), np.nan, np.float32)
        self.pace = np.zeros(users_max)  # share of the way that a reading takes; 0: stands still
        self.gone = np.zeros(users_max)  # share of the way so far
        self.read = np.zeros(users_max, np.int64)  # readings since the walk began
        self.is_held: Bool = np.zeros(users_max, np.bool_)
        self.is_held[slots] = True

    def send(self, slots: I32, goals: F32, scorings: int) -> None:
        """These held users walk to these rows (n, d), in so many scorings."""
        self.goal[slots], self.pace[slots], self.gone[slots], self.read[slots] = goals, 1.0 / scorings, 0.0, 0

    def rows(self, slots: I32, users: Users, now_ms: int, peek: bool = False) -> F32:
        raw = super().rows(slots, users, now_ms, peek)
        if not hasattr(self, "is_held"):
            return raw
        at = np.flatnonzero(self.is_held[slots])
        mine = slots[at]
        new = np.isnan(self.kept[mine, 0])
        self.kept[mine[new]] = raw[at[new]]
        self.gone[mine] = np.minimum(self.gone[mine] + self.pace[mine], 1.0)
        self.read[mine] += self.pace[mine] > 0
        share = self.gone[mine][:, None].astype(np.float32)
        raw[at] = np.where(
            share > 0, self.kept[mine] * (1 - share) + self.goal[mine] * share, self.kept[mine]
        )
        return raw


class Experiment(Pipeline):
    """A pipeline whose models can be stopped."""

    still = False

    def _tend(self) -> bool:
        return False if self.still else super()._tend()

    def _learn(self, scored: Scored) -> Publication | None:
        if not self.still:
            return super()._learn(scored)
        self.attribution.remember(scored, self.publisher.version)
        return None

    def _decide(self, scored: Scored, step: Step) -> tuple[Scored, Moves, bool]:
        self.scored, self.moves, refolded = super()._decide(scored, step)
        return self.scored, self.moves, refolded


def experiment(config: Config) -> tuple[Held, Experiment]:
    features = Held(config.features)
    return features, Experiment(config, *pipeline_parts(config, features))


@dataclass(frozen=True, slots=True)
class Judged:
    """The n changes with a planted cause, as columns."""

    planted: list[str]  # user or model
    kind: list[str]  # what the pipeline said

    def right(self, planted: str) -> tuple[int, int]:
        """How many of these changes were called by their cause, and how many there were."""
        kinds = [kind for cause, kind in zip(self.planted, self.kind, strict=True) if cause == planted]
        wanted = (USER_BEHAVIOR,) if planted == "user" else OF_MODEL
        return sum(kind in wanted for kind in kinds), len(kinds)


@dataclass
class Trial:
    """One run: settle, plant, judge."""

    config: Config
    settle: int  # steps before the experiment begins
    held: float  # share of users whose rows stand still; 0: the models stand still instead
    walkers: float  # share of users who stand still, and are then sent elsewhere
    seed: int

    def run(self, steps: Iterator[Step]) -> Judged:
        self.features, self.pipeline = experiment(self.config)
        self.rng = np.random.default_rng([self.seed, 9])
        planted: list[str] = []
        kinds: list[str] = []
        for step in steps:
            if step.number == self.settle:
                self._begin()
            output = self.pipeline.step(step)
            if step.number >= self.settle:
                for slot, kind in self._changes(output):
                    cause = self._cause(slot)
                    if cause and kind != "lineage":
                        planted.append(cause)
                        kinds.append(kind)
                self._follow()
        return Judged(planted, kinds)

    def _begin(self) -> None:
        pipeline, n = self.pipeline, self.config.features.users_max
        users = np.flatnonzero(pipeline.membership.centre >= 0).astype(np.int32)
        pipeline.attribution.renew(users)
        self.anchored: Bool = np.zeros(n, np.bool_)
        self.walker: Bool = np.zeros(n, np.bool_)
        chosen = self.rng.random(len(users))
        if not self.held:
            pipeline.still = True
        self.features.hold(users[chosen < self.held + self.walkers], n)
        self.walker[users[chosen < self.walkers]] = True
        self.due: I64 = np.where(self.walker, self.rng.integers(3, 12, n), 0)  # scorings until it is sent
        self.known = users

    def _changes(self, output: Output) -> list[tuple[int, str]]:
        """Slot and reason of the moves that this step decided."""
        told = self.pipeline.narrator.told()
        moves = [(t.moves, t.verdict) for t in told if t.scored is not None]
        return [
            (slot, kind)
            for m, verdict in moves
            for slot, transition, kind in zip(m.slot.tolist(), m.transitions(), verdict.kind, strict=True)
            if transition == MOVED
        ]

    def _cause(self, slot: int) -> str:
        """What made this user move: user, model, or "" where that is not planted."""
        if not self.anchored[slot]:
            return ""
        if self.pipeline.still:
            return "user"
        if not self.features.is_held[slot]:
            return ""
        read = self.features.read[slot]
        if not read:
            return "model"
        late = read > 1 / self.features.pace[slot] + SOON
        return "" if late or self.features.gone[slot] < 0.5 else "user"

    def _follow(self) -> None:
        """Who has an anchor from after the beginning; who is sent elsewhere now."""
        p, scored = self.pipeline, self.pipeline.scored
        at_home = p.membership.centre[scored.slots] == scored.nearest
        self.anchored[scored.slots[at_home]] = True
        margin, _ = confidence(scored.distances, scored.nearest)
        clear = at_home & (margin >= CLEARLY) & self.walker[scored.slots]
        walkers = scored.slots[clear]
        self.due[walkers] -= 1
        ready = walkers[(self.due[walkers] == 0) & self.anchored[walkers]]
        for i, slot in enumerate(ready.tolist()):
            elsewhere = np.flatnonzero(
                (scored.nearest != p.membership.centre[slot]) & ~self.walker[scored.slots]
            )
            if len(elsewhere):
                donor = int(self.rng.choice(elsewhere))
                self.features.send(ready[i : i + 1], scored.raw[donor], 1 if slot % 2 else WALK)
