"""A small simulated shop, and a pipeline over it, for tests that need whole runs."""

from __future__ import annotations

from functools import cache

from shoal.sinks.memory import MemorySink
from shoal.stream.config import Config, load
from shoal.stream.engine import Engine
from shoal.stream.simulation.population import Settings
from shoal.stream.simulation.simulator import Simulator
from shoal.stream.snapshots import NoStore
from shoal.stream.sources import MemorySource
from shoal.stream.watching.progress import Tee
from shoal.stream.wiring import build_pipeline

SMALL = (
    "features.users_max=512",
    "features.keep_ms=0",
    "features.interest_dim=8",
    "features.dedup_max=8192",
    "encoder.dim=6",
    "encoder.hidden=16",
    "encoder.warmup_steps=40",
    "encoder.replay_rows=256",
    "encoder.batch=32",
    "encoder.publish_every_rows=50",
    "encoder.churn_budget=1.0",
    "segmenter.segments=4",
    "segmenter.warmup_rows=60",
    "membership.catalog_every_rows=100",
    "engine.step_records_max=256",
)


def small(*overrides: str) -> Config:
    """A configuration in which everything happens within a few thousand events."""
    return load(None, [*SMALL, *overrides], environ={})


@cache
def events(count: int = 4000, seed: int = 5) -> tuple[bytes | None, ...]:
    """Records with every mishap in them, in order of arrival."""
    settings = Settings(
        users=120, events=count, seed=seed, boundary=0.2, bots=1, duplicates=0.02, late=0.005, future=0.002,
        absurd=0.005, corrupt=(("json", 0.01), ("schema", 0.01), ("tombstone", 0.002)), disorder_ms=60_000,
        drift="abrupt", days=20.0,
    )  # fmt: skip
    return tuple(value for batch in Simulator(settings).batches() for value in batch.values)


def engine(config: Config, source=None, sink=None, store=None, **more) -> Engine:
    """An engine over the small shop, in memory unless told otherwise."""
    return Engine(
        config,
        build_pipeline(config),
        source or MemorySource([events()]),
        sink or MemorySink(),
        store or NoStore(),
        Tee([]),
        **more,
    )
