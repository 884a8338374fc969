"""What a simulated run is made of: small configurations, a short input, pipelines that are built once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import msgspec
from shop import small

from shoal.sinks.kafka import KafkaSink
from shoal.stream import epochs
from shoal.stream.config import Config, Horizon
from shoal.stream.engine import Engine
from shoal.stream.kafka import manifests
from shoal.stream.pipeline import Pipeline
from shoal.stream.ports import State
from shoal.stream.simulation.population import MONDAY_MS, Settings
from shoal.stream.simulation.simulator import Simulator
from shoal.stream.snapshots import DirectoryStore
from shoal.stream.wiring import build_pipeline

from .client import FakeClient
from .log import Partition, Transaction

DAYS = 4.0
START_MS = MONDAY_MS + int((DAYS + 1) * 86_400_000)
THINNED = 4  # of so many events one is taken: short visits, so that a short input has many users
SESSION_S, TRANSACTION_S = 1.0, 3.0
HORIZONS = (
    Horizon(name="1d", window_ms=86_400_000, tiles=6),
    Horizon(name="4d", window_ms=4 * 86_400_000, tiles=4),
)
TINY = (
    "features.users_max=64",
    "features.interest_dim=4",
    "features.dedup_max=1024",
    "encoder.dim=4",
    "encoder.hidden=8",
    "encoder.warmup_steps=6",
    "encoder.replay_rows=48",
    "encoder.batch=8",
    "encoder.publish_every_rows=12",
    "segmenter.segments=3",
    "segmenter.warmup_rows=12",
    "membership.catalog_every_rows=20",
    "membership.confirmations=1",
    "engine.step_records_max=12",
    "engine.snapshot_every_steps=2",
    "engine.snapshots_kept=2",
    f"kafka.session_timeout_ms={SESSION_S * 1000:.0f}",
    f"kafka.transaction_timeout_ms={TRANSACTION_S * 1000:.0f}",
    "kafka.delivery_timeout_ms=1000",
)


@cache
def config(encoder: str) -> Config:
    found = small(*TINY, f"encoder.kind={encoder}")
    return msgspec.structs.replace(found, features=msgspec.structs.replace(found.features, horizons=HORIZONS))


@cache
def values(seed: int, count: int) -> tuple[tuple[bytes, bytes | None], ...]:
    """Keys and values of a few users' events, with every mishap among them."""
    settings = Settings(
        users=20, events=THINNED * count, seed=seed, boundary=0.2, bots=0, duplicates=0.03, late=0.01, future=0.01,
        absurd=0.01, corrupt=(("json", 0.02), ("schema", 0.01), ("tombstone", 0.01)), disorder_ms=43_200_000,
        drift="abrupt", days=DAYS,
    )  # fmt: skip
    batches = list(Simulator(settings).batches())
    pairs = [pair for batch in batches for pair in zip(batch.keys, batch.values, strict=True)]
    return tuple(pairs[::THINNED])


def fill(parts: list[Partition], records: tuple[tuple[bytes, bytes | None], ...], dice: Random) -> None:
    """The input as other producers wrote it: plain, in committed transactions, and in aborted ones."""
    start = 0
    while start < len(records):
        end = start + dice.randint(5, 40)
        transaction = Transaction() if dice.random() < 0.3 else None
        used = set()
        for key, value in records[start:end]:
            part = parts[key[-1] % len(parts)]
            part.append(key, value, (), transaction)
            used.add(id(part))
        if transaction is not None:
            transaction.state = dice.choice(("committed", "committed", "aborted"))
            for part in parts:
                if id(part) in used:
                    part.mark(transaction)
        if transaction is None or transaction.state == "committed":
            start = end


@contextmanager
def small_portions() -> Iterator[None]:
    """What the engine does in portions it does in tiny ones, so that a small run has many of them."""
    with ExitStack() as stack:
        for module, name, value in (
            (epochs, "FAREWELLS_MAX", 4),
            (manifests, "_SLICE", 4),
            (manifests, "_FIRST_BACK", 2),
        ):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        yield


@dataclass
class Pool:
    """Pipelines of one configuration: building one costs more than a whole simulated run."""

    config: Config
    empty: State | None = None
    free: list[Pipeline] = field(default_factory=list)

    def take(self) -> Pipeline:
        if not self.free:
            pipeline = build_pipeline(self.config)
            self.empty = self.empty or pipeline.snapshot()
            return pipeline
        pipeline = self.free.pop()
        assert self.empty is not None
        pipeline.restore(self.empty)
        return pipeline

    def give(self, pipeline: Pipeline) -> None:
        self.free.append(pipeline)


@cache
def pool(encoder: str) -> Pool:
    return Pool(config(encoder))


@dataclass(frozen=True)
class Parts:
    """What a process is put together from; the mutations of the proof change one of them."""

    engine: Any = Engine
    sink: Any = KafkaSink
    client: Any = FakeClient
    store: Any = DirectoryStore


INTACT = Parts()
