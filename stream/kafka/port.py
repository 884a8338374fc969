"""What a Kafka client library must be able to do, so that the rules in `sinks/kafka.py` hold with any of them.

Two libraries stand behind it (kafka-python; librdkafka by confluent-kafka) and one fake log in the tests.
Every call is bounded in time: none may hang, whatever the broker does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class ClientError(Exception):
    """What a library said went wrong, in the words the rules need. The outcome of the call is unknown."""

    def __init__(self, text: str, away: bool = False, fenced: bool = False) -> None:
        super().__init__(text)
        self.away = away  # the broker did not answer; waiting may cure it
        self.fenced = fenced  # another producer took over the transactional id


class Record(Protocol):
    """A committed record."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Producer(Protocol):
    """A transactional producer that has fenced all earlier ones. Every method raises ClientError."""

    def begin(self) -> None: ...
    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        """Hand over one record; without a partition, its key's hash (murmur2) chooses one."""

    def flush(self, timeout_s: float) -> None:
        """Everything sent so far is stored on the broker, every single record acknowledged; or ClientError."""

    def send_offsets(self, topic: str, offsets: Mapping[int, int], member: Any, timeout_s: float) -> None:
        """Next offsets by partition become part of the transaction; `member` as the source names it."""

    def commit(self, timeout_s: float) -> None: ...
    def close(self) -> None: ...  # never hangs, never raises; an open transaction is left to the broker


class Log(Protocol):
    """Committed records of one topic by offset; joins no group. One reading at a time.

    `bounds` and `read` wait while the broker is away: BrokerGone after `kafka.broker_wait_s`, Stopped when told
    to stop. Every method raises SourceGone for a topic or an offset that is not there, ConfigError when refused.
    """

    def bounds(self) -> dict[int, tuple[int, int]]:
        """partition -> first offset still there, and the end of what is committed now."""

    def check(self, partition: int, start: int, end: int) -> None:
        """Raises SourceGone unless the log holds all of [start, end)."""

    def read(self, partition: int, start: int, end: int) -> Iterator[Record]:
        """Records of [start, end) in order; offsets of transaction markers are not records."""

    def tail(self, partition: int, start: int, timeout_s: float) -> Sequence[Record]:
        """Records at `start` and after, as soon as there are any; none when the time is over.

        Cheap when each call goes on behind the last record of the one before: what comes next is fetched while
        the caller does something else. Told to stop, it waits a second at most.
        """

    def close(self) -> None: ...  # never hangs, never raises


class Client(Protocol):
    """A library, configured."""

    def producer(self) -> Producer:
        """Connect and fence: from here on nobody else can commit with this transactional id.

        Raises ConfigError when refused, BrokerGone after `kafka.broker_wait_s`, Stopped when told to stop.
        """

    def log(self, topic: str) -> Log:
        """A topic, by its full name."""
