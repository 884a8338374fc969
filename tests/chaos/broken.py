"""An engine that is broken on purpose, to see the audit find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import KafkaProducer

from shoal.stream.config import Kafka

_ACKNOWLEDGED_S = 10.0


class PlainProducer:
    """The port's producer without a transaction: what was sent is there at once, and nothing holds it together."""

    def __init__(self, config: Kafka) -> None:
        self._producer = KafkaProducer(bootstrap_servers=config.bootstrap_servers, linger_ms=0)

    def begin(self) -> None: ...

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        partition: int | None,
    ) -> None:
        sent = self._producer.send(topic, value, key, list(headers), partition)
        sent.get(_ACKNOWLEDGED_S)

    def flush(self, timeout_s: float) -> None: ...

    def send_offsets(self, *offsets: Any) -> None: ...

    def commit(self, timeout_s: float) -> None: ...

    def close(self) -> None:
        self._producer.close(1)


def sound(client: Any) -> None:
    """As it is."""


def without_transactions(client: Any) -> None:
    client.producer = lambda self: PlainProducer(self._config)


VARIANTS: Mapping[str, Callable[[Any], None]] = {"": sound, "without transactions": without_transactions}
