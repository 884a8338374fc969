"""Simulated events as rows, and how a row is written down as a record of the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from .mishaps import DUPLICATE, FAULTS, spoil
from .personas import AISLES, Catalogue, neighbour
from .population import COUNTRIES, Population

TYPES = (
    "view", "impression", "click", "search", "dwell", "play", "favorite", "unfavorite", "like", "comment",
    "share", "follow", "login", "cart_add", "cart_remove", "checkout", "purchase", "rate", "refund",
)  # fmt: skip
CODE = {name: code for code, name in enumerate(TYPES)}
NO_ITEM = frozenset((CODE["search"], CODE["login"]))
WITH_DWELL = (CODE["view"], CODE["dwell"], CODE["play"])
WITH_VALUE = tuple(CODE[t] for t in ("cart_add", "cart_remove", "checkout", "purchase", "refund"))
WITH_BASKET = tuple(CODE[t] for t in ("checkout", "purchase", "refund"))

ROW = np.dtype(
    [
        ("id", np.int64),  # unique, except for repeats
        ("user", np.int32),
        ("session", np.int64),
        ("type", np.int8),  # index into TYPES
        ("time_ms", np.int64),
        ("arrival_ms", np.int64),
        ("item", np.int32),  # -1: none
        ("basket", np.int8),  # how many items of the aisle, from `item` on, go together
        ("aisle", np.int16),
        ("quantity", np.int32),
        ("value", np.float64),
        ("dwell_ms", np.int64),
        ("rating", np.int8),
        ("fault", np.int8),  # index into FAULTS
    ]
)
"""One event before it is written down. Arrays of it travel from the visits to the encoder."""


class Writer:
    """Rows -> (keys, values): what a producer would send. The same row is always the same bytes."""

    def __init__(self, population: Population, shop: Catalogue) -> None:
        self._shop = shop
        self._names = population.names
        self._keys = [name.encode() for name in population.names]
        self._user_field = ["anonymous_id" if a else "user_id" for a in population.anonymous.tolist()]
        app_share = np.array([persona.mobile for persona in population.all_personas])
        on_app = (population.mobile < app_share[population.persona]).tolist()
        self._context = [
            {"channel": "app" if app else "web", "country": COUNTRIES[country]}
            for app, country in zip(on_app, population.country.tolist(), strict=True)
        ]
        self._prefix = f"e{population.settings.seed}-"

    def write(self, rows: np.ndarray) -> tuple[list[bytes], list[bytes | None]]:
        """(n,) rows -> n keys and n values, in the same order; a tombstone's value is None."""
        names = [name for name in ROW.names or () if name != "arrival_ms"]
        columns = [rows[name].tolist() for name in names]
        keys = [self._keys[user] for user in columns[names.index("user")]]
        values: list[bytes | None] = []
        dumps, event = orjson.dumps, self._event
        for row in zip(*columns, strict=True):
            fields = event(*row)
            fault = row[-1]
            values.append(dumps(fields) if fault <= DUPLICATE else spoil(fields, FAULTS[fault], row[0]))
        return keys, values

    def _event(
        self, id: int, user: int, session: int, type: int, time_ms: int, item: int, basket: int, aisle: int,
        quantity: int, value: float, dwell_ms: int, rating: int, fault: int,
    ) -> dict[str, Any]:  # fmt: skip
        event: dict[str, Any] = {
            "event_id": f"{self._prefix}{id}",
            "type": TYPES[type],
            self._user_field[user]: self._names[user],
            "event_time": time_ms,
            "session_id": f"s{session}",
            "context": self._context[user],
        }
        if item >= 0:
            event["items"] = self._items(item, basket, quantity)
        elif type == CODE["search"]:
            event["query"] = AISLES[aisle][1].lower()
        if dwell_ms:
            event["dwell_ms"] = dwell_ms
        if value:
            event["value"] = value
            event["currency"] = "EUR"
        if rating:
            event["rating"] = rating
        return event

    def _items(self, item: int, basket: int, quantity: int) -> list[dict[str, object]]:
        known = self._shop.items
        if not quantity:
            return [known[item]]
        return [{**known[neighbour(item, i)], "quantity": quantity} for i in range(basket)]
