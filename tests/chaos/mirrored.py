"""Subscribers with a mirror: whatever was done to engines, broker and disks, they end with the oracle's own table.

One sees every record live, as the auditor does, and dies now and then: it goes on from its last snapshot and gets
again what came since. Two others read the topics at the end, from the first change and from the members of then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from random import Random

from mirrors import held

from shoal.stream.config import Kafka
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS
from shoal.stream.subscribing import Record, SegmentMirror
from shoal.stream.subscribing.kafka_reader import KafkaReader

from .auditor import Seen

TOPICS = (CHANGES, MEMBERS, CATALOG, LINEAGE)
_SAVES, _DEATHS = 1 / 60, 1 / 120  # per record

Table = Mapping[str, Sequence[int]]  # user key -> segment, since, sequence


class Mirrored:
    """`see` every record; `differences` at the end."""

    def __init__(self, seed: int, topics: tuple[str, ...] = TOPICS) -> None:
        self.deaths = 0
        self._topics = topics
        self._dice = Random(seed)
        self._mirror = SegmentMirror()
        self._saved = self._mirror.snapshot()
        self._since: list[Record] = []

    def see(self, seen: Seen) -> None:
        if seen.topic not in self._topics:
            return
        record = Record(
            seen.topic, seen.key, seen.value, seen.headers, seen.partition, seen.offset, seen.offset + 1
        )
        self._mirror.take(record)
        self._since.append(record)
        chance = self._dice.random()
        if chance < _SAVES:
            self._saved, self._since = self._mirror.snapshot(), []
        elif chance > 1 - _DEATHS:
            self.deaths += 1
            self._mirror = SegmentMirror.restore(self._saved)
            for again in self._since:
                self._mirror.take(again)

    def differences(self, wanted: Table) -> Iterator[str]:
        return difference("the one that saw everything live", self._mirror, wanted)


def read_again(kafka: Kafka, wanted: Table) -> Iterator[str]:
    """What mirrors of the topics as they are now hold otherwise; also what they found odd."""
    for from_now in (False, True):
        mirror = SegmentMirror()
        with closing(KafkaReader(kafka, from_now=from_now, follow=False)) as reader:
            for _ in mirror.follow(reader):
                pass
        yield from difference("from the members of now" if from_now else "from the changes", mirror, wanted)


def difference(name: str, mirror: SegmentMirror, wanted: Table) -> Iterator[str]:
    if mirror.troubles:
        yield f"the mirror {name} met {mirror.troubles[:3]}"
    found, table = held(mirror), {key: tuple(row) for key, row in wanted.items()}
    differing = sorted(key for key in {*found, *table} if found.get(key) != table.get(key))
    if differing:
        first = differing[0]
        yield (
            f"the mirror {name}: {len(differing)} of {len(table)} users are elsewhere; {first}: "
            f"{found.get(first)}, the oracle has {table.get(first)}"
        )
