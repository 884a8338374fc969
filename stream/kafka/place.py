"""What the sources of both client libraries share: the topic they read, and what the broker says about it.

Which library fetches, and how the group chooses who works, is theirs; which topic it is, where it begins and
ends, and what to say when the place in the group is lost, does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from kafka.errors import KafkaError

from ..config import Kafka
from ..events import Range
from ..ports import START_OVER, BrokerGone, CommitUnknown, Phase, SourceGone
from .admin import describe, ensure_topics, input_topic, topic_mark
from .client import close_quietly, connect, never
from .watch import Watch

_ADMIN_CLOSE_S = 2.0  # with the sink's, less than the 5 s in which a stop must be over


class Place:
    """The input topic as it was found, and the watch over it."""

    def __init__(self, config: Kafka, on_phase: Callable[[Phase], None] | None) -> None:
        self._config = config
        self.on_phase = on_phase or (lambda phase: None)
        self._topic = input_topic(config)
        self._stopping: Callable[[], bool] = never
        self._watch: Watch | None = None
        self.mark = ""
        self._names: list[int] = []  # of the partitions

    def stopping(self) -> bool:
        """Whether the engine was told to stop; the sink, which waits for the same broker, asks too."""
        return self._stopping()

    def _look_at_topics(self) -> bool:
        """They are there, and which input this is. False when told to stop."""
        if (admin := connect(self._config, self._stopping)) is None:
            return False
        try:
            ensure_topics(admin, self._config)
            topic = describe(admin, [self._topic])[self._topic]
        finally:
            close_quietly(admin.close, _ADMIN_CLOSE_S, "admin client")
        self.mark = topic_mark(topic)
        self._names = sorted(p["partition_index"] for p in topic["partitions"])
        return True

    def nearest(self, positions: Mapping[int, int]) -> Mapping[int, int]:
        return {
            p: at if first <= (at := positions.get(p, first)) <= end else first
            for p, (first, end) in self._bounds().items()
        }

    def _bounds(self) -> dict[int, tuple[int, int]]:
        assert self._watch is not None
        try:
            return {tp.partition: found for tp, found in self._watch.bounds().items()}
        except (KafkaError, TimeoutError) as error:
            raise BrokerGone(f"{self._topic}: the broker does not name its offsets: {error}") from None

    def _check_events(self, ranges: Sequence[Range]) -> None:
        """Raises SourceGone when a step obeyed commands, and nobody here reads any."""
        if any(r.partition < 0 for r in ranges):
            self._check_known({r.partition: r.start for r in ranges})

    def _check_known(self, positions: Mapping[int, int]) -> None:
        """Raises SourceGone when a partition was read before that is not there."""
        if any(partition < 0 for partition in positions):
            raise SourceGone(
                f"commands were read before, and kafka.control_topic is empty: name the topic again, or {START_OVER}"
            )
        for partition in sorted(positions):
            if partition not in self._names:
                raise SourceGone(
                    f"{self._topic} has {len(self._names)} partitions, but partition {partition} was read before: "
                    f"it was created again. Restore it, or {START_OVER}"
                )

    def _explain_loss(self) -> NoReturn:
        config = self._config
        if self._watch is not None:
            with suppress(KafkaError, BrokerGone):
                self._watch.check_topic()
        raise CommitUnknown(
            f"group {config.group_id} took the partitions of {self._topic} away: this engine was silent for "
            f"longer than kafka.session_timeout_ms = {config.session_timeout_ms}",
            broker_away=True,
        )
