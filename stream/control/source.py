"""Events from one source and commands from another, as one: the commands of partition p are partition -1 - p.

Of a finite input the commands are handed out after its last record, in a step of their own before the closing one;
of a followed one as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..events import Range, Records, control_partition
from ..ports import Source, nothing
from ..sources import join

Poll = tuple[Records, tuple[Range, ...]]


class WithCommands:
    """Both sources have to be of the same kind: finite, or followed."""

    def __init__(self, events: Source, commands: Source) -> None:
        assert events.finite == commands.finite, "one of them ends, the other does not"
        self._events, self._commands = events, commands
        self._ended = False  # the events
        self.finite = events.finite
        self.wall_clock = events.wall_clock

    @property
    def mark(self) -> str:
        return self._events.mark

    @mark.setter
    def mark(self, mark: str) -> None:
        self._events.mark = mark

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        return self._events.open(stopping, meanwhile) and self._commands.open(stopping, meanwhile)

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        """Commands from their first: an epoch begins without knowing who withdrew consent, and must learn it."""
        events, _ = _parted(positions)
        return {**_as_commands(self._commands.nearest({})), **self._events.nearest(events)}

    def seek(self, positions: Mapping[int, int]) -> None:
        events, commands = _parted(positions)
        self._ended = False
        self._events.seek(events)
        self._commands.seek(commands)

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        events = None if self._ended else self._events.poll(max_records, timeout_s)
        self._ended = events is None
        if events is not None and (self.finite or len(events[0]) >= max_records):
            return events
        count = max_records - (0 if events is None else len(events[0]))
        commands = self._commands.poll(count, timeout_s if events is None else 0.0)
        if commands is None:
            return events
        found = commands[0], tuple(sorted(_mirrored(r) for r in commands[1]))
        return _joined(found, events)

    def read(self, ranges: Sequence[Range]) -> Records:
        commands = [_mirrored(r) for r in ranges if r.partition < 0]
        events = [r for r in ranges if r.partition >= 0]
        parts = [_numbered(self._commands.read(commands))] if commands else []
        return join([*parts, self._events.read(events)] if events else parts)

    def lag(self) -> Mapping[int, int]:
        return {**_as_commands(self._commands.lag()), **self._events.lag()}

    def close(self) -> None:
        self._events.close()
        self._commands.close()


def _parted(positions: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Those of the events, and those of the commands by their own partitions."""
    events = {p: at for p, at in positions.items() if p >= 0}
    return events, _as_commands({p: at for p, at in positions.items() if p < 0})


def _as_commands(numbers: Mapping[int, int]) -> dict[int, int]:
    return {control_partition(p): number for p, number in numbers.items()}


def _mirrored(r: Range) -> Range:
    return Range(control_partition(r.partition), r.start, r.end)


def _numbered(records: Records) -> Records:
    """Records of the control topic's own partitions, as they stand in a step."""
    return replace(records, partitions=control_partition(records.partitions))


def _joined(commands: Poll, events: Poll | None) -> Poll:
    numbered = _numbered(commands[0])
    if events is None or not events[1]:
        return numbered, commands[1]
    return join([numbered, events[0]]), (*commands[1], *events[1])
