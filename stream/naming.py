"""Short English names for segments, from what sets them apart: "frequent buyers of toys, evenings".

The same traits always give the same name. Names are unique within a catalog: one that is taken grows by its
next trait, and by the segment id when traits run out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import numpy as np

from .events import F64, Bool

PHRASES: Mapping[str, tuple[str, str]] = {
    "purchase": ("frequent buyers", "rare buyers"),
    "checkout": ("frequent checkouts", "few checkouts"),
    "cart_add": ("cart fillers", "few carts"),
    "view": ("keen browsers", "few views"),
    "impression": ("much shown", "little shown"),
    "click": ("keen clickers", "few clicks"),
    "search": ("searchers", "few searches"),
    "dwell": ("lingerers", "quick visits"),
    "play": ("keen players", "few plays"),
    "favorite": ("collectors", "few favourites"),
    "like": ("likers", "few likes"),
    "comment": ("commenters", "few comments"),
    "rate": ("raters", "few ratings"),
    "rating": ("raters", "few ratings"),
    "share": ("sharers", "few shares"),
    "follow": ("followers", "few follows"),
    "login": ("regular logins", "few logins"),
    "custom": ("many other actions", "few other actions"),
    "money": ("big spenders", "small spenders"),
    "value": ("big spenders", "small spenders"),
    "spend": ("big spenders", "small spenders"),
    "quantity": ("bulk takers", "single pieces"),
    "distinct": ("wide range", "narrow range"),
    "recency": ("quiet lately", "active just now"),
    "tenure": ("old hands", "newcomers"),
    "age": ("old hands", "newcomers"),
    "events": ("very active", "little active"),
    "count": ("very active", "little active"),
    "total": ("very active", "little active"),
    "night": ("nights", "not at night"),
    "morning": ("mornings", "not in the morning"),
    "afternoon": ("afternoons", "not in the afternoon"),
    "evening": ("evenings", "not in the evening"),
    "weekend": ("weekends", "working days"),
    "hour": ("other hours", "other hours"),
}
"""Feature family -> phrase for more than the population, phrase for less."""

_JOINED: Mapping[str, str] = {
    "frequent buyers": "of",
    "rare buyers": "of",
    "keen browsers": "of",
    "keen clickers": "on",
    "keen players": "of",
    "searchers": "for",
    "collectors": "of",
    "raters": "of",
    "big spenders": "on",
    "bulk takers": "of",
}
"""Phrases that a label can follow, and the word between."""

NOTHING_SPECIAL = "average users"

RATIO_MIN = 1.3
SHARE_GAP_MIN = 0.1
"""What a person calls a difference: 30 % more or less of something, 10 points of a share."""


def is_share(feature: str) -> bool:
    """Whether it is a share of something, 0..1: such differ by points, others by ratios."""
    return feature.endswith("_share")


def notable(shares: Bool, own: F64, average: F64, strictness: float = 1.0) -> Bool:
    """(d,) whether a person who sees both numbers would call them different; 0.5 asks for half the difference.

    `shares` (d,): see `is_share`.

    >>> notable(np.array([True, False, False]), np.array([0.08, 4.0, 3.2]), np.array([0.06, 3.0, 3.0])).tolist()
    [False, True, False]
    """
    gap = np.abs(own - average)
    ratio = (RATIO_MIN - 1) * np.minimum(np.abs(own), np.abs(average))
    return np.where(shares, gap >= strictness * SHARE_GAP_MIN, (gap > 0) & (gap >= strictness * ratio))


def quantity(feature: str) -> str:
    """What a feature measures, whatever its horizon: its name without the last word.

    >>> quantity("purchase_count_7d"), quantity("interest_04"), quantity("age")
    ('purchase_count', 'interest', 'age')
    """
    return feature.rpartition("_")[0] or feature


@cache
def family(feature: str) -> str:
    """The PHRASES key that a feature name belongs to; its first word where there is none.

    >>> family("purchase_count_7d"), family("cart_add_30d"), family("shoe_size")
    ('purchase', 'cart_add', 'shoe')
    """
    words = feature.split("_")
    for start in range(len(words)):
        for key in ("_".join(words[start : start + 2]), words[start]):
            if key in PHRASES:
                return key
    return words[0]


def phrase(feature: str, z: float) -> str:
    """What being z deviations off the population in this feature is called."""
    more_less = PHRASES.get(family(feature))
    if more_less is None:
        words = family(feature)
        return f"high {words}" if z > 0 else f"low {words}"
    return more_less[0] if z > 0 else more_less[1]


def compose(phrases: Sequence[str], label: str, segment_id: int, taken: Collection[str]) -> tuple[str, int]:
    """A name that is not taken, and how many of the phrases it uses.

    >>> compose(["frequent buyers", "evenings"], "toys", 3, set())
    ('frequent buyers of toys', 1)
    """
    head = phrases[0] if phrases else NOTHING_SPECIAL
    if label and not phrases:
        head = f"fans of {label}"
    elif label:
        head = f"{head} {_JOINED[head]} {label}" if head in _JOINED else f"{head}, fans of {label}"
    used = min(len(phrases), 1 if label else 2)
    for n in range(used, max(used, len(phrases)) + 1):
        name = ", ".join([head, *phrases[1:n]])
        if name not in taken:
            return name, n
    name = ", ".join([head, *phrases[1:used]])
    while name in taken:  # an operator may have given a name that looks like ours
        name += f" ({segment_id})"
    return name, used
