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


_SEEDS = click.option(
    "--seeds", type=AT_LEAST_1, default=3, show_default=True, help="Simulations drawn per row of the table."
)
_USERS = click.option("--users", type=AT_LEAST_1, default=1500, show_default=True, help="Users of each.")
_EVENTS = click.option("--events", type=AT_LEAST_1, default=60_000, show_default=True, help="Events of each.")
_SEGMENTS = click.option(
    "--segments", default="8,32", show_default=True, help="Numbers of segments, by commas."
)


@command.command()
@_SEEDS
@_USERS
@_EVENTS
@_SEGMENTS
@click.option("--only", default="", metavar="TEXT", help="Planted causes whose name contains this.")
@click.option("--flips/--no-flips", default=True, help="Whether to put counterfactuals to the test as well.")
@as_json
def reasons(
    seeds: int, users: int, events: int, segments: str, only: str, flips: bool, as_json: bool
) -> None:
    """Changes that only the user, or only the model, can have caused: are they called by their cause?
    And do counterfactuals hold when the events they name are really taken out of the stream, or put into it?"""
    from ..evaluation.reasons import KINDS, REPORT_SEED, Plan, evaluate, render

    kinds = [kind for kind in KINDS if only in kind.name]
    if not kinds:
        raise click.UsageError(f"--only {only!r}: wanted a part of {'; '.join(k.name for k in KINDS)}")
    numbers = whole_numbers("--segments", segments)
    plan = Plan(kinds, numbers, range(REPORT_SEED, REPORT_SEED + seeds), users, events, flips)
    tell(evaluate(plan, echo=not as_json), as_json, render)


@command.command()
@_SEEDS
@_USERS
@_EVENTS
@_SEGMENTS
@click.option("--development", is_flag=True, help="The seeds and behaviours that the prior was fitted on.")
@click.option("--fit", is_flag=True, help="Fit the prior on these runs and print it, instead of measuring.")
@as_json
def confidence(
    seeds: int, users: int, events: int, segments: str, development: bool, fit: bool, as_json: bool
) -> None:
    """Of the placements said to be sure with probability p, do p last? Beside two peers."""
    from ..evaluation import calibration

    first = calibration.DEVELOPMENT_SEED if development else calibration.REPORT_SEED
    shapes = calibration.DEVELOPMENT_SHAPES if development else calibration.SHAPES
    numbers = whole_numbers("--segments", segments)
    plan = calibration.Plan(numbers, range(first, first + seeds), users, events, shapes)
    if fit:
        tell(calibration.fit(plan, echo=not as_json), as_json, str)
    else:
        tell(calibration.evaluate(plan, echo=not as_json), as_json, calibration.render)


@command.command()
@click.option("--seeds", default=5, type=AT_LEAST_1, show_default=True, help="Worlds drawn per case.")
@click.option("--only", default="", metavar="TEXT", help="Cases whose name contains this.")
@as_json
def identity(seeds: int, only: str, as_json: bool) -> None:
    """Are segments that split, merge, begin and end called so, and does nothing else happen to ids?"""
    from ..evaluation.identity import evaluate, render
    from ..wiring import one_thread

    one_thread()
    result = evaluate(seeds, only, echo=not as_json)
    tell(result, as_json, render)


@command.command()
@click.option("--events", "path", default="", metavar="FILE", help="Events instead of simulated ones.")
@configured
@click.option("--segments", default="8,32", show_default=True, help="Numbers of segments, by commas.")
@click.option("--step-records", default=48, type=AT_LEAST_1, show_default=True, help="Lines in a step.")
@as_json
def encoder(
    path: str,
    config_path: Path | None,
    overrides: tuple[str, ...],
    segments: str,
    step_records: int,
    as_json: bool,
) -> None:
    """How many users move because the encoder changed: at publications, and when it begins again."""
    from ..evaluation.encoder_churn import evaluate, render
    from ..wiring import one_thread

    one_thread()
    config = configuration(config_path, overrides)
    if config.encoder.kind == "autoencoder":
        from ...encoders.autoencoder import one_thread as one_torch_thread

        one_torch_thread()
    result = evaluate(config, path, whole_numbers("--segments", segments), step_records, echo=not as_json)
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
