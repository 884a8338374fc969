"""shoal eval: quality against truth and against named peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .options import AT_LEAST_1, as_json, configuration, configured, tell


@click.group(short_help="quality against truth and against named peers, as a table and JSON")
def command() -> None:
    """Measure how good Shoal's groups are, prequentially: everything is scored before it is learned from."""


@command.command()
@click.option("--seeds", type=AT_LEAST_1, help="Streams drawn per row of the table.  [default: 5; quick: 2]")
@click.option(
    "--rows", type=AT_LEAST_1, help="Scored rows per stream, whole windows.  [default: 40960; quick: 16384]"
)
@click.option("--only", multiple=True, metavar="TEXT", help="Streams whose name contains this; repeatable.")
@click.option("--contestants", metavar="A,B,...", help="Of the named ones only these.  [default: all]")
@click.option("--quick", is_flag=True, help="A first look in well under a minute: the quick streams only.")
@click.option(
    "--development",
    is_flag=True,
    help="The seeds and shapes that Shoal is tuned on, instead of those that are reported.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Configuration of Shoal."
)
@as_json
def clustering(
    seeds: int | None,
    rows: int | None,
    only: tuple[str, ...],
    contestants: str | None,
    quick: bool,
    development: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """The segmenter on labelled streams: drift, births, bad shapes, real data; against tuned peers and truth."""
    from ..evaluation.clustering import Plan, evaluate
    from ..evaluation.report import render

    plan = Plan.of(seeds, rows, only, contestants, quick, development, overrides)
    result = evaluate(plan, echo=not as_json)
    tell(result, as_json, render)


@command.command()
@click.argument("events", type=click.Path(exists=True, dir_okay=False))
@configured
@click.option(
    "--encoders", metavar="A,B,...", help="identity, linear, autoencoder.  [default: as configured]"
)
@click.option(
    "--families", default="activity,interest,both", show_default=True, help="Feature families, by commas."
)
@click.option("--segments", default="8,32", show_default=True, help="Numbers of segments, by commas.")
@click.option("--step-records", default=64, type=AT_LEAST_1, show_default=True, help="Lines in a step.")
@click.option(
    "--repeats",
    default="auto",
    type=click.Choice(["auto", "count", "exclude"]),
    show_default=True,
    help="Is an item the user turned to before a target? auto: where most targets are purchases or plays.",
)
@as_json
def lift(
    events: str,
    config_path: Path | None,
    overrides: tuple[str, ...],
    encoders: str | None,
    families: str,
    segments: str,
    step_records: int,
    repeats: str,
    as_json: bool,
) -> None:
    """What segments are worth to a recommender: hit-rate@10 of their lists against everybody's list,
    once as it is best in hindsight and once as plain popularity that never forgets.

    EVENTS is a file of events with items, JSON lines or .gz; --config holds its field map.
    """
    from ..evaluation.lift import ENCODERS, FAMILIES, Plan, measure, render

    config = configuration(config_path, overrides)
    plan = Plan(
        chosen("--encoders", encoders or config.encoder.kind, ENCODERS),
        chosen("--families", families, FAMILIES),
        whole_numbers("--segments", segments),
        step_records,
        repeats,
    )
    result = measure(events, config, plan, echo=not as_json)
    tell(result, as_json, render)


@command.command()
@click.argument("events", required=False, type=click.Path(exists=True, dir_okay=False))
@configured
@click.option("--seeds", type=AT_LEAST_1, help="Scenes drawn per shape.  [default: 3; quick: 1]")
@click.option("--only", multiple=True, metavar="TEXT", help="Scenes whose name contains this; repeatable.")
@click.option("--quick", is_flag=True, help="A first look in seconds: shapes only, one seed.")
@click.option("--sweep", is_flag=True, help="Every setting of the grid that the defaults were chosen from.")
@click.option(
    "--development", is_flag=True, help="The seeds and shapes of the sweep, instead of those reported."
)
@click.option(
    "--step-records", default=64, type=AT_LEAST_1, show_default=True, help="Lines in a step, with EVENTS."
)
@as_json
def membership(
    events: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    seeds: int | None,
    only: tuple[str, ...],
    quick: bool,
    sweep: bool,
    development: bool,
    step_records: int,
    as_json: bool,
) -> None:
    """Who moves that did not, and how soon those are seen who did: against the plain nearest centre.

    Simulated users, a fifth of them on a border, a fifth of whom move. With EVENTS, a file of events, only the
    changes that every policy would publish are counted: nobody knows the truth behind a file.
    """
    from ..evaluation import flapping
    from ..evaluation.flapping_report import render

    config = configuration(config_path, overrides)
    if events is not None:
        result = flapping.counted(config, events, step_records)
    else:
        plan = flapping.Plan.of(seeds, only, quick, development or sweep)
        evaluate = flapping.sweep if sweep else flapping.evaluate
        result = evaluate(config, plan, echo=not as_json)
    tell(result, as_json, render)


def chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas, all of them known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise click.UsageError(f"{option} {text!r}: wanted some of {', '.join(known)}, by commas")
    return names


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers of at least 1, separated by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise click.UsageError(f"{option} {text!r}: wanted numbers of at least 1, by commas, e.g. 8,32")
    return [int(part) for part in parts]
