"""`shoal bench guarantee`: what exactly once costs, in events/s and in latency, against the same engine without it.

Without it means what most pipelines do: records are sent and acknowledged, step by step, and that is all. No
transaction, no manifest, no reading back, no state hash. (Its offsets would be committed every few seconds;
that is left out, in its favour.) Everything else is the same code, the same input and the same broker.

    rate      a topic that is full: events/s until it is read
    latency   a topic that is fed at a steady rate: from the time in an event to the moment an ordinary
              subscriber holds the change it caused (`read_committed` where there are transactions)

Contestants take turns; a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import orjson

from ..config import Kafka, load
from ..events import CHANGES, Manifest, Output
from ..ports import Published, ShoalError
from .pipeline import fill_topic, machine, simulated

NAMES = ("exactly-once", "at-least-once")
_FEED_SLICE_S = 0.02
_WARM_S, _WARM_MAX_S = 20.0, 120.0
"""The encoder's first training holds everything up for seconds, and then there is a queue: measured is what comes
after it is gone."""
_CAUGHT_UP_S = 1.0


# --- the parent: feeds, subscribes, compares --------------------------------------------------------------


def measure(servers: str, count: int, rate: int, seconds: float, rounds: int, echo: bool) -> dict[str, Any]:
    """Both contestants, `rounds` times in turn. Raises ShoalError when one of them fails."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        events = simulated(Path(folder) / "events.jsonl", count)
        for turn in range(rounds):
            for name in NAMES[:: -1 if turn % 2 else 1]:
                result = _rate(name, events, count, servers) | _latency(name, events, rate, seconds, servers)
                runs[name].append(result)
                if echo:
                    click.echo(
                        f"round {turn + 1} {name}: {result['events_per_s']:,.0f} events/s, at {rate:,} events/s "
                        f"p50 {result['p50_ms']:.0f} ms, p99 {result['p99_ms']:.0f} ms",
                        err=True,
                    )
    rows = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratios = [a["events_per_s"] / b["events_per_s"] for a, b in zip(*runs.values(), strict=True)]
    return {
        "machine": machine(),
        "rounds": rounds,
        "rate": rate,
        "contestants": rows,
        "share_of_speed": statistics.median(ratios),
    }


def _rate(name: str, events: Path, count: int, servers: str) -> dict[str, float]:
    flags = fill_topic(events, count, servers, f"bench-{time.time_ns()}.")
    with _engine(name, flags, count) as process:
        said, _ = process.communicate()
    if process.returncode:
        raise ShoalError(
            f"{name} ended with exit code {process.returncode}; run `shoal doctor` against {servers}"
        )
    result = json.loads(said.splitlines()[-1])
    return {"events_per_s": result["events"] / result["seconds"]}


def _latency(name: str, events: Path, rate: int, seconds: float, servers: str) -> dict[str, float]:
    """Fed by this process, subscribed to by this process, computed by another."""
    flags = fill_topic(events, 0, servers, f"bench-{time.time_ns()}.")
    config = load(None, flags).kafka
    committed = name == "exactly-once"
    with _engine(name, flags, sys.maxsize) as process:
        subscriber = Subscriber(config, committed)
        subscriber.start()
        kept_up = _feed(config, events, rate, seconds, subscriber)
        process.terminate()
        process.communicate()
        found = sorted(subscriber.stop())
    if not kept_up:
        raise ShoalError(
            f"{name}: changes were still late {_WARM_MAX_S:g} s after the start: this machine does not keep up with "
            f"{rate:,} events/s now; give a lower --rate"
        )
    if len(found) < 100:
        raise ShoalError(
            f"{name}: only {len(found)} changes were seen in {seconds:g} s; give a longer --seconds"
        )
    return {
        "p50_ms": found[len(found) // 2] * 1000,
        "p99_ms": found[int(len(found) * 0.99)] * 1000,
        "changes": float(len(found)),
    }


def _engine(name: str, flags: list[str], limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, name, "--limit", str(limit)]
    for flag in flags:
        command += ["--set", flag]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _feed(config: Kafka, events: Path, rate: int, seconds: float, subscriber: Subscriber) -> bool:
    """Events with the present as their time, evenly, until they were measured for `seconds`. False: they were not,
    since their changes never came in time."""
    from kafka import KafkaProducer

    from ..kafka.admin import input_topic
    from ..kafka.client import make
    from ..kafka.settings import settings

    producer = make(KafkaProducer, **settings(config), linger_ms=2, batch_size=1 << 17)
    made = _stamped(events)
    started_s = time.monotonic()
    sent, until_s = 0, _WARM_MAX_S
    while (passed_s := time.monotonic() - started_s) < until_s:
        if not subscriber.counts and passed_s >= _WARM_S and subscriber.age_s < _CAUGHT_UP_S:
            subscriber.begin()
            until_s = passed_s + seconds
        for key, value in islice(made, max(0, int(passed_s * rate) - sent)):
            producer.send(input_topic(config), value, key=key)
            sent += 1
        time.sleep(_FEED_SLICE_S)
    producer.flush(30)
    producer.close(5)
    return subscriber.counts


def _stamped(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of event after event, for ever, each with an id of its own and the time of now."""
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(cycle(lines)):
        event = orjson.loads(line)
        event["event_id"] = str(number)
        event["event_time"] = time.time_ns() // 1_000_000
        key = event.get("user_id") or event.get("anonymous_id")
        yield str(key).encode(), orjson.dumps(event)


class Subscriber(threading.Thread):
    """An ordinary consumer of the changes; notes how old the event behind each change is when it arrives."""

    def __init__(self, config: Kafka, committed: bool) -> None:
        super().__init__(daemon=True)
        self._config = config
        self._committed = committed
        self.age_s = float("inf")  # of the newest change when it came
        self.counts = False  # what came before was warm-up
        self._found: list[float] = []
        self._done = threading.Event()

    def begin(self) -> None:
        """From here on changes count."""
        self._found, self.counts = [], True

    def stop(self) -> list[float]:
        self._done.set()
        self.join(10)
        return self._found

    def run(self) -> None:
        from kafka import KafkaConsumer

        from ..kafka.client import make
        from ..kafka.settings import settings

        consumer = make(
            KafkaConsumer,
            **settings(self._config),
            isolation_level="read_committed" if self._committed else "read_uncommitted",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            group_id=None,
        )
        consumer.subscribe([self._config.topic_prefix + CHANGES])
        while not self._done.is_set():
            for records in consumer.poll(50).values():
                now_s = time.time()
                for record in records:
                    caused_ms = orjson.loads(record.value)["times"]["event_time"]
                    if caused_ms is not None:
                        self.age_s = now_s - caused_ms / 1000
                        self._found.append(self.age_s)
        consumer.close()


# --- the child: one engine ----------------------------------------------------------------------------------


class PlainSink:
    """Sends a step's records and waits until they are acknowledged. At least once, nothing to recover from."""

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._producer: Any = None

    def open(self) -> Manifest | None:
        from kafka import KafkaProducer

        from ..kafka.client import make
        from ..kafka.settings import settings

        self._producer = make(
            KafkaProducer, **settings(self._config), acks="all", linger_ms=5, batch_size=256 << 10
        )
        return None

    def last(self) -> Manifest | None:
        return None

    def confirm(self) -> None:
        pass

    def commit(self, output: Output) -> None:
        futures = [
            self._producer.send(
                self._config.topic_prefix + record.topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
            )
            for record in output.records
        ]
        self._producer.flush(30)
        for future in futures:
            future.get(1)

    def manifests(self, after: int = 0) -> Iterator[Manifest]:
        return iter(())

    def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return {}

    def published(self, topic: str) -> Iterator[Published]:
        return iter(())

    def close(self) -> None:
        self._producer.close(1)


def _without_hashes() -> None:
    from .. import pipeline
    from ..digest import Chain

    Chain.link = lambda self, *parts: ""  # type: ignore[method-assign]
    pipeline.output_hash = lambda records: ""  # type: ignore[attr-defined]


def main() -> None:
    from ..commands.run import with_signals
    from ..committing import Beside
    from ..engine import Engine
    from ..kernels import compile_kernels
    from ..snapshots import NoStore
    from ..wiring import build_pipeline, kafka_ports
    from .contestants import StageTimes

    parser = argparse.ArgumentParser(prog=f"python -m {__name__}")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    config = load(None, arguments.overrides)
    compile_kernels(config)
    source, sink = kafka_ports(config)
    if arguments.name == "at-least-once":
        _without_hashes()
        sink = PlainSink(config.kafka)
    times = StageTimes(arguments.limit)
    pipeline = build_pipeline(config, times.stage)
    engine = Engine(config, pipeline, source, sink, NoStore(), times, committing=Beside())
    times.engine = engine
    with_signals(engine, engine.run)
    seconds = times.ended_s - times.started_s
    print(json.dumps({"events": engine.counts.records, "seconds": seconds}))


# --- the table ----------------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [
        f"Median of {result['rounds']} rounds. Exactly once runs at {result['share_of_speed']:.2f} of the speed.",
        "",
        f"| | events/s | at {result['rate']:,} events/s: p50 | p99 |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["contestants"].items():
        lines.append(
            f"| {name} | {row['events_per_s']:,.0f} | {row['p50_ms']:.0f} ms | {row['p99_ms']:.0f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
