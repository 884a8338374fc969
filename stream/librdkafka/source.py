"""Behaviour events from a Kafka topic by librdkafka: one engine of a group works, the others stand by.

Theory of operation. As in `kafka/source.py`: the group decides only *who* works (`elector`), what was done is in
the manifests, and the engine says with seek() where to go on. Nothing is ever committed here, no offset is ever
reset, and after a lost membership this process ends. Three clients share the work: the elector is a member of
the group and reads nothing; `Partitions` reads and is a member of nothing; a log reads again what is recorded.

Always true: a partition is fetched only after seek(); the ranges of two polls touch each other; no records are
handed out without having asked, after they were fetched, whether this engine still works.

What differs: the generation that a commit names is looked up when the offsets are sent (`Member`), since the
library does not say that the group re-balances. What it says promptly is that our place was lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from confluent_kafka import KafkaError, Message
from kafka import TopicPartition
from kafka.errors import KafkaError as PythonError

from ..config import Kafka
from ..events import MANIFEST, Range, Records
from ..kafka.chunks import TRACEPARENT_BYTES_MAX
from ..kafka.client import REFUSED, Patience, refused
from ..kafka.group import Beside
from ..kafka.place import Place
from ..kafka.watch import Watch, outside
from ..ports import START_OVER, BrokerGone, Phase, SourceGone, nothing
from ..sources import join
from .elector import Elector, Member
from .errors import NO_TOPIC, OUTSIDE
from .log import LibrdkafkaLog, headers_of
from .partitions import Partitions, offset_of

log = logging.getLogger("shoal")

_TURN_S = 0.1
_STANDBY_TURNS = 5
_FOLLOW_EVERY_S = 0.25
_KEEP_EVERY_S = 1.0
_COUNT_EVERY_S = 10.0  # how often to see whether the topic has more partitions; the library does not say
_COUNT_S = 1.0
_ADMIN_CLOSE_S = 2.0

Poll = tuple[Records, tuple[Range, ...]]


class LibrdkafkaSource(Place):
    """All partitions of the input topic, or none: see the head of this module.

    `read` works without `open` (it joins no group); everything else needs `open` and `seek` first.
    Memory: at most 32 MiB are fetched ahead, whatever the lag, and as much again while steps are replayed.
    """

    finite = False
    wall_clock = True

    def __init__(self, config: Kafka, on_phase: Callable[[Phase], None] | None = None) -> None:
        super().__init__(config, on_phase)
        self._elector: Elector | None = None
        self._partitions: Partitions | None = None
        self._log: LibrdkafkaLog | None = None
        self._next: dict[int, int] = {}  # partition -> next offset to hand out
        self._unrecorded: dict[int, int] = {}  # partition -> where it begins, not yet in any step's ranges
        self._kept_s = self._followed_s = self._counted_s = 0.0
        self._following = False

    # --- becoming the one that works ----------------------------------------------------------------------

    def open(self, stopping: Callable[[], bool], meanwhile: Callable[[], None] = nothing) -> bool:
        """Raises BrokerGone, TopicsMissing, ConfigError (refused), SourceGone (another topic by that name)."""
        self._stopping = stopping
        patience = Patience(self._config, stopping)
        while not stopping():
            try:
                return self._look_at_topics() and self._join() and self._wait_for_turn(meanwhile, patience)
            except REFUSED as error:
                raise refused(self._config, error) from None
            except (PythonError, TimeoutError) as error:  # it went away again, or is only just coming up
                self._leave()
                patience.pause(error)
        return False

    def _join(self) -> bool:
        self._partitions = Partitions(self._config, self._topic)
        self._elector = Elector(self._config, self._config.topic_prefix + MANIFEST)
        ends = _Ends(self._partitions)
        named = [TopicPartition(self._topic, p) for p in self._names]
        self._watch = Watch(self._config, ends, named, self.mark, self._stopping, self.on_phase)
        return True

    def _wait_for_turn(self, meanwhile: Callable[[], None], patience: Patience) -> bool:
        """Join, and stand by until the group chooses us. False when told to stop."""
        assert self._elector is not None
        assert self._watch is not None
        idle_turns = 0  # as a member of a settled group that chose another one
        while not self._stopping():
            self._elector.turn(_TURN_S)
            if self._elector.holds:
                log.info("this engine works: it reads all %d partitions of %s", len(self._names), self._topic)
                return True
            idle_turns += self._elector.settled
            if idle_turns == _STANDBY_TURNS:
                self.on_phase(Phase.STANDBY)
                log.info("standing by: another engine of group %s works", self._config.group_id)
            self._watch.look({})
            if idle_turns >= _STANDBY_TURNS:
                patience.renew()
                self._follow(meanwhile)
        return False

    def _follow(self, meanwhile: Callable[[], None]) -> None:
        """A turn of following, now and then; the group is looked after beside it, however long it takes."""
        assert self._elector is not None
        elector = self._elector
        if time.monotonic() - self._followed_s < _FOLLOW_EVERY_S:
            return
        self._followed_s = time.monotonic()
        self._following = True
        try:
            with Beside(lambda: elector.turn(_TURN_S)):
                meanwhile()
        finally:
            self._following = False

    def _keep_place(self) -> None:
        """While recorded steps are computed again, hear what the group decides."""
        assert self._elector is not None
        if self._following or time.monotonic() - self._kept_s < _KEEP_EVERY_S:
            return
        self._kept_s = time.monotonic()
        self._check_place()

    def _check_place(self) -> None:
        assert self._elector is not None, "open before asking for the place in the group"
        self._elector.turn(0)
        if self._elector.lost:
            self._explain_loss()

    def group_metadata(self) -> Member:
        """Who we are in the group, for the commit. Raises CommitUnknown when we are nobody."""
        self._check_place()
        assert self._elector is not None
        return self._elector.member()

    # --- the work -----------------------------------------------------------------------------------------

    def seek(self, positions: Mapping[int, int]) -> None:
        assert self._partitions is not None, "open before seek"
        assert self._watch is not None
        self._check_known(positions)
        starts = {}
        for p, (first, end) in self._bounds().items():
            starts[p] = positions.get(p, first)
            if not first <= starts[p] <= end:
                raise outside(TopicPartition(self._topic, p), starts[p], first, end)
        self._unrecorded = {p: at for p, at in starts.items() if p not in positions}
        self._next = dict(starts)
        self._partitions.move(starts)
        self._end_replay()
        self._watch.phase = Phase.RUNNING

    def poll(self, max_records: int, timeout_s: float) -> Poll | None:
        assert self._partitions is not None, "open before poll"
        assert self._watch is not None
        found, trouble = self._partitions.take(max_records, timeout_s)
        self._check_place()
        if trouble is not None:
            self._explain_trouble(trouble)
        self._count_partitions()
        if not found:
            self._watch.look(self._next)
            return Records.empty(), ()
        self._watch.heard()
        return self._collect(found)

    def _explain_trouble(self, trouble: KafkaError) -> None:
        """A lost position ends this engine; a topic that is not there may be moving between brokers."""
        assert self._watch is not None
        assert self._partitions is not None
        if trouble.name() in NO_TOPIC:
            with suppress(PythonError, BrokerGone):
                self._watch.check_topic()
            self._partitions.again()
        elif trouble.name() in OUTSIDE:
            with suppress(PythonError, TimeoutError):
                self._watch.check(self._next)
            raise SourceGone(f"{self._topic} was truncated while it was read ({trouble.str()}): {START_OVER}")

    def _count_partitions(self) -> None:
        """Raises SourceGone when there are more than before: nobody else would tell us."""
        assert self._partitions is not None
        if time.monotonic() - self._counted_s < _COUNT_EVERY_S:
            return
        self._counted_s = time.monotonic()
        with suppress(TimeoutError):  # the watch knows better how to wait
            if len(self._partitions.names(_COUNT_S)) > len(self._names):
                raise SourceGone(
                    f"{self._topic} was re-partitioned while it was read: users would change partitions, and the "
                    f"order of their events would be lost. Restore it, or {START_OVER}"
                )

    def _collect(self, found: Mapping[int, list[Message]]) -> Poll:
        """The first step also says, with empty ranges, where partitions without a record begin: a restart can
        tell when retention deletes something there that was never read."""
        assert self._partitions is not None
        parts = []
        ranges = {p: Range(p, start, start) for p, start in self._unrecorded.items()}
        self._unrecorded = {}
        for p in sorted(found):
            start, self._next[p] = self._next[p], self._partitions.reached[p]
            parts.append(to_records(p, found[p]))
            ranges[p] = Range(p, start, self._next[p])
        return join(parts), tuple(sorted(ranges.values()))

    def read(self, ranges: Sequence[Range]) -> Records:
        if self._elector is not None:
            self._keep_place()
        self._check_events(ranges)
        if self._log is None:
            self._log = LibrdkafkaLog(self._config, self._topic, self._stopping)
        parts = []
        for r in ranges:
            self._log.check(r.partition, r.start, r.end)
            parts.append(to_records(r.partition, list(self._log.messages(r.partition, r.start, r.end))))
        return join(parts)

    def _end_replay(self) -> None:
        if self._log is not None:
            self._log.close()

    def lag(self) -> Mapping[int, int]:
        if self._partitions is None or not self._next:
            return {}
        return {p: self._lag(self._partitions, p) for p in self._names}

    def _lag(self, partitions: Partitions, p: int) -> int:
        end = partitions.highwater(p)
        return 0 if end is None else max(0, end - partitions.reached[p])

    def close(self) -> None:
        """Leave the group, so that the next engine need not wait; never hangs."""
        self._leave()
        self._end_replay()

    def _leave(self) -> None:
        if self._elector is not None:
            self._elector.close()
        if self._partitions is not None:
            self._partitions.close()
        self._elector = self._partitions = None


class _Ends:
    """What a `Watch` asks of a consumer."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    def beginning_offsets(
        self, named: Sequence[TopicPartition], timeout_ms: int
    ) -> dict[TopicPartition, int]:
        return self._ask(named, timeout_ms, 0)

    def end_offsets(self, named: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return self._ask(named, timeout_ms, 1)

    def _ask(self, named: Sequence[TopicPartition], timeout_ms: int, side: int) -> dict[TopicPartition, int]:
        found = self._partitions.ask([tp.partition for tp in named], timeout_ms / 1000)
        return {tp: found[tp.partition][side] for tp in named}


def to_records(partition: int, found: Sequence[Message]) -> Records:
    """The library's records of one partition as columns; bytes stay as they are."""
    n = len(found)
    return Records(
        np.full(n, partition, np.int32),
        np.fromiter(map(offset_of, found), np.int64, n),
        list(map(Message.key, found)),
        list(map(Message.value, found)),
        _traceparents(found),
    )


def _traceparents(found: Sequence[Message]) -> dict[int, bytes]:
    return {
        row: value
        for row, headers in enumerate(headers_of(found))
        if headers
        for name, value in headers
        if name == "traceparent" and value is not None and len(value) <= TRACEPARENT_BYTES_MAX
    }
