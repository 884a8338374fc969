"""shoal bench: speed against named peers, in one run."""

from __future__ import annotations

from pathlib import Path

import click

from .options import AT_LEAST_0, AT_LEAST_1, DAYS_RANGE, RATE, SECONDS, as_json, tell

AT_LEAST_16 = click.IntRange(min=16)


@click.group(short_help="speed against named peers in one run")
def command() -> None:
    """Measure Shoal and its peers side by side; one process and one thread each; ratios, not absolute times."""


@command.command()
@click.option(
    "--events", type=click.Path(exists=True, path_type=Path), help="Contract events; else simulated."
)
@click.option("--count", default=1_000_000, type=AT_LEAST_1, show_default=True, help="Events for Shoal.")
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
    "--clients",
    multiple=True,
    type=click.Choice(["confluent"]),
    help="With --kafka: Shoal with this client library, too.",
)
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
    clients: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """The whole pipeline: files, and Kafka to Kafka exactly once, against the same features with River."""
    from ..benchmarks.pipeline import measure, render

    result = measure(events, count, peer_count, rounds, servers, overrides, not as_json, clients)
    tell(result, as_json, render)


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
    tell(result, as_json, render)


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
    tell(result, as_json, render)


@command.command()
@click.option("--users", default=100_000, type=AT_LEAST_16, show_default=True, help="Users with windows.")
@click.option(
    "--events", "count", default=2_000_000, type=AT_LEAST_1, show_default=True, help="Events of them."
)
@click.option(
    "--peer-users", default=1000, type=AT_LEAST_16, show_default=True, help="Users beside the peers."
)
@click.option(
    "--peer-events", "peer_count", default=60_000, type=AT_LEAST_1, show_default=True, help="Events of them."
)
@click.option(
    "--per-second", default=500.0, type=RATE, show_default=True, help="Of these events, in their own time."
)
@click.option("--step", default=8192, type=AT_LEAST_1, show_default=True, help="Events in a step of Shoal.")
@click.option("--rounds", default=3, type=AT_LEAST_1, show_default=True, help="Rounds; medians are shown.")
@as_json
def windows(
    users: int,
    count: int,
    peer_users: int,
    peer_count: int,
    per_second: float,
    step: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Sliding windows for many users: against Quix Streams and Bytewax, and from 6 to 360 tiles a window."""
    from ..benchmarks.windows import measure, render

    result = measure(users, count, peer_users, peer_count, per_second, rounds, step, echo=not as_json)
    tell(result, as_json, render)


@command.command()
@click.option(
    "--scenario",
    "names",
    multiple=True,
    type=click.Choice(["resident", "passing", "long"]),
    help="Only these; may be given again. Default: all three.",
)
@click.option(
    "--users-cap",
    default=1_000_000,
    type=AT_LEAST_16,
    show_default=True,
    help="Users in the state at a time.",
)
@click.option(
    "--users", default=10_000_000, type=AT_LEAST_16, show_default=True, help="Users who pass through it."
)
@click.option(
    "--events", default=20_000_000, type=AT_LEAST_1, show_default=True, help="Events of the long run."
)
@click.option("--days", default=20.0, type=DAYS_RANGE, show_default=True, help="Of the events' own time.")
@click.option("--slices", default=40, type=click.IntRange(min=8), show_default=True, help="Samples of a run.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Configuration of Shoal."
)
@as_json
def endurance(
    names: tuple[str, ...],
    users_cap: int,
    users: int,
    events: int,
    days: float,
    slices: int,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Whether memory and speed stay flat: many users, many who pass through, many events. Takes its time."""
    from ..benchmarks.endurance import SCENARIOS, measure, render

    result = measure(names or SCENARIOS, users_cap, users, events, days, slices, overrides, echo=not as_json)
    tell(result, as_json, render)


@command.command()
@click.option("--rounds", default=3, type=AT_LEAST_1, show_default=True, help="Rounds; medians are shown.")
@click.option("--rows", default=32_768, type=AT_LEAST_1, show_default=True, help="Rows of a pass.")
@click.option(
    "--cell", "cells", multiple=True, metavar="DxK", help="A shape; default: 16, 32, 64 x 8, 32, 128."
)
@click.option("--seed", default=1, type=AT_LEAST_0, show_default=True, help="Seed of the data.")
@click.option(
    "--verify", default=0, type=AT_LEAST_0, metavar="ROWS", help="Also compare ROWS with River, bit for bit."
)
@as_json
def segmenter(rounds: int, rows: int, cells: tuple[str, ...], seed: int, verify: int, as_json: bool) -> None:
    """Learn and label per row: River's rule compiled, against River, scikit-learn and FAISS, one thread each."""
    from ..benchmarks.segmenter import CELLS, measure, render

    shapes = tuple(_shape(cell) for cell in cells) or CELLS
    result = measure(rounds, rows, shapes, seed, verify, echo=not as_json)
    tell(result, as_json, render)


def _shape(text: str) -> tuple[int, int]:
    d, _, k = text.partition("x")
    if not (d.isdigit() and k.isdigit() and int(d) and int(k)):
        raise click.BadParameter(f"{text!r} is not a shape: wanted DIMENSIONSxCENTRES, as in 32x32")
    return int(d), int(k)
