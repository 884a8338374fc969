"""What segments are for: does the next thing a user turns to stand higher in the segment's list than in everybody's?

Prequential: the real pipeline runs over a file of events; what a step's users turn to is compared with both
lists as the steps before left them (`lift_trace.py`), then counted (`lift_score.py`).

    hit-rate@10   the share of targets that were among the ten best of a list
    lift          hits of the segments' lists over hits of a global list, less 1

The segments' lists choose their memory, and how far they are shrunk, by what happened before. They have two rivals:

    best          the decayed global list with the half-life that is best for it in hindsight: the hardest one
    undecayed     plain global popularity: everything ever counted, nothing forgotten

Against the second a part of the lift is due to forgetting, not to segments; against the first none is. A user
without a segment gets the global list that led so far, and counts. Intervals: users drawn again with replacement
(Poisson bootstrap, seeded). `random` is the lift over the best when every user is in the segment of somebody
else drawn at random: what a grouping of these sizes gives without any knowledge.
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
from .lift_score import DOUBT, HALF_LIVES, candidates, everybody, follow, named
from .lift_trace import TAKEN_TO, Trace, trace

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
    """Hit rates, and the lift of the segments' lists over both rivals, with intervals."""
    found = scored(run, counts_repeats)
    best = found.best
    half_life, prior = named(found.candidate)
    return {
        "targets": int(found.target.sum()),
        "with_segment": float((run.before[found.target] >= 0).mean()) if found.target.any() else 0.0,
        "global_rate": found.rate(found.shared[:, best]),
        "undecayed_rate": found.rate(found.shared[:, -1]),
        "segment_rate": found.rate(found.segment),
        "lift": found.lift(best),
        "interval": interval(run, found.segment, found.shared[:, best]),
        "lift_undecayed": found.lift(-1),
        "interval_undecayed": interval(run, found.segment, found.shared[:, -1]),
        "random": scored(shuffled(run, _SEED), counts_repeats).lift(best),
        "half_life": HALF_LIVES[best],
        "segment_half_life": half_life,
        "prior": prior,
        "by_half_life": [
            {"half_life": h, "global_rate": found.rate(found.shared[:, i]), "lift": found.lift(i)}
            for i, h in enumerate(HALF_LIVES)
        ],
        "sizes": np.bincount(_last(run)[_last(run) >= 0], minlength=run.segments).tolist(),
    }


@dataclass(frozen=True, slots=True)
class Hits:
    """Which of the n events were targets, and which of these each list had."""

    target: Bool  # (n,)
    shared: Bool  # (n, len(HALF_LIVES)) the global list of each memory
    segment: Bool  # (n,) the segment's list as chosen
    candidate: int  # that was chosen last

    @property
    def best(self) -> int:
        """The global list with most hits in the end; ties: the shorter memory."""
        return int(np.argmax(self.shared.sum(axis=0)))

    def lift(self, rival: int) -> float:
        base = int(self.shared[:, rival].sum())
        return int(self.segment.sum()) / base - 1.0 if base else 0.0

    def rate(self, hit: Bool) -> float:
        return int(hit.sum()) / max(1, int(self.target.sum()))


def scored(run: Trace, counts_repeats: bool) -> Hits:
    shared, target = everybody(run, counts_repeats)
    hit = candidates(run, shared, counts_repeats)
    chosen = follow(hit, run.step, DOUBT)
    return Hits(target, shared, hit[np.arange(len(hit)), chosen], int(chosen[-1]))


def interval(run: Trace, segment: Bool, shared: Bool) -> tuple[float, float]:
    """Of the lift, 95 %, from the hits (n,) of both lists: users, not events, are what would be drawn anew."""
    base, own = (np.bincount(run.user, weights=hit) for hit in (shared, segment))  # (u,)
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
        "| encoder | family | segments | hit-rate@10 undecayed | global | segment | lift over undecayed | 95 % "
        "| lift over the best global | 95 % | random | s |",
        "|---|---|" + "---:|" * 10,
    ]
    return "\n".join([*lines, *(_line(row) for row in result["variants"])])


def _line(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    least, most = row["interval_undecayed"]
    return (
        f"| {row['encoder']} | {row['family']} | {row['segments']} "
        f"| {row['undecayed_rate']:.4f} | {row['global_rate']:.4f} | {row['segment_rate']:.4f} "
        f"| {row['lift_undecayed']:+.1%} | {least:+.1%} to {most:+.1%} "
        f"| {row['lift']:+.1%} | {low:+.1%} to {high:+.1%} | {row['random']:+.1%} | {row['seconds']:.0f} |"
    )
