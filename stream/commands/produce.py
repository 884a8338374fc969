"""shoal produce: a file of events into the input topic, as fast as it goes, at a rate, or by its own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import orjson

from ..config import Config
from ..ports import BrokerGone, ConfigError, InputError
from ..sources import FileSource
from ..wire import Decoder
from .options import RATE, as_json, configuration, configured

if TYPE_CHECKING:
    from kafka import KafkaProducer

_RECORDS = 8192  # read and decoded at a time
_POLL_S = 0.5
_IN_FLIGHT_BYTES = 16 << 20  # then wait until all of it is acknowledged
_DELIVERY_S = 60.0


@click.command(short_help="a file of events into Kafka")
@click.argument("file")
@configured
@click.option("--rate", type=RATE, help="Events per second at most.")
@click.option("--speedup", type=RATE, help="Times faster than the events' clock.")
@click.option("--topic", help="Another topic than kafka.events_topic (without the prefix).")
@as_json
def command(
    file: str,
    config_path: Path | None,
    overrides: tuple[str, ...],
    rate: float | None,
    speedup: float | None,
    topic: str | None,
    as_json: bool,
) -> None:
    """Send each line of FILE (JSON lines, .gz, or - for stdin) to the input topic.

    A user's events keep their order: the key is the user id, read as [input] says. Lines that break the
    contract are sent too, without a key; `shoal validate` says what is wrong with them.
    """
    if rate and speedup:
        raise ConfigError("--rate and --speedup exclude each other: a fixed pace, or the events' own")
    config = configuration(config_path, overrides)
    if topic:
        config = msgspec.structs.replace(
            config, kafka=msgspec.structs.replace(config.kafka, events_topic=topic)
        )
    sent = produce(config, file, Pace(rate, speedup))
    if as_json:
        click.echo(orjson.dumps(msgspec.to_builtins(sent)))
    else:
        click.echo(
            f"{sent.records:,} records to {sent.topic} in {sent.seconds:.1f} s "
            f"({sent.records / max(sent.seconds, 1e-9):,.0f}/s); {sent.invalid:,} of them break the contract"
        )


@dataclass(frozen=True, slots=True)
class Sent:
    topic: str
    records: int
    invalid: int
    seconds: float


class Pace:
    """When the next event is due: at a rate, at a multiple of the events' own clock, or at once.

    An event that is older than one before it is due at once: the clock of a stream never goes back.
    """

    def __init__(
        self,
        rate: float | None = None,
        speedup: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._speedup = speedup
        self._clock = clock
        self._sleep = sleep
        self._started_s: float | None = None
        self._sent = 0
        self._first_ms: int | None = None

    def wait(self, time_ms: int | None, before_sleeping: Callable[[], object]) -> None:
        """Return when an event with this time (None: unreadable) may be sent."""
        if self._started_s is None:
            self._started_s = self._clock()
        wait_s = self._started_s + self._due_s(time_ms) - self._clock()
        self._sent += 1
        if wait_s > 0:
            before_sleeping()
            self._sleep(wait_s)

    def _due_s(self, time_ms: int | None) -> float:
        if self._rate:
            return self._sent / self._rate
        if not self._speedup or time_ms is None:
            return 0.0
        if self._first_ms is None:
            self._first_ms = time_ms
        return (time_ms - self._first_ms) / 1000 / self._speedup


Event = tuple[bytes, bytes | None, int | None]  # the line, its key, its time in ms


def events(file: str, decoder: Decoder) -> Iterator[Event]:
    """Every line of the file with its user as key; key and time are None for lines that break the contract."""
    with closing(FileSource(file)) as source:
        source.open(lambda: False)
        while (polled := source.poll(_RECORDS, _POLL_S)) is not None:
            records, _ = polled
            decoded, _rejects = decoder.decode(records)
            known = {
                int(row): (user.removeprefix("\x00").encode(), int(time_ms))
                for row, user, time_ms in zip(decoded.row, decoded.users, decoded.time_ms, strict=True)
            }
            for row, value in enumerate(records.values):
                yield (value or b"", *known.get(row, (None, None)))


def check_readable(file: str) -> None:
    """Before a broker is waited for. Raises InputError."""
    if file != "-":
        with closing(FileSource(file)) as source:
            source.open(lambda: False)


def produce(config: Config, file: str, pace: Pace) -> Sent:
    """Send the file. Raises InputError, TopicsMissing, BrokerGone."""
    from kafka.errors import KafkaError

    from ..kafka.admin import input_topic
    from ..kafka.client import broker_away

    check_readable(file)
    outbox = Outbox(producer(config), input_topic(config.kafka))
    started_s = time.monotonic()
    records = invalid = 0
    try:
        for value, key, time_ms in events(file, Decoder(config.input)):
            pace.wait(time_ms, outbox.push)
            outbox.send(key, value)
            records += 1
            invalid += key is None
        outbox.settle()
    except KafkaError as error:
        if not broker_away(error):
            raise InputError(
                f"{file}, record {records + 1:,}: {config.kafka.bootstrap_servers}: {error}"
            ) from None
        raise BrokerGone(
            f"{config.kafka.bootstrap_servers}: {error} after {outbox.acknowledged:,} acknowledged records of "
            f"{file}; start again when `shoal doctor` is content (events sent twice are counted as duplicates)"
        ) from None
    finally:
        outbox.close()
    return Sent(outbox.topic, records, invalid, time.monotonic() - started_s)


def producer(config: Config, control: bool = False) -> KafkaProducer:
    """For the input topic, or the control topic, which is there, or created if `kafka.create_topics` says so."""
    from kafka import KafkaProducer

    from ..kafka.admin import ensure_control, ensure_input
    from ..kafka.client import connect, make
    from ..kafka.settings import settings

    admin = connect(config.kafka, lambda: False)
    assert admin is not None, "nobody can stop this wait"
    with closing(admin):
        (ensure_control if control else ensure_input)(admin, config.kafka)
    return make(
        KafkaProducer,
        **settings(config.kafka),
        acks="all",
        linger_ms=20,
        batch_size=256 << 10,
        max_request_size=32 << 20,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


class Outbox:
    """Sends, and bounds what is not acknowledged yet."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        self.topic = topic
        self.acknowledged = 0
        self._producer = producer
        self._futures: list[Any] = []
        self._bytes = 0

    def send(self, key: bytes | None, value: bytes) -> None:
        self._futures.append(self._producer.send(self.topic, key=key, value=value))
        self._bytes += len(value)
        if self._bytes >= _IN_FLIGHT_BYTES:
            self.settle()

    def push(self) -> None:
        """Before a pause: let what is buffered go, and forget what was acknowledged."""
        if self._bytes:
            self.settle()

    def settle(self) -> None:
        """Wait until everything is acknowledged. Raises KafkaError."""
        from kafka.errors import KafkaTimeoutError

        self._producer.flush(timeout=_DELIVERY_S)
        for future in self._futures:
            if not future.succeeded():
                raise future.exception or KafkaTimeoutError("a record was not acknowledged")
        self.acknowledged += len(self._futures)
        self._futures.clear()
        self._bytes = 0

    def close(self) -> None:
        from ..kafka.client import close_quietly

        close_quietly(lambda: self._producer.close(timeout=1), 2.0, "producer")
