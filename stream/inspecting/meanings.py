"""What a feature means, in words, and its unit."""

from __future__ import annotations

from ..naming import quantity
from ..windows import COUNTS, PARTS

_ONCE = {
    "recency_ms": ("time since the last event", "ms"),
    "tenure_ms": ("time since the first event", "ms"),
}
_QUANTITIES = {
    "events": ("events of any type", "events"),
    "money": ("value of the events, refunds and the like subtracted", "money"),
    "quantity": ("pieces of the events, refunds and the like subtracted", "pieces"),
    "dwell_ms": ("time spent", "ms"),
    "distinct_items": ("different items touched", "items"),
}


def meaning(feature: str) -> str:
    """
    >>> meaning("purchase_count_7d"), meaning("night_share")
    ('purchase events in the last 7d', 'share of the events of the longest window at night (UTC)')
    """
    if feature in _ONCE:
        return _ONCE[feature][0]
    if feature in PARTS:
        part = feature.removesuffix("_share")
        when = {"night": "at night", "weekend": "at the weekend"}.get(part, f"in the {part}")
        return f"share of the events of the longest window {when} (UTC)"
    what, _, window = feature.rpartition("_")
    if what in _QUANTITIES:
        return f"{_QUANTITIES[what][0]} in the last {window}"
    if what in COUNTS:
        return f"{what.removesuffix('_count')} events in the last {window}"
    return feature.replace("_", " ")


def unit(feature: str) -> str:
    """
    >>> unit("purchase_count_7d"), unit("night_share"), unit("dwell_ms_1h")
    ('events', 'share', 'ms')
    """
    if feature in _ONCE:
        return _ONCE[feature][1]
    if feature in PARTS:
        return "share"
    return _QUANTITIES.get(quantity(feature), ("", "events"))[1]
