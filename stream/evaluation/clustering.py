"""`shoal eval clustering`: the segmenter and named peers on labelled streams, every row scored before it is learned.

Tuning and reporting are apart. Peers get, per stream, the best start and the best of a grid by the sum of
squares on the seeds `TUNING_SEEDS`, of the very shape that is reported: more than Shoal gets. Shoal's own
defaults were chosen on the development seeds and shapes only (`--development` runs those); the other seeds
and shapes, and the real data, are only ever reported on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import click
import numpy as np

from .. import config
from ..benchmarks.pipeline import machine
from ..config import load
from ..config_text import nearest
from ..ports import ConfigError
from . import peers, real
from .bounds import offline, true_centres
from .goals import judged
from .measures import follow, measured
from .streams import CHANGES, SHAPES, Stream, made

BATCH_ROWS = 256
ROWS, QUICK_ROWS = 40_960, 16_384
SEEDS, QUICK_SEEDS = 5, 2
REPORT_SEED = 100  # and up
DEVELOPMENT_SEEDS = (0, 1, 2, 3, 4)
DEVELOPMENT_SHAPES = ("gaussian", "heavy")
TUNING_SEEDS = (0, 1)
SCALES = (1000.0, 0.001)
QUICK_STREAMS = ("gaussian/static", "gaussian/abrupt", "gaussian/births", "heavy/slow", "heavy/imbalanced")

Maker = Callable[[int, int], Stream]  # seed, rows
Settings = dict[str, tuple[str, float]]  # of a tuned peer: where it starts, and its step or half-life


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    streams: dict[str, Maker]
    seeds: tuple[int, ...]
    rows: int
    contestants: tuple[str, ...]
    overrides: tuple[str, ...]

    @staticmethod
    def of(
        seeds: int | None,
        rows: int | None,
        only: Sequence[str],
        contestants: str | None,
        quick: bool,
        development: bool,
        overrides: tuple[str, ...],
    ) -> Plan:
        """From the command's options. Raises ConfigError for names that are not known."""
        if importlib.util.find_spec("sklearn") is None:
            raise ConfigError(
                "`shoal eval clustering` compares with scikit-learn, which is not installed: "
                "pip install 'scikit-learn>=1.6' (or shoal[dev])"
            )
        count = seeds or (QUICK_SEEDS if quick else SEEDS)
        return Plan(
            _chosen(catalogue(), only, quick, development),
            tuple((0 if development else REPORT_SEED) + i for i in range(count)),
            rows or (QUICK_ROWS if quick else ROWS),
            _asked(contestants),
            overrides,
        )


def catalogue() -> dict[str, Maker]:
    """Every stream by name, in the order of the table."""
    makers: dict[str, Maker] = {}
    for shape in SHAPES:
        for change in CHANGES:
            makers[f"{shape}/{change}"] = _maker(shape, change)
    for factor in SCALES:
        makers[f"gaussian/static x {factor:g}"] = _scaled(factor)
    makers.update(real.CATALOGUE)
    return makers


def _maker(shape: str, change: str) -> Maker:
    return lambda seed, rows: made(shape, change, seed, rows)


def _scaled(factor: float) -> Maker:
    return lambda seed, rows: made("gaussian", "static", seed, rows).scaled(factor)


def _chosen(
    makers: dict[str, Maker], only: Sequence[str], quick: bool, development: bool
) -> dict[str, Maker]:
    names = list(makers)
    if development:
        names = [name for name in names if name.split("/")[0] in DEVELOPMENT_SHAPES]
    if quick:
        names = [name for name in names if name in QUICK_STREAMS]
    if only:
        names = [name for name in names if any(text in name for text in only)]
    if not names:
        raise ConfigError(
            f"--only {' '.join(only)}: no stream's name contains that; known: {', '.join(makers)}"
        )
    return {name: makers[name] for name in names}


def _asked(text: str | None) -> tuple[str, ...]:
    asked = peers.NAMES if text is None else tuple(text.split(","))
    for name in asked:
        if name not in peers.NAMES:
            raise ConfigError(f"--contestants: unknown contestant {name!r}; {nearest(name, peers.NAMES)}")
    return tuple(name for name in peers.NAMES if name in asked)


# --- running ------------------------------------------------------------------------------------------


def evaluate(plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Run the plan: measures per stream and contestant (mean and all seeds), settings of peers, goals."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the variables of `one_thread` come too late for what is imported by now
        return _evaluate(plan, echo)


def _evaluate(plan: Plan, echo: bool) -> dict[str, Any]:
    settings = load(None, plan.overrides).segmenter
    table, tuned, changes = {}, {}, {}
    for name, maker in plan.streams.items():
        tuned[name] = _tuned(plan, maker)
        runs = [_one(plan, settings, maker(seed, plan.rows), seed, tuned[name]) for seed in plan.seeds]
        changes[name] = maker(plan.seeds[0], plan.rows).change
        table[name] = {who: _summary([run[who] for run in runs]) for who in runs[0]}
        if echo:
            click.echo(f"{name}: {_said(table[name])}", err=True)
    return {
        "machine": machine() | {"scikit-learn": version("scikit-learn")},
        "seeds": list(plan.seeds),
        "tuning_seeds": list(TUNING_SEEDS),
        "rows": plan.rows,
        "batch_rows": BATCH_ROWS,
        "overrides": list(plan.overrides),
        "tuned": tuned,
        "streams": table,
        "goals": judged(table, changes),
    }


def _tuned(plan: Plan, maker: Maker) -> Settings:
    """The best start and setting of each tuned peer: the least sum of squares on the tuning seeds."""
    wanted = [name for name in peers.TUNED if name in plan.contestants]
    streams = [maker(seed, plan.rows) for seed in TUNING_SEEDS] if wanted else []
    starts = [peers.starts(s.warm, s.k, seed) for s, seed in zip(streams, TUNING_SEEDS, strict=False)]
    found = {}
    for name in wanted:
        grid, make = peers.TUNED[name]
        losses = {
            (start, value): sum(
                follow(make(value, centres[start]), stream, BATCH_ROWS).gaps.sum()
                for stream, centres in zip(streams, starts, strict=True)
            )
            for start in starts[0]
            for value in grid
        }
        found[name] = min(losses, key=losses.__getitem__)
    return found


def _one(
    plan: Plan, settings: config.Segmenter, stream: Stream, seed: int, tuned: Settings
) -> dict[str, dict[str, float]]:
    """One stream: the measures of every contestant asked for."""
    optimum, best = offline(stream, seed)
    truth = true_centres(stream)
    tracks = {"offline": optimum} | ({"truth": truth} if truth is not None else {})
    for name, contestant in _contestants(plan.contestants, settings, stream, seed, tuned):
        tracks[name] = follow(contestant, stream, BATCH_ROWS)
    return {name: measured(stream, tracks[name], best, truth) for name in plan.contestants if name in tracks}


def _contestants(
    names: Sequence[str], settings: config.Segmenter, stream: Stream, seed: int, tuned: Settings
) -> Iterator[tuple[str, peers.Contestant]]:
    k, d = stream.k, stream.rows.shape[1]
    starts = peers.starts(stream.warm, k, seed)
    for name in names:
        if name in peers.TUNED:
            start, value = tuned[name]
            yield name, peers.TUNED[name][1](value, starts[start])
        elif name == "shoal":
            yield name, peers.configured(settings, k, seed, d)
        elif name == "constant":
            yield name, peers.constant(k, seed, d)
        elif name == "river":
            yield name, peers.River(k, seed, d)


def _summary(runs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Per measure: the mean over seeds, and each seed's value; a measure that is not defined is null."""
    return {
        measure: {
            "mean": _number(float(np.mean([run[measure] for run in runs]))),
            "all": [_number(run[measure]) for run in runs],
        }
        for measure in runs[0]
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _said(row: dict[str, dict[str, dict[str, Any]]]) -> str:
    return ", ".join(f"{who} ARI {m['ari']['mean']:.3f} SSQ {m['ssq']['mean']:.3f}" for who, m in row.items())
