"""What the engine knows of one user, and why the user is where it is: read from a pipeline, which stays as it is.

Everything here is a function of the pipeline's state. Nothing is touched, learned or remembered, so that whoever
asks leaves no trace: the bytes of the next step are the same (`tests/test_inspect.py` compares the whole state).

Cost: one user's row, embedding and distances, and putting some hundred numbers down: about a millisecond,
whatever the number of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..confidence import PROVISIONAL_EVENTS, bucket, margins, prior
from ..events import F32, F64, I64
from ..explain import INTEREST, explain, rounded, six
from ..pipeline import Pipeline
from ..users import ANONYMOUS
from ..values import user_key

Value = dict[str, Any]

NEAREST_MAX = 5
_DEVIATION_MIN = 1e-3  # of a scaled feature: below it is near-constant
_LIKED_MAX = 3


@dataclass(frozen=True, slots=True)
class Sight:
    """One user as the next step would see it, were it scored now without an event."""

    name: str
    slot: int
    raw: F32  # (1, d)
    x: F32  # (1, d)
    z: F32  # (1, e)
    distances: F64  # (1, k) squared; infinite for centres that stand for no segment
    centre: int  # -1: in no segment

    @property
    def runner_up(self) -> int:
        """The nearest centre but its own; -1 where there is no other."""
        others = self.distances[0].copy()
        if self.centre >= 0:
            others[self.centre] = np.inf
        best = int(others.argmin())
        return best if np.isfinite(others[best]) else -1


def see(pipeline: Pipeline, name: str) -> Sight | None:
    """A user by its name inside (`values.user_name`); None for one who is not kept."""
    slot = pipeline.users.slot(name)
    if slot is None:
        return None
    slots = np.array([slot], np.int32)
    raw = pipeline.features.look(slots, pipeline.users, pipeline.clock.now_ms)
    x = pipeline.features.scale(raw)
    if not pipeline.warmup.done:
        empty = np.full((1, pipeline.segmenter.k), np.inf)
        return Sight(name, slot, raw, x, np.zeros((1, pipeline.publisher.d_out), np.float32), empty, -1)
    z = pipeline.publisher.encode(x)
    distances = pipeline.segmenter.score(z)[1]
    return Sight(name, slot, raw, x, z, distances, int(pipeline.membership.centre[slot]))


def portrait(pipeline: Pipeline, name: str) -> Value | None:
    """Who it is, where, how surely, what it does; None for a user who is not kept. Times are stream time, in ms."""
    sight = see(pipeline, name)
    if sight is None:
        return None
    users, slot = pipeline.users, sight.slot
    return {
        "user": {"key": user_key(name), "kind": "anonymous" if name.startswith(ANONYMOUS) else "user"},
        "seen": {
            "first": int(users.first_ms[slot]),
            "last": int(users.last_ms[slot]),
            "events": int(users.events_seen[slot]),
        },
        "segment": _segment(pipeline, sight),
        "pending": _pending(pipeline, sight),
        "confidence": _confidence(pipeline, sight),
        "nearest": _nearest(pipeline, sight),
        "quantities": _quantities(pipeline, sight),
        "interest": _interest(pipeline, sight),
        "model": {**pipeline.versions(), "config": pipeline.config_hash},
    }


def reasons(pipeline: Pipeline, name: str) -> Value | None:
    """What speaks for the user's segment now, against the next best one and against everybody.

    Recomputed from the present state, like the explanation of a change; None for a user who is not kept.
    """
    sight = see(pipeline, name)
    if sight is None:
        return None
    segment = _segment(pipeline, sight)
    against = None if segment is None or sight.runner_up < 0 else _named(pipeline, sight.runner_up)
    return {
        "user": {"key": user_key(name), "kind": "anonymous" if name.startswith(ANONYMOUS) else "user"},
        "segment": segment,
        "confidence": _confidence(pipeline, sight),
        "against": against,
        "than_the_next": None if against is None else _explained(pipeline, sight, sight.runner_up),
        "than_everybody": None if segment is None else _explained(pipeline, sight, -1),
    }


# --- where ----------------------------------------------------------------------------------------------


def _named(pipeline: Pipeline, centre: int) -> Value:
    """The one place where a centre becomes what people outside may see of it."""
    segment_id = int(pipeline.membership.public[centre])
    return {"segment_id": segment_id, "name": pipeline.catalog.names()[segment_id]}


def _shown(pipeline: Pipeline) -> I64:
    """Centres whose segment is published under its own id, with its profile."""
    ids, hidden = pipeline.membership.ids, list(pipeline.catalog.hidden)
    return np.flatnonzero((ids > 0) & (pipeline.membership.public == ids) & ~np.isin(ids, hidden))


def _segment(pipeline: Pipeline, sight: Sight) -> Value | None:
    """The segment as it was last told to subscribers; `becomes` where that one was given up and nobody said so yet."""
    membership = pipeline.membership
    told = int(membership.segment[sight.slot])
    if not told:
        return None
    now = _named(pipeline, sight.centre)
    return {
        "segment_id": told,
        "name": pipeline.catalog.names()[told],
        "since": int(membership.since_ms[sight.slot]),
        "sequence": int(membership.sequence[sight.slot]),
        "becomes": now if now["segment_id"] != told else None,
    }


def _pending(pipeline: Pipeline, sight: Sight) -> Value | None:
    """The move that is being confirmed, and how far that has come."""
    centre, share = pipeline.membership.policy.waiting(sight.slot)
    told = int(pipeline.membership.segment[sight.slot])
    if centre < 0 or int(pipeline.membership.public[centre]) in (0, told):
        return None
    return {**_named(pipeline, centre), "confirmed": six(share)}


def _confidence(pipeline: Pipeline, sight: Sight) -> Value | None:
    """As a change would publish it, if the user had moved here now."""
    if sight.centre < 0:
        return None
    margin = margins(sight.distances, np.array([sight.centre], np.int32))  # (1,)
    events = pipeline.users.events_seen[[sight.slot]].astype(np.int64)  # (1,)
    risk = prior(events, margin, np.zeros(1, np.bool_), int((pipeline.membership.ids > 0).sum()))
    score = pipeline.membership.calibration.score(bucket(events, margin), risk)
    margin, score = rounded(np.concatenate([margin, score])).tolist()
    seen = int(events[0])
    return {
        "score": score,
        "margin": margin,
        "events_seen": seen,
        "provisional": seen < PROVISIONAL_EVENTS,
    }


def _nearest(pipeline: Pipeline, sight: Sight) -> list[Value]:
    """The nearest segments; and its own, where it is not among them. `ratio`: to the distance to its own."""
    order: list[int] = np.argsort(sight.distances[0], kind="stable")[:NEAREST_MAX].tolist()
    if sight.centre >= 0 and sight.centre not in order:
        order.append(sight.centre)
    shown = {*_shown(pipeline).tolist(), sight.centre}
    order = [
        c
        for c in order
        if np.isfinite(sight.distances[0, c]) and c in shown and pipeline.membership.public[c]
    ]
    distance = np.sqrt(sight.distances[0])
    own = float(distance[sight.centre]) if sight.centre >= 0 else 0.0
    distances = rounded(distance[order]).tolist()
    ratios = rounded(distance[order] / own).tolist() if own > 0 else [None] * len(order)
    return [
        {**_named(pipeline, centre), "own": centre == sight.centre, "distance": far, "ratio": ratio}
        for centre, far, ratio in zip(order, distances, ratios, strict=True)
    ]


# --- what it does ---------------------------------------------------------------------------------------


def _quantities(pipeline: Pipeline, sight: Sight) -> list[Value]:
    """Every feature in its own unit, those of one quantity together, the most unusual quantity first."""
    catalog = pipeline.catalog
    deviation = np.sqrt(catalog.scaled.population_variance)
    useful = deviation > _DEVIATION_MIN
    z = np.where(
        useful, (sight.x[0] - catalog.scaled.population_mean) / np.where(useful, deviation, 1.0), 0.0
    )
    known = sight.centre in _shown(pipeline)
    means = catalog.raw.of(sight.centre) if known else catalog.raw.population_mean
    columns = [rounded(column).tolist() for column in (sight.raw[0], means, catalog.raw.population_mean, z)]
    found: dict[int, list[Value]] = {}
    for j in np.flatnonzero(~catalog.interest).tolist():
        user, segment, population, off = (column[j] for column in columns)
        found.setdefault(int(catalog.quantity_of[j]), []).append(
            {
                "feature": catalog.features[j],
                "user_value": user,
                "segment_mean": segment if known else None,
                "population_mean": population,
                "deviations": off,
            }
        )
    groups = [{"quantity": catalog.quantities[q], "features": features} for q, features in found.items()]
    return sorted(groups, key=lambda group: -max(abs(f["deviations"]) for f in group["features"]))


def _interest(pipeline: Pipeline, sight: Sight) -> Value | None:
    """Which segments turn to the same things, by the cosine of their mean interests, with what they take to.

    None where the interest family is left out, or nothing is known of what the user turns to.
    """
    catalog = pipeline.catalog
    own = sight.raw[0, catalog.interest].astype(np.float64)
    if not own.size or not own.any():
        return None
    centres = _shown(pipeline)
    means = catalog.raw.known()[centres][:, catalog.interest]  # (c, w)
    length = np.sqrt(np.square(means).sum(axis=1) * np.square(own).sum())
    cosine = rounded(np.divide(means @ own, length, out=np.zeros(len(centres)), where=length > 0))
    most = np.argsort(-cosine, kind="stable")[:_LIKED_MAX].tolist()
    return {
        "alike": [
            {
                **_named(pipeline, int(centres[i])),
                "cosine": float(cosine[i]),
                "takes_to": [taste.label for taste in catalog.labels.tastes(int(centres[i]), _LIKED_MAX)],
            }
            for i in most
        ]
    }


# --- why ------------------------------------------------------------------------------------------------


def _explained(pipeline: Pipeline, sight: Sight, before: int) -> Value:
    """What makes its segment fit better than the one of centre `before` (-1: than everybody)."""
    catalog = pipeline.catalog
    if not np.isin([c for c in (before, sight.centre) if c >= 0], _shown(pipeline)).all():
        return {"features": []}
    centres = np.array([before], np.int32), np.array([sight.centre], np.int32)
    found = explain(catalog, sight.raw, sight.x, *centres)
    names = (*catalog.features, INTEREST)
    shown = np.where(catalog.interest[found.column], len(catalog.features), found.column)[0].tolist()
    numbers = found.user_value, found.segment_mean, found.population_mean, found.contribution
    columns = [rounded(column[0]).tolist() for column in numbers]
    return {
        "features": [
            {
                "feature": names[feature],
                "user_value": user,
                "segment_mean": segment,
                "population_mean": population,
                "contribution": contribution,
            }
            for feature, user, segment, population, contribution in zip(shown, *columns, strict=True)
            if contribution > 0
        ]
    }
