"""shoal simulate: behaviour events with known truth, to a file, stdout or Kafka."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import click
import orjson

from ..config import Config
from ..events import Reason
from ..ports import BrokerGone, InputError
from ..simulation.personas import PERSONAS, Persona
from ..simulation.population import DAY_MS, MONDAY_MS, Settings, Span
from ..simulation.simulator import DAYS, Batch, Planted, Simulator
from .options import AT_LEAST_0, AT_LEAST_1, DAYS_RANGE, RATE, SHARE, as_json, configuration, configured

if TYPE_CHECKING:
    from .produce import Outbox

KINDS = tuple(reason.value for reason in Reason)
_CHUNKS_PER_S = 20  # with --rate


class Receiver(Protocol):
    """Where simulated records go."""

    def send(self, batch: Batch) -> None: ...


@click.command(short_help="behaviour events with known truth")
@click.option(
    "--users", default=2000, type=AT_LEAST_1, show_default=True, help="How many users, bots included."
)
@click.option("--events", type=AT_LEAST_1, help="Exactly this many records.")
@click.option(
    "--days", type=DAYS_RANGE, help=f"Span of stream time. [default: {DAYS:g}, or what --events take]"
)
@click.option(
    "--seed", default=1, type=AT_LEAST_0, show_default=True, help="The same seed gives the same bytes."
)
@click.option("--start", default="", help="First day (default 2026-01-05), or `now`: end at the present.")
@click.option("--personas", default="8", show_default=True, help="A number, or names: night_gamer,...")
@click.option(
    "--births", default=0, type=AT_LEAST_0, show_default=True, help="Personas that appear on the way."
)
@click.option(
    "--deaths", default=0, type=AT_LEAST_0, show_default=True, help="Personas that vanish on the way."
)
@click.option(
    "--drift",
    type=click.Choice(["none", "slow", "abrupt"]),
    default="none",
    show_default=True,
    help="slow: habits move; abrupt: some users change persona overnight.",
)
@click.option(
    "--drift-share",
    default=0.2,
    type=SHARE,
    show_default=True,
    help="Share that changes; how far habits move.",
)
@click.option(
    "--drift-at", default=0.6, type=SHARE, show_default=True, help="When the abrupt one comes, 0..1."
)
@click.option(
    "--boundary", default=0.0, type=SHARE, show_default=True, help="Share of users that mix two personas."
)
@click.option("--bots", default=0, type=AT_LEAST_0, show_default=True, help="How many of the users are bots.")
@click.option(
    "--anonymous", default=0.0, type=SHARE, show_default=True, help="Share of users without a user id."
)
@click.option(
    "--duplicates", default=0.0, type=SHARE, show_default=True, help="Share of records sent a second time."
)
@click.option(
    "--disorder-ms",
    default=0,
    type=AT_LEAST_0,
    show_default=True,
    help="Longest delay of an event's arrival.",
)
@click.option(
    "--late", default=0.0, type=SHARE, show_default=True, help="Share of records older than any window."
)
@click.option(
    "--future", default=0.0, type=SHARE, show_default=True, help="Share of records with a clock years ahead."
)
@click.option(
    "--absurd", default=0.0, type=SHARE, show_default=True, help="Share of records with a value of 1e308."
)
@click.option(
    "--corrupt", default="", metavar="SHARE|KIND=SHARE,...", help="Bad records: " + ", ".join(KINDS)
)
@click.option("--output", default="-", show_default=True, help="FILE, FILE.gz, or - (stdout).")
@click.option("--truth", "truth_path", type=click.Path(path_type=Path), help="Who was who: a JSON file.")
@click.option("--to-kafka", is_flag=True, help="Send to the configured events topic instead of --output.")
@click.option("--rate", type=RATE, help="At most this many records a second.")
@configured
@as_json
def command(
    personas: str,
    births: int,
    start: str,
    corrupt: str,
    output: str,
    truth_path: Path | None,
    to_kafka: bool,
    rate: float | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **numbers: Any,
) -> None:
    """Make behaviour events of a shop whose users follow known personas.

    Everything comes from --seed. With --events and --days, people are busier or lazier so that both fit. In
    a file, an empty line stands for a record without a value (a tombstone).
    """
    config = configuration(config_path, overrides)
    first, later = choose_personas(personas, births)
    settings = Settings(personas=first, births=later, corrupt=parse_corrupt(corrupt), **numbers)
    simulator = Simulator(_started(settings, start))
    out_to = _topic(config) if to_kafka else _lines(output)
    with out_to as out:
        for batch in paced(simulator.batches(), rate):
            out.send(batch)
    if truth_path is not None:
        _write(truth_path, truth_json(simulator.planted, simulator.truth()))
    _report(simulator.planted, as_json, to_stderr=output == "-" and not to_kafka)


def choose_personas(text: str, births: int) -> tuple[tuple[Persona, ...], tuple[Persona, ...]]:
    """The personas of the first day and those born later, from a number or a list of names."""
    known = {persona.name: persona for persona in PERSONAS}
    if text.isdecimal():
        names = list(known)[: int(text)]
        count = int(text)
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
        count = len(names)
    unknown = [name for name in names if name not in known]
    if unknown or not 1 <= count <= len(known):
        raise InputError(
            f"--personas {text!r}: wanted 1 to {len(known)} of {', '.join(known)}"
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
        )
    others = [name for name in known if name not in names]
    if not 0 <= births <= len(others):
        raise InputError(f"--births {births}: {len(others)} personas are left to be born")
    return tuple(known[name] for name in names), tuple(known[name] for name in others[:births])


def parse_corrupt(text: str) -> tuple[tuple[str, float], ...]:
    """`0.01` spreads over all kinds evenly; `json=0.01,time=0.002` names them."""
    try:
        if text and "=" not in text:
            return tuple((kind, float(text) / len(KINDS)) for kind in KINDS)
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return tuple((kind.strip(), float(share)) for kind, share in pairs)
    except ValueError:
        raise InputError(
            f"--corrupt {text!r}: wanted a share such as 0.01, or KIND=SHARE,... of {', '.join(KINDS)}"
        ) from None


def _started(settings: Settings, start: str) -> Settings:
    if not start:
        return settings
    if start == "now":
        span_ms = round(Simulator(settings).days * DAY_MS)
        start_ms = time.time_ns() // 1_000_000 - span_ms
    else:
        try:
            start_ms = round(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            raise InputError(f"--start {start!r}: wanted a day such as 2026-01-05, or now") from None
    if start_ms < MONDAY_MS - 20 * 366 * DAY_MS:
        raise InputError(f"--start {start!r}: wanted a day after 2006")
    return replace(settings, start_ms=start_ms)


def paced(batches: Iterable[Batch], rate: float | None) -> Iterator[Batch]:
    """The same records, not faster than `rate` a second."""
    if not rate:
        yield from batches
        return
    size = max(1, int(rate / _CHUNKS_PER_S))
    began_s, sent = time.monotonic(), 0
    for batch in batches:
        for at in range(0, len(batch.values), size):
            part = slice(at, at + size)
            wait_s = began_s + sent / rate - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            yield Batch(batch.arrival_ms[part], batch.keys[part], batch.values[part])
            sent += len(batch.values[part])


class Lines:
    """Writes records as lines; a tombstone is an empty line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def send(self, batch: Batch) -> None:
        self._file.write(b"\n".join([value or b"" for value in batch.values]) + b"\n")
        self._file.flush()


class Topic:
    """Sends records to a topic; a tombstone has an empty value."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def send(self, batch: Batch) -> None:
        for key, value in zip(batch.keys, batch.values, strict=True):
            self._outbox.send(key, value or b"")
        self._outbox.settle()


@contextmanager
def _topic(config: Config) -> Iterator[Receiver]:
    """The input topic; every batch is acknowledged. Raises TopicsMissing, BrokerGone."""
    from kafka.errors import KafkaError

    from ..kafka.admin import input_topic
    from .produce import Outbox, producer

    outbox = Outbox(producer(config), input_topic(config.kafka))
    try:
        yield Topic(outbox)
    except KafkaError as error:
        raise BrokerGone(
            f"{config.kafka.bootstrap_servers}: {error} after {outbox.acknowledged:,} acknowledged records; "
            f"start again with the same --seed: what was sent before is then counted as duplicates"
        ) from None
    finally:
        outbox.close()


@contextmanager
def _lines(output: str) -> Iterator[Receiver]:
    if output == "-":
        yield Lines(sys.stdout.buffer)
        return
    try:
        with Path(output).open("wb") as file, _packed(file, output) as out:
            yield Lines(out)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror}") from None


def _packed(file: IO[bytes], name: str) -> IO[bytes]:
    """Compressed for .gz, without a time stamp: the same seed gives the same file."""
    if name.endswith(".gz"):
        return cast("IO[bytes]", gzip.GzipFile("", "wb", compresslevel=5, fileobj=file, mtime=0))
    return file


def truth_json(planted: Planted, spans: Iterable[Span]) -> bytes:
    """{"planted": counts, "users": [{user_id, persona, from_ms, to_ms, boundary, bot, ...}, ...]}."""
    body = {"planted": planted.as_dict(), "users": [span.as_dict() for span in spans]}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise InputError(f"--truth {path}: cannot be written: {error.strerror}") from None


def _report(planted: Planted, as_json: bool, to_stderr: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(planted.as_dict()), err=to_stderr)
        return
    rejects = ", ".join(f"{name} {count:,}" for name, count in planted.rejected.items()) or "none"
    click.echo(
        f"{planted.records:,} records: {planted.accepted:,} to accept, {planted.duplicates:,} duplicates, "
        f"{planted.late:,} late; to reject: {rejects}",
        err=True,
    )
