"""The JSON values of what Shoal publishes about segments: lineage and catalog; rounded like those in `values.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .catalog import Profile
from .churn import Turnover
from .explain import six
from .lineage import Lineage
from .privacy.ledger import Told
from .vitals import Vital

Value = dict[str, Any]

UNTOLD: Value = dict.fromkeys(("rows", "trend", "lifecycle", "churn", "cohesion"))
"""What would give away the true size of a segment where that is not to be known."""

EXEMPLAR_TRAITS_MAX = 3


def lineage_value(fact: Lineage, name: str, previous_name: str | None) -> Value:
    """Value of `segment.lineage`."""
    return {
        "lineage_id": fact.lineage_id,
        "kind": fact.kind,
        "segment_id": fact.segment_id or None,
        "name": name if fact.segment_id else None,
        "previous_name": previous_name,
        "parents": list(fact.parents),
        "remap": [{"from": old, "to": new} for old, new in fact.remap],
        "overlap": _overlap(fact),
        "decided_time": fact.decided_ms,
    }


def _overlap(fact: Lineage) -> Value | None:
    if not fact.people:
        return None
    shares = [{"segment_id": share.segment_id, "share": six(share.share)} for share in fact.overlap]
    return {"people": fact.people, "shares": shares}


def profile_value(
    profile: Profile,
    turnover: Turnover,
    shares: Mapping[str, Mapping[str, float]] | None,
    pseudonyms: Sequence[str],
    model: Mapping[str, Any],
    decided_ms: int,
) -> Value:
    """Value of `segment.catalog`: `shares` by stage and tier (None: untold), `pseudonyms` of its exemplars."""
    return {
        "segment_id": profile.segment_id,
        "name": profile.name,
        "names": dict(profile.names),
        "name_source": profile.name_source,
        "state": "live",
        "size": profile.size,
        "share": six(profile.share),
        "churn": {"entered": turnover.entered, "left": turnover.left, "since_time": turnover.since_ms},
        "rows": int(profile.rows),
        **_vital_value(profile.vital),
        "features": [
            {
                "feature": trait.feature,
                "z": six(trait.z),
                "segment_mean": six(trait.segment_mean),
                "population_mean": six(trait.population_mean),
            }
            for trait in profile.traits
        ],
        "takes_to": [
            {"label": taste.label, "share": six(taste.share), "lift": six(taste.lift)}
            for taste in profile.takes_to
        ],
        "lifecycle": None
        if shares is None
        else {what: {name: six(share) for name, share in own.items()} for what, own in shares.items()},
        "exemplars": [
            {
                "pseudonym": name,
                "features": [
                    {"feature": trait.feature, "value": six(float(one.row[trait.column]))}
                    for trait in profile.traits[:EXEMPLAR_TRAITS_MAX]
                ],
            }
            for name, one in zip(pseudonyms, profile.exemplars, strict=True)
        ],
        "groups": dict(profile.groups),
        "nearest": profile.nearest,
        "model": model,
        "decided_time": decided_ms,
    }


def _vital_value(vital: Vital) -> Value:
    return {
        "since": vital.since_ms,
        "age_ms": vital.age_ms,
        "cohesion": None if vital.cohesion is None else six(vital.cohesion),
        "trend": {"ratio": six(vital.ratio), "word": vital.trend},
    }


def noisy_value(told: Told) -> Value:
    """What takes the place of the true size, and of what would give it away."""
    share = None if told.share is None else six(told.share)
    return {"size": told.size, "share": share, "size_as_of": told.as_of_ms, **UNTOLD}
