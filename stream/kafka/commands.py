"""Commands from the control topic, beside the events, with either client library.

Joins no group: whoever works the events obeys the commands, since both go into one step and one commit. Now and
then the broker is asked where the log ends, and what is there is read; so it costs a request, not a connection that
waits, and a command is obeyed within about a second.

Always true: ranges of two polls touch; nothing is read behind an end that the broker named.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ..events import Range, Records
from ..ports import START_OVER, SourceGone, nothing
from ..sources import join
from .port import Log
from .reader import to_records

log = logging.getLogger("shoal")

LOOK_EVERY_S = 0.5
Poll = tuple[Records, tuple[Range, ...]]


class KafkaCommands:
    """A source of commands, by the control topic's own partitions; empty while there is no such topic."""

    finite = False
    wall_clock = True
    mark = ""

    def __init__(
        self,
        topic: str,
        make_log: Callable[[], Log],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._make_log = make_log
        self._clock = clock
        self._log: Log | None = None
        self._there = False
        self._next: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._unrecorded: dict[int, int] = {}  # partition -> where it begins, not yet in any step's ranges
        self._looked_s = -LOOK_EVERY_S

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        """Raises BrokerGone, ConfigError (refused), Stopped."""
        try:
            self._open().bounds()
            self._there = True
        except SourceGone:
            self.close()
            log.info(
                "there is no topic %s: no commands are read; create it and start again, or see `shoal doctor`",
                self._topic,
            )
        return not stopping()

    def _open(self) -> Log:
        if self._log is None:
            self._log = self._make_log()
        return self._log

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        """From the first there is: an epoch begins without knowing who withdrew consent, and must learn it."""
        return {p: first for p, (first, _) in self._bounds().items()}

    def _bounds(self) -> dict[int, tuple[int, int]]:
        return self._open().bounds() if self._there else {}

    def seek(self, positions: Mapping[int, int]) -> None:
        bounds = self._bounds()
        for p, at in positions.items():
            if p not in bounds:
                raise SourceGone(
                    f"{self._topic} partition {p} was read before, and is not there: restore it, or {START_OVER}"
                )
            self._check(p, at, *bounds[p])
        self._next = {p: positions.get(p, first) for p, (first, _) in bounds.items()}
        self._unrecorded = {p: at for p, at in self._next.items() if p not in positions}
        self._ends = {p: end for p, (_, end) in bounds.items()}

    def _check(self, partition: int, at: int, first: int, end: int) -> None:
        if not first <= at <= end:
            raise SourceGone(
                f"{self._topic} partition {partition}: to go on at offset {at}, but the log holds [{first}, {end}): "
                f"commands were deleted before they were obeyed, or the topic was created again. Raise its "
                f"retention, and {START_OVER}"
            )

    def poll(self, max_records: int, timeout_s: float) -> Poll:
        """What is there; does not wait. Raises SourceGone when the log was truncated."""
        self._look()
        ranges = []
        for p, start in sorted(self._next.items()):
            end = min(self._ends[p], start + max_records)
            if end > start:
                max_records -= end - start
                ranges.append(Range(p, start, end))
        if not ranges:
            return Records.empty(), ()
        found = self.read(ranges)
        self._next |= {r.partition: r.end for r in ranges}
        begins = {p: Range(p, at, at) for p, at in self._unrecorded.items()}
        self._unrecorded = {}
        return found, tuple(sorted((begins | {r.partition: r for r in ranges}).values()))

    def _look(self) -> None:
        if not self._there or self._clock() - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = self._clock()
        bounds = self._open().bounds()
        for p, at in self._next.items():
            self._check(p, at, *bounds.get(p, (0, 0)))
        if len(bounds) > len(self._next):
            raise SourceGone(
                f"{self._topic} was re-partitioned while it was read: start again, the new partitions are read too"
            )
        self._ends = {p: end for p, (_, end) in bounds.items()}

    def read(self, ranges: Sequence[Range]) -> Records:
        """Works without `open`."""
        commands, parts = self._open(), []
        for r in ranges:
            commands.check(r.partition, r.start, r.end)
            parts.append(to_records(r.partition, list(commands.read(r.partition, r.start, r.end))))
        return join(parts)

    def lag(self) -> Mapping[int, int]:
        return {p: max(0, self._ends[p] - at) for p, at in self._next.items()}

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
