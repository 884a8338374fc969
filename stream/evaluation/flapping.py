"""Does a membership policy move people who moved, and nobody else?

Two kinds of scenes. Shapes: users in embedding space with planted truth (`flapping_shapes.py`); centres are given, so
only the policy is tested. The shop: the whole pipeline on simulated events (`flapping_shop.py`), where windows and
the encoder decide how fast a row shows what a user does; there every policy is measured from the plain nearest
centre, which sees a move as soon as the rows show it.

The defaults of `[membership]` were chosen with `sweep` on the shapes and seeds of `DEVELOPED_ON` and
`DEVELOPMENT_SEEDS`; what is reported comes from other seeds, and mostly other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import click
import numpy as np
from msgspec.structs import replace as changed

from ..benchmarks.pipeline import machine
from ..config import Config, Membership
from ..policy import Policy
from ..ports import InputError
from .flapping_play import NEVER, Scene, measured, play
from .flapping_rules import NEAREST, SHOAL, Nearer, rules
from .flapping_shapes import DEVELOPED_ON, DEVELOPMENT_SEEDS, SHAPES, made
from .flapping_shop import file, shop

SEGMENTS = (8, 32)
"""Of the shop: as many as there are personas, and the default."""
RATIO_MOST = 1 / 20
DELAY_MOST = 5.0
SHOP = "shop"
DAY_MS = 86_400_000

GRID: dict[str, Sequence[float]] = {
    "margin": (0.1, 0.15, 0.2),
    "clear_lead": (0.25, 0.5),
    "confirmations": (2, 3, 4),
    "patience": (0.0, 0.25, 0.5),
}
"""What `--sweep` tries: every combination, with the other keys as configured."""
AROUND: dict[str, Sequence[float]] = {
    "smoothing_ms": (0, DAY_MS, 4 * DAY_MS, 16 * DAY_MS),
    "silence_ms": (0, DAY_MS // 4, DAY_MS, 4 * DAY_MS),
    "patience_ms": (7 * DAY_MS, 30 * DAY_MS, 90 * DAY_MS),
    "dwell_ms": (0, DAY_MS, 7 * DAY_MS),
}
"""And one at a time, with all other keys as configured."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which scenes, with which seeds."""

    shapes: tuple[str, ...]
    seeds: tuple[int, ...]
    shops: tuple[int, ...]  # numbers of segments; empty: no shop

    @staticmethod
    def of(seeds: int | None, only: Sequence[str], quick: bool, development: bool) -> Plan:
        """From the options of a person. Raises InputError where nothing is left."""
        names = DEVELOPED_ON if development else tuple(SHAPES)
        shapes = tuple(name for name in names if not only or any(part in name for part in only))
        shops = () if quick or (only and not any(part in SHOP for part in only)) else SEGMENTS
        if not shapes and not shops:
            raise InputError(f"--only {' '.join(only)}: no such scene; there are {', '.join((*names, SHOP))}")
        first = DEVELOPMENT_SEEDS[0] if development else 1
        count = seeds or (1 if quick else len(DEVELOPMENT_SEEDS) if development else 3)
        return Plan(shapes, tuple(range(first, first + count)), shops)

    def scenes(self, config: Config) -> Iterator[tuple[str, list[Scene]]]:
        """Each scene's name with one scene per seed; the shop takes the first seed only."""
        for name in self.shapes:
            yield name, [made(name, seed) for seed in self.seeds]
        for k in self.shops:
            scene = shop(_with_segments(config, k), self.seeds[0])
            yield scene.name, [scene]


def _with_segments(config: Config, k: int) -> Config:
    features = changed(config.features, users_max=16_384)
    return changed(config, features=features, segmenter=changed(config.segmenter, segments=k))


def evaluate(config: Config, plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Play every policy over every scene: figures (means over seeds) and goals."""
    table: dict[str, dict[str, Figures]] = {}
    for name, scenes in plan.scenes(config):
        table[name] = _mean([compared(config.membership, scene) for scene in scenes])
        if echo:
            click.echo(said(name, table[name]), err=True)
    return _head(config, plan) | {"scenes": table, "goals": goals(table)}


def compared(config: Membership, scene: Scene) -> dict[str, Figures]:
    """The figures of every policy on one scene."""
    played = {who: play(rule, scene) for who, rule in rules(config, len(scene.truth.home)).items()}
    figures = {who: measured(scene, one, played[NEAREST]) for who, one in played.items()}
    return {who: with_ratio(one, figures[NEAREST]) for who, one in figures.items()}


def with_ratio(figures: Figures, nearest: Figures) -> Figures:
    """Needless changes as a share of the plain nearest centre's; so are changes where no truth is known."""
    return figures | {
        "ratio": figures["needless"] / max(nearest["needless"], 1e-9),
        "changes_ratio": figures["changes"] / max(nearest["changes"], 1e-9),
    }


def _mean(runs: list[dict[str, Figures]]) -> dict[str, Figures]:
    """Over seeds; ratios of means, not means of ratios."""
    means = {
        who: {name: float(np.mean([run[who][name] for run in runs])) for name in figures}
        for who, figures in runs[0].items()
    }
    return {who: with_ratio(figures, means[NEAREST]) for who, figures in means.items()}


def _head(config: Config, plan: Plan) -> dict[str, Any]:
    return {
        "machine": machine(),
        "seeds": list(plan.seeds),
        "developed_on": {"shapes": list(DEVELOPED_ON), "seeds": list(DEVELOPMENT_SEEDS)},
        "membership": _keys(config.membership),
    }


def goals(table: dict[str, dict[str, Figures]]) -> list[dict[str, Any]]:
    """What Shoal's policy must reach on every scene, and whether it did.

    In the shop delay and movers are counted from the plain nearest centre: rows show nothing sooner.
    """
    found: list[dict[str, Any]] = []
    for name, row in table.items():
        got, in_shop = row[SHOAL], name.startswith(SHOP)
        delay, right = ("later", "right_as_nearest") if in_shop else ("delay", "right")
        for goal, value, most in (("ratio", got["ratio"], RATIO_MOST), (delay, got[delay], DELAY_MOST)):
            found.append(
                {"scene": name, "goal": goal, "got": value, "at_most": most, "reached": value <= most}
            )
        value = got[right]
        found.append({"scene": name, "goal": right, "got": value, "at_least": 1.0, "reached": value >= 1.0})
    return found


def said(name: str, row: dict[str, Figures]) -> str:
    """A line for a person who waits."""
    parts = [
        f"{who} {one['needless']:.1f} needless ({one['ratio']:.4f}), {one['delay']:.0f} events"
        for who, one in row.items()
    ]
    return f"{name}: " + "; ".join(parts)


# --- a file of events, where nobody knows the truth --------------------------------------------------------


def counted(config: Config, path: str, step_records: int) -> dict[str, Any]:
    """Changes per 1,000 events of every policy over a file: evidence, without goals."""
    scene = file(config, path, step_records)
    row = compared(config.membership, scene)
    kept = ("changes", "changes_ratio", "events")
    table = {path: {who: {name: figures[name] for name in kept} for who, figures in row.items()}}
    return {"machine": machine(), "file": path, "step_records": step_records, "scenes": table, "goals": []}


# --- how the defaults were chosen --------------------------------------------------------------------------


def sweep(config: Config, plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Every combination of GRID, and what is AROUND the configuration, on the plan's scenes; the best first.

    Those come first that reach every goal on every shape, and lose no mover of the shop; of these the ones with the
    fewest needless changes in the shop for their delay there (geometric mean of the ratio times events later + 5).
    """
    scenes = [scene for _, many in plan.scenes(config) for scene in many]
    plain = [play(Nearer(0.0, 1, len(scene.truth.home)), scene) for scene in scenes]
    nearest = [measured(scene, one, one) for scene, one in zip(scenes, plain, strict=True)]
    tried = []
    for rule in settings(config.membership):
        figures = [
            with_ratio(measured(scene, play(Policy(rule, len(scene.truth.home)), scene), one), base)
            for scene, one, base in zip(scenes, plain, nearest, strict=True)
        ]
        tried.append({"set": _keys(rule), **summary(scenes, figures)})
        if echo:
            click.echo(f"{tried[-1]}", err=True)
    tried.sort(key=lambda one: (not one["reached"], one["cost"]))
    return _head(config, plan) | {"tried": tried}


def settings(membership: Membership) -> list[Membership]:
    """What a sweep tries, each once."""
    grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    around = [{name: value} for name, values in AROUND.items() for value in values]
    found: list[Membership] = []
    for keys in grid + around:
        one = changed(membership, **keys)
        if one not in found:
            found.append(one)
    return found


def _keys(membership: Membership) -> dict[str, float]:
    return {name: getattr(membership, name) for name in (*GRID, *AROUND)}


def summary(scenes: Sequence[Scene], figures: Sequence[Figures]) -> dict[str, Any]:
    """What a setting is judged by."""
    names = [scene.name for scene in scenes]
    shapes = [one for name, one in zip(names, figures, strict=True) if not name.startswith(SHOP)]
    shops = [one for name, one in zip(names, figures, strict=True) if name.startswith(SHOP)]
    ratio = max((one["ratio"] for one in shapes), default=0.0)
    delay = max((one["delay"] for one in shapes), default=0.0)
    right = min((one["right"] for one in shapes), default=1.0)
    kept = min((one["right_as_nearest"] for one in shops), default=1.0)
    judged = shops or shapes
    later = [min(one["later"], NEVER) for one in judged]
    costs = [one["ratio"] * (5.0 + most) for one, most in zip(judged, later, strict=True)]
    return {
        "reached": ratio <= RATIO_MOST and delay <= DELAY_MOST and right >= 1.0 and kept >= 1.0,
        "cost": float(np.exp(np.mean(np.log(np.maximum(costs, 1e-9))))),
        "ratio": ratio,
        "delay": delay,
        "right": right,
        "shop_ratio": [one["ratio"] for one in shops],
        "shop_later": [one["later"] for one in shops],
        "shop_right": kept,
    }
