"""Partitions of one topic, assigned by hand and read where they are told to. Joins no group.

Always true: a record is given at most once between two calls of `move`, in the order of its partition;
`reached[p]` is the offset before which everything committed was given. It runs past markers without records
only when the end of the log is met: the library says so in a message of its own, and nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ..config import Kafka
from ..kafka.client import close_quietly
from .errors import NO_TOPIC, OUTSIDE, client_error, reason, refusal
from .settings import LIBRARY_LOG, reading

log = logging.getLogger("shoal")

_CLOSE_S = 0.5  # nothing at the broker waits for it
_AGAIN_S = 0.1
_FIRST, _END = -2, -1  # what the protocol calls the two ends of a log where it wants a time


class Partitions:
    """A consumer without a group. `ask` and `names` may be called beside everything else.

    Memory: at most 32 MiB, whatever the lag.
    """

    def __init__(self, config: Kafka, topic: str, wait_ms: int = 500) -> None:
        self.topic = topic
        self.reached: dict[int, int] = {}
        self._config = config
        self._refused: KafkaError | None = None
        self._asking = threading.Lock()  # the library must not be closed under a call
        settings = reading(config, wait_ms) | {"error_cb": self._trouble}
        self._consumer: Consumer | None = Consumer(settings, logger=LIBRARY_LOG)

    def _trouble(self, error: KafkaError) -> None:
        if refusal(self._config, error) is not None:
            self._refused = error

    # --- asking -------------------------------------------------------------------------------------------------

    def names(self, timeout_s: float) -> list[int]:
        """The topic's partitions; none when there is no such topic. Raises TimeoutError, ConfigError (refused)."""
        with self._asking:
            try:
                topic = self._open().list_topics(self.topic, timeout_s).topics[self.topic]
            except KafkaException as error:
                raise self._answer(reason(error)) from None
        if topic.error is not None and topic.error.name() not in NO_TOPIC:
            raise self._answer(topic.error)
        return sorted(topic.partitions)

    def ask(self, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
        """partition -> first offset, and the end of what is committed. Raises as `names`."""
        wanted = sorted(partitions)
        first, end = self._ends(wanted, _FIRST, timeout_s), self._ends(wanted, _END, timeout_s)
        return {p: (first[p], end[p]) for p in wanted}

    def _ends(self, partitions: list[int], which: int, timeout_s: float) -> dict[int, int]:
        """Asked again within the timeout: the library does not, while a partition looks for its leader."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._ends_now(partitions, which, deadline_s - time.monotonic())
            except TimeoutError:
                if time.monotonic() + _AGAIN_S >= deadline_s or self._consumer is None:
                    raise
            self._look_up_leaders()
            time.sleep(_AGAIN_S)

    def _look_up_leaders(self) -> None:
        """A consumer that is assigned nothing keeps what a broker once told it while coming up: nothing."""
        with suppress(KafkaException):
            self._open().list_topics(self.topic, timeout=_AGAIN_S)

    def _ends_now(self, partitions: list[int], which: int, timeout_s: float) -> dict[int, int]:
        with self._asking:
            try:
                named = [TopicPartition(self.topic, p, which) for p in partitions]
                found = self._open().offsets_for_times(named, timeout_s)
            except KafkaException as error:
                raise self._answer(reason(error)) from None
        for answer in found:
            if answer.error is not None:
                raise self._answer(answer.error)
        return {answer.partition: answer.offset for answer in found}

    def _answer(self, error: KafkaError) -> Exception:
        """What to raise for an error: refused, or no answer worth the name. A topic that seems not to be there
        is none either: a broker that goes down, or comes up, does not know its topics."""
        if self._consumer is not None and not self.reached:
            self._consumer.poll(0)  # hears why the connection failed
        if (refused := refusal(self._config, self._refused or error)) is not None:
            return refused
        return TimeoutError(str(client_error(error)))

    def _open(self) -> Consumer:
        if self._consumer is None:
            raise TimeoutError(f"the reader of {self.topic} is closed")
        return self._consumer

    # --- reading ------------------------------------------------------------------------------------------------

    def move(self, starts: Mapping[int, int]) -> None:
        """Go on at these offsets; what was fetched of these partitions before is forgotten."""
        self.drop([p for p in starts if p in self.reached])
        self._open().incremental_assign([TopicPartition(self.topic, p, at) for p, at in starts.items()])
        self.reached |= starts

    def again(self) -> None:
        """Go on where every partition is, as if for the first time: a broker that came up without knowing its
        topics leaves the library believing that there are none."""
        self.move(dict(self.reached))

    def drop(self, partitions: Iterable[int]) -> None:
        """Fetch nothing of these partitions any more."""
        gone = [TopicPartition(self.topic, p) for p in partitions]
        if gone:
            self._open().incremental_unassign(gone)
            for tp in gone:
                del self.reached[tp.partition]

    def take(self, records_max: int, timeout_s: float) -> tuple[dict[int, list[Message]], KafkaError | None]:
        """What is there, else the first that comes within the timeout; and the first trouble that was said.

        Raises ConfigError when refused.
        """
        consumer = self._open()
        messages = consumer.consume(records_max, 0.0)
        if not messages and timeout_s > 0 and (first := consumer.poll(timeout_s)) is not None:
            messages = [first, *(consumer.consume(records_max - 1, 0.0) if records_max > 1 else ())]
        found: dict[int, list[Message]] = {}
        ends: dict[int, int] = {}
        trouble: KafkaError | None = None
        for message in messages:
            error = message.error()
            if error is None:
                found.setdefault(partition_of(message), []).append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[partition_of(message)] = offset_of(message)
            else:
                trouble = trouble or self._noteworthy(error)
        new = {p: records for p in found if (records := self._new(p, found[p]))}
        for partition in ends.keys() & self.reached.keys():
            self.reached[partition] = max(self.reached[partition], ends[partition])
        return new, trouble

    def _new(self, partition: int, records: list[Message]) -> list[Message]:
        """Without what was on its way from before the last `move`: the library sorts it out, this makes sure."""
        reached = self.reached.get(partition)
        if reached is None:
            return []
        if offset_of(records[0]) < reached:
            records = [record for record in records if offset_of(record) >= reached]
        if records:
            self.reached[partition] = max(self.reached[partition], offset_of(records[-1]) + 1)
        return records

    def _noteworthy(self, error: KafkaError) -> KafkaError | None:
        """Lost positions and topics; brokers that come and go are the library's own business."""
        if (refused := refusal(self._config, error)) is not None:
            raise refused
        if error.name() in OUTSIDE or error.name() in NO_TOPIC:
            return error
        log.debug("%s: %s", self.topic, error)
        return None

    def highwater(self, partition: int) -> int | None:
        """The end of the log as the latest fetch saw it; None before the first."""
        _, high = self._open().get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
        return high if high >= 0 else None

    def close(self) -> None:
        """Never hangs, never raises; twice is allowed."""
        close_quietly(self._end, _CLOSE_S, "reader")

    def _end(self) -> None:
        with self._asking:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                consumer.close()


partition_of: Callable[[Message], int] = Message.partition  # type: ignore[assignment]
offset_of: Callable[[Message], int] = Message.offset  # type: ignore[assignment]
"""Always there in what a consumer gives; the library's types cannot know."""
