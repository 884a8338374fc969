"""The peer: the pipeline that a user would write today with River, dictionaries and a deque per window.

The same columns as Shoal's row, `StandardScaler | KMeans`, `predict_one` and `learn_one` per event, and a JSON
record whenever a user's nearest centre changes.

What is unequal, and whom it favours. River scores and learns once per event, Shoal once per user touched in a
step: that is how each is used (favours Shoal). The peer trains no encoder, keeps no stable ids, explains
nothing, recovers nothing after a crash, never forgets a user or an event id, and measures fewer events, whose
windows are still short (all favours River).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import xxhash

from ..config import Config
from ..events import CHANNELS, TYPE_CODES
from ..windows import PARTS

Fact = tuple[int, str, int, float, float, int, str]  # time_ms, type, sign, money, quantity, dwell_ms, item


class Window:
    """Exact sums over the last `span_ms` of one user's events."""

    __slots__ = ("dwell_ms", "events", "items", "money", "quantity", "span_ms", "types")

    def __init__(self, span_ms: int) -> None:
        self.span_ms = span_ms
        self.events: deque[Fact] = deque()
        self.types: dict[str, int] = defaultdict(int)
        self.items: dict[str, int] = defaultdict(int)
        self.money = self.quantity = 0.0
        self.dwell_ms = 0

    def add(self, event: Fact, sign: int = 1) -> None:
        _, kind, direction, money, quantity, dwell_ms, item = event
        self.types[kind] += sign * direction
        self.money += sign * direction * money
        self.quantity += sign * direction * quantity
        self.dwell_ms += sign * dwell_ms
        if item:
            self.items[item] += sign
            if not self.items[item]:
                del self.items[item]

    def move(self, now_ms: int) -> None:
        while self.events and self.events[0][0] <= now_ms - self.span_ms:
            self.add(self.events.popleft(), -1)


class User:
    """One user's windows, day shape and decayed interest."""

    __slots__ = ("dayparts", "first_ms", "interest", "interest_ms", "segment", "weekend", "windows")

    def __init__(self, spans: Iterable[int], dim: int, now_ms: int) -> None:
        self.windows = [Window(span) for span in spans]
        self.interest = np.zeros(dim)
        self.interest_ms = now_ms
        self.first_ms = now_ms
        self.dayparts = [0, 0, 0, 0]
        self.weekend = 0
        self.segment: int | None = None


class RiverPipeline:
    """Events in, JSON changes out, one at a time. `read` counts the events."""

    def __init__(self, config: Config) -> None:
        from river import cluster, compose, preprocessing

        self.read = 0
        self._horizons = config.features.horizons
        self._dim = config.features.interest_dim
        self._half_life_ms = config.features.interest_half_life_ms
        self._users: dict[str, User] = {}
        self._seen: set[str] = set()
        self._tokens: dict[str, int] = defaultdict(int)
        self._vectors: dict[str, Any] = {}
        self.model = compose.Pipeline(
            preprocessing.StandardScaler(),
            cluster.KMeans(n_clusters=config.segmenter.segments, halflife=config.segmenter.step, seed=1),
        )

    def run(self, values: Iterable[bytes]) -> Iterator[bytes]:
        for value in values:
            self.read += 1
            event = orjson.loads(value)
            if event["event_id"] not in self._seen:
                self._seen.add(event["event_id"])
                change = self.one(event)
                if change is not None:
                    yield change

    def one(self, event: dict[str, Any]) -> bytes | None:
        name = event.get("user_id") or event["anonymous_id"]
        now_ms = _time_ms(event["event_time"])
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = User((h.window_ms for h in self._horizons), self._dim, now_ms)
        x = self.row(user, event, now_ms)
        segment = self.model.predict_one(x)
        self.model.learn_one(x)
        if segment == user.segment:
            return None
        before, user.segment = user.segment, segment
        return orjson.dumps({"user": name, "from": before, "to": segment, "time": now_ms})

    def row(self, user: User, event: dict[str, Any], now_ms: int) -> dict[str, float]:
        """The user's row right after `event`: column -> value."""
        items = event.get("items") or ()
        fact = _fact(event, items, now_ms)
        x: dict[str, float] = {}
        for horizon, window in zip(self._horizons, user.windows, strict=True):
            window.events.append(fact)
            window.add(fact)
            window.move(now_ms)
            for kind in CHANNELS:
                x[f"{kind}_count_{horizon.name}"] = _log(window.types.get(kind, 0))
            x[f"events_{horizon.name}"] = _log(len(window.events))
            x[f"money_{horizon.name}"] = _log(window.money)
            x[f"quantity_{horizon.name}"] = _log(window.quantity)
            x[f"dwell_ms_{horizon.name}"] = _log(window.dwell_ms)
            x[f"distinct_items_{horizon.name}"] = _log(len(window.items))
        user.dayparts[now_ms % 86_400_000 // 21_600_000] += 1
        user.weekend += (now_ms // 86_400_000 + 3) % 7 >= 5
        total = sum(user.dayparts)
        for part, count in zip(PARTS, (*user.dayparts, user.weekend), strict=True):
            x[part] = count / total
        x["recency_ms"] = 0.0  # a row right after the user's own event
        x["tenure_ms"] = _log(now_ms - user.first_ms)
        self._interest(user, items, now_ms, x)
        return x

    def _interest(
        self, user: User, items: Iterable[dict[str, Any]], now_ms: int, x: dict[str, float]
    ) -> None:
        if not self._dim:
            return
        user.interest *= 0.5 ** ((now_ms - user.interest_ms) / self._half_life_ms)
        user.interest_ms = now_ms
        for item in items:
            for token in (item["id"], *item.get("category", ())):
                self._tokens[token] += 1
                user.interest += self._vector(token) / math.log(2 + self._tokens[token])
        norm = float(np.linalg.norm(user.interest)) or 1.0
        for i, value in enumerate((user.interest / norm).tolist()):
            x[f"interest_{i:02}"] = value

    def _vector(self, token: str) -> Any:
        if token not in self._vectors:
            rng = np.random.default_rng(xxhash.xxh3_64_intdigest(token.encode()))
            self._vectors[token] = rng.choice([-1.0, 1.0], self._dim) / math.sqrt(self._dim)
        return self._vectors[token]


def _fact(event: dict[str, Any], items: Sequence[dict[str, Any]], now_ms: int) -> Fact:
    """Money and quantity count for purchases and refunds only, as in Shoal's windows."""
    channel, sign = TYPE_CODES.get(event["type"], TYPE_CODES["custom"])
    kind = CHANNELS[channel]
    bought = kind == "purchase"
    money = float(event.get("value") or 0.0) if bought else 0.0
    quantity = float(sum(item.get("quantity") or 0 for item in items)) if bought else 0.0
    item = items[0]["id"] if items else ""
    return now_ms, kind, sign, money, quantity, int(event.get("dwell_ms") or 0), item


def _log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _time_ms(value: int | str) -> int:
    if isinstance(value, int):
        return value
    return int(datetime.fromisoformat(value).timestamp() * 1000)
