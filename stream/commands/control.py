"""shoal control: one command for the engine, into the control topic or at the end of a file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from ..config import Config
from ..control.commands import decode
from ..decoding.refusals import Problem
from ..ports import ConfigError, DiskFailed
from .options import as_json, configuration, configured, log_to_stderr

Decorated = Callable[..., Any]

_user = click.option("--user", help="A user id.")
_anonymous = click.option("--anonymous", help="An anonymous id.")


@click.group(short_help="a command for the engine: erase, consent, merge, pin, rename, freeze")
def command() -> None:
    """Tell the engine, in order with the data: forget a user, respect a refusal, join two names, and so on.

    Each verb writes one record to kafka.control_topic, or with --to at the end of FILE (`shoal run --control FILE`).
    What came of it is published: `shoal control VERB --help` says where. All take --config, --set, --id, --by,
    --reason and --json.
    """


def verb(function: Decorated) -> click.Command:
    """The options that all of them share."""
    for option in (
        as_json,
        click.option("--id", "command_id", help="Receipts name it. Default: a new one."),
        click.option("--reason", help="Why; stays in the topic."),
        click.option("--by", "issued_by", help="Who asks; stays in the topic."),
        click.option("--to", type=click.Path(path_type=Path), help="A file, instead of Kafka."),
        configured,
    ):
        function = option(function)
    made: click.Command = command.command()(function)
    return made


@verb
@_anonymous
@_user
def erase(user: str | None, anonymous: str | None, **shared: Any) -> None:
    """Forget a user. segment.changes has the receipt (transition erased), segment.members a tombstone."""
    _send({"user": _who(user, anonymous)}, **shared)


@verb
@click.option("--withdraw/--give", "withdraw", default=None, required=True, help="No longer; or again.")
@_anonymous
@_user
def consent(user: str | None, anonymous: str | None, withdraw: bool, **shared: Any) -> None:
    """Withdraw a user's consent to be put into segments: erased, and not kept again. Or give it."""
    _send({"user": _who(user, anonymous), "segmentation": not withdraw}, **shared)


@verb
@click.option("--into-anonymous", help="An anonymous id.")
@click.option("--into", help="A user id: who stays.")
@click.option("--from-anonymous", help="An anonymous id.")
@click.option("--from", "source", help="A user id: who goes.")
def merge(
    source: str | None,
    from_anonymous: str | None,
    into: str | None,
    into_anonymous: str | None,
    **shared: Any,
) -> None:
    """Two names are one person: what one did and does is the other's from now on."""
    _send({"from": _who(source, from_anonymous), "into": _who(into, into_anonymous)}, **shared)


@verb
@click.option("--release", is_flag=True, help="Let the user go.")
@click.option("--segment", type=int, help="Where to hold the user.")
@_anonymous
@_user
def pin(user: str | None, anonymous: str | None, segment: int | None, release: bool, **shared: Any) -> None:
    """Hold a user in a segment. segment.changes says `operator` for the move."""
    if (segment is None) == (not release):
        raise ConfigError("give --segment ID to hold the user there, or --release to let it go")
    _send({"user": _who(user, anonymous), "segment_id": segment}, **shared)


@verb
@click.option("--release", is_flag=True, help="Let the engine name it again.")
@click.option("--zh", help="And in Chinese.")
@click.option("--name", help="What people call it.")
@click.option("--segment", type=int, required=True)
def rename(segment: int, name: str | None, zh: str | None, release: bool, **shared: Any) -> None:
    """What people call a segment. segment.lineage and segment.catalog say so."""
    if (name is None) == (not release):
        raise ConfigError("give --name TEXT, or --release to let the engine name the segment again")
    names = None if name is None else {"en": name} | ({} if zh is None else {"zh": zh})
    _send({"segment_id": segment, "names": names}, **shared)


@verb
@click.option("--learning/--no-learning", default=False, help="Go on learning; or stop.")
def freeze(learning: bool, **shared: Any) -> None:
    """Stop learning: centres, encoder, scaling and names stay; scores and memberships go on."""
    _send({"learning": learning}, **shared)


def _who(user: str | None, anonymous: str | None) -> dict[str, str]:
    if (user is None) == (anonymous is None):
        raise ConfigError("name one user: by its user id, or by its anonymous id")
    return {"user_id": user} if user is not None else {"anonymous_id": anonymous or ""}


def _send(
    body: dict[str, Any],
    config_path: Path | None,
    overrides: tuple[str, ...],
    to: Path | None,
    issued_by: str | None,
    reason: str | None,
    command_id: str | None,
    as_json: bool,
) -> None:
    log_to_stderr()
    config = configuration(config_path, overrides)
    head = {"command": click.get_current_context().info_name, "command_id": command_id or str(uuid.uuid4())}
    said = {"issued_by": issued_by, "reason": reason}
    whole = head | body | {name: text for name, text in said.items() if text is not None}
    value = orjson.dumps(whole)
    if isinstance(problem := decode(value, config.input.value_max_bytes), Problem):
        raise ConfigError(f"not a command that the engine would take: {problem.detail}")
    where = _append(to, value) if to is not None else _produce(config, value)
    click.echo(value if as_json else f"{head['command_id']}: {head['command']} written to {where}")


def _append(path: Path, value: bytes) -> str:
    """One line, durable. Raises DiskFailed."""
    try:
        with path.open("ab") as file:
            file.write(value + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskFailed(f"{path}: the command could not be written: {error.strerror}") from None
    return str(path)


def _produce(config: Config, value: bytes) -> str:
    """To the control topic, acknowledged. Raises ConfigError, TopicsMissing, BrokerGone."""
    from kafka.errors import KafkaError

    from ..kafka.settings import control_topic
    from ..ports import BrokerGone
    from .produce import Outbox, producer

    topic = control_topic(config.kafka)
    if not topic:
        raise ConfigError(
            "kafka.control_topic is empty: the engine reads no commands; name a topic, or --to FILE"
        )
    outbox = Outbox(producer(config, control=True), topic)
    try:
        outbox.send(None, value)
        outbox.settle()
    except KafkaError as error:
        raise BrokerGone(f"{config.kafka.bootstrap_servers}: {error}; the command may not be there") from None
    finally:
        outbox.close()
    return topic
