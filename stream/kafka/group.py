"""One engine of a group works, the others stand by: an assignor that gives everything to one member.

Always true: within one generation at most one member has partitions, and it has all of them.
A member that works keeps its work when others come and go (cooperative protocol: it is not even paused);
when it leaves or dies, the member with the lowest id takes over. Whoever works next fences the one before
with the transactional id, so the group decides who works, never what is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

_VERSION = 1  # carries the partitions that a member owns already


class OneOwner(AbstractPartitionAssignor):  # type: ignore[misc]
    """All partitions to the member that owns them now, else to the one with the lowest id."""

    name = "shoal-one-owner"

    def __init__(self) -> None:
        self._owned: dict[str, list[int]] = {}

    def supported_protocols(self) -> list[RebalanceProtocol]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        owned = [
            ConsumerProtocolSubscription.TopicPartition(topic=topic, partitions=sorted(partitions))
            for topic, partitions in sorted(self._owned.items())
        ]
        return ConsumerProtocolSubscription(
            version=_VERSION, topics=sorted(topics), user_data=b"", owned_partitions=owned
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, ConsumerProtocolAssignment]:
        chosen = choose({m.member_id: _owned_count(m.metadata) for m in members})
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


def choose(owned: dict[str, int]) -> str:
    """The member to work: who owns most now, then the lowest member id. `owned` is never empty."""
    return min(owned, key=lambda member: (-owned[member], member))


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
