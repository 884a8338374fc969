"""What a run of the real pipeline knew about every event's user just before the event, and just after.

The tap sits where accepted events enter the features: users are placed as the steps before left them, and
nothing of this step has been scored or learned. After the step the same users are looked up once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..events import CHANNELS, I8, I32, I64, U64, Bool, Events, Step
from ..features import Features
from ..pipeline import Pipeline
from ..sources import FileSource
from ..wiring import pipeline_parts

TAKEN_TO = ("view", "click", "play", "favorite", "like", "cart_add", "purchase")
"""Types by which a user turns to an item; an impression is the shop's choice, a refund the opposite."""

_TAKEN_TO = np.isin(np.arange(len(CHANNELS)), [CHANNELS.index(name) for name in TAKEN_TO])


@dataclass(frozen=True, slots=True)
class Trace:
    """The n events by which somebody turned to an item, in the order of the file, as columns."""

    step: I32  # (n,) ascending
    user: I32  # (n,) numbered in the order of appearance
    item: I32  # (n,) the same
    channel: I8  # (n,)
    before: (
        I32  # (n,) the user's segment when the step began, numbered in the order of appearance; -1: none yet
    )
    after: I32  # (n,) and when it had ended

    def __len__(self) -> int:
        return len(self.step)

    @property
    def segments(self) -> int:
        """How many segments there ever were."""
        return int(max(self.before.max(initial=-1), self.after.max(initial=-1))) + 1


class Tap(Features):
    """Features that remember the events they were last updated with, and where their users were then."""

    pipeline: Pipeline

    def update(self, slots: I32, events: Events, learning: bool = True) -> None:
        self.seen = (slots, events, self.pipeline.membership.segment[slots].copy())
        super().update(slots, events, learning)


def trace(path: str, config: Config, step_records: int) -> Trace:
    """Run the pipeline over a file of events, `step_records` lines a step, in the events' own time."""
    tap, pipeline = _tapped(config)
    source = FileSource(path)
    source.open(lambda: False)
    parts: list[_Part] = []
    while (polled := source.poll(step_records, 1.0)) is not None:
        records, ranges = polled
        number = len(parts) + 1
        pipeline.step(Step(number, ranges, records, None))
        parts.append(_part(tap, pipeline, number))
    source.close()
    return _joined(parts)


def _tapped(config: Config) -> tuple[Tap, Pipeline]:
    tap = Tap(config.features)
    tap.pipeline = Pipeline(config, *pipeline_parts(config, tap))
    return tap, tap.pipeline


@dataclass(frozen=True, slots=True)
class _Part:
    """The targets of one step: user names, item hashes and public segment ids."""

    number: int
    users: list[str]
    item: U64
    channel: I8
    before: I64
    after: I64


def targets(events: Events) -> Bool:
    """(n,) which events say that somebody turned to an item."""
    taken: Bool = (events.item != 0) & (events.sign > 0) & _TAKEN_TO[events.channel]
    return taken


def _part(tap: Tap, pipeline: Pipeline, number: int) -> _Part:
    slots, events, before = tap.seen
    keep = targets(events)
    return _Part(
        number,
        [events.users[i] for i in np.flatnonzero(keep).tolist()],
        events.item[keep],
        events.channel[keep],
        before[keep],
        pipeline.membership.segment[slots[keep]],
    )


def _joined(parts: list[_Part]) -> Trace:
    sizes = [len(part.item) for part in parts]
    names: dict[str, int] = {}
    users = [names.setdefault(name, len(names)) for part in parts for name in part.users]
    segments: dict[int, int] = {0: -1}
    ids = [part.after for part in parts] + [part.before for part in parts]
    for segment in np.unique(
        np.concatenate(ids)
    ).tolist():  # public ids grow: this is the order of appearance
        segments.setdefault(segment, len(segments) - 1)
    numbered = np.vectorize(segments.__getitem__, otypes=[np.int32])
    return Trace(
        step=np.repeat([part.number for part in parts], sizes).astype(np.int32),
        user=np.array(users, np.int32),
        item=_in_order(np.concatenate([part.item for part in parts])),
        channel=np.concatenate([part.channel for part in parts]),
        before=numbered(np.concatenate([part.before for part in parts])),
        after=numbered(np.concatenate([part.after for part in parts])),
    )


def _in_order(values: U64) -> I32:
    """Values numbered from 0 in the order of their first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]
