"""Features and changes in words, with their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..vitals import STABLE, Vital

_DAY_MS = 86_400_000.0


def feature_words(name: str, own: float, average: float) -> str:
    """`purchases in 7d: 4.2 x the average (6.3 against 1.5)`, in units a person uses."""
    if name.endswith("_share"):
        return f"{name.removesuffix('_share')} activity {100 * own:.0f} % (average {100 * average:.0f} %)"
    if name in ("recency_ms", "tenure_ms"):
        what = "last seen" if name == "recency_ms" else "first seen"
        return f"{what} {own / _DAY_MS:.1f} days ago (average {average / _DAY_MS:.1f})"
    if "dwell_ms" in name:
        own, average = own / 1000.0, average / 1000.0
    return f"{_feature_words(name)}: {_times(own, average)} ({_number(own)} against {_number(average)})"


def _feature_words(name: str) -> str:
    what, _, window = name.rpartition("_")
    what = _WORDS.get(what) or what.removesuffix("_count").replace("_", " ") + " events"
    return f"{what} in {window}"


_WORDS = {
    "purchase_count": "purchases",
    "cart_add_count": "cart additions",
    "search_count": "searches",
    "view_count": "views",
    "events": "events",
    "money": "money moved",
    "quantity": "pieces",
    "dwell_ms": "seconds spent",
    "distinct_items": "different items",
}


def life_words(vital: Vital, stages: Mapping[str, float]) -> str:
    """`12 days old, growing (1.2 x), cohesion 0.31; 70 % active, 20 % at risk, 10 % silent`."""
    trend = vital.trend if vital.trend == STABLE else f"{vital.trend} ({vital.ratio:.1f} x)"
    held = "" if vital.cohesion is None else f", cohesion {vital.cohesion:.2f}"
    spread = ", ".join(
        f"{100 * share:.0f} % {stage.replace('_', ' ')}" for stage, share in stages.items() if share >= 0.005
    )
    return f"{_age(vital.age_ms)} old, {trend}{held}" + (f"; {spread}" if spread else "")


def _age(age_ms: int) -> str:
    days = age_ms / _DAY_MS
    return f"{days:.0f} days" if days >= 2 else f"{24 * days:.0f} hours"


def when(time_ms: int) -> str:
    """`03 Nov 2026 14:05`, UTC; a time that no calendar has, in ms."""
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%d %b %Y %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def _times(own: float, average: float) -> str:
    if average <= 0:
        return "above an average of none" if own > 0 else "none, as everybody"
    ratio = own / average
    if ratio < 0.1:
        return "none at all" if ratio < 0.005 else "under a tenth of the average"
    return f"{ratio:.1f} x the average"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


_WHY = {
    "user_behavior": "because of what it did",
    "segment_moved": "because the segments moved, not the user",
    "encoder_published": "because a new encoder began to serve",
    "expiry": "because it fell silent",
}


def change_sentence(change: Mapping[str, Any]) -> str:
    """A value of segment.changes as one sentence: who, when, from, to, why, how sure."""
    decided = datetime.fromtimestamp(change["times"]["decided_time"] / 1000, UTC)
    why = _WHY.get(change["reason"]["kind"], change["reason"]["kind"])
    text = f"on {decided:%d %B %Y at %H:%M} user {change['user']['key']} {_way(change)} {why}"
    if change["confidence"] is not None:
        sure = change["confidence"]
        text += (
            f" (score {sure['score']:.2f}, margin {sure['margin']:.2f}, {sure['events_seen']:,} events seen)"
        )
    features = (change["explanation"] or {}).get("features", [])
    told = [
        f"{feature_words(f['feature'], f['user_value'], f['population_mean'])}"
        for f in features
        if not f["feature"].startswith("interest") and _tells(f["user_value"], f["population_mean"])
    ]
    return text + (": " + "; ".join(told[:3]) if told else "")


def _tells(own: float, average: float) -> bool:
    """Whether a person would see the difference at once."""
    return abs(own - average) > 0.3 * max(abs(own), abs(average))


def _way(change: Mapping[str, Any]) -> str:
    before, after = (
        side and f"{side['segment_id']} ({side['name']})" for side in (change["from"], change["to"])
    )
    if before and after:
        return f"moved from segment {before} to {after}"
    return f"was assigned to segment {after}" if after else f"left segment {before}"
