"""A stream that never stops: simulated events, and bad records that a header gives away.

The log is the truth about what was fed: whether a record that was not acknowledged is in it does not matter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import count, cycle

from kafka import KafkaProducer
from kafka.errors import KafkaError

from shoal.stream.config import Kafka
from shoal.stream.simulation.population import Settings
from shoal.stream.simulation.simulator import Simulator

PLANTED = "planted"
"""Header of a bad record: the reason for which it must be rejected. The engine does not look at it."""
BAD: tuple[tuple[str, bytes | None], ...] = (
    ("json", b'{"event_id": "torn'),
    ("schema", b'{"event_id": "x", "user_id": "nobody"}'),
    ("tombstone", None),
    ("encoding", b'{"event_id": "\xff"}'),
    ("number", b'{"event_id": "x", "value": NaN}'),
    ("depth", b"[" * 20 + b"]" * 20),
)
_BAD_EVERY = 60
_BATCH = 50
_ACKNOWLEDGED_S = 30.0

Record = tuple[bytes | None, bytes | None, str]  # key, value, reason for which it is bad ("": good)


def records(seed: int, users: int = 300) -> Iterator[Record]:
    """Without end, the same for the same seed. No clock runs ahead: its event would get the time of the wall
    clock, and all that follows in simulated time would be late."""
    bad = cycle(BAD)
    for row, (key, value) in zip(count(1), _events(seed, users), strict=False):
        yield key, value, ""
        if row % _BAD_EVERY == 0:
            reason, text = next(bad)
            yield b"planted-%d" % row, text, reason


def _events(seed: int, users: int) -> Iterator[tuple[bytes, bytes | None]]:
    settings = Settings(
        users=users, days=3650.0, seed=seed, boundary=0.2, bots=1, duplicates=0.02, absurd=0.005,
        disorder_ms=60_000, drift="slow",
    )  # fmt: skip
    for batch in Simulator(settings).batches(_BATCH):
        yield from zip(batch.keys, batch.values, strict=True)


class Feeder:
    """Feeds from `start` to `stop`, at a rate, also while the broker is away."""

    def __init__(self, config: Kafka, seed: int, rate_per_s: float) -> None:
        self._config = config
        self._records = records(seed)
        self._pause_s = _BATCH / rate_per_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float = 2 * _ACKNOWLEDGED_S) -> None:
        """Returns when everything that was handed over is in the log."""
        self._stopping.set()
        self._thread.join(within_s)
        assert not self._thread.is_alive(), "the feeder hangs"

    def _work(self) -> None:
        producer = self._producer()
        while not self._stopping.wait(self._pause_s):
            try:
                self._feed(producer)
            except KafkaError:  # the broker was away for long: another producer, and on
                with contextlib.suppress(KafkaError):
                    producer.close(1)
                producer = self._producer()
        producer.close(_ACKNOWLEDGED_S)

    def _producer(self) -> KafkaProducer:
        while True:
            try:
                return KafkaProducer(
                    bootstrap_servers=self._config.bootstrap_servers,
                    acks="all",
                    linger_ms=5,
                    retries=1_000_000,
                )
            except KafkaError:
                if self._stopping.wait(0.2):
                    raise

    def _feed(self, producer: KafkaProducer) -> None:
        topic = self._config.topic_prefix + self._config.events_topic
        futures = []
        for _ in range(_BATCH):
            key, value, reason = next(self._records)
            headers = [(PLANTED, reason.encode())] if reason else []
            futures.append(producer.send(topic, value, key, headers))
        producer.flush(_ACKNOWLEDGED_S)
        for future in futures:
            future.get(_ACKNOWLEDGED_S)
