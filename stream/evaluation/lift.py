"""What segments are for: does the next thing a user turns to stand higher in the segment's list than in everybody's?

Prequential: the real pipeline runs over a file of events; what a step's users turn to is compared with both
lists as the steps before left them (`lift_trace.py`), then counted (`lift_score.py`).

    hit-rate@10   the share of targets that were among the ten best of a list
    lift          hits of the segments' lists over hits of the global list, less 1

Both lists forget at the same half-life, and of the half-lives tried the one at which the *global* list does
best, in hindsight, is used. A user without a segment gets the global list both times, and counts. Intervals:
users drawn again with replacement (Poisson bootstrap, seeded). `random` is the lift when every user is in the
segment of somebody else drawn at random: what a grouping of these sizes gives without any knowledge.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
from msgspec.structs import replace as changed

from ..benchmarks.pipeline import machine
from ..config import Config
from ..events import CHANNELS, F64, I64, Bool
from ..ports import InputError
from .lift_score import PRIORS, follow, hits
from .lift_trace import TAKEN_TO, Trace, trace

HALF_LIVES = (2_000.0, 5_000.0, 20_000.0, 100_000.0, 1e9)
"""In targets, whoever's: the lists' memory. The last one never forgets."""

FAMILIES = ("activity", "interest", "both")
ENCODERS = ("identity", "linear", "autoencoder")
_ALMOST_ONLY = 100.0  # weight of the interest family that leaves a ten-thousandth to the other
_RESAMPLES = 1000
_AT_ONCE = 50  # of them: bounds the memory
_SEED = 1
_REPEATED = ("purchase", "play")  # what people do with the same thing again


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and over which lists."""

    encoders: Sequence[str]
    families: Sequence[str]
    segments: Sequence[int]
    step_records: int
    repeats: str  # auto, count, exclude

    def variants(self, config: Config) -> Iterator[tuple[dict[str, Any], Config]]:
        for encoder in self.encoders:
            for family in self.families:
                for k in self.segments:
                    yield (
                        {"encoder": encoder, "family": family, "segments": k},
                        varied(config, encoder, family, k),
                    )


def varied(config: Config, encoder: str, family: str, segments: int) -> Config:
    """The configuration with another encoder, feature family and number of segments."""
    features = config.features
    if family == "activity":
        features = changed(features, interest_dim=0)
    elif family == "interest":
        features = changed(features, interest_weight=_ALMOST_ONLY)
    return changed(
        config,
        features=features,
        encoder=changed(config.encoder, kind=encoder),
        segmenter=changed(config.segmenter, segments=segments),
    )


def measure(path: str, config: Config, plan: Plan, echo: bool = False) -> dict[str, Any]:
    """Run every variant over the file. Raises InputError when nobody turns to anything in it."""
    rows, facts = [], {}
    for labels, variant in plan.variants(config):
        started_s = time.perf_counter()
        run = trace(path, variant, plan.step_records)
        if not len(run):
            raise InputError(f"{path}: no event with an item and a type among {', '.join(TAKEN_TO)}")
        counts_repeats = repeats(run, plan.repeats)
        facts = {"repeats_count": counts_repeats, **summary(run)}
        rows.append({**labels, **compared(run, counts_repeats), "seconds": time.perf_counter() - started_s})
        if echo:
            click.echo(_line(rows[-1]), err=True)
    return {"machine": machine(), "file": path, "step_records": plan.step_records, **facts, "variants": rows}


def repeats(run: Trace, wanted: str) -> bool:
    """Whether turning to the same item again is a target: as told, or where most targets are purchases or plays."""
    if wanted != "auto":
        return wanted == "count"
    again = np.isin(run.channel, [CHANNELS.index(name) for name in _REPEATED])
    return bool(again.mean() > 0.5)


def summary(run: Trace) -> dict[str, Any]:
    return {
        "events": len(run),
        "users": int(run.user.max()) + 1,
        "items": int(run.item.max()) + 1,
    }


def compared(run: Trace, counts_repeats: bool) -> dict[str, Any]:
    """Hit rates and lift at the half-life that is best for the global list; the lifts at all of them."""
    results = [_at(run, half_life, counts_repeats) for half_life in HALF_LIVES]
    best = max(range(len(results)), key=lambda i: results[i].total[0])  # ties: the shorter one
    found = results[best]
    return {
        "targets": int(found.target.sum()),
        "with_segment": float((run.before[found.target] >= 0).mean()) if found.target.any() else 0.0,
        "global_rate": found.rate(0),
        "segment_rate": found.rate(1),
        "lift": found.lift,
        "interval": interval(run, found),
        "random": _at(shuffled(run, _SEED), HALF_LIVES[best], counts_repeats).lift,
        "half_life": HALF_LIVES[best],
        "prior": found.prior,
        "by_half_life": [
            {"half_life": h, "global_rate": r.rate(0), "lift": r.lift}
            for h, r in zip(HALF_LIVES, results, strict=True)
        ],
        "sizes": np.bincount(_last(run)[_last(run) >= 0], minlength=run.segments).tolist(),
    }


@dataclass(frozen=True, slots=True)
class Hits:
    """Which of the n events were targets, and which of these each list had."""

    target: Bool  # (n,)
    everybody: Bool  # (n,)
    segment: Bool  # (n,)
    prior: float  # weight of the global list that was used last, in events; infinite: nothing else

    @property
    def total(self) -> tuple[int, int]:
        return int(self.everybody.sum()), int(self.segment.sum())

    @property
    def lift(self) -> float:
        base, own = self.total
        return own / base - 1.0 if base else 0.0

    def rate(self, which: int) -> float:
        return self.total[which] / max(1, int(self.target.sum()))


def _at(run: Trace, half_life: float, counts_repeats: bool) -> Hits:
    hit, target = hits(run, half_life, counts_repeats)
    chosen = follow(hit, run.step)
    return Hits(target, hit[:, 0], hit[np.arange(len(hit)), chosen], PRIORS[int(chosen[-1])])


def interval(run: Trace, found: Hits) -> tuple[float, float]:
    """Of the lift, 95 %: users, not events, are what would be drawn anew."""
    base, own = (np.bincount(run.user, weights=hit) for hit in (found.everybody, found.segment))  # (u,)
    rng = np.random.default_rng(_SEED)
    lifts: list[float] = []
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        drawn = rng.poisson(1.0, (_AT_ONCE, len(base))).astype(np.float64)  # (r, u)
        lifts += _ratios(drawn @ own, drawn @ base)
    low, high = np.quantile(lifts, (0.025, 0.975)) if lifts else (0.0, 0.0)
    return float(low), float(high)


def _ratios(own: F64, base: F64) -> list[float]:
    some = base > 0
    ratios: list[float] = (own[some] / base[some] - 1.0).tolist()
    return ratios


def _last(run: Trace) -> I64:
    """(u,) the segment each user was in at last; -1: none."""
    last = np.full(int(run.user.max(initial=-1)) + 1, -1, np.int64)
    last[run.user] = run.after
    return last


def shuffled(run: Trace, seed: int) -> Trace:
    """The same run with every user in the last segment of another one drawn at random, from the same moment on."""
    label = np.random.default_rng(seed).permutation(_last(run)).astype(np.int32)[run.user]  # (n,)
    before, after = (np.where(where >= 0, label, -1).astype(np.int32) for where in (run.before, run.after))
    return replace(run, before=before, after=after)


# --- for a person --------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown: what ran where, then a line per variant."""
    facts = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    again = "count" if result["repeats_count"] else "are excluded, as are the user's own items"
    lines = [
        f"{result['events']:,} events of {result['users']:,} users on {result['items']:,} items, "
        f"{result['step_records']} lines a step; repeats {again}.",
        facts,
        "",
        "| encoder | family | segments | hit-rate@10 global | segment | lift | 95 % | random | s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *(_line(row) for row in result["variants"])])


def _line(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return (
        f"| {row['encoder']} | {row['family']} | {row['segments']} | {row['global_rate']:.4f} "
        f"| {row['segment_rate']:.4f} | {row['lift']:+.1%} | {low:+.1%} to {high:+.1%} | {row['random']:+.1%} "
        f"| {row['seconds']:.0f} |"
    )
