"""What the engine knows of segments and features: read from a pipeline, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..explain import rounded, six
from ..naming import quantity
from ..pipeline import Pipeline
from .meanings import meaning, unit

Value = dict[str, Any]


SEGMENTS_MAX = 100
"""Profiles told at one time: each takes a millisecond or so of the engine's."""


def segments(pipeline: Pipeline) -> Value:
    """The profiles of the largest segments, as in the catalog, but with the size of now; and how many there are."""
    sizes = pipeline.membership.sizes()
    users = {centre: sizes[int(pipeline.membership.ids[centre])] for centre in _live(pipeline, sizes)}
    largest = sorted(users, key=lambda centre: (-users[centre], int(pipeline.membership.ids[centre])))
    return {
        "total": len(users),
        "users": len(pipeline.users),
        "segments": [_profile(pipeline, centre, sizes) for centre in largest[:SEGMENTS_MAX]],
    }


def segment(pipeline: Pipeline, segment_id: int) -> Value | None:
    """One of them; None where there is no such segment now."""
    sizes = pipeline.membership.sizes()
    for centre in _live(pipeline, sizes):
        if int(pipeline.membership.ids[centre]) == segment_id:
            return _profile(pipeline, centre, sizes)
    return None


def _live(pipeline: Pipeline, sizes: Mapping[int, int]) -> list[int]:
    """Centres that stand for a segment that is published: no other has a size."""
    return [centre for centre, one in enumerate(pipeline.membership.ids.tolist()) if one and one in sizes]


def _profile(pipeline: Pipeline, centre: int, sizes: Mapping[int, int]) -> Value:
    """As of now: means move with every step, sizes with every change; the catalog tells them now and then."""
    found = pipeline.narrator.shown([pipeline.catalog.profile(centre, pipeline.membership.centre)])
    value = pipeline.narrator.described(found[0])
    segment_id = int(pipeline.membership.ids[centre])
    name = value["name"] or pipeline.catalog.names()[segment_id]
    share = six(sizes[segment_id] / (sum(sizes.values()) or 1))
    return {**value, "segment_id": segment_id, "name": name, "size": sizes[segment_id], "share": share}


def features(pipeline: Pipeline) -> Value:
    """Every column of a row: what it means, its unit, and what is usual. The interest columns are one entry."""
    catalog = pipeline.catalog
    mean = rounded(catalog.raw.population_mean).tolist()
    deviation = rounded(np.sqrt(catalog.raw.population_variance)).tolist()
    plain = [
        {
            "feature": catalog.features[j],
            "quantity": quantity(catalog.features[j]),
            "meaning": meaning(catalog.features[j]),
            "unit": unit(catalog.features[j]),
            "population_mean": mean[j],
            "population_deviation": deviation[j],
        }
        for j in np.flatnonzero(~catalog.interest).tolist()
    ]
    return {
        "version": pipeline.features.version,
        "features": plain,
        "interest_columns": int(catalog.interest.sum()),
    }
