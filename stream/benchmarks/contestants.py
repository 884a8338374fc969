"""One contestant, one process: runs over a file or a topic and prints one JSON line.

    python -m shoal.stream.benchmarks.contestants shoal-file EVENTS --limit 200000
    python -m shoal.stream.benchmarks.contestants river-kafka EVENTS --set kafka.topic_prefix=P.

Both sides are treated alike. Not timed: imports, compilation, a first run over a few events (it warms what is
called for the first time), and joining the consumer group. Timed: reading, decoding, computing, and writing
until the last record is on disk or acknowledged. Each computes in one thread; Shoal commits in a second one, as
it does in production, and the processor's time of all threads is shown beside the clock's. What remains
unequal is said in `river_pipeline.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..wiring import one_thread

one_thread()  # before numpy is imported


from ..committing import Beside  # noqa: E402
from ..config import Config, load  # noqa: E402
from ..engine import Engine  # noqa: E402
from ..events import CHANGES, Output  # noqa: E402
from ..kernels import MADE_UP, compile_kernels  # noqa: E402
from ..ports import Phase, Saved, ShoalError, Sink, Source  # noqa: E402
from ..snapshots import NoStore  # noqa: E402
from ..wiring import build_pipeline, file_ports, kafka_ports  # noqa: E402

NAMES = ("shoal-file", "shoal-kafka", "shoal-kafka-confluent", "river-file", "river-kafka")
OTHERS = "others"
"""What threads beside the engine's own do: the client library, and a commit while the next step is computed."""


class StageTimes:
    """Observer that adds up seconds per stage, and stops the engine after enough records."""

    def __init__(self, records: int = sys.maxsize) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)  # of the engine's own thread
        self.changes = 0
        self.commits: list[float] = []
        self.started_s = self.ended_s = 0.0
        self.started_cpu_s = self.ended_cpu_s = 0.0  # of all threads
        self.engine: Engine | None = None
        self._records = records

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s, started_cpu_s = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started_s
            self.cpu_s[name] += time.thread_time() - started_cpu_s

    def phase(self, phase: Phase) -> None:
        if phase is Phase.RUNNING:
            self.started_s, self.started_cpu_s = time.perf_counter(), time.process_time()

    def committed(
        self, output: Output, commit_s: float, lag: Mapping[int, int], latency_s: float | None
    ) -> None:
        self.ended_s, self.ended_cpu_s = time.perf_counter(), time.process_time()
        self.changes += sum(record.topic == CHANGES for record in output.records)
        self.commits.append(commit_s)
        if self.engine is not None and self.engine.counts.records >= self._records:
            self.engine.stop()

    def alive(self, lag: Mapping[int, int]) -> None: ...
    def snapshot_saved(self, saved: Saved) -> None: ...
    def recovered(self, steps: int, seconds: float) -> None: ...
    def quality(self, silhouette: float, davies_bouldin: float, inertia: Sequence[float]) -> None: ...


def shoal(config: Config, ports: tuple[Source, Sink], limit: int) -> dict[str, Any]:
    """Run the engine over at least `limit` records (whole steps), or to the end of a file."""
    compile_kernels(config)
    times = StageTimes(limit)
    pipeline = build_pipeline(config, times.stage)
    engine = Engine(config, pipeline, *ports, NoStore(), times, committing=Beside())
    times.engine = engine
    engine.run()
    commits = sorted(times.commits)
    cpu_s = times.ended_cpu_s - times.started_cpu_s
    return {
        "events": engine.counts.records,
        "seconds": times.ended_s - times.started_s,
        "changes": times.changes,
        "steps": engine.steps,
        "stages": dict(times.seconds),
        "cpu": {**times.cpu_s, OTHERS: max(0.0, cpu_s - sum(times.cpu_s.values()))},
        "commit_p50_s": commits[len(commits) // 2],
        "commit_p99_s": commits[int(len(commits) * 0.99)],
    }


def river(
    config: Config, values: Iterator[bytes], write: Callable[[bytes], Any], finish: Callable[[], Any]
) -> dict[str, Any]:
    """Run the peer over `values`. The clock starts when the first one is there, as Shoal's does when it runs."""
    from .river_pipeline import RiverPipeline

    for _ in RiverPipeline(config).run(MADE_UP):
        pass
    pipeline = RiverPipeline(config)
    values = chain([next(values)], values)
    started_s = time.perf_counter()
    changes = 0
    for change in pipeline.run(values):
        write(change)
        changes += 1
    finish()
    return {"events": pipeline.read, "seconds": time.perf_counter() - started_s, "changes": changes}


def _river_file(config: Config, events: Path, limit: int) -> dict[str, Any]:
    with events.open("rb") as source, tempfile.TemporaryFile() as sink:
        return river(config, islice(source, limit), lambda change: sink.write(change + b"\n"), sink.flush)


def _river_kafka(config: Config, limit: int) -> dict[str, Any]:
    """At least once, as such scripts are: offsets are committed now and then."""
    from kafka import KafkaConsumer, KafkaProducer

    servers, prefix = config.kafka.bootstrap_servers, config.kafka.topic_prefix
    consumer = KafkaConsumer(
        prefix + config.kafka.events_topic,
        bootstrap_servers=servers,
        group_id=f"river-{time.time_ns()}",
        auto_offset_reset="earliest",
    )
    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=5)
    values = (record.value for record in islice(consumer, limit))
    result = river(config, values, lambda change: producer.send(prefix + CHANGES, change), producer.flush)
    consumer.close()
    return result


def peak_bytes() -> int:
    """Largest resident memory of this program: `ru_maxrss` would count that of the parent before exec too."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _run(name: str, config: Config, events: Path, limit: int) -> dict[str, Any]:
    match name:
        case "shoal-file":
            with tempfile.TemporaryDirectory() as folder:
                return shoal(config, file_ports(str(events), folder), limit)
        case "shoal-kafka" | "shoal-kafka-confluent":
            return shoal(config, kafka_ports(config), limit)
        case "river-file":
            return _river_file(config, events, limit)
        case _:
            return _river_kafka(config, limit)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shoal.stream.benchmarks.contestants")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("events", type=Path)
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    try:
        config = load(None, arguments.overrides)
        result = _run(arguments.name, config, arguments.events, arguments.limit)
    except ShoalError as error:
        sys.exit(str(error))
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
