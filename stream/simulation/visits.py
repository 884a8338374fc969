"""What people do on a simulated day: who comes, when, what happens in the visit, with which items."""

from __future__ import annotations

import numpy as np

from ..events import I32, I64
from .personas import AISLES, BROWSE_TYPES, ITEMS_PER_AISLE, Catalogue, Tables, neighbour, pick
from .population import DAY_MS, Population, Settings, midnight
from .shop_events import CODE, NO_ITEM, ROW, WITH_BASKET, WITH_DWELL, WITH_VALUE

_BASKET_MAX = 4

_PHASES = ("login", "browse", "cart_add", "cart_remove", "checkout", "purchase", "rate", "refund")
_BROWSE = _PHASES.index("browse")
_PHASE_TYPE = np.array([CODE.get(phase, -1) for phase in _PHASES], np.int8)
_BROWSE_TYPE = np.array([CODE[name] for name in BROWSE_TYPES], np.int8)


class Visits:
    """Makes a day's events: who comes how often, at what hour, to do what, with which items."""

    def __init__(
        self, settings: Settings, population: Population, shop: Catalogue, scale: float, days: float
    ) -> None:
        self._settings = settings
        self._population = population
        self._shop = shop
        self._scale = scale
        self._days = days
        self._tables = Tables.of(population.all_personas)
        self._events = 0
        self._visits = 0

    def of_day(self, day: int, rng: np.random.Generator) -> np.ndarray:
        """Rows (n,) of the visits that begin on this day, visit by visit, in the order within a visit."""
        tables = self._tables
        if self._settings.drift == "slow":
            far = self._settings.drift_share * min(1.0, day / self._days)
            tables = tables.drifted(self._settings.seed, far)
        user, persona = self._who(day, tables, rng)
        start_ms = midnight(self._settings.start_ms) + day * DAY_MS + _times(tables, persona, rng)
        visit, types = _courses(tables, persona, rng)
        rows = np.zeros(len(visit), ROW)
        rows["id"] = self._events + np.arange(len(visit))
        rows["session"] = self._visits + visit
        rows["user"] = user[visit]
        rows["type"] = types
        of_row = persona[visit]
        rows["time_ms"] = start_ms[visit] + _pauses(tables, of_row, visit, rng)
        self._touch(rows, tables, persona, visit, rng)
        self._measure(rows, tables, of_row, rng)
        self._events += len(visit)
        self._visits += len(user)
        return rows

    def _who(self, day: int, tables: Tables, rng: np.random.Generator) -> tuple[I32, I32]:
        """Which users visit (v,), and as which of their personas (v,)."""
        population = self._population
        weekday = (midnight(self._settings.start_ms) // DAY_MS + day + 3) % 7  # 1970 began on a Thursday
        rates = population.rates(tables.visits[:, weekday]) * self._scale  # (n,)
        user = np.repeat(np.arange(len(rates), dtype=np.int32), rng.poisson(rates))
        second = rng.random(len(user)) < 0.5
        return user, np.where(second, population.other[user], population.persona[user])

    def _touch(
        self, rows: np.ndarray, tables: Tables, persona: I32, visit: I64, rng: np.random.Generator
    ) -> None:
        """Aisles and items: a visit mostly keeps to one aisle; popular and favourite items come first."""
        numbers, n, of_row = tables.scalars, len(rows), persona[visit]
        aisle = pick(rng.random(len(persona)), tables.aisles_cum, persona)  # (v,)
        stray = rng.random(len(persona)) < self._settings.stray
        aisle = np.where(stray, rng.integers(0, len(AISLES), len(persona)), aisle)
        away = rng.random(n) >= numbers["focus"][of_row]
        rows["aisle"] = np.where(away, pick(rng.random(n), tables.aisles_cum, of_row), aisle[visit])
        places = (rng.random((n, 2)) ** 2.5 * ITEMS_PER_AISLE).astype(np.int64)  # (n, 2) small: popular
        own = (rows["user"].astype(np.int64) * 7919 + places[:, 0] % 4) % ITEMS_PER_AISLE
        items = rows["aisle"].astype(np.int64)[:, None] * ITEMS_PER_AISLE + places  # (n, 2)
        price = self._shop.prices[items]
        taste = numbers["price_taste"][of_row]
        choose = rng.random(n) < np.abs(taste)
        dearer = np.where(taste > 0, price.argmax(1), price.argmin(1))
        item = items[np.arange(n), np.where(choose, dearer, 0)]
        loyal = rng.random(n) < numbers["loyalty"][of_row]
        item = np.where(loyal, rows["aisle"].astype(np.int64) * ITEMS_PER_AISLE + own, item)
        rows["item"] = np.where(np.isin(rows["type"], tuple(NO_ITEM)), -1, item)

    def _measure(self, rows: np.ndarray, tables: Tables, of_row: I32, rng: np.random.Generator) -> None:
        """Quantities, money, time spent and ratings, where the type has them."""
        n, numbers = len(rows), tables.scalars
        dwell = rng.exponential(1.0, n) * numbers["dwell_s"][of_row] * 1000.0 + 200.0
        rows["dwell_ms"] = np.where(np.isin(rows["type"], WITH_DWELL), dwell, 0)
        money = np.isin(rows["type"], WITH_VALUE)
        pieces = 1 + rng.poisson(numbers["quantity"][of_row] - 1.0)
        rows["quantity"] = np.where(money, pieces, 0)
        size = 1 + rng.binomial(_BASKET_MAX - 1, 1.0 - 1.0 / numbers["cart_items"][of_row])
        rows["basket"] = np.where(np.isin(rows["type"], WITH_BASKET), size, 1)
        value = np.zeros(n)
        for i in range(_BASKET_MAX):
            price = self._shop.prices[neighbour(np.maximum(rows["item"], 0), i)]
            value += np.where(i < rows["basket"], price, 0.0)
        rows["value"] = np.where(money, np.round(value * pieces, 2), 0.0)
        rows["rating"] = np.where(rows["type"] == CODE["rate"], rng.integers(1, 6, n), 0)


def _times(tables: Tables, persona: I32, rng: np.random.Generator) -> I64:
    """(v,) when in the day a visit begins."""
    hour = pick(rng.random(len(persona)), tables.hours_cum, persona)
    return hour * 3_600_000 + rng.integers(0, 3_600_000, len(persona))


def _courses(tables: Tables, persona: I32, rng: np.random.Generator) -> tuple[I64, np.ndarray]:
    """What happens in the visits, in order: (n,) visit of each event, (n,) its type."""
    v = len(persona)
    numbers = {name: column[persona] for name, column in tables.scalars.items()}

    def chance(share: str) -> np.ndarray:
        return rng.random(v) < numbers[share]

    long = rng.gamma(4.0, 0.25, v)  # some visits are twice as long as others
    browse = 1 + rng.poisson((numbers["browse_events"] - 1.0) * long)
    added = chance("cart") * (1 + rng.poisson(numbers["cart_items"] - 1.0))
    removed = rng.binomial(added, numbers["remove"])
    bought = chance("buy") & (added > removed)
    steps = (chance("login"), browse, added, removed, bought, bought, bought & chance("rate"),
             bought & chance("refund"))  # fmt: skip
    counts = np.stack(steps, axis=1).astype(np.int64)  # (v, phases)
    phase = np.repeat(np.tile(np.arange(len(_PHASES)), v), counts.ravel())
    visit = np.repeat(np.arange(v), counts.sum(1))
    types = _PHASE_TYPE[phase]
    browsing = np.flatnonzero(phase == _BROWSE)
    drawn = pick(rng.random(len(browsing)), tables.browse_cum, persona[visit[browsing]])
    types[browsing] = _BROWSE_TYPE[drawn]
    return visit, types


def _pauses(tables: Tables, of_row: I32, visit: I64, rng: np.random.Generator) -> I64:
    """(n,) time of each event since its visit began; every event of a visit has a time of its own."""
    gaps = 1.0 + rng.exponential(1.0, len(visit)) * tables.scalars["gap_s"][of_row] * 1000.0
    total = np.cumsum(gaps.astype(np.int64))
    first = np.searchsorted(visit, visit)  # (n,) where its visit begins; visits are in order
    return total - total[first]
