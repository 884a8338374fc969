"""Who visits the simulated shop, and what it sells.

A persona is a way of behaving, as rates and tastes; a user has one at a time (boundary users have two).
The catalogue is fixed: departments, three aisles each, forty items an aisle, every price drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ..events import F64

DEPARTMENTS: Mapping[str, tuple[tuple[str, str, str], float]] = {
    "Fashion": (("Dresses", "Shoes", "Coats"), 55.0),
    "Home": (("Kitchen", "Lighting", "Textiles"), 35.0),
    "Outlet": (("Clearance", "Refurbished", "Multipacks"), 9.0),
    "Groceries": (("Fresh", "Pantry", "Drinks"), 4.0),
    "Games": (("Downloads", "Consoles", "Add-ons"), 30.0),
    "Gifts": (("Jewellery", "Flowers", "Cards"), 40.0),
    "Electronics": (("Laptops", "Cameras", "Audio"), 420.0),
    "Beauty": (("Skincare", "Make-up", "Perfume"), 28.0),
    "Office": (("Paper", "Toner", "Furniture"), 22.0),
    "Baby": (("Nappies", "Toys", "Clothes"), 18.0),
    "Media": (("Music", "Films", "Books"), 12.0),
    "Sports": (("Running", "Cycling", "Camping"), 60.0),
}
"""department -> (its aisles, typical price)."""

AISLES = tuple((name, aisle) for name, (aisles, _) in DEPARTMENTS.items() for aisle in aisles)
ITEMS_PER_AISLE = 40
BRANDS_PER_DEPARTMENT = 6

BROWSE_TYPES = (
    "view", "impression", "click", "search", "dwell", "play", "favorite", "unfavorite",
    "like", "comment", "share", "follow",
)  # fmt: skip
"""What a visit consists of before anything goes into the cart."""

Number = TypeVar("Number", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class Persona:
    """How one kind of person uses the shop. Shares are of the visits, unless said otherwise."""

    name: str
    visits_per_day: float
    browse: Mapping[str, float]  # event type -> weight, over BROWSE_TYPES
    browse_events: float  # mean number of browse events a visit
    departments: Mapping[str, float]  # department -> weight
    hours: tuple[tuple[float, float], ...]  # (centre, width) of the preferred hours, 0..24
    weekend: float = 1.0  # how many times as active on a Saturday or Sunday
    gap_s: float = 25.0  # mean pause between two events
    dwell_s: float = 12.0  # mean time on a page, a clip or a game
    cart: float = 0.0  # share that puts something into the cart
    cart_items: float = 1.5  # mean number of cart additions, where there are any
    remove: float = 0.05  # share of the additions that are taken out again
    buy: float = 0.0  # share of the filled carts that are bought
    refund: float = 0.0  # share of the purchases sent back
    rate: float = 0.0  # share of the purchases that are rated
    quantity: float = 1.0  # mean pieces of one item
    price_taste: float = 0.0  # -1: always the cheaper of two, +1: always the dearer
    loyalty: float = 0.0  # share of touches that go to the user's own few items
    focus: float = 0.8  # share of a visit's touches that stay in its aisle
    login: float = 0.3  # share that begins with a login
    mobile: float = 0.5  # share of users on the app


PERSONAS: tuple[Persona, ...] = (
    Persona(
        "window_shopper", 1.3, {"view": 5, "impression": 6, "click": 3, "favorite": 0.3}, 9.0,
        {"Fashion": 5, "Home": 3, "Beauty": 1}, ((20.0, 2.5), (13.0, 1.0)),
        gap_s=9.0, dwell_s=4.0, cart=0.02, focus=0.5, mobile=0.8,
    ),
    Persona(
        "bargain_hunter", 1.0, {"search": 4, "view": 5, "click": 2}, 6.0,
        {"Outlet": 7, "Home": 1, "Fashion": 1}, ((12.5, 1.0), (18.0, 2.0)),
        cart=0.6, cart_items=2.5, remove=0.15, buy=0.7, refund=0.1, price_taste=-0.9, quantity=1.5,
    ),
    Persona(
        "weekly_grocer", 0.5, {"view": 2, "search": 1}, 2.0,
        {"Groceries": 10, "Baby": 0.3}, ((10.0, 2.0), (17.5, 1.5)),
        weekend=2.2, cart=0.95, cart_items=6.0, buy=0.95, quantity=2.5, loyalty=0.6, login=0.9, mobile=0.6,
    ),
    Persona(
        "night_gamer", 1.1, {"play": 6, "like": 2, "comment": 1.5, "view": 2, "dwell": 2}, 8.0,
        {"Games": 10, "Electronics": 0.5}, ((23.0, 2.0), (1.5, 1.5)),
        weekend=1.3, gap_s=180.0, dwell_s=400.0, cart=0.06, buy=0.9, loyalty=0.3, login=0.8, mobile=0.2,
    ),
    Persona(
        "gift_buyer", 0.6, {"search": 2, "favorite": 4, "share": 2.5, "view": 4}, 7.0,
        {"Gifts": 8, "Beauty": 1, "Media": 0.5}, ((19.5, 1.5),),
        weekend=1.8, cart=0.4, buy=0.8, rate=0.1, price_taste=0.5, focus=0.6,
    ),
    Persona(
        "researcher", 0.7, {"search": 3, "view": 8, "dwell": 5, "click": 2, "comment": 0.3}, 18.0,
        {"Electronics": 10, "Sports": 0.7}, ((10.0, 2.0), (15.0, 2.0)),
        weekend=0.7, gap_s=50.0, dwell_s=90.0, cart=0.05, cart_items=1.0, buy=0.4, rate=0.5, price_taste=0.7,
        focus=0.95, mobile=0.15,
    ),
    Persona(
        "cart_abandoner", 1.0, {"view": 4, "click": 2, "favorite": 1, "unfavorite": 0.3}, 4.0,
        {"Beauty": 7, "Fashion": 2}, ((21.5, 1.5), (7.5, 1.0)),
        cart=0.95, cart_items=3.5, remove=0.45, buy=0.03, mobile=0.9,
    ),
    Persona(
        "bulk_buyer", 0.7, {"search": 1.5, "view": 2}, 2.5,
        {"Office": 9, "Groceries": 0.7, "Electronics": 0.3}, ((9.0, 1.5), (14.0, 1.5)),
        weekend=0.08, gap_s=15.0, cart=0.85, cart_items=4.0, buy=0.9, quantity=25.0, loyalty=0.4, login=0.95,
        mobile=0.02,
    ),
    Persona(
        "new_parent", 1.2, {"view": 3, "search": 2, "dwell": 1, "comment": 0.7}, 4.0,
        {"Baby": 9, "Groceries": 1.5}, ((4.0, 1.5), (13.5, 1.5)),
        cart=0.5, cart_items=2.5, buy=0.85, rate=0.2, quantity=2.0, loyalty=0.5, login=0.7, mobile=0.85,
    ),
    Persona(
        "media_fan", 1.4, {"play": 5, "like": 4, "share": 1, "follow": 2, "comment": 1}, 9.0,
        {"Media": 10}, ((8.0, 0.8), (17.5, 0.8)),
        weekend=0.8, gap_s=120.0, dwell_s=200.0, cart=0.08, buy=0.8, rate=0.4, mobile=0.95,
    ),
    Persona(
        "fashion_returner", 0.8, {"view": 4, "favorite": 2, "follow": 1, "like": 2}, 8.0,
        {"Fashion": 10, "Beauty": 1}, ((12.0, 1.5), (22.0, 1.0)),
        cart=0.7, cart_items=3.0, buy=0.85, refund=0.6, price_taste=0.6, focus=0.6,
    ),
    Persona(
        "weekend_athlete", 0.6, {"view": 4, "dwell": 2, "follow": 2, "search": 1}, 7.0,
        {"Sports": 10, "Groceries": 0.5}, ((8.0, 1.5),),
        weekend=4.0, dwell_s=40.0, cart=0.35, buy=0.8, rate=0.3, price_taste=0.3,
    ),
)  # fmt: skip
"""Twelve out of the box; the first eight are the default, the others are born where births are asked for."""

BOT = Persona(
    "bot", 45.0, {"view": 10, "impression": 3, "click": 1}, 35.0,
    dict.fromkeys(DEPARTMENTS, 1.0), ((3.0, 8.0), (15.0, 8.0)),
    gap_s=1.0, dwell_s=0.3, focus=0.0, login=0.0, mobile=0.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is sold: item i stands in aisle i // ITEMS_PER_AISLE; the first ones are the most wanted."""

    prices: F64  # (items,)
    items: tuple[dict[str, object], ...] = field(repr=False)  # as the contract writes one, without quantity


def neighbour(item: Number, places: int) -> Number:
    """The item so many places on in the same aisle, beginning again at its end."""
    return item - item % ITEMS_PER_AISLE + (item % ITEMS_PER_AISLE + places) % ITEMS_PER_AISLE


def catalogue() -> Catalogue:
    """The same shop whatever the seed of a simulation, so that runs can be compared."""
    rng = np.random.default_rng(20_260_105)
    typical = np.repeat([DEPARTMENTS[name][1] for name, _ in AISLES], ITEMS_PER_AISLE)
    prices = np.round(typical * np.exp(rng.normal(0.0, 0.6, len(typical))), 2)  # (items,)
    brands = rng.integers(0, BRANDS_PER_DEPARTMENT, len(typical))
    items = []
    for i, price in enumerate(prices.tolist()):
        department, aisle = AISLES[i // ITEMS_PER_AISLE]
        items.append(
            {
                "id": f"{department[:3].upper()}-{i:04d}",
                "category": [department, aisle],
                "brand": f"{department} brand {brands[i] + 1}",
                "price": price,
            }
        )
    return Catalogue(prices, tuple(items))


@dataclass(frozen=True, slots=True)
class Tables:
    """Personas as arrays, row p for persona p; `*_cum` are cumulative shares for `pick`."""

    visits: F64  # (P, 7) a day, by weekday, Monday first
    hours_cum: F64  # (P, 24)
    browse_cum: F64  # (P, types)
    aisles_cum: F64  # (P, aisles)
    scalars: Mapping[str, F64]  # field of Persona -> (P,)

    @staticmethod
    def of(personas: Sequence[Persona]) -> Tables:
        numbers = {
            name: np.array([getattr(p, name) for p in personas], np.float64)
            for name, kind in Persona.__annotations__.items()
            if kind == "float"
        }
        weekend = numbers["weekend"]  # a week has the same number of visits whatever its weekends
        days = np.where(np.arange(7) >= 5, weekend[:, None], 1.0) * 7 / (5 + 2 * weekend[:, None])
        return Tables(
            visits=numbers["visits_per_day"][:, None] * days,
            hours_cum=_cumulative(np.array([_hours(p) for p in personas])),
            browse_cum=_cumulative(
                np.array([[p.browse.get(t, 0.0) for t in BROWSE_TYPES] for p in personas])
            ),
            aisles_cum=_cumulative(np.array([_aisles(p) for p in personas])),
            scalars=numbers,
        )

    def drifted(self, seed: int, far: float) -> Tables:
        """The same personas after they moved by `far`, 0 (not at all) to 1 (half of every habit is new)."""
        rng = np.random.default_rng([seed, 77])
        personas = len(self.visits)
        part = 0.5 * far
        browse = _shares(self.browse_cum)
        other_browse = browse * np.exp(rng.normal(0.0, 1.0, browse.shape))
        aisles = _shares(self.aisles_cum)
        other_aisles = np.array([np.roll(row, 3) for row in aisles])  # the next department
        visits = self.visits * np.exp(part * rng.normal(0.0, 1.0, (personas, 1)))
        hours = _shares(self.hours_cum)
        return Tables(
            visits,
            _cumulative((1 - part) * hours + part * np.roll(hours, 4, axis=1)),
            _cumulative((1 - part) * browse + part * other_browse / other_browse.sum(1, keepdims=True)),
            _cumulative((1 - part) * aisles + part * other_aisles),
            self.scalars,
        )


def pick(u: F64, cumulative: F64, rows: np.ndarray) -> np.ndarray:
    """For every u in [0, 1): the column of `cumulative[row]` it falls into. (n,), (P, C), (n,) -> (n,)."""
    width = cumulative.shape[1]
    stacked = (cumulative + np.arange(len(cumulative))[:, None]).ravel()  # ascending over all rows
    column = np.searchsorted(stacked, rows + u, side="right") - rows * width
    return np.minimum(column, width - 1)


def _hours(persona: Persona) -> F64:
    hour = np.arange(24) + 0.5
    weight = np.full(24, 0.004)
    for centre, width in persona.hours:
        away = np.abs((hour - centre + 12) % 24 - 12)
        weight += np.exp(-0.5 * (away / width) ** 2) / width
    return weight


def _aisles(persona: Persona) -> list[float]:
    return [persona.departments.get(department, 0.0) for department, _ in AISLES]


def _cumulative(weights: F64) -> F64:
    cumulative = np.cumsum(weights, axis=1)
    cumulative /= cumulative[:, -1:]
    return cumulative


def _shares(cumulative: F64) -> F64:
    return np.diff(cumulative, axis=1, prepend=0.0)
