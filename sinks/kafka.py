"""One Kafka transaction per step: outputs, manifest and input positions, all or nothing.

Theory of operation. A client library can report a commit that never happened (the process was paused past the
transaction timeout), publish half of a step if a failed record is overlooked, and time out although the
commit went through. These rules, in this order, hold against all of it, with any library behind `Client`:

1. begin only when the computing is done, and the step before has been read back;
2. send everything, flush, and look at every single record's fate;
3. only then send the input positions, with the group's generation, and commit;
4. any error, or more time than the transaction may take, makes the outcome unknown: CommitUnknown, and this
   producer is never used again;
5. the truth about a commit, reported or unknown, is the manifest topic, read with `read_committed`: a step
   counts when its manifest was read back, byte for byte.

Reading back costs next to nothing: the record is fetched while the next step is computed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..stream.config import Kafka
from ..stream.events import MANIFEST, Manifest, Output, OutRecord, control_partition
from ..stream.kafka.manifests import Manifests
from ..stream.kafka.port import Client, ClientError, Log, Producer, Record
from ..stream.kafka.settings import control_topic, input_topic, transactional_id
from ..stream.manifest import encode_manifest
from ..stream.ports import CommitUnknown, Published, ShoalError, Stopped, Ticker

log = logging.getLogger("shoal")

_LAST_LOOK_S = 0.5
_NOTHING = ("shoal_null", b"1")
"""Header of a record that had neither key nor value: clients refuse to send that, an empty value stands in."""


class KafkaSink:
    """A transactional producer. `group` says who we are in the input's consumer group; None: for reading only.

    Memory: at most `bytes_max` of a step are in flight; a larger step is sent in parts, in one transaction.
    """

    def __init__(
        self,
        config: Kafka,
        client: Client,
        group: Callable[[], Any] | None,
        bytes_max: int = 64 << 20,
        clock: Ticker = time,
    ) -> None:
        self._config = config
        self._client = client
        self._group = group
        self._bytes_max = bytes_max
        self._clock = clock
        self._producer: Producer | None = None
        self._usable = True
        self._unconfirmed: tuple[int, bytes] | None = None  # step and manifest of the last commit
        self._standing: Manifests | None = None

    def open(self) -> Manifest | None:
        """Raises BrokerGone; Stopped when told to stop while waiting; ConfigError when the broker refuses the
        transactional id."""
        self._producer = self._client.producer()
        self._manifests.forget()
        return self.last()

    @property
    def _manifests(self) -> Manifests:
        if self._standing is None:
            self._standing = Manifests(self._log(MANIFEST))
        return self._standing

    def _log(self, topic: str) -> Log:
        return self._client.log(self._config.topic_prefix + topic)

    # --- committing -------------------------------------------------------------------------------------------

    def commit(self, output: Output) -> None:
        assert self._producer is not None, "open before commit"
        assert self._usable, "a producer whose last commit is in doubt is never used again"
        assert self._group is not None, "this sink is for reading only"
        self.confirm()
        member = self._group()
        manifest = encode_manifest(output.manifest)
        with self._doubt(output.step):
            self._transact(self._producer, output, manifest, member)
        self._unconfirmed = output.step, manifest

    @contextmanager
    def _doubt(self, step: int) -> Iterator[None]:
        """Whatever goes wrong in here, this producer is never used again."""
        self._usable = False
        try:
            yield
        except ClientError as error:
            raise self._unknown(step, error) from None
        self._usable = True

    def _unknown(self, step: int, error: ClientError) -> CommitUnknown:
        if error.fenced:
            name = transactional_id(self._config)
            return CommitUnknown(
                f"step {step}: refused, another engine took over transactional id {name!r} (this one was silent "
                f"for too long, or two are configured alike); the manifest topic tells what was committed"
            )
        return CommitUnknown(
            f"step {step}: the transaction failed ({error}); the manifest topic will tell what was committed",
            broker_away=error.away,
        )

    def _transact(self, producer: Producer, output: Output, manifest: bytes, member: Any) -> None:
        started_s = self._clock.monotonic()
        limit_s = self._config.transaction_timeout_ms / 1000

        def left_s() -> float:
            took_s = self._clock.monotonic() - started_s
            if took_s >= limit_s:
                raise _too_slow(output.step, took_s, limit_s)
            return limit_s - took_s

        producer.begin()
        self._send(producer, output, manifest)
        ranges = output.manifest.ranges
        events = {r.partition: r.end for r in ranges if r.partition >= 0}
        commands = {control_partition(r.partition): r.end for r in ranges if r.partition < 0}
        if events:
            producer.send_offsets(input_topic(self._config), events, member, left_s())
        if commands:
            producer.send_offsets(control_topic(self._config), commands, member, left_s())
        producer.commit(left_s())
        left_s()  # a pause during the commit: it may seem to have succeeded

    def _send(self, producer: Producer, output: Output, manifest: bytes) -> None:
        """Everything of the step is stored on the broker, not yet visible. Raises ClientError."""
        flush_s = self._config.delivery_timeout_ms / 1000
        in_flight_bytes = 0
        for record in output.records:
            size = _size(record)
            if in_flight_bytes and in_flight_bytes + size > self._bytes_max:
                producer.flush(flush_s)
                in_flight_bytes = 0
            self._send_one(producer, record)
            in_flight_bytes += size
        self._send_one(producer, OutRecord(MANIFEST, None, manifest))
        producer.flush(flush_s)

    def _send_one(self, producer: Producer, record: OutRecord) -> None:
        """Keyed records go where their key's hash says, the others to partition 0, so that they have one order."""
        value, headers = record.value, record.headers
        if record.key is None and value is None:
            value, headers = b"", (*headers, _NOTHING)
        partition = 0 if record.key is None else None
        producer.send(self._config.topic_prefix + record.topic, record.key, value, headers, partition)

    # --- reading back -------------------------------------------------------------------------------------------

    def confirm(self) -> None:
        """Waits for `kafka.delivery_timeout_ms` at most: a broker answers a commit before anybody can see it."""
        if self._unconfirmed is not None and self._usable:
            self._read_back(*self._unconfirmed, self._config.delivery_timeout_ms / 1000)

    def _read_back(self, step: int, manifest: bytes, timeout_s: float) -> None:
        topic = self._config.topic_prefix + MANIFEST
        with self._doubt(step):
            found = self._manifests.arrived(timeout_s)
            if found is None:
                raise CommitUnknown(
                    f"step {step}: its commit was reported as done, but its manifest did not come from {topic} "
                    f"within {timeout_s:g} s (was this process or the broker paused?); the next start tells",
                    broker_away=True,
                )
            if found.value != manifest:
                raise CommitUnknown(
                    f"step {step}: its commit was reported as done, but {topic} holds other bytes at offset "
                    f"{found.offset}: another engine took over transactional id {transactional_id(self._config)!r}"
                )
        self._unconfirmed = None

    def last(self) -> Manifest | None:
        self.confirm()
        return self._manifests.last()

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        self.confirm()
        return self._manifests.after(after)

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        with self._reading(topic) as found:
            return found.bounds()

    def published(self, topic: str) -> Iterator[Published]:
        """Partition by partition, up to the end at the time of the call."""
        with self._reading(topic) as found:
            for partition, (first, end) in found.bounds().items():
                for record in found.read(partition, first, end):
                    yield Published(_restored(topic, record), partition, record.offset)

    @contextmanager
    def _reading(self, topic: str) -> Iterator[Log]:
        found = self._log(topic)
        try:
            yield found
        finally:
            found.close()

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Never hangs; a transaction that is still open is aborted by the broker."""
        self._look_once_more()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.close()
        if self._standing is not None:
            standing, self._standing = self._standing, None
            standing.close()

    def _look_once_more(self) -> None:
        """The last step of all should be read back too; if it cannot be, the next start tells."""
        if self._unconfirmed is None or not self._usable:
            return
        try:
            self._read_back(*self._unconfirmed, _LAST_LOOK_S)
        except (ShoalError, Stopped) as error:
            log.warning("%s", error)


def _too_slow(step: int, took_s: float, limit_s: float) -> CommitUnknown:
    return CommitUnknown(
        f"step {step}: its transaction took {took_s:.1f} s, kafka.transaction_timeout_ms is {limit_s:g} s: the "
        f"broker may have aborted it, whatever the commit says (was this process paused?)",
        broker_away=True,
    )


def _restored(topic: str, record: Record) -> OutRecord:
    """The record as it was handed to `commit`."""
    headers = tuple(record.headers)
    if _NOTHING in headers:
        return OutRecord(topic, None, None, tuple(h for h in headers if h != _NOTHING))
    return OutRecord(topic, record.key, record.value, headers)


def _size(record: OutRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
