"""Ways to a deployment for those who only look: its ports for reading, and progress on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..config import Config
from ..ports import ConfigError, Sink, Source, Store
from .kept import kept_snapshots

KAFKA_PATIENCE_S = 5.0
"""A transaction's end is told to each partition by itself; all know it within this time."""
_PLAIN_EVERY_S = 10.0


def reading(
    config: Config, input_path: str | None, output: str | None, control: str | None = None
) -> tuple[Source, Sink, Store]:
    """Source, sink and snapshots of a run, which may be going on. Joins no group, fences nobody.

    Raises ConfigError when only one of the two paths is given, or `output` is no folder.
    """
    from ..wiring import file_ports, kafka_reader_ports

    if (input_path is None) != (output is None):
        raise ConfigError("--input and --output go together: give both, or neither for a run on Kafka")
    if input_path is not None and output is not None:
        if not Path(output).is_dir():
            raise ConfigError(f"--output {output}: no such folder; name the one that `shoal run` wrote")
        source, sink = file_ports(input_path, output, control=control)
    else:
        source, sink = kafka_reader_ports(config)
        source.mark = _kafka_mark(config)
    return source, sink, kept_snapshots(config.engine.state_dir)


def _kafka_mark(config: Config) -> str:
    """Which topic this is; "" where it is not there: reading it will say so."""
    from ..kafka.admin import describe, input_topic, topic_mark
    from ..kafka.client import close_quietly, connect

    admin = connect(config.kafka, lambda: False)
    assert admin is not None, "nobody tells it to stop"
    try:
        topic = describe(admin, [input_topic(config.kafka)]).get(input_topic(config.kafka))
    finally:
        close_quietly(admin.close, 2.0, "admin client")
    return "" if topic is None else topic_mark(topic)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int], None]]:
    """To be told every step that was done: a live line on a terminal, a plain one now and then elsewhere."""
    console = Console(stderr=True, highlight=False)
    started_s = said_s = time.monotonic()
    screen: AbstractContextManager[Live | None] = nullcontext()
    if console.is_terminal:
        screen = Live(console=console, transient=True, auto_refresh=False)
    with screen as live:

        def told(step: int) -> None:
            nonlocal said_s
            now_s = time.monotonic()
            if now_s - said_s < (0.2 if live else _PLAIN_EVERY_S):
                return
            said_s = now_s
            text = f"{what} step {step:,} ({now_s - started_s:.0f} s)"
            if live:
                live.update(Text(text), refresh=True)
            else:
                click.echo(text, err=True)

        yield told
