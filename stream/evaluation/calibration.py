"""`shoal eval confidence`: of the placements that are said to stay with probability p, do p stay?

Expected calibration error (Naeini et al. 2015) over BINS bins of equally many placements: the mean gap between the
mean score of a bin and the share of it that stayed. Per number of segments and group of placements, beside two
peers: the fuzzy c-means degree and a softmax of the distances. Seeds and shapes that the prior was fitted on
(`--development`) are not those that are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from ..benchmarks.pipeline import machine, machine_line
from ..confidence import STAY_EVENTS, prior_terms
from ..config import Config, load
from ..events import F64, Bool
from ..simulation.personas import PERSONAS
from ..simulation.population import Settings
from .calibration_runs import Placements, placements
from .simulated import steps

BINS, GOAL, FEW = 15, 0.05, 5
REPORT_SEED, DEVELOPMENT_SEED = 100, 0
PEERS = ("score", "degree", "softmax")
_BASE = (
    "features.users_max=8192", "features.keep_ms=31536000000", "segmenter.warmup_rows=600",
    "encoder.warmup_steps=300", "encoder.publish_every_rows=5000", "membership.catalog_every_rows=50000",
)  # fmt: skip

Shape = tuple[dict[str, Any], int]  # of the simulation, and records in a step

SHAPES: dict[str, Shape] = {
    "steady": ({"boundary": 0.2}, 256),
    "overnight": ({"boundary": 0.2, "drift": "abrupt", "drift_share": 0.3, "anonymous": 0.3}, 256),
    "births": ({"boundary": 0.1, "personas": PERSONAS[:6], "births": PERSONAS[8:12], "deaths": 2}, 512),
}
DEVELOPMENT_SHAPES: dict[str, Shape] = {
    "plain": ({"boundary": 0.1}, 128),
    "slow": ({"boundary": 0.3, "drift": "slow", "drift_share": 0.5}, 512),
    "busy": ({"boundary": 0.2, "personas": PERSONAS[2:12]}, 1024),
}


@dataclass(frozen=True, slots=True)
class Plan:
    segments: Sequence[int]
    seeds: Sequence[int]
    users: int
    events: int
    shapes: dict[str, Shape]
    overrides: tuple[str, ...] = ()

    def config(self, segments: int) -> Config:
        return load(None, (*_BASE, f"segmenter.segments={segments}", *self.overrides), environ={})


def run(plan: Plan, echo: bool = False) -> dict[tuple[str, int], Placements]:
    """Placements by shape and number of segments, all seeds together."""
    found = {}
    for shape, (simulated, records) in plan.shapes.items():
        for segments in plan.segments:
            parts = [
                placements(
                    plan.config(segments),
                    steps(Settings(users=plan.users, events=plan.events, seed=seed, **simulated), records),
                )
                for seed in plan.seeds
            ]
            found[shape, segments] = Placements.joined(parts)
            if echo:
                click.echo(f"{shape}, {segments} segments: {len(found[shape, segments]):,}", err=True)
    return found


def evaluate(plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Run the plan: calibration errors of the score and its peers, and the score's reliability table."""
    found = run(plan, echo)
    rows = [
        {"shape": shape, "segments": segments, **row}
        for (shape, segments), made in found.items()
        for row in _errors(made)
    ]
    everything = Placements.joined(list(found.values()))
    return {
        "machine": machine(),
        "seeds": list(plan.seeds),
        "users": plan.users,
        "events": plan.events,
        "stay_events": STAY_EVENTS,
        "rows": rows + [{"shape": "all", "segments": 0, **row} for row in _errors(everything)],
        "reliability": reliability(everything.score, everything.stayed),
    }


def _errors(made: Placements) -> list[dict[str, Any]]:
    groups = {"all": np.ones(len(made), np.bool_), "first": made.first, f"< {FEW} events": made.seen < FEW}
    rows = []
    for group, at in groups.items():
        if at.sum() < 10 * BINS:
            continue
        stayed = made.stayed[at]
        row: dict[str, Any] = {"group": group, "placements": int(at.sum()), "stayed": float(stayed.mean())}
        for peer in PEERS:
            row[peer] = calibration_error(getattr(made, peer)[at], stayed)
        row["reached"] = row["score"] <= GOAL
        rows.append(row)
    return rows


def reliability(score: F64, stayed: Bool) -> list[dict[str, Any]]:
    """Mean score and share that stayed in each of BINS bins of equally many placements, low scores first."""
    order = np.argsort(score, kind="stable")
    return [
        {
            "placements": len(part),
            "said": float(score[part].mean()),
            "stayed": float(stayed[part].mean()),
        }
        for part in np.array_split(order, BINS)
        if len(part)
    ]


def calibration_error(score: F64, stayed: Bool) -> float:
    """Mean gap between what the bins said and what was so, weighted by their placements; 0..1."""
    rows = reliability(score, stayed)
    total = sum(row["placements"] for row in rows)
    return float(sum(abs(row["said"] - row["stayed"]) * row["placements"] for row in rows) / total)


# --- the prior --------------------------------------------------------------------------------------------


def fit(plan: Plan, echo: bool = False) -> dict[str, Any]:
    """PROFILE and PRIOR of `confidence.py` for these runs: each shape and number of segments weighs alike."""
    found = run(plan, echo)
    terms, stayed, weight = [], [], []
    for made in found.values():
        for centres in np.unique(made.centres).tolist():
            at = made.centres == centres
            columns = prior_terms(made.seen[at], made.margin[at], made.first[at], centres)
            terms.append(np.stack(list(columns.values()), axis=1))
            stayed.append(made.stayed[at])
            weight.append(np.full(int(at.sum()), 1.0 / len(made)))
    names = list(columns)
    w = np.concatenate(weight)
    solved = _cloglog(np.concatenate(terms), ~np.concatenate(stayed), w * len(w) / w.sum())
    return {
        "PRIOR": {name: round(value, 4) for name, value in zip(names, solved.tolist(), strict=True)},
        "PROFILE": [round(share, 4) for share in _profile(list(found.values()))],
    }


def _cloglog(terms: F64, left: Bool, weight: F64) -> F64:
    """Weights b (p,) of P(left) = 1 - exp(-exp(terms b)), most likely, lightly ridged; Newton by Fisher scoring."""
    b = np.zeros(terms.shape[1])
    b[0] = np.log(max(float(np.average(left, weights=weight)), 1e-3))
    ridge = np.eye(len(b))
    for _ in range(50):
        eta = np.clip(terms @ b, -12.0, 3.0)
        risk = np.exp(eta)
        p = np.clip(-np.expm1(-risk), 1e-9, 1 - 1e-9)
        slope = risk * np.exp(-risk)
        score = terms.T @ (weight * (left - p) * slope / (p * (1 - p))) - ridge @ b
        information = terms.T @ (terms * (weight * slope**2 / (p * (1 - p)))[:, None]) + ridge
        step = np.linalg.solve(information, score)
        b = b + step
        if np.abs(step).max() < 1e-9:
            break
    return b


def _profile(runs: Sequence[Placements]) -> list[float]:
    """Share of the risk that is over after 0 .. STAY_EVENTS events: cumulative hazards, over the last one."""
    hazard = np.zeros(STAY_EVENTS + 1)
    for made in runs:
        lasted = np.minimum(made.lasted, STAY_EVENTS + 1)
        for age in range(STAY_EVENTS + 1):
            at_risk = max(1, int((lasted >= age).sum()))
            hazard[age] += float((lasted == age).sum()) / at_risk / len(runs)
    hazard[:2] = 0.0, hazard[0] + hazard[1]  # who leaves before its next event runs the risk of that one
    total = np.cumsum(hazard)
    shares: list[float] = (total / max(total[-1], 1e-12)).tolist()
    return shares


# --- the table --------------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    lines = [
        f"Score: the probability that a user stays through its next {result['stay_events']} events. Expected "
        f"calibration error, {BINS} bins; {result['users']:,} users, {result['events']:,} events a run, seeds "
        f"{', '.join(map(str, result['seeds']))}; goal {GOAL}.",
        machine_line(result["machine"]),
        "",
        "| behaviour | segments | placements | number | stayed | score | c-means degree | softmax |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        errors = " | ".join(f"{row[peer]:.3f}" for peer in PEERS)
        lines.append(
            f"| {row['shape']} | {row['segments'] or ''} | {row['group']} | {row['placements']:,} "
            f"| {row['stayed']:.1%} | {errors} |"
        )
    lines += ["", "| said | stayed | placements |", "|---:|---:|---:|"]
    lines += [f"| {r['said']:.3f} | {r['stayed']:.3f} | {r['placements']:,} |" for r in result["reliability"]]
    return "\n".join(lines)
