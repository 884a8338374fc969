"""Compiles every kernel once, by a small run over made-up events; numba keeps what it compiled on disk.

    python -m shoal.stream.kernels

Without it the first start on a machine spends the better part of a minute compiling inside its first steps.
"""

from __future__ import annotations

import msgspec

from ..sinks.memory import MemorySink
from .config import Config
from .engine import Engine
from .inspecting.portrait import portrait
from .snapshots import NoStore
from .sources import MemorySource
from .watching.progress import Tee
from .wiring import build_pipeline, one_thread

MADE_UP = [
    b'{"event_id":"%d","type":"purchase","user_id":"u%d","event_time":%d,"value":1.5,'
    b'"items":[{"id":"i%d","category":["a","b"]}]}' % (i, i % 50, 1_700_000_000_000 + i, i)
    for i in range(400)
]


def compile_kernels(config: Config) -> None:
    """An engine of its own, small enough that it warms up, learns, publishes and measures."""
    replace = msgspec.structs.replace
    tiny = replace(
        config,
        encoder=replace(config.encoder, warmup_steps=2, publish_every_rows=50),
        segmenter=replace(config.segmenter, warmup_rows=max(50, config.segmenter.segments)),
        engine=replace(config.engine, step_records_max=100),
    )
    pipeline = build_pipeline(tiny)
    Engine(tiny, pipeline, MemorySource([MADE_UP]), MemorySink(), NoStore(), Tee([])).run()
    pipeline.quality()
    portrait(pipeline, "u0")


if __name__ == "__main__":
    from .kafka import batches, columns

    one_thread()
    compile_kernels(Config())
    columns.agrees()
    batches.agrees()
