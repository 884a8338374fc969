"""shoal bench: speed against named peers, in one run."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from .options import AT_LEAST_1, as_json


@click.group(short_help="speed against named peers in one run")
def command() -> None:
    """Measure Shoal and its peers side by side; one process and one thread each; ratios, not absolute times."""


@command.command()
@click.option(
    "--events", type=click.Path(exists=True, path_type=Path), help="Contract events; else simulated."
)
@click.option("--count", default=200_000, type=AT_LEAST_1, show_default=True, help="Events for Shoal.")
@click.option(
    "--peer-count",
    default=6_000,
    type=AT_LEAST_1,
    show_default=True,
    help="Events for the River pipeline (it is slow).",
)
@click.option(
    "--rounds",
    default=3,
    type=AT_LEAST_1,
    show_default=True,
    help="Rounds; contestants take turns, medians are shown.",
)
@click.option("--kafka", "servers", help="HOST:PORT of a broker; without one only files are compared.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Configuration of Shoal."
)
@as_json
def pipeline(
    events: Path | None,
    count: int,
    peer_count: int,
    rounds: int,
    servers: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """The whole pipeline: files, and Kafka to Kafka exactly once, against the same features with River."""
    from ..benchmarks.pipeline import measure, render

    result = measure(events, count, peer_count, rounds, servers, overrides, echo=not as_json)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(render(result))
