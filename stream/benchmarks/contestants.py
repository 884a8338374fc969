"""One contestant, one process, one thread: runs over a file or a topic and prints one JSON line.

    python -m shoal.stream.benchmarks.contestants shoal-file EVENTS
    python -m shoal.stream.benchmarks.contestants river-kafka EVENTS --kafka HOST:PORT --prefix P. --events N

Imports and compilation are not timed; reading, decoding, computing and writing are.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..wiring import one_thread

one_thread()  # before numpy is imported

from ..config import Config, load  # noqa: E402
from ..engine import Engine  # noqa: E402
from ..events import CHANGES, Output  # noqa: E402
from ..ports import Phase, Sink, Source  # noqa: E402
from ..snapshots import NoStore  # noqa: E402
from ..wiring import build_pipeline, file_ports, kafka_ports  # noqa: E402


class StageTimes:
    """Observer that adds up seconds per stage, and stops the engine after enough records."""

    def __init__(self, records: int | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.changes = 0
        self.commits: list[float] = []
        self.started_s = 0.0
        self.engine: Engine | None = None
        self._records = records

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started_s

    def phase(self, phase: Phase) -> None:
        if phase is Phase.RUNNING:
            self.started_s = time.perf_counter()

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        self.changes += sum(record.topic == CHANGES for record in output.records)
        self.commits.append(commit_s)
        if (
            self.engine is not None
            and self._records is not None
            and self.engine.counts.records >= self._records
        ):
            self.engine.stop()

    def alive(self, lag: Mapping[int, int]) -> None: ...
    def snapshot_saved(self, step: int, seconds: float, size_bytes: int) -> None: ...
    def recovered(self, steps: int, seconds: float) -> None: ...
    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None: ...


def shoal(config: Config, ports: tuple[Source, Sink], records: int | None) -> dict[str, Any]:
    times = StageTimes(records)
    _compile(config)
    pipeline = build_pipeline(config, times.stage)
    engine = Engine(config, pipeline, *ports, NoStore(), times)
    times.engine = engine
    engine.run()
    seconds = time.perf_counter() - times.started_s
    commits = sorted(times.commits)
    return {
        "events": engine.counts.records,
        "seconds": seconds,
        "changes": times.changes,
        "steps": engine.steps,
        "stages": dict(times.seconds),
        "commit_p50_s": commits[len(commits) // 2],
        "commit_p99_s": commits[int(len(commits) * 0.99)],
    }


def _compile(config: Config) -> None:
    """Run a few events through a pipeline of its own, so that no kernel is compiled while timed."""
    from ...sinks.memory import MemorySink
    from ..sources import MemorySource

    line = b'{"event_id":"%d","type":"purchase","user_id":"u%d","event_time":1700000000000,"value":1.5,' \
           b'"items":[{"id":"i%d","category":["a","b"]}]}'  # fmt: skip
    lines = [line % (i, i % 50, i) for i in range(200)]
    Engine(config, build_pipeline(config), MemorySource([lines]), MemorySink(), NoStore(), StageTimes()).run()


def river(config: Config, values: Iterator[bytes], write: Any) -> dict[str, Any]:
    from .river_pipeline import RiverPipeline

    pipeline = RiverPipeline(config)
    read = changes = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for value in values:
            read += 1
            yield value

    started_s = time.perf_counter()
    for change in pipeline.run(counted()):
        write(change)
        changes += 1
    return {"events": read, "seconds": time.perf_counter() - started_s, "changes": changes}


def _river_file(config: Config, events: Path, limit: int) -> dict[str, Any]:
    with events.open("rb") as source, tempfile.TemporaryFile() as sink:
        lines = (line for _, line in zip(range(limit), source, strict=False))
        return river(config, lines, lambda change: sink.write(change + b"\n"))


def _river_kafka(config: Config, limit: int) -> dict[str, Any]:
    """At least once, as such scripts are: offsets are committed now and then."""
    from kafka import KafkaConsumer, KafkaProducer

    servers = config.kafka.bootstrap_servers
    topic = config.kafka.topic_prefix + config.kafka.events_topic
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=f"river-{time.time_ns()}", auto_offset_reset="earliest"
    )
    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=5)
    values = (record.value for _, record in zip(range(limit), consumer, strict=False))
    result = river(config, values, lambda change: producer.send(config.kafka.topic_prefix + CHANGES, change))
    producer.flush()
    consumer.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["shoal-file", "shoal-kafka", "river-file", "river-kafka"])
    parser.add_argument("events", type=Path)
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    config = load(None, arguments.overrides)
    match arguments.name:
        case "shoal-file":
            with tempfile.TemporaryDirectory() as folder:
                result = shoal(config, file_ports(str(arguments.events), folder), None)
        case "shoal-kafka":
            result = shoal(config, kafka_ports(config), arguments.limit)
        case "river-file":
            result = _river_file(config, arguments.events, arguments.limit)
        case _:
            result = _river_kafka(config, arguments.limit)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
