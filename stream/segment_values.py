"""The JSON values of what Shoal publishes about segments: lineage and catalog; rounded like those in `values.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .catalog import Profile
from .churn import Turnover
from .explain import rounded
from .lineage import Lineage

Value = dict[str, Any]


def lineage_value(fact: Lineage, name: str, previous_name: str | None) -> Value:
    """Value of `segment.lineage`."""
    return {
        "lineage_id": fact.lineage_id,
        "kind": fact.kind,
        "segment_id": fact.segment_id,
        "name": name,
        "previous_name": previous_name,
        "parents": list(fact.parents),
        "remap": [{"from": old, "to": new} for old, new in fact.remap],
        "decided_time": fact.decided_ms,
    }


def profile_value(profile: Profile, turnover: Turnover, model: Mapping[str, Any], decided_ms: int) -> Value:
    """Value of `segment.catalog`."""
    return {
        "segment_id": profile.segment_id,
        "name": profile.name,
        "state": "live",
        "size": profile.size,
        "share": _six(profile.share),
        "churn": {"entered": turnover.entered, "left": turnover.left, "since_time": turnover.since_ms},
        "rows": int(profile.rows),
        "features": [
            {
                "feature": trait.feature,
                "z": _six(trait.z),
                "segment_mean": _six(trait.segment_mean),
                "population_mean": _six(trait.population_mean),
            }
            for trait in profile.traits
        ],
        "takes_to": [
            {"label": taste.label, "share": _six(taste.share), "lift": _six(taste.lift)}
            for taste in profile.takes_to
        ],
        "model": model,
        "decided_time": decided_ms,
    }


def _six(value: float) -> float:
    return float(rounded([value])[0])
