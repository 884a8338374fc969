"""One engine of a group works, the others stand by: whoever has the manifest topic's only partition.

The library takes no assignors from outside, but one partition has one owner in any case, and with a cooperative
assignor it stays where it is while others come and go. So a member subscribes to the manifest topic, fetches
nothing of it, and is told whether it has the partition; all partitions of the input go with it. Who works is
the group's decision; what is true is decided by the transactional id, which fences the one before.

The library joins, beats and settles in threads of its own; what it decided is told in `turn`, on the caller's.
"""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, TopicPartition

from ..config import Kafka
from ..kafka.client import close_quietly
from ..kafka.group import other_client, session_refused
from ..kafka.port import ClientError
from .errors import refusal, text
from .settings import LIBRARY_LOG, electing

log = logging.getLogger("shoal")

_CLOSE_S = 2.0  # with the sink's, less than the 5 s in which a stop must be over


class Elector:
    """A member of the group. `turn` must come at least every few seconds."""

    def __init__(self, config: Kafka, topic: str) -> None:
        self.holds = False  # this engine is the one that works
        self.lost = False  # it was, and is no longer
        self.settled = False  # the group has decided, if only once
        self._config = config
        settings = electing(config) | {"error_cb": self._trouble}
        self._refused: KafkaError | None = None
        self._consumer = Consumer(settings, logger=LIBRARY_LOG)
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def turn(self, timeout_s: float) -> None:
        """Hear what the group decided. Raises ConfigError when it refuses this member."""
        message = self._consumer.poll(timeout_s)
        error = self._refused if message is None else message.error()
        if error is None:
            return
        if error.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
            raise other_client(self._config)
        if error.code() == KafkaError.INVALID_SESSION_TIMEOUT:
            raise session_refused(self._config)
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self._revoked(self._consumer, [])
        if (refused := refusal(self._config, error)) is not None:
            raise refused
        log.debug("group %s: %s", self._config.group_id, text(error))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has settled; `partitions` are those that are new to us, mostly none."""
        self.settled = True
        for partition in partitions:
            partition.offset = OFFSET_END
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
            self.holds = True

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.lost = self.lost or self.holds
        self.holds = False

    def _trouble(self, error: KafkaError) -> None:
        if refusal(self._config, error) is not None:
            self._refused = error

    def member(self) -> Member:
        return Member(self._consumer)

    def close(self) -> None:
        """Leave the group, so that the next engine need not wait; never hangs."""
        close_quietly(self._consumer.close, _CLOSE_S, "group member")


class Member:
    """A member of a group, whatever the generation: others come and go without a word to this one."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.member_id = consumer.memberid()

    def metadata(self) -> Any:
        """Who we are now, as a transaction wants it. Raises ClientError when that is somebody else."""
        if self._consumer.memberid() != self.member_id:
            raise ClientError("this engine lost its place in the group", away=True)
        return self._consumer.consumer_group_metadata()
