"""Random histories of a small pipeline: people come, change, fall silent, make room; centres are rearranged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from shoal.stream.config import Config
from shoal.stream.events import CATALOG, CHANGES, LINEAGE, MEMBERS, REJECTED, Output, Range, Records, Step
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import Intervention
from shoal.stream.privacy.keyfile import pseudonyms
from shoal.stream.segmenter import KMeans
from shoal.stream.wiring import build_pipeline

T0_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
USERS_MAX = 128
KINDS = ("view", "purchase", "play", "search", "click", "share")
SETTINGS = (
    "encoder.kind=identity", "segmenter.warmup_rows=40", "membership.confirmations=1", "membership.margin=0.0",
    f"features.users_max={USERS_MAX}", f"engine.step_records_max={USERS_MAX}", "segmenter.segments=6",
    "membership.catalog_every_rows=40", "features.sweep_rows_max=16",
)  # fmt: skip


class Rearranged(KMeans):
    """River's rule; what `tend` does next is said from outside."""

    def __init__(self, d: int, k: int) -> None:
        super().__init__(k, d, 0.1, 1)
        self.due: list[Intervention] = []

    def score(self, z: Any) -> Any:
        _, distances = super().score(z)
        distances[:, ~self.used] = np.inf
        return distances.argmin(axis=1).astype(np.int32), distances

    def permute(self, order: Any) -> None:
        super().permute(order)
        self.used = self.used[order]

    def tend(self) -> tuple[Intervention, ...]:
        due, self.due = tuple(self.due), []
        for one in due:
            self.used[one.centre] = one.out_of >= 0
            if one.out_of >= 0:
                self.centres[one.centre] = self.centres[one.out_of] + 0.05
            self.version += 1
        return due

    def snapshot(self) -> Any:
        return super().snapshot() | {"used": self.used.copy()}

    def restore(self, state: Any) -> None:
        super().restore(state)
        self.used = state["used"].copy()


class History:
    """Made from one number: the same number gives the same history, however often the pipeline starts again."""

    def __init__(self, config: Config, seed: int, restarts: bool = False) -> None:
        self.config, self.restarts = config, restarts
        self.rng = np.random.default_rng(seed)
        self.pipeline = self._pipeline()
        self.now_ms, self.offset, self.number = T0_MS, 0, 0

    def _pipeline(self) -> Pipeline:
        made = build_pipeline(self.config)
        assert (pseudonyms(self.config) is None) == (made.pseudonyms is None)
        made.segmenter = Rearranged(made.publisher.d_out, made.segmenter.k)
        return made

    def steps(self, n: int) -> Iterator[Output]:
        for _ in range(n):
            drawn = self.rng.random(4)  # always as many, so that restarts change nothing in what follows
            values = self._events()
            if self.restarts and drawn[0] < 0.3:
                state = self.pipeline.snapshot()
                self.pipeline = self._pipeline()
                self.pipeline.restore(state)
            self.pipeline.segmenter.due = self._interventions()  # type: ignore[attr-defined]
            self.number += 1
            start, self.offset = self.offset, self.offset + len(values)
            records = Records(
                np.zeros(len(values), np.int32), np.arange(start, self.offset), (None,) * len(values), values
            )
            ranges = (Range(0, start, self.offset),) if values else ()
            yield self.pipeline.step(Step(self.number, ranges, records, self.now_ms))

    def _events(self) -> list[bytes]:
        """Of a few or of many users; of one kind or of several; after an hour or after weeks."""
        rng = self.rng
        self.now_ms += int(rng.choice([1, 1, 24, 24 * 9, 24 * 31], p=[0.4, 0.2, 0.2, 0.15, 0.05]) * HOUR_MS)
        n = int(rng.choice([0, 3, 40, USERS_MAX], p=[0.1, 0.3, 0.4, 0.2]))
        pool = int(rng.choice([10, 60, 110, 300]))
        kinds = rng.choice(len(KINDS), size=int(rng.integers(1, len(KINDS) + 1)), replace=False)
        users = rng.integers(0, pool, n)
        liked = kinds[rng.integers(0, len(kinds), n)] if rng.random() < 0.5 else kinds[users % len(kinds)]
        return [
            orjson.dumps(
                {
                    "event_id": f"e{self.offset + i}",
                    "user_id": f"u{user}",
                    "type": KINDS[kind],
                    "event_time": self.now_ms,
                    "items": [{"id": f"{KINDS[kind]}-{i % 3}", "category": [KINDS[kind]]}],
                }
            )
            for i, (user, kind) in enumerate(zip(users.tolist(), liked.tolist(), strict=True))
        ]

    def _interventions(self) -> list[Intervention]:
        """Some merges, splits and swaps that fit the centres there are."""
        rng, made = self.rng, []
        drawn = rng.random((2, 4))
        if not self.pipeline.warmup.done:
            return []
        used = self.pipeline.segmenter.used.copy()
        for wish, *which in drawn.tolist():
            live, free = np.flatnonzero(used), np.flatnonzero(~used)
            a, b, c = (int(live[int(x * len(live))]) for x in which)
            if wish < 0.15 and len(live) > 2 and a != b:
                made.append(Intervention("merge", a, b, -1, "test", 0.1))
                used[a] = False
            elif wish < 0.3 and len(free):
                made.append(Intervention("split", int(free[0]), -1, a, "test", 0.1))
                used[free[0]] = True
            elif wish < 0.4 and len({a, b, c}) == 3:
                made.append(Intervention("swap", a, b, c, "test", 0.1))
        return made


class Reader:
    """Somebody outside who folds the topics, and knows nothing else."""

    def __init__(self) -> None:
        self.members: dict[bytes, int] = {}
        self.changes: dict[bytes, int] = {}
        self.sequences: dict[bytes, int] = {}
        self.catalog: dict[int, Any] = {}
        self.lineage: list[Any] = []

    def read(self, output: Output) -> None:
        for record in output.records:
            if record.topic == REJECTED:
                continue
            value = None if record.value is None else orjson.loads(record.value)
            if record.topic == MEMBERS:
                self.members.pop(record.key, None)
                if value is not None:
                    self.members[record.key] = value["segment_id"]
            elif record.topic == CHANGES:
                before = (value["from"] or {}).get("segment_id", 0)
                assert self.changes.get(record.key, 0) == before, "a change begins where the last one ended"
                assert value["position"]["sequence"] > self.sequences.get(record.key, 0)
                self.sequences[record.key] = value["position"]["sequence"]
                self.changes[record.key] = (value["to"] or {}).get("segment_id", 0)
            elif record.topic == CATALOG:
                self.catalog[int(record.key)] = value
            elif record.topic == LINEAGE:
                self.lineage.append(value)

    def sizes(self) -> dict[int, int]:
        return dict(Counter(self.members.values()))

    def profiles(self) -> dict[int, Any]:
        return {segment: value for segment, value in self.catalog.items() if value is not None}
