"""`shoal eval encoder`: how many people move because the encoder changed, when they themselves did nothing.

The real pipeline runs over events. At every publication, and for several re-initialisations at the end, all users
are asked twice with the very same rows: just before and just after. Whoever is elsewhere then did not go there by
himself. Most of them are not in the reservoir that the publication was fitted to.

    nearest   share of users whose nearest centre is another
    policy    share that the membership policy would move: another centre is nearer by the margin, and was not before
    stale     the same as `nearest`, had the new weights served while the centres stayed where they were
    lost      share of the variance of rows that no linear map of the embedding gives back (half of the users fitted,
              the other half counted): whether the encoder is still worth something

    ordinary  publications as they came, with the configured interval
    renewed   `ReplayPublisher.renew`: a fresh encoder trained on the reservoir, published by the same path
    stranger  a fresh encoder that starts from random weights and never saw the serving one, likewise: the worst case
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import click
import numpy as np
from msgspec.structs import replace as changed

from ...encoders import make_encoder
from ...encoders.publication import ReplayPublisher
from ..benchmarks.pipeline import machine, machine_line
from ..config import Config
from ..events import F32, F64, I32, Step
from ..features import Features
from ..pipeline import Pipeline
from ..ports import Publication, Segmenter, Source
from ..segmenter import make_segmenter
from ..simulation.population import Settings
from ..simulation.simulator import Simulator
from ..sources import FileSource, MemorySource
from .goals import tally

SEGMENTS = (8, 32)
ORDINARY_MOST, RENEWED_MOST = 0.03, 0.05
RENEWALS = (101, 102, 103)  # seeds
STRANGER_PASSES = 60
CENSUS_MAX = 20_000
USERS, EVENTS, SEED = 2000, 240_000, 100


@dataclass(frozen=True, slots=True)
class Churn:
    """What one attempt to publish did to users who did nothing. Shares of all users, 0..1."""

    published: bool
    said: float  # the publisher's own count
    nearest: float
    policy: float
    stale: float
    lost_before: float
    lost_after: float


class Watched(ReplayPublisher):
    """A publisher whose every attempt is looked at from outside. `pipeline` is set once there is one."""

    pipeline: Pipeline

    def watch(self, of: list[Churn]) -> None:
        self.seen = of

    def attempt(self, segmenter: Segmenter) -> Publication:
        x, current = census(self.pipeline)
        centres, z, stale = segmenter.centres.copy(), self.encode(x), self._encoder.encode_candidate(x)
        publication = super().attempt(segmenter)
        before, after = View(z, centres, segmenter), View(self.encode(x), segmenter.centres, segmenter)
        margin = self.pipeline.margin if isinstance(self.pipeline, Tapped) else 0.0
        self.seen.append(
            Churn(
                publication.published,
                publication.churn,
                float((before.nearest != after.nearest).mean()),
                float((after.moves(current, margin) & ~before.moves(current, margin)).mean()),
                float((View(stale, centres, segmenter).nearest != before.nearest).mean()),
                lost(x, z),
                lost(x, after.z),
            )
        )
        return publication


class Tapped(Pipeline):
    """The pipeline, with the policy's margin at hand."""

    margin: float


class View:
    """Embeddings (n, e) seen by centres (k, e)."""

    def __init__(self, z: F32, centres: F64, segmenter: Segmenter) -> None:
        self.z = z
        wide = z.astype(np.float64)
        gaps = (wide**2).sum(axis=1)[:, None] - 2 * wide @ centres.T + (centres**2).sum(axis=1)
        self.distances = np.where(segmenter.used, np.sqrt(np.maximum(gaps, 0.0)), np.inf)  # (n, k)
        self.nearest = self.distances.argmin(axis=1)

    def moves(self, current: I32, margin: float) -> Any:
        """(n,) whom the policy would move from the centre it is at, once it is sure."""
        rows = np.arange(len(current))
        nearer = self.distances[rows, self.nearest] <= (1.0 - margin) * self.distances[rows, current]
        return (self.nearest != current) & nearer


def census(pipeline: Pipeline) -> tuple[F32, I32]:
    """Rows (n, d) as of now of users in segments, evenly drawn if there are many, and the centres they are at (n,)."""
    placed = np.flatnonzero(pipeline.membership.centre >= 0)
    if len(placed) > CENSUS_MAX:
        placed = placed[np.arange(CENSUS_MAX) * len(placed) // CENSUS_MAX]
    slots = placed.astype(np.int32)
    raw = pipeline.features.rows(slots, pipeline.users, pipeline.clock.now_ms, peek=True)
    return pipeline.features.scale(raw), pipeline.membership.centre[slots]


def lost(x: F32, z: F32) -> float:
    """Share of the variance of every other row that a linear map, fitted to those between, does not give back."""
    one = np.concatenate([z, np.ones((len(z), 1), np.float32)], axis=1).astype(np.float64)
    weights = np.linalg.lstsq(one[::2], x[::2].astype(np.float64), rcond=1e-6)[0]
    judged = x[1::2].astype(np.float64)
    total = float(((judged - x[::2].mean(axis=0)) ** 2).sum())
    return float(((judged - one[1::2] @ weights) ** 2).sum()) / max(total, 1e-12)


# --- running -------------------------------------------------------------------------------------------------


def evaluate(
    config: Config, events: str, segments: Iterable[int], step_records: int, echo: bool
) -> dict[str, Any]:
    """Every kind of change of the encoder, for each number of segments; `events`: a file, or "" for simulated ones."""
    rows = []
    for k in segments:
        for name, seen in run(with_segments(config, k), events, step_records).items():
            rows.append({"segments": k, "change": name, **summary(seen)})
            if echo:
                click.echo(f"k {k}, {name}: {rows[-1]}", err=True)
    return {
        "machine": machine(),
        "events": events or f"simulated, {USERS} users, {EVENTS:,} events, seed {SEED}",
        "encoder": config.encoder.kind,
        "publish_every_rows": config.encoder.publish_every_rows,
        "churn_budget": config.encoder.churn_budget,
        "changes": rows,
        "goals": goals(rows),
    }


def with_segments(config: Config, k: int) -> Config:
    return changed(config, segmenter=changed(config.segmenter, segments=k, segments_min=0))


def run(config: Config, events: str, step_records: int) -> dict[str, list[Churn]]:
    """One run of the pipeline: its publications, and what beginning again would do at its end."""
    features = Features(config.features)
    publisher = Watched(make_encoder(config.encoder, features.d), config.encoder)
    ordinary: list[Churn] = []
    publisher.watch(ordinary)
    segmenter = make_segmenter(config.segmenter, publisher.d_out)
    pipeline = Tapped(config, features, publisher, segmenter)
    pipeline.margin = config.membership.margin
    publisher.pipeline = pipeline
    source = opened(events)
    number = 0
    while (polled := source.poll(step_records, 1.0)) is not None:
        number += 1
        pipeline.step(Step(number, polled[1], polled[0], None))
    source.close()
    if not pipeline.warmup.done or publisher.version == 0:
        return {"ordinary": ordinary}
    return {
        "ordinary": ordinary,
        "renewed": [renewed(publisher, segmenter, seed) for seed in RENEWALS],
        "stranger": [stranger(publisher, segmenter, config, seed) for seed in RENEWALS],
    }


def opened(events: str) -> Source:
    if events:
        source: Source = FileSource(events)
    else:
        settings = Settings(users=USERS, events=EVENTS, seed=SEED, boundary=0.1)
        source = MemorySource([[value for batch in Simulator(settings).batches() for value in batch.values]])
    source.open(lambda: False)
    return source


def renewed(publisher: Watched, segmenter: Segmenter, seed: int) -> Churn:
    """What `renew` does; afterwards all is as it was."""
    states = publisher.snapshot(), segmenter.snapshot()
    seen: list[Churn] = []
    publisher.watch(seen)
    publisher.renew(seed, segmenter)
    publisher.restore(states[0])
    segmenter.restore(states[1])
    return first_and_last(seen)


def stranger(publisher: Watched, segmenter: Segmenter, config: Config, seed: int) -> Churn:
    """What an encoder does that learned on its own from random weights; afterwards all is as it was."""
    states = publisher.snapshot(), segmenter.snapshot()
    x = publisher.reservoir
    fresh = make_encoder(changed(config.encoder, seed=seed), x.shape[1])
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(min(fresh.epochs, 1) * STRANGER_PASSES):
        order = rng.permutation(len(x))
        for start in range(0, len(x), config.encoder.batch):
            fresh.learn(x[order[start : start + config.encoder.batch]])
    state, its = publisher.snapshot(), fresh.snapshot()
    kept = ("version", "serving", "previous")
    state["encoder"] = its | {name: state["encoder"][name] for name in kept if name in its}
    publisher.restore(state)
    seen: list[Churn] = []
    publisher.watch(seen)
    publisher.persuade(segmenter)
    publisher.restore(states[0])
    segmenter.restore(states[1])
    return first_and_last(seen)


def first_and_last(seen: list[Churn]) -> Churn:
    """The last attempt, with what stale centres would have done at the first."""
    last = asdict(seen[-1])
    return Churn(**{**last, "stale": seen[0].stale})


# --- telling ---------------------------------------------------------------------------------------------------


def summary(seen: list[Churn]) -> dict[str, Any]:
    """Means, and the worst of nearest; empty where nothing was attempted."""
    if not seen:
        return {"attempts": 0}
    means = {name: float(np.mean([getattr(one, name) for one in seen])) for name in Churn.__slots__}
    refused = sum(not one.published for one in seen)
    return {"attempts": len(seen), "refused": refused, "worst": max(one.nearest for one in seen), **means}


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per kind of change and number of segments, by nearest centre, on average."""
    wanted = []
    for row in rows:
        most = ORDINARY_MOST if row["change"] == "ordinary" else RENEWED_MOST
        for measure in ("nearest", "policy") if row["attempts"] else ():
            name = f"k {row['segments']}, {row['change']}: {measure}"
            wanted.append(
                {"goal": name, "got": row[measure], "at_most": most, "reached": row[measure] <= most}
            )
    return wanted


def render(result: dict[str, Any]) -> str:
    columns = (
        "attempts",
        "refused",
        "stale centres",
        "nearest",
        "worst",
        "policy",
        "said",
        "lost before",
        "after",
    )
    lines = [
        f"Users with unchanged rows who are elsewhere after the encoder changed; {result['events']}; "
        f"{result['encoder']}, an attempt every {result['publish_every_rows']:,} learned rows.",
        machine_line(result["machine"]),
        "",
        f"| segments | change | {' | '.join(columns)} |",
        f"|---:|---|{'---:|' * len(columns)}",
    ]
    for row in result["changes"]:
        lines.append(f"| {row['segments']} | {row['change']} | {' | '.join(_cells(row))} |")
    lines += ["", tally(result["goals"])]
    lines += [
        f"- {g['goal']}: {g['got']:.1%}, at most {g['at_most']:.0%}"
        for g in result["goals"]
        if not g["reached"]
    ]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    if not row["attempts"]:
        return ["0", *[""] * 8]
    shares = ("stale", "nearest", "worst", "policy", "said", "lost_before", "lost_after")
    return [str(row["attempts"]), str(row["refused"]), *(f"{row[name]:.1%}" for name in shares)]
