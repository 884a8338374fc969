"""Is the broker there, and is the topic still the one that was read? Asked when nothing comes for a while.

A consumer whose broker is away, or frozen, says nothing at all: poll() is simply empty. So after two silent
seconds one small request asks for the log's bounds; an answer also shows truncation. Without an answer the
wait begins, with growing pauses, until `kafka.broker_wait_s` is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import msgspec

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ..config import Kafka
from ..ports import START_OVER, BrokerGone, Phase, SourceGone
from .admin import describe, topic_mark
from .client import Patience, bounded, connect

log = logging.getLogger("shoal")

PROBE_EVERY_S = 2.0
_ANSWER_MS = 3_000
Bounds = dict[TopicPartition, tuple[int, int]]


class Watch:
    """Watches over one topic for a consumer that reads it. Positions are next offsets by partition."""

    def __init__(
        self,
        config: Kafka,
        consumer: KafkaConsumer,
        partitions: Sequence[TopicPartition],
        mark: str,
        stopping: Callable[[], bool],
        on_phase: Callable[[Phase], None],
    ) -> None:
        self._config = config
        self._consumer = consumer
        self._partitions = list(partitions)
        self._mark = mark
        self._stopping = stopping
        self._on_phase = on_phase
        self.phase = Phase.STANDBY  # what the engine goes back to after a wait
        self._heard_s = time.monotonic()

    def heard(self) -> None:
        """Records came: the broker is there."""
        self._heard_s = time.monotonic()

    def look(self, positions: Mapping[int, int]) -> None:
        """After a silence: ask, and wait while there is no answer. Raises BrokerGone, SourceGone."""
        if time.monotonic() - self._heard_s < PROBE_EVERY_S:
            return
        try:
            self.check(positions)
        except (KafkaError, TimeoutError) as error:
            self._wait_until_back(positions, error)
        self._heard_s = time.monotonic()

    def bounds(self) -> Bounds:
        """First and next offset of every partition's log. Raises KafkaError or TimeoutError."""
        consumer, partitions, limit_s = self._consumer, self._partitions, 2 * _ANSWER_MS / 1000
        stop = self._stopping
        first = bounded(lambda: consumer.beginning_offsets(partitions, _ANSWER_MS), limit_s, "probe", stop)
        end = bounded(lambda: consumer.end_offsets(partitions, _ANSWER_MS), limit_s, "probe", stop)
        return {tp: (first[tp], end[tp]) for tp in partitions}

    def check(self, positions: Mapping[int, int]) -> None:
        """Raises SourceGone when a position is outside the log, KafkaError or TimeoutError without an answer."""
        for tp, (first, end) in self.bounds().items():
            offset = positions.get(tp.partition, first)
            if not first <= offset <= end:
                raise outside(tp, offset, first, end)

    def _wait_until_back(self, positions: Mapping[int, int], error: BaseException) -> None:
        self._on_phase(Phase.WAITING)
        patience = Patience(self._config, self._stopping)
        while patience.pause(error):
            try:
                self.check_topic()
                self.check(positions)
            except (KafkaError, TimeoutError, BrokerGone) as again:
                error = again
            else:
                log.info("broker %s answers again", self._config.bootstrap_servers)
                self._on_phase(self.phase)
                return

    def check_topic(self) -> None:
        """A deleted topic looks like a broker that does not answer, or like a lost place in the group: tell
        them apart. Raises SourceGone, BrokerGone at the first try, KafkaError."""
        admin = connect(msgspec.structs.replace(self._config, broker_wait_s=0.0), self._stopping, quiet=True)
        if admin is None:
            return
        name = self._partitions[0].topic
        with closing(admin):
            topic = describe(admin, [name]).get(name)
        if topic is None or topic_mark(topic) != self._mark:
            what = "deleted" if topic is None else "created again, or re-partitioned,"
            raise SourceGone(f"{name} was {what} while it was read. Restore it, or {START_OVER}")


def outside(tp: TopicPartition, offset: int, first: int, end: int) -> SourceGone:
    """The error for a position that the log does not hold."""
    return SourceGone(
        f"{tp.topic} partition {tp.partition}: to go on at offset {offset}, but the log holds "
        f"[{first}, {end}): records were deleted before they were read, or the topic was created again. "
        f"Raise its retention, and {START_OVER}"
    )
