"""shoal bench: speed against named peers, in one run."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from .options import AT_LEAST_1, RATE, SECONDS, as_json


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


@command.command()
@click.option("--kafka", "servers", required=True, help="HOST:PORT of a broker.")
@click.option("--count", default=200_000, type=AT_LEAST_1, show_default=True, help="Events for the speed.")
@click.option("--rate", default=5_000, type=AT_LEAST_1, show_default=True, help="Events/s for the latency.")
@click.option("--seconds", default=20.0, type=click.FloatRange(min=1), show_default=True, help="How long.")
@click.option("--rounds", default=3, type=AT_LEAST_1, show_default=True, help="Rounds; medians are shown.")
@as_json
def guarantee(servers: str, count: int, rate: int, seconds: float, rounds: int, as_json: bool) -> None:
    """What exactly once costs: the same engine with and without it, events/s and latency."""
    from ..benchmarks.guarantee import measure, render

    result = measure(servers, count, rate, seconds, rounds, echo=not as_json)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(render(result))


@command.command()
@click.option("--users", default=1_000_000, type=AT_LEAST_1, show_default=True, help="Users in the state.")
@click.option(
    "--minutes",
    default=2.0,
    type=SECONDS,
    show_default=True,
    help="Live events after the snapshot, in minutes.",
)
@click.option("--rate", default=1000.0, type=RATE, show_default=True, help="Live events per second.")
@click.option(
    "--step-records", default=100, type=AT_LEAST_1, show_default=True, help="Records in a live step."
)
@click.option(
    "--pause-users",
    default=200_000,
    type=AT_LEAST_1,
    show_default=True,
    help="Users where pauses are measured.",
)
@click.option(
    "--rounds", default=3, type=AT_LEAST_1, show_default=True, help="Recoveries; the median is shown."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Configuration of Shoal."
)
@as_json
def recovery(
    users: int,
    minutes: float,
    rate: float,
    step_records: int,
    pause_users: int,
    rounds: int,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """How soon a killed engine is ready again, stage by stage; what snapshots cost the engine meanwhile."""
    from ..benchmarks.recovery import measure, render

    result = measure(users, minutes, rate, step_records, pause_users, rounds, overrides, echo=not as_json)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        click.echo(render(result))
