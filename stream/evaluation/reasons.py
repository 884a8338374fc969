"""`shoal eval reasons`: is a change that only the user, or only the model, can have caused called by its cause?

Each row of the table is one kind of planted cause, run through the real pipeline (`reasons_runs.py`): several seeds,
several numbers of segments; 99 of 100 changes are to be called by it. A second table puts counterfactuals to the
test with real events (`reasons_flips.py`): 95 of 100 are to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from ..benchmarks.pipeline import machine, machine_line
from ..config import Config, load
from ..simulation.personas import PERSONAS
from ..simulation.population import Settings
from .reasons_flips import Flips, flips
from .reasons_runs import Trial
from .simulated import steps

GOAL, GOAL_FLIPS = 0.99, 0.95
TOLD_AGAIN = 30  # users whose events are changed in one re-run: more would change the models
REPORT_SEED = 100
STEP_RECORDS = 256
_BASE = (
    "features.users_max=4096", "engine.step_records_max=4096", "segmenter.warmup_rows=600", "encoder.warmup_steps=300",
    "encoder.publish_every_rows=2500", "membership.catalog_every_rows=20000",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of planting causes."""

    name: str
    overrides: tuple[str, ...]
    simulated: dict[str, Any]  # of the simulation
    held: float
    walkers: float = 0.0


_SLOW = {"drift": "slow", "drift_share": 1.0}
_BORN = {"personas": PERSONAS[:6], "births": PERSONAS[8:12], "deaths": 3}
KINDS = (
    Kind("user, overnight", (), {"drift": "abrupt", "drift_share": 0.5, "drift_at": 0.5}, 0.0),
    Kind("user, gradually", (), _SLOW, 0.0),
    Kind("model, centres drift", ("encoder.kind=linear", "segmenter.mode=constant"), _SLOW, 0.5),
    Kind("model, publications", ("encoder.churn_budget=1", "encoder.learning_rate=0.01"), _SLOW, 0.5),
    Kind("model, interventions", ("encoder.kind=identity",), _BORN, 0.5),
    Kind("mixed", ("encoder.churn_budget=1",), _SLOW, 0.4, 0.3),
)


@dataclass(frozen=True, slots=True)
class Plan:
    kinds: Sequence[Kind]
    segments: Sequence[int]
    seeds: Sequence[int]
    users: int
    events: int
    flips: bool = True

    def config(self, segments: int, *overrides: str) -> Config:
        chosen = (*_BASE, f"segmenter.segments={segments}", *overrides)
        return load(None, chosen, environ={})


def evaluate(plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Run the plan: per kind, cause and number of segments how many changes there were, and how many were right."""
    rows = []
    for kind in plan.kinds:
        for segments in plan.segments:
            tally = {"user": [0, 0], "model": [0, 0]}
            for seed in plan.seeds:
                simulated = Settings(
                    users=plan.users, events=plan.events, days=14.0, seed=seed, boundary=0.2, **kind.simulated
                )
                settle = plan.events * 2 // 5 // STEP_RECORDS
                trial = Trial(plan.config(segments, *kind.overrides), settle, kind.held, kind.walkers, seed)
                judged = trial.run(steps(simulated, STEP_RECORDS))
                for cause, counts in tally.items():
                    right, n = judged.right(cause)
                    counts[0] += right
                    counts[1] += n
            rows += [
                _row(kind.name, segments, cause, *counts) for cause, counts in tally.items() if counts[1]
            ]
            if echo:
                for row in rows[-2:]:
                    click.echo(_line(row), err=True)
    return {
        "machine": machine(),
        "seeds": list(plan.seeds),
        "users": plan.users,
        "events": plan.events,
        "rows": rows,
        "causes": [_row("all", 0, cause, *_sum(rows, cause)) for cause in ("user", "model")],
        "counterfactuals": _flipped(plan, echo) if plan.flips else [],
    }


def _flipped(plan: Plan, echo: bool) -> list[dict[str, Any]]:
    """Per number of segments: how many changes had a counterfactual, and how many of those tested held."""
    rows = []
    for segments in plan.segments:
        config, found = plan.config(segments, "membership.counterfactuals_max=10000"), Flips()
        for seed in plan.seeds:
            simulated = Settings(
                users=plan.users, events=plan.events, days=14.0, seed=seed, boundary=0.2, drift="abrupt"
            )
            stream = list(steps(simulated, STEP_RECORDS))
            since, judged = len(stream) * 4 // 10, len(stream) * 7 // 10
            found.add(flips(config, stream, since, judged, seed, TOLD_AGAIN))
        row = {
            "segments": segments,
            **asdict(found),
            "share": found.held / found.tested if found.tested else None,
        }
        row["reached"] = row["share"] is not None and row["share"] >= GOAL_FLIPS
        rows.append(row)
        if echo:
            click.echo(_flip_line(row), err=True)
    return rows


def _flip_line(row: dict[str, Any]) -> str:
    share = "" if row["share"] is None else f"{row['share']:.1%}"
    same = row["same"] / max(1, row["controls"])
    return f"| {row['segments']} | {row['changes']:,} | {row['given']:,} | {row['tested']:,} | {share} | {same:.1%} |"


def _row(kind: str, segments: int, cause: str, right: int, n: int) -> dict[str, Any]:
    share = right / n if n else None
    reached = share is not None and share >= GOAL
    return {
        "planted": kind, "segments": segments, "cause": cause, "changes": n, "right": right, "share": share,
        "reached": reached,
    }  # fmt: skip


def _sum(rows: list[dict[str, Any]], cause: str) -> tuple[int, int]:
    own = [row for row in rows if row["cause"] == cause]
    return sum(row["right"] for row in own), sum(row["changes"] for row in own)


def _line(row: dict[str, Any]) -> str:
    share = "" if row["share"] is None else f"{row['share']:.2%}"
    return f"| {row['planted']} | {row['segments'] or ''} | {row['cause']} | {row['changes']:,} | {share} |"


def render(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"Changes called by their planted cause; {result['users']:,} users, {result['events']:,} events a run, "
            f"seeds {', '.join(map(str, result['seeds']))}; goal {GOAL:.0%}.",
            machine_line(result["machine"]),
            "",
            "| planted | segments | cause | changes | called by it |",
            "|---|---:|---|---:|---:|",
            *(_line(row) for row in [*result["rows"], *result["causes"]]),
            "",
            f"Counterfactuals, the same stream again with the events they name; goal {GOAL_FLIPS:.0%}. Controls: users",
            "of the same changes whose events were left as they were, and who decided as before.",
            "",
            "| segments | changes | with a counterfactual | tested | held | controls |",
            "|---:|---:|---:|---:|---:|---:|",
            *(_flip_line(row) for row in result["counterfactuals"]),
        ]
    )
