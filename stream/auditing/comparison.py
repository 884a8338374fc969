"""What subscribers see of one topic, against what was computed.

Every published record must be one that was computed, in the order of its key and of its partition. What may
be missing depends on the topic, and on nothing else:

    nothing     where a partition still starts at offset 0 and the topic is not compacted
    a prefix    of a partition that starts later: retention took it. Nothing behind its first record is missing
    all but     the newest record of a key, in a compacted topic; a newest one that is a tombstone may be gone,
                if everything of that key is
    the rest    of what steps later than the bounds published: an engine may run meanwhile

Where recomputing began at a snapshot, records of the steps before it are not judged: in each partition, those
before the first record that was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..events import COMPACTED, Bool
from ..ports import Published
from .expected import Expected, digests

Bounds = Mapping[int, tuple[int, int]]  # partition -> first offset still there, end


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a topic differs from what was computed, for the first time."""

    topic: str
    what: str  # key, value, headers, value and headers, order, missing, extra, unreadable
    step: int  # that published the record, or should have; for an extra one, the last step before it
    partition: int | None  # of the published record; for a missing one, of the next one of its key, if known
    offset: int | None

    def text(self) -> str:
        at = "" if self.offset is None else f" partition {self.partition} offset {self.offset}"
        before = "" if self.offset is None else " before this offset"
        said = {
            "missing": f"a record that step {self.step} publishes is missing{before}",
            "extra": f"a record that no step publishes here; the one before it is of step {self.step}",
            "order": f"a record of step {self.step} is not at its place: the order was changed",
            "unreadable": f"not a record that Shoal writes; here should be one of step {self.step}",
        }.get(self.what, f"not the {self.what} of the record of step {self.step} that is computed again")
        return f"{self.topic}{at}: {said}"


@dataclass(slots=True)
class Tally:
    """Records of a topic."""

    compared: int = 0  # published, and the same as computed
    gone: int = 0  # computed, and deleted since by retention or compaction
    earlier: int = 0  # published by steps that were not computed


@dataclass(slots=True)
class _Place:
    """Where the reading of a partition stands."""

    step: int = 0  # of its first record that was computed; 0: none yet
    ordinal: int = -1  # of the latest one
    offset: int = -1  # of the latest record
    gapless: bool = True  # from offset 0 to there: nothing was deleted, not even transaction markers


class Comparison:
    """One topic, read once. `whole`: every step was computed; else records of earlier ones may come first."""

    def __init__(self, expected: Expected, bounds: Bounds, reached: int, whole: bool) -> None:
        """What the steps up to `reached` published must be inside the bounds; later records may be."""
        self.tally = Tally()
        self._expected = expected
        self._bounds = bounds
        self._covered = expected.until(reached)
        self._whole = whole
        self._compacted = expected.topic in COMPACTED
        self._shortened = {p for p, (first, _) in bounds.items() if first > 0}
        self._sorted = expected.by_key()
        self._next = self._sorted.first[:-1].copy()  # (g,) position of the key's next record
        self._met: Bool = np.zeros(len(self._next), np.bool_)  # (g,) a record of the key was published
        self._places = {p: _Place() for p in bounds}

    def run(self, published: Callable[[], Iterable[Published]]) -> Difference | None:
        """The first difference. What `published` gives is read once; once more where a difference is found."""
        try:
            for found in _readable(published()):
                first, end = self._bounds.get(found.partition, (0, 0))
                if first <= found.offset < end and (wrong := self._take(found)) is not None:
                    return self._diagnosed(wrong, found, published)
        except _Unreadable as error:
            return self._difference(
                "unreadable", self._behind(error.partition), error.partition, error.offset
            )
        return self._missing()

    # --- record by record --------------------------------------------------------------------------------------

    def _take(self, found: Published) -> str | None:
        """Find it among the computed ones. Otherwise what is wrong, as far as it shows at once."""
        key, value, headers = digests(found.record)
        place, group = self._places[found.partition], self._sorted.group(key)
        place.gapless &= found.offset == place.offset + 1
        place.offset = found.offset
        position = None
        if group is not None:
            end = int(self._sorted.first[group + 1])
            position = self._sorted.find(value, headers, int(self._next[group]), end)
        if group is not None and position is not None:
            return self._match(group, position, found.partition)
        if self._whole or place.step:
            return "unknown"
        self.tally.earlier += 1
        if group is not None:
            self._met[group] = True
        return None

    def _match(self, group: int, position: int, partition: int) -> str | None:
        place, ordinal = self._places[partition], int(self._sorted.ordinal[position])
        if ordinal < place.ordinal:
            return "order"
        skipped = position - int(self._next[group])
        if self._dense(partition):
            if ordinal != place.ordinal + 1:
                return "skipped"
        elif skipped and not self._may_skip(group, position, partition):
            return "skipped"
        self.tally.gone += skipped
        self.tally.compared += 1
        self._next[group], self._met[group] = position + 1, True
        place.step, place.ordinal = place.step or self._expected.step_of(ordinal), ordinal
        return None

    def _dense(self, partition: int) -> bool:
        """Every computed record must be here: it is the only partition, and nothing was deleted from it."""
        kept = not self._compacted or self._places[partition].gapless
        return kept and len(self._bounds) == 1 and not self._shortened

    def _may_skip(self, group: int, position: int, partition: int) -> bool:
        """Whether the records of this key before this one may have been deleted."""
        place = self._places[partition]
        if self._compacted and not place.gapless:
            return True
        latest = self._expected.step_of(int(self._sorted.ordinal[position - 1]))
        unseen = not place.step or latest <= place.step
        return partition in self._shortened and not self._met[group] and unseen

    # --- at the end --------------------------------------------------------------------------------------------

    def _missing(self) -> Difference | None:
        """What was computed, must be inside the bounds, and was not published."""
        by = self._sorted
        group = np.repeat(np.arange(len(self._next)), np.diff(by.first))  # (n,)
        position = np.arange(len(group))
        rest = (position >= self._next[group]) & (by.ordinal < self._covered)
        lost = ~self._met[group]
        allowed = lost & (by.ordinal < self._maybe_deleted())
        if self._compacted and not self._nothing_deleted():
            newest = position == by.first[1:][group] - 1
            allowed |= ~newest | (lost & by.tombstone())
        self.tally.gone += int((rest & allowed).sum())
        missing = by.ordinal[rest & ~allowed]
        if not len(missing):
            return None
        return self._difference("missing", int(missing.min()), None, None)

    def _nothing_deleted(self) -> bool:
        """Records stand at every offset of every partition, to its end."""
        ends = {p: end for p, (_, end) in self._bounds.items()}
        return all(place.gapless and place.offset + 1 == ends[p] for p, place in self._places.items())

    def _maybe_deleted(self) -> int:
        """Computed records before this number may have been in the part of a partition that is gone."""
        steps = [self._places[p].step for p in self._shortened]
        if not steps:
            return 0
        return self._expected.until(max(steps)) if all(steps) else len(self._expected)

    # --- what exactly is wrong ------------------------------------------------------------------------------

    def _difference(self, what: str, ordinal: int, partition: int | None, offset: int | None) -> Difference:
        step = self._expected.step_of(ordinal) if 0 <= ordinal < len(self._expected) else 0
        return Difference(self._expected.topic, what, step, partition, offset)

    def _diagnosed(
        self, wrong: str, found: Published, published: Callable[[], Iterable[Published]]
    ) -> Difference:
        """Compare with the record that should stand here, and look whether that one stands further behind."""
        wanted = self._wanted(found)
        if wanted is None:
            return self._difference("extra", self._latest(found), found.partition, found.offset)
        content = (int(self._sorted.value[wanted]), int(self._sorted.headers[wanted]))
        what, ordinal = wrong, int(self._sorted.ordinal[wanted])
        if wrong != "order":
            behind = _stands_behind(content, found, published)
            if wrong == "skipped":
                what = "order" if behind else "missing"
            elif behind or self._is_computed(found):
                what, ordinal = "extra", self._latest(found)
            else:
                what = _changed(content, digests(found.record)[1:])
        return self._difference(what, ordinal, found.partition, found.offset)

    def _wanted(self, found: Published) -> int | None:
        """Position of the record that should stand where this one does."""
        if self._dense(found.partition):
            at = np.flatnonzero(self._sorted.ordinal == self._behind(found.partition))
            return int(at[0]) if len(at) else None
        group = self._sorted.group(digests(found.record)[0])
        if group is None:
            return None
        first = self._places[found.partition].step if found.partition in self._shortened else 0
        for position in range(int(self._next[group]), int(self._sorted.first[group + 1])):
            ordinal = int(self._sorted.ordinal[position])
            if self._met[group] or self._expected.step_of(ordinal) > first:  # else retention may have it
                return position
        return None

    def _is_computed(self, found: Published) -> bool:
        """Whether a step publishes exactly this record, if not here."""
        key, value, headers = digests(found.record)
        group = self._sorted.group(key)
        if group is None:
            return False
        first, end = (int(at) for at in self._sorted.first[group : group + 2])
        return self._sorted.find(value, headers, first, end) is not None

    def _behind(self, partition: int) -> int:
        """Number of the computed record that comes after the latest one of the partition."""
        return self._places[partition].ordinal + 1 if partition in self._places else 0

    def _latest(self, found: Published) -> int:
        return self._places[found.partition].ordinal


def _changed(wanted: tuple[int, int], found: tuple[int, int]) -> str:
    if wanted[0] == found[0]:
        return "key" if wanted[1] == found[1] else "headers"
    return "value" if wanted[1] == found[1] else "value and headers"


class _Unreadable(Exception):
    """What is stored at this place is not a record that Shoal writes."""

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(partition, offset)
        self.partition, self.offset = partition, offset


def _readable(published: Iterable[Published]) -> Iterator[Published]:
    partition, offset = 0, -1
    try:
        for found in published:
            partition, offset = found.partition, found.offset
            yield found
    except (ValueError, TypeError, KeyError):
        raise _Unreadable(partition, offset + 1) from None


def _stands_behind(
    content: tuple[int, int], found: Published, published: Callable[[], Iterable[Published]]
) -> bool:
    """Whether a record with this content is published behind this one, in the same partition."""
    try:
        return any(
            other.offset > found.offset and digests(other.record)[1:] == content
            for other in _readable(published())
            if other.partition == found.partition
        )
    except _Unreadable:
        return False
