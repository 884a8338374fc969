"""Counterfactuals put to the test: the same stream again, from a snapshot, with the events that were said to be enough.

A counterfactual was checked by its own step on an edited row. Here nothing is edited but the input: events of the
user are taken out of the stream, or put into it (a copy of its last one of that type, else of somebody else's) in
the band that was named, in the newest band at the moment of the decision, and the real pipeline runs over it from
a snapshot that is older. It held when the user is in the segment that was named after the step in question.

The users of one re-run all have their edits in it, and everybody is learned from, so the models differ a little;
how much that matters show the control users: their input is as it was, and they should do what they did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from ..config import Config
from ..counterfactual import Counterfactual
from ..events import CHANNELS, Step
from ..pipeline import Pipeline
from ..values import user_key
from ..windows import window_start_ms
from ..wiring import pipeline_parts
from .simulated import step_of

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """A published counterfactual of one change."""

    step: int
    now_ms: int
    user: str
    said: Counterfactual | None  # None: a control
    decided: int  # segment id
    outcome: int  # segment id


@dataclass
class Flips:
    """How many claims were put to the test, and how many held."""

    changes: int = 0  # in the judged steps
    given: int = 0  # of them with a counterfactual
    tested: int = 0
    held: int = 0
    controls: int = 0
    same: int = 0  # controls that did what they did
    by_kind: dict[str, list[int]] = field(default_factory=dict)  # fewer, more ... -> held, tested

    def add(self, other: Flips) -> None:
        for name in ("changes", "given", "tested", "held", "controls", "same"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, (held, tested) in other.by_kind.items():
            mine = self.by_kind.setdefault(kind, [0, 0])
            mine[0] += held
            mine[1] += tested


def flips(config: Config, steps: Sequence[Step], since: int, judged: int, seed: int, users: int) -> Flips:
    """Snapshot after step `since`; claims of the steps from `judged` on; `users` of them in the second run."""
    rng = np.random.default_rng([seed, 11])
    pipeline = _pipeline(config)
    snapshot, claims, found = None, [], Flips()
    for step in steps:
        pipeline.step(step)
        if step.number == since:
            snapshot, since_ms = pipeline.snapshot(), pipeline.clock.now_ms
        if step.number >= judged:
            claims += _claims(pipeline, step.number)
    found.changes, found.given = len(claims), sum(one.said is not None for one in claims)
    assert snapshot is not None, f"no step {since} among {len(steps)}"
    events = _by_user(steps[since:])
    once = {one.user: one for one in reversed(claims)}  # each user's first
    told = [one for one in once.values() if one.said is not None]
    told = [told[i] for i in rng.permutation(len(told)).tolist()]
    plans = {
        one.user: edits for one in told if (edits := _edits(config, one, events, since_ms, rng)) is not None
    }
    chosen = [one for one in told if one.user in plans][:users]
    edited = _rewritten(steps[since:], [plans[one.user] for one in chosen])
    again = _pipeline(config)
    again.restore(snapshot)
    controls = [one for one in once.values() if one.user not in {c.user for c in chosen}]
    ends: dict[int, list[Claim]] = {}
    for one in (*chosen, *controls):
        ends.setdefault(one.step, []).append(one)
    for step in edited:
        again.step(step)
        for one in ends.get(step.number, []):
            _judge(found, one, _segment(again, one.user), one in chosen)
    return found


def _judge(found: Flips, one: Claim, segment: int, tested: bool) -> None:
    if not tested:
        found.controls += 1
        found.same += segment == one.decided
        return
    assert one.said is not None
    held = segment == one.outcome
    found.tested += 1
    found.held += held
    kind = " + ".join(sorted("more" if edit.events > 0 else "fewer" for edit in one.said.edits))
    row = found.by_kind.setdefault(kind, [0, 0])
    row[0] += held
    row[1] += 1


def _pipeline(config: Config) -> Pipeline:
    return Pipeline(config, *pipeline_parts(config))


def _segment(pipeline: Pipeline, user: str) -> int:
    slot = pipeline.users.slot(user)
    return 0 if slot is None else int(pipeline.membership.segment[slot])


def _claims(pipeline: Pipeline, number: int) -> list[Claim]:
    claims = []
    for told in pipeline.narrator.told():
        if told.scored is None or told.otherwise is None:
            continue
        remapped = told.moves.remapped().tolist()
        for i, name in enumerate(told.names):
            if remapped[i]:
                continue
            said = told.otherwise.found.get(i)
            outcome = told.otherwise.ids[said.centre] if said else 0
            claims.append(Claim(number, pipeline.clock.now_ms, name, said, int(told.moves.after[i]), outcome))
    return claims


# --- the input, rewritten -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    step: int
    place: int  # in the step
    record: Record

    @property
    def time_ms(self) -> int:
        return _ms(self.record)


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """What is taken out of the steps, and what is put in."""

    out: set[tuple[int, int]]  # (step, place)
    into: list[Record]


def _ms(record: Record) -> int:
    time = record["event_time"]
    if isinstance(time, int):
        return time
    return int(np.datetime64(str(time).removesuffix("Z"), "ms").astype(np.int64))


def _by_user(steps: Sequence[Step]) -> dict[str, list[_Seen]]:
    """Every event by user name, in order."""
    seen: dict[str, list[_Seen]] = {}
    for step in steps:
        for place, value in enumerate(step.records.values):
            record = orjson.loads(value or b"{}")
            name = record["user_id"] if "user_id" in record else "\x00" + str(record["anonymous_id"])
            seen.setdefault(name, []).append(_Seen(step.number, place, record))
    return seen


def _edits(
    config: Config, one: Claim, events: dict[str, list[_Seen]], since_ms: int, rng: np.random.Generator
) -> _Rewrite | None:
    """How the input changes for this claim; None where it reaches behind the snapshot."""
    assert one.said is not None
    horizons, mine = config.features.horizons, [e for e in events.get(one.user, []) if e.step <= one.step]
    rewrite = _Rewrite(set(), [])
    for edit in one.said.edits:
        begin_ms = window_start_ms(horizons[edit.band], one.now_ms)
        end_ms = window_start_ms(horizons[edit.band - 1], one.now_ms) if edit.band else one.now_ms + 1
        kind = CHANNELS[edit.channel]
        if edit.events < 0:
            here = [e for e in mine if begin_ms <= e.time_ms < end_ms and e.record["type"] == kind]
            here = [e for e in here if (e.step, e.place) not in rewrite.out]
            if len(here) < -edit.events:
                return None
            rewrite.out.update((e.step, e.place) for e in here[edit.events :])
            continue
        first_ms = min((e.time_ms for e in mine), default=since_ms)
        begin_ms = max(begin_ms, since_ms + 1, first_ms)
        wanted = [e for e in mine if _about(e, kind, edit.label)]
        templates = (
            wanted or [e for of_user in events.values() for e in of_user if _about(e, kind, edit.label)][:1]
        )
        if begin_ms >= end_ms or not templates or not mine:
            return None
        identity = {k: mine[-1].record[k] for k in ("user_id", "anonymous_id") if k in mine[-1].record}
        for i in range(edit.events):
            copied = {k: v for k, v in templates[-1].record.items() if k not in ("user_id", "anonymous_id")}
            made = {
                "event_id": f"added-{user_key(one.user)}-{edit.channel}-{edit.band}-{i}",
                "event_time": int(rng.integers(begin_ms, end_ms)) if edit.band else one.now_ms,
            }
            rewrite.into.append(copied | identity | made)
    return rewrite


def _about(seen: _Seen, kind: str, label: str) -> bool:
    """Whether the event is of this type and, where there is a label, about items of this category."""
    items = seen.record.get("items") or [{}]
    return seen.record["type"] == kind and (not label or items[0].get("category", [""])[0] == label)


def _rewritten(steps: Sequence[Step], rewrites: Sequence[_Rewrite]) -> list[Step]:
    """The steps with all rewrites; what is put in stands in the first step that reaches its time."""
    out = set().union(*(r.out for r in rewrites)) if rewrites else set()
    into = sorted((r for rewrite in rewrites for r in rewrite.into), key=_ms)
    made, waiting = [], 0
    for step in steps:
        values = [v for place, v in enumerate(step.records.values) if (step.number, place) not in out]
        latest_ms = max((_ms(orjson.loads(v or b"{}")) for v in step.records.values), default=0)
        fresh: list[bytes | None] = []
        while waiting < len(into) and _ms(into[waiting]) <= latest_ms:
            fresh.append(orjson.dumps(into[waiting]))
            waiting += 1
        offset = step.ranges[0].start * 4 if step.ranges else 0
        made.append(step_of(step.number, offset, [*fresh, *values], step.closing))
    return made
