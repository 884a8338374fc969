"""One engine of a group works, the others stand by: an assignor that gives everything to one member.

Always true: within one generation at most one member has partitions, and it has all of them.
A member that works keeps its work when others come and go (cooperative protocol: it is not even paused);
when it leaves or dies, one takes over that has followed it to its last steps, if there is one; among equals
the one with the lowest id. Whoever works next fences the one before with the transactional id, so the group
decides who works, never what is true.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from ..config import Kafka
from ..ports import ConfigError

_VERSION = 1  # carries the partitions that a member owns already
_WARM = b"warm"


class OneOwner(AbstractPartitionAssignor):  # type: ignore[misc]
    """All partitions to the member that owns them now, else to one that is warm, else to the lowest id."""

    name = "shoal-one-owner"

    def __init__(self) -> None:
        self._owned: dict[str, list[int]] = {}
        self.warm = False  # this member could go on at once where the one that works stops

    def supported_protocols(self) -> list[RebalanceProtocol]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        owned = [
            ConsumerProtocolSubscription.TopicPartition(topic=topic, partitions=sorted(partitions))
            for topic, partitions in sorted(self._owned.items())
        ]
        return ConsumerProtocolSubscription(
            version=_VERSION,
            topics=sorted(topics),
            user_data=_WARM if self.warm else b"",
            owned_partitions=owned,
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, ConsumerProtocolAssignment]:
        claims = {m.member_id: (_owned_count(m.metadata), m.metadata.user_data == _WARM) for m in members}
        chosen = choose(claims)
        assignments = {}
        for member in members:
            parts = []
            if member.member_id == chosen:
                parts = [
                    (t, sorted(cluster.partitions_for_topic(t) or ())) for t in sorted(member.metadata.topics)
                ]
            assignments[member.member_id] = ConsumerProtocolAssignment(_VERSION, parts, b"")
        return assignments

    def on_assignment(self, assignment: ConsumerProtocolAssignment, generation: int) -> None:
        self._owned = {}
        for topic, partition in assignment.partitions():
            self._owned.setdefault(topic, []).append(partition)

    def forget(self) -> None:
        """Membership was lost: whatever was owned belongs to nobody."""
        self._owned = {}


def choose(claims: dict[str, tuple[int, bool]]) -> str:
    """The member to work, of (partitions owned now, warm): owns most, then warm, then the lowest member id."""
    return min(claims, key=lambda member: (-claims[member][0], not claims[member][1], member))


def _owned_count(metadata: Any) -> int:
    return sum(len(topic.partitions) for topic in getattr(metadata, "owned_partitions", None) or ())


class Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """What the group gave and took. Runs on the client's I/O thread: it sets flags and does nothing else."""

    def __init__(self, assignor: OneOwner) -> None:
        self._assignor = assignor
        self.partitions: frozenset[int] = frozenset()
        self.lost = False  # something was taken away after it had been given
        self.grown = False  # more partitions came while working: the topic was re-partitioned

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        added = frozenset(tp.partition for tp in assigned)
        self.grown = self.grown or bool(self.partitions and added - self.partitions)
        self.partitions |= added

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        gone = frozenset(tp.partition for tp in revoked)
        self.lost = self.lost or bool(gone & self.partitions)
        self.partitions -= gone

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._assignor.forget()
        self.on_partitions_revoked(lost)


def keep_joining(consumer: Any) -> None:
    """After each poll of `consumer`: a join that is under way is still wanted.

    A member that learns of new partitions joins again. If that join is not over when the poll's time is, the library
    (3.0.12) asks the metadata once more whether to join, finds that the assignment made meanwhile fits them, and never
    looks at the outcome: the member neither works nor stands by, for as long as nobody else comes or goes.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is not None and coordinator._join_task is not None:
        coordinator.request_rejoin()


class Beside:
    """Makes a call again and again, in a thread of its own, while the block does something else.

    What the call raises ends the calls, and is raised at the end of a block that did not raise itself.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._ended = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, daemon=True, name="shoal-group")

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                self._call()
        except BaseException as error:  # handed to the block's thread below
            self._errors.append(error)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None and self._errors:
            raise self._errors[0]


def other_client(config: Kafka) -> ConfigError:
    """The error for a group that elects in another way."""
    return ConfigError(
        f"group {config.group_id} has members of another kind: all engines of a group need the same "
        f"kafka.client. Stop the others, or give this one another kafka.group_id"
    )


def session_refused(config: Kafka) -> ConfigError:
    """The error for a session timeout that the broker does not allow."""
    return ConfigError(
        f"{config.bootstrap_servers} refuses kafka.session_timeout_ms = {config.session_timeout_ms}: it must lie "
        f"between the broker's group.min.session.timeout.ms (6,000 unless set) and group.max.session.timeout.ms"
    )
