"""Small fakes around the membership policy: scored rows from points and centres, a stage for the narrator."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from made import Touch, columns

from shoal.stream.attribution import Attribution
from shoal.stream.catalog import Catalog
from shoal.stream.changes import Narrator
from shoal.stream.churn import Churn
from shoal.stream.config import Features
from shoal.stream.config import Membership as Config
from shoal.stream.counterfactual import Counterfactuals
from shoal.stream.events import Range, Records, Scored, Step
from shoal.stream.lifecycle import Lifecycle
from shoal.stream.membership import Membership

NAMES = (
    "purchase_count_1d",
    "purchase_count_7d",
    "view_count_7d",
    "evening_share",
    "interest_00",
    "interest_01",
)


def score(points, centres):
    """Nearest centre and squared distances, the plain way."""
    points, centres = np.asarray(points, np.float64), np.asarray(centres, np.float64)
    distances = np.square(points[:, None, :] - centres[None, :, :]).sum(axis=2)
    return distances.argmin(axis=1).astype(np.int32), distances


def scored(slots, points, centres, touched=None, raw=None):
    """What the pipeline hands to the policy; the embedding is the scaled row itself."""
    z = np.asarray(points, np.float32).reshape(len(slots), np.shape(centres)[1])
    nearest, distances = score(z, centres)
    rows = z if raw is None else np.asarray(raw, np.float32)
    t = len(slots) if touched is None else touched
    return Scored(np.asarray(slots, np.int32), t, rows, z, z, nearest, distances)


def events(users, times=None, labels=None, kinds=None, rows=None):
    """Events (n,) of these users; without items, money or tokens."""
    n = len(users)
    touches = map(Touch, users, range(n) if times is None else times, kinds or ["view"] * n)
    made = columns(list(touches))
    row = made.row if rows is None else np.asarray(rows, np.int32)
    return replace(made, row=row, event_key=np.arange(n, dtype=np.uint64), labels=list(labels or [""] * n))


class FakeFeatures:
    """Rows are scaled as they are."""

    def scale(self, raw, as_then=None):
        return raw

    def scale_now(self):
        return np.zeros((3, 1))


class FakePublisher:
    """The identity as encoder; `previous` says what the version before made of a row."""

    version = 1

    def __init__(self, previous=None):
        self.previous = previous

    def encode_previous(self, x):
        return None if self.previous is None else self.previous(x)

    def encode(self, x):
        return x


class Stage:
    """As much of a pipeline as the narrator asks for, driven by points instead of events."""

    config_hash = "0123456789abcdef" * 2
    pseudonyms = ledger = chain = None

    def __init__(self, centres, users_max=64, names=None, **config):
        k, e = np.shape(centres)
        policy = Config(**{"confirmations": 1, "margin": 0.0, **config})
        self.user_names = [f"user-{i}" for i in range(users_max)]
        self.users = SimpleNamespace(
            names=lambda slots: [self.user_names[s] for s in slots.tolist()],
            first_ms=np.full(users_max, 1_690_000_000_000),
            last_ms=np.full(users_max, 1_699_990_000_000),
        )
        self.clock = SimpleNamespace(now_ms=1_700_000_000_000)
        self.segmenter = SimpleNamespace(centres=np.asarray(centres, np.float64), version=1)
        self.features, self.publisher = FakeFeatures(), FakePublisher()
        self.membership = Membership(policy, users_max, k)
        self.churn = Churn(k)
        self.attribution = Attribution(users_max, e)
        self.catalog = Catalog(policy, k, names or NAMES[:e])
        self.counterfactuals = Counterfactuals(Features(), self.catalog.features, 32)
        self.lifecycle = Lifecycle(policy, names or NAMES[:e], users_max, k)
        self.narrator = Narrator(self)
        self.number = 0

    def versions(self):
        return {"features": "f1", "encoder": self.publisher.version, "segmenter": self.segmenter.version}

    def step(self, slots=(), points=(), told=None, touched=None, gone=(), rejects=(), **records):
        """One step in the pipeline's order; `told` are the events. Returns the records."""
        self.number += 1
        started = not self.membership.ids.any()
        told = events([]) if told is None else told
        index = {name: i for i, name in enumerate(self.user_names)}
        event_slots = np.array([index[name] for name in told.users], np.int32)
        n = max(len(told.users), int(told.row.max(initial=-1)) + 1, len(records.get("values", ())))
        step = Step(self.number, (Range(0, 0, n),), _records(n, self.number, records), None)
        self.narrator.begin(step)
        if len(gone):
            farewells = self.membership.leave(np.asarray(gone, np.int32), self.number)
            self.churn.count(farewells)
            self.narrator.left(farewells)
            self.attribution.clear(np.asarray(gone, np.int32))
        if started:
            self.narrator.born(self.membership.begin(self.clock.now_ms))
        rows = scored(slots, points, self.segmenter.centres, touched)
        seen = np.full(len(slots), 5, np.int64)
        moves = self.membership.decide(rows, seen, self.clock.now_ms, self.number)
        self.churn.count(moves)
        self.narrator.moved(moves, rows, told, event_slots)
        self.attribution.remember(rows, self.publisher.version)
        self.lifecycle.meet(event_slots, told)
        self.lifecycle.see(rows)
        self.catalog.learn(self.membership.centre, event_slots, told, rows)
        self.narrator.profiles(force=started)
        self.narrator.rejected(rejects)
        return self.narrator.end()


def _records(n, number, given):
    columns = {
        "partitions": np.zeros(n, np.int32),
        "offsets": np.arange(n, dtype=np.int64) + 1000 * number,
        "keys": (None,) * n,
        "values": (b"{}",) * n,
        **given,
    }
    return Records(**columns)
