"""What the tests of mirrors share: the engine's own table, and published records in whatever order they may come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import numpy as np

from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS, OutRecord
from shoal.stream.subscribing import Change, Record, SegmentMirror
from shoal.stream.values import user_key

Row = tuple[int, int, int]  # segment, since, sequence


def table(pipeline: Any) -> dict[str, Row]:
    """The engine's own: by user key."""
    membership = pipeline.membership
    slots = np.flatnonzero(membership.segment).astype(np.int32)
    columns = (membership.segment, membership.since_ms, membership.sequence)
    rows = zip(*(column[slots].tolist() for column in columns), strict=True)
    return dict(zip(map(user_key, pipeline.users.names(slots)), rows, strict=True))


def held(mirror: SegmentMirror) -> dict[str, Row]:
    assert sum(mirror.sizes.values()) == len(mirror.members)
    return {
        key: (member.place.segment_id, member.place.since_ms, member.sequence)
        for key, member in mirror.members.items()
    }


def placed(records: Iterable[OutRecord], partitions: int = 3) -> dict[tuple[str, int], list[Record]]:
    """As they stand in the partitions of a broker."""
    logs: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        if record.topic in (CHANGES, MEMBERS, CATALOG, LINEAGE):
            partition = sum(record.key or b"") % partitions
            log = logs.setdefault((record.topic, partition), [])
            at = len(log)
            log.append(Record(record.topic, record.key, record.value, record.headers, partition, at, at + 1))
    return logs


def compacted(log: Sequence[Record], dice: Random, tombstones: bool) -> list[Record]:
    """What compaction leaves of a partition: of every key the newest, and some that it has not come to yet; of
    old `tombstones`, which go last, nothing."""
    newest = {record.key: record.offset for record in log}
    kept = [record for record in log if newest[record.key] == record.offset or dice.random() < 0.2]
    gone = {r.key for r in log if r.value is None and newest[r.key] == r.offset and not tombstones}
    return [record for record in kept if record.key not in gone]


def folded(changes: Iterable[Change], start: SegmentMirror | None = None) -> dict[str, tuple[int, int]]:
    """Segment and since by user, from what the mirror said only; each change starts where the one before ended."""
    at = {key: member.place for key, member in (start.members if start else {}).items()}
    for change in changes:
        assert at.get(change.user) == change.before, change
        at.pop(change.user, None)
        if change.after is not None:
            at[change.user] = change.after
    return {key: (place.segment_id, place.since_ms) for key, place in at.items()}
