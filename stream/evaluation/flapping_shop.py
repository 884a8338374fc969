"""What the whole pipeline shows a membership policy: simulated shop users with known truth, or a file of events.

One run of the real pipeline is recorded where it asks the policy, and every policy is played over the record. That
is exact, since nothing that is learned depends on who is in which segment; but for this: users told of a segment
that was given up are scored once more, and who that is was decided by the policy that ran.

A group is a persona. A centre stands for the persona that most scored rows of users with one persona at that time
had whose nearest centre it was: the same for every policy. Where there are more segments than personas, going
from one segment of a persona to another is as needless as anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..config import Config
from ..events import I32, I64, Range, Records, Scored, Step
from ..lineage import Lineage
from ..membership import Membership, Moves
from ..pipeline import Pipeline
from ..ports import Intervention
from ..simulation.population import Settings, Span
from ..simulation.simulator import Simulator
from ..sources import FileSource
from ..wiring import pipeline_parts
from .flapping_play import Look, Scene, Truth

USERS, EVENTS, DAYS = 250, 80_000, 56.0
BOUNDARY, MOVERS, MOVES_AT = 0.2, 0.2, 0.35
STEP_RECORDS = 16  # few, as where many users share a step: one look for every few events of a user
ROWS_MAX = 4_000_000
"""Scored rows recorded at most, times centres 8 bytes each: what comes later is left out."""


class Recorder(Membership):
    """Membership that remembers what its policy was shown."""

    def __init__(self, config: Config, k: int) -> None:
        super().__init__(config.membership, config.features.users_max, k)
        self.looks: list[Look] = []
        self._given_up: list[tuple[int, int]] = []
        self._rows = 0

    def intervene(
        self, interventions: Sequence[Intervention], now_ms: int, since_ms: int = 0
    ) -> tuple[Lineage, ...]:
        self._given_up += [(one.centre, one.into if one.ends else one.centre) for one in interventions]
        return super().intervene(interventions, now_ms, since_ms)

    def tell(self, scored: Scored, target: I32, events_seen: I64, now_ms: int, step_number: int) -> Moves:
        if len(scored.slots) and self._rows < ROWS_MAX:
            self._rows += len(scored.slots)
            self.looks.append(Look(_bare(scored), events_seen.copy(), now_ms, tuple(self._given_up)))
            self._given_up = []
        return super().tell(scored, target, events_seen, now_ms, step_number)


def _bare(scored: Scored) -> Scored:
    """Only what a policy reads."""
    none = np.empty((0, 0), np.float32)
    centres = None if scored.centres is None else scored.centres.copy()
    looks = scored.nearest, scored.distances, centres, scored.events
    return Scored(scored.slots, scored.touched, none, none, none, *looks)


def recorded(config: Config, batches: Iterator[Records]) -> tuple[list[Look], Pipeline]:
    """The pipeline over these records; the looks, and the pipeline as it is then."""
    pipeline = Pipeline(config, *pipeline_parts(config))
    recorder = Recorder(config, pipeline.segmenter.k)
    pipeline.membership = recorder
    done = 0
    for number, records in enumerate(batches, start=1):
        after = done + len(records)
        pipeline.step(Step(number, (Range(0, done, after),), records, None))
        done = after
    return recorder.looks, pipeline


def shop(config: Config, seed: int, users: int = USERS, events: int = EVENTS) -> Scene:
    """The simulated shop: a fifth of the users are mixtures of two personas, a fifth become somebody else."""
    simulator = Simulator(
        Settings(
            users=users,
            events=events,
            days=DAYS,
            seed=seed,
            boundary=BOUNDARY,
            drift="abrupt",
            drift_share=MOVERS,
            drift_at=MOVES_AT,
        )
    )
    looks, pipeline = recorded(config, _simulated(simulator))
    names = pipeline.users.names(np.arange(len(pipeline.users), dtype=np.int32))
    truth = _truth(names, simulator.truth(), looks, pipeline.segmenter.k)
    return Scene(f"shop, {config.segmenter.segments} segments", pipeline.segmenter.k, looks, truth)


def file(config: Config, path: str, step_records: int) -> Scene:
    """A file of events: nobody knows the truth, so only changes can be counted."""
    looks, pipeline = recorded(config, _lines(path, step_records))
    n = 1 + max((int(look.scored.slots.max()) for look in looks), default=-1)
    nobody, k = np.full(n, -1, np.int64), pipeline.segmenter.k
    truth = Truth(nobody, nobody, np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(k))
    return Scene(path, k, looks, truth)


def _simulated(simulator: Simulator) -> Iterator[Records]:
    done = 0
    for batch in simulator.batches(STEP_RECORDS):
        n = len(batch.values)
        yield Records(np.zeros(n, np.int32), np.arange(done, done + n), batch.keys, batch.values)
        done += n


def _lines(path: str, step_records: int) -> Iterator[Records]:
    source = FileSource(path)
    source.open(lambda: False)
    while (polled := source.poll(step_records, 1.0)) is not None:
        yield polled[0]
    source.close()


def _truth(names: Sequence[str], spans: Sequence[Span], looks: Sequence[Look], k: int) -> Truth:
    personas = sorted({span.persona for span in spans})
    slot = {name: i for i, name in enumerate(names)}
    n = len(names)
    home, away = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    changed_ms = np.zeros(n, np.int64)
    begun = set()
    for span in spans:
        if span.user_id not in slot:
            continue
        user, group = slot[span.user_id], personas.index(span.persona)
        if user not in begun:
            home[user] = -1 if span.boundary else group
            begun.add(user)
        else:
            away[user], changed_ms[user] = group, span.from_ms
    seen = _seen_before(looks, changed_ms)
    unseen = (away >= 0) & (seen == 0)  # nobody knew it before: it was never anything else
    home, away = np.where(unseen, away, home), np.where(unseen, -1, away)
    group_of = _majority(looks, home, away, changed_ms, k, len(personas))
    return Truth(home, away, changed_ms, seen, group_of)


def _majority(looks: Sequence[Look], home: I64, away: I64, changed_ms: I64, k: int, groups: int) -> I64:
    """(k,) the persona that each centre stands for."""
    counts = np.zeros((k, groups), np.int64)
    for look in looks:
        t = look.scored.touched
        users = look.scored.slots[:t]
        now = np.where((away[users] >= 0) & (look.now_ms >= changed_ms[users]), away[users], home[users])
        known = now >= 0
        np.add.at(counts, (look.scored.nearest[:t][known], now[known]), 1)
    return counts.argmax(axis=1)


def _seen_before(looks: Sequence[Look], changed_ms: I64) -> I64:
    """(n,) events of each user before its change."""
    seen = np.zeros(len(changed_ms), np.int64)
    for look in looks:
        before = look.now_ms < changed_ms[look.scored.slots]
        seen[look.scored.slots[before]] = look.seen[before]
    return seen
