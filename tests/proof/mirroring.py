"""Subscribers of a simulated broker: whatever struck the engines, their mirrors are the table of the last step.

Three of them, with luck of their own: one reads the changes and dies now and then, one the members, one begins with
the members of now while the log goes on, and reads the changes that overlap. None sees anything but committed records.
"""

from __future__ import annotations

import zlib
from random import Random

from mirrors import Row, held, table

from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS
from shoal.stream.pipeline import Pipeline
from shoal.stream.subscribing import Record, SegmentMirror

from .log import FakeKafka

Logs = dict[tuple[str, int], list[Record]]


def check_mirrors(kafka: FakeKafka, pipeline: Pipeline) -> str:
    """ "" where every mirror is the pipeline's own table; else what differs. `pipeline` stands behind the last step."""
    dice = Random(zlib.crc32(repr(kafka.group.offsets).encode()))
    wanted = table(pipeline)
    logs = {
        (topic, number): [
            Record(topic, s.key, s.value, tuple(s.headers), number, s.offset, s.offset + 1)
            for s in part.read(0, len(part))
        ]
        for topic in (LINEAGE, CATALOG, CHANGES, MEMBERS)
        for number, part in enumerate(kafka.topic(topic))
    }
    found = {
        "changes": _read(_of(logs, CHANGES, LINEAGE), SegmentMirror(), dice),
        "members": _read(_of(logs, MEMBERS), SegmentMirror(), dice),
        "members, then changes": _joined(logs, dice),
    }
    return "; ".join(filter(None, (_difference(name, mirror, wanted) for name, mirror in found.items())))


def _of(logs: Logs, *topics: str) -> Logs:
    return {place: log for place, log in logs.items() if place[0] in topics}


def _read(logs: Logs, mirror: SegmentMirror, dice: Random) -> SegmentMirror:
    """Partition by partition in pieces, some of them again, with deaths in between."""
    saved = mirror.snapshot()

    def at(place: tuple[str, int]) -> int:
        offset = mirror.positions.get(place[0], {}).get(place[1], 0)
        return sum(record.offset < offset for record in logs[place])

    while open_ := [place for place, log in logs.items() if at(place) < len(log)]:
        place = dice.choice(open_)
        start = at(place)
        for record in logs[place][max(0, start - dice.choice((0, 0, 9))) : start + dice.randint(1, 60)]:
            mirror.take(record)
        if dice.random() < 0.2:
            saved = mirror.snapshot()
        elif dice.random() < 0.1:
            mirror = SegmentMirror.restore(saved)
    return mirror


def _joined(logs: Logs, dice: Random) -> SegmentMirror:
    """Positions of the changes are taken when so many are there; the members are read later."""
    positions = {place[1]: dice.randint(0, len(log)) for place, log in _of(logs, CHANGES).items()}
    mirror = SegmentMirror()
    for _ in mirror.heal(record for log in _of(logs, MEMBERS).values() for record in log):
        pass
    for (_, number), log in _of(logs, CHANGES).items():
        for record in log[positions[number] :]:
            mirror.take(record)
    return mirror


def _difference(name: str, mirror: SegmentMirror, wanted: dict[str, Row]) -> str:
    counts = mirror.counts
    if counts.gaps or counts.conflicts or counts.broken or counts.unknown:
        return f"the mirror of {name} met {mirror.troubles[:3]}"
    found = held(mirror)
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    return f"the mirror of {name}: {len(differing)} of {len(wanted)} users are elsewhere" if differing else ""
